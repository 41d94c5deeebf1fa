"""The least privileges, and that they are exactly what the code uses."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from refresher import config
from refresher.clock import SystemClock
from refresher.engine import Engine
from refresher.model import Actor, SecretValue
from refresher.privileges import FAL_PERMISSIONS, needed
from refresher.sandbox.aws import ACCOUNT, Role
from refresher.sandbox.fal import FalKey
from refresher.sandbox.world import World

ROLE = f"arn:aws:iam::{ACCOUNT}:role/fal-pull"

#: The IAM action behind each thing that the stand-ins were asked for (service authorization
#: reference of ECR and STS). A pull that fetches layers, as fal's does, needs two more.
ACTIONS = {
    "AssumeRole": "sts:AssumeRole",
    "GetAuthorizationToken": "ecr:GetAuthorizationToken",
    "manifest": "ecr:BatchGetImage",
}
LAYERS = {"ecr:BatchCheckLayerAvailability", "ecr:GetDownloadUrlForLayer"}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stand-ins with a role and an image, and an environment that leads to them."""
    with World(images={"team/app": ["latest"]}) as world:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FAL_"))]:
            monkeypatch.delenv(name)
        for name, value in world.environ.items():
            monkeypatch.setenv(name, value)
        world.aws.add_role(Role(ROLE))
        yield world


def settings_of(world: World, tmp_path: Path) -> config.Config:
    """One ECR target with a role and an image."""
    path = world.write_config(tmp_path / "refresher.toml")
    path.write_text(
        f'{path.read_text()}image = "team/app:latest"\naws = {{ role_arn = "{ROLE}" }}\n'
    )
    return config.load(path, os.environ)


def allowed(policies: list[dict[str, object]]) -> set[str]:
    """Every action in these policies."""
    text = json.dumps(policies)
    return {
        action
        for policy in json.loads(text)
        for statement in policy["Statement"]
        for action in statement["Action"]
    }


def test_the_iam_policy_allows_exactly_what_the_code_calls(world: World, tmp_path: Path) -> None:
    """Each call of a whole refresh is allowed, and nothing is allowed that no pull needs."""
    settings = settings_of(world, tmp_path)
    engine = Engine(settings, clock=SystemClock())
    try:
        engine.take_up()
        ids = engine.control.refresh(list(engine.targets), Actor.CLI)
        engine.scheduler.run_once(ids, threading.Event())
        assert engine.store.statuses()["ecr"].image_pullable is True
    finally:
        engine.close(5)
    used = {ACTIONS[operation] for operation in world.aws.calls}
    if any("/manifests/" in request.path for request in world.registry.requests):
        used.add(ACTIONS["manifest"])

    found = needed(settings, settings.targets)
    assert allowed([aws["policy"] for aws in found["aws"]]) == used | LAYERS
    starter, puller = found["aws"]
    assert starter["policy"]["Statement"][0]["Resource"] == ROLE
    assert puller["principal"] == ROLE
    assert puller["policy"]["Statement"][1]["Resource"] == [
        f"arn:aws:ecr:us-east-1:{ACCOUNT}:repository/team/app"
    ]


def test_a_fal_key_with_these_permissions_does_everything(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stand-in refuses a call that the key's permissions do not name."""
    key = FalKey("least", SecretValue("privilege"), frozenset(FAL_PERMISSIONS))
    world.fal.allow(key)
    monkeypatch.setenv("FAL_KEY", key.reveal())
    engine = Engine(settings_of(world, tmp_path), clock=SystemClock())
    try:
        engine.take_up()
        ids = engine.control.refresh(list(engine.targets), Actor.CLI)
        engine.scheduler.run_once(ids, threading.Event())
        engine.find_drift()
    finally:
        engine.close(5)
    assert {call.method.rpartition("/")[2] for call in world.fal.calls} == {
        "SetSecret",
        "ListSecrets",
    }
    assert world.fal.value("main", "AWS_ECR_PASSWORD") is not None


KINDS = """
[fal]
key = { env = "K" }

[targets.plain]
source = "ecr"
registry = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"
secret = "A"

[targets.public]
source = "ecr-public"
secret = "B"

[targets.gar]
source = "gar"
registry = "us-central1-docker.pkg.dev"
mode = "token"
impersonate = "puller@project.iam.gserviceaccount.com"
secret = "C"

[targets.hub]
source = "dockerhub"
username = "me"
password = { env = "K" }
secret = "D"

[targets.ghcr]
source = "oci"
registry = "ghcr.io"
username = "me"
password = { env = "K" }
secret = "E"
"""


def test_every_kind_of_target_says_what_it_needs() -> None:
    """Partition of the host, ECR Public's bearer action, Google's roles, read-only tokens."""
    settings = config.parse(KINDS, "kinds.toml", {"K": "id:secret", "HOME": "/nobody"})
    found = needed(settings, settings.targets)
    (aws,) = found["aws"]
    statements = aws["policy"]["Statement"]
    assert statements[1]["Resource"] == ["arn:aws-cn:ecr:cn-north-1:123456789012:repository/*"]
    assert statements[2]["Action"] == [
        "ecr-public:GetAuthorizationToken",
        "sts:GetServiceBearerToken",
    ]
    assert [google["role"] for google in found["google"]] == [
        "roles/iam.serviceAccountTokenCreator",
        "roles/artifactregistry.reader",
    ]
    assert [registry["registry"] for registry in found["registries"]] == [
        "registry-1.docker.io",
        "ghcr.io",
    ]
    (fal,) = found["fal"]
    assert fal["targets"] == ["plain", "public", "gar", "hub", "ghcr"]
    assert fal["command"].endswith("--permission serverless:secrets:write,serverless:secrets:read")


def test_only_the_named_targets_count() -> None:
    """`refresher policy hub` says nothing of AWS."""
    settings = config.parse(KINDS, "kinds.toml", {"K": "id:secret", "HOME": "/nobody"})
    found = needed(settings, ["hub"])
    assert found["aws"] == []
    assert found["google"] == []
    assert [registry["targets"] for registry in found["registries"]] == [["hub"]]
