"""The world: every client that is pointed at it gets along, and finds nothing else."""

from __future__ import annotations

import base64
import http.client
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import boto3
import pytest

from refresher.clock import SystemClock
from refresher.config import load
from refresher.engine import Engine, running
from refresher.model import Actor, Outcome
from refresher.sandbox.world import REGISTRY, STATIC_SECRETS, World, secret_name


@pytest.fixture
def world() -> Iterator[World]:
    """A world in which passwords live as long as at AWS."""
    with World(images={"team/app": ["1"]}) as made:
        yield made


@pytest.fixture
def inside(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world, with this process in it."""
    for name in os.environ.keys() - world.over(os.environ).keys():
        monkeypatch.delenv(name)
    for name, value in world.environ.items():
        monkeypatch.setenv(name, value)
    return world


def login(world: World, password: str) -> int:
    """The registry's status for a login."""
    pair = base64.b64encode(f"AWS:{password}".encode()).decode()
    connection = http.client.HTTPConnection("127.0.0.1", world.registry.port, timeout=5)
    try:
        connection.request("GET", "/v2/", headers={"Authorization": f"Basic {pair}"})
        return connection.getresponse().status
    finally:
        connection.close()


def issued(world: World) -> str:
    """A password that boto3 gets from the world."""
    client = boto3.client("ecr")
    try:
        (data,) = client.get_authorization_token()["authorizationData"]
    finally:
        client.close()
    return base64.b64decode(data["authorizationToken"]).decode().partition(":")[2]


def test_the_registry_accepts_exactly_what_aws_issued(inside: World) -> None:
    """A password of the stand-in opens the registry until it ends; no other does."""
    password = issued(inside)
    inside.aws.token_life = timedelta(0)
    ended = issued(inside)

    assert [login(inside, word) for word in (password, ended, "made-up")] == [200, 403, 401]


def test_the_engine_keeps_every_target_of_a_written_config(inside: World, tmp_path: Path) -> None:
    """A configuration as written is valid, and one pass publishes what the registry accepts."""
    hosts = {"ecr": REGISTRY, "other": REGISTRY.replace("us-east-1", "eu-west-1")}
    path = inside.write_config(tmp_path / "refresher.toml", hosts, policy={"jitter": 0.2})
    config = load(path, inside.environ, follow="files")

    with running(Engine(config, clock=SystemClock())) as engine:
        engine.take_up()
        attempts = engine.control.refresh(list(hosts), Actor.CLI)
        engine.scheduler.run_once(attempts, engine.stopping)
        ended = [engine.store.attempt(attempt) for attempt in attempts.values()]

    assert [attempt and attempt.outcome for attempt in ended] == [Outcome.REFRESHED] * 2
    for name, secret in (("ecr", "AWS_ECR_PASSWORD"), ("other", "AWS_OTHER_PASSWORD")):
        assert secret_name(name) == secret
        standing = inside.fal.value("main", secret)
        assert standing is not None
        assert inside.aws.passwords.judge(standing, datetime.now(UTC)) == "good"
        assert login(inside, standing) == 200


def keep_all(world: World) -> dict[str, Outcome | None]:
    """How one pass over a target of each kind ended."""
    path = world.write_config(world.directory / "refresher.toml", kinds=STATIC_SECRETS)
    config = load(path, world.environ, follow="files")
    with running(Engine(config, clock=SystemClock())) as engine:
        engine.take_up()
        attempts = engine.control.refresh(list(config.targets), Actor.CLI)
        engine.scheduler.run_once(attempts, engine.stopping)
        ended = {name: engine.store.attempt(each) for name, each in attempts.items()}
    return {name: attempt.outcome for name, attempt in ended.items() if attempt}


def test_a_target_of_each_kind_is_kept(inside: World) -> None:
    """What lies in the files and in the environment is accepted, and then stands in fal."""
    assert set(keep_all(inside).values()) == {Outcome.REFRESHED}

    standing = {kind: inside.fal.value("main", name) for kind, name in STATIC_SECRETS.items()}
    assert standing["dockerhub"] == inside.hub_token_file.read_text()
    assert standing["oci"] == inside.oci_token
    assert base64.b64decode(standing["gar"] or "") == inside.key_file.read_bytes()
    assert json.loads(inside.key_file.read_text())["token_uri"] == inside.google.token_uri


def test_the_hub_token_expires_and_is_replaced(inside: World) -> None:
    """An expired one is refused, and what a person then puts into the file is not."""
    inside.expire_hub_token()
    assert keep_all(inside)["dockerhub"] is Outcome.FAILED
    assert inside.fal.value("main", "DOCKERHUB_TOKEN") is None

    inside.replace_hub_token()
    assert keep_all(inside)["dockerhub"] is Outcome.REFRESHED
    assert inside.fal.value("main", "DOCKERHUB_TOKEN") == inside.hub_token_file.read_text()


def test_files_with_credentials_are_for_their_owner_only(inside: World) -> None:
    """As a person should keep them."""
    keep_all(inside)
    assert {path.stat().st_mode & 0o777 for path in (inside.key_file, inside.hub_token_file)} == {
        0o600
    }


def test_an_environment_loses_what_leads_out(world: World) -> None:
    """Settings of AWS, fal and proxies are replaced, all others stay."""
    led = world.over(
        {"PATH": "/bin", "AWS_PROFILE": "mine", "FAL_KEY": "mine", "https_proxy": "http://x"}
    )

    assert led == {"PATH": "/bin", **world.environ}


def test_nothing_is_left_behind() -> None:
    """With the block, the folder with its private key goes."""
    with World() as made:
        directory = made.directory
        assert made.certificates.key_file.exists()

    assert not directory.exists()
