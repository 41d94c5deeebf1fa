"""The parts put together: what is said at the start, and what is found out while it runs."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from refresher import config
from refresher.clock import SystemClock
from refresher.engine import Engine
from refresher.errors import ConfigError
from refresher.model import Actor, DueReason, SecretRef, SecretValue
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.sandbox.fal import SANDBOX_KEY, WRITE, FalKey
from refresher.sandbox.world import World

REF = SecretRef("default", "main", "AWS_ECR_PASSWORD")


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """The stand-ins, and an environment that leads to them."""
    with World() as world:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FAL_"))]:
            monkeypatch.delenv(name)
        for name, value in world.environ.items():
            monkeypatch.setenv(name, value)
        yield world


@pytest.fixture
def engine_of(world: World, tmp_path: Path) -> Iterator[Callable[..., Engine]]:
    """Makes engines on the world's configuration; all are closed at the end."""
    engines: list[Engine] = []

    def make(*, dry_run: bool = False, fal: str = "", more: str = "") -> Engine:
        path = world.write_config(tmp_path / "refresher.toml")
        path.write_text(path.read_text().replace("[fal]", f"[fal]\n{fal}") + more)
        settings = config.load(path, os.environ)
        engines.append(Engine(settings, clock=SystemClock(), dry_run=dry_run))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close(5)


def keep_once(engine: Engine) -> None:
    """One pass over all targets."""
    ids = engine.control.refresh(list(engine.targets), Actor.CLI)
    engine.scheduler.run_once(ids, threading.Event())


def written_by_another(world: World, value: str) -> None:
    """A secret that somebody set before we came."""
    key = Reference(env="FAL_KEY")
    other = FalPublisher(
        "default",
        key,
        host=world.fal.host,
        ca_bundle=world.certificates.ca_file,
        clock=SystemClock(),
    )
    other.publish(REF, SecretValue(value), None)
    other.close()


def test_what_a_first_publish_overwrites_is_said_before_it(
    world: World, engine_of: Callable[..., Engine]
) -> None:
    """The source is the truth, and the owner of the old value is told since when it stood."""
    written_by_another(world, "by-hand")
    engine = engine_of()
    with capture_logs() as log:
        engine.take_up()
    (line,) = [entry for entry in log if entry["event"] == "secret.will_be_overwritten"]
    assert line["secret"] == str(REF)
    since = datetime.fromisoformat(line["present_since"])
    assert abs(datetime.now(UTC) - since) < timedelta(minutes=1)
    assert "by-hand" not in str(line)


def test_a_write_only_key_suffices(
    world: World, engine_of: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that is refused is never a reason to fail."""
    key = FalKey("writer", SecretValue("only"), frozenset({WRITE}))
    world.fal.allow(key)
    monkeypatch.setenv("FAL_KEY", key.reveal())
    engine = engine_of()
    engine.take_up()
    keep_once(engine)
    assert world.fal.value("main", "AWS_ECR_PASSWORD") is not None
    engine.find_drift()
    assert not engine.store.statuses()["ecr"].secrets[0].drifted


def test_a_secret_that_vanished_is_written_again(
    world: World, engine_of: Callable[..., Engine]
) -> None:
    """Somebody deleted it in fal: the next list shows that, and the target is due."""
    engine = engine_of()
    engine.take_up()
    keep_once(engine)
    world.fal.secrets.pop(("main", "AWS_ECR_PASSWORD"))
    engine.find_drift()
    status = engine.store.statuses()["ecr"]
    assert status.secrets[0].drifted
    engine.scheduler.tick()
    engine.scheduler.drain()
    assert world.fal.value("main", "AWS_ECR_PASSWORD") is not None
    assert engine.store.attempts("ecr")[0].reason is DueReason.DRIFTED
    assert not engine.store.statuses()["ecr"].secrets[0].drifted


def test_a_list_that_fails_says_nothing(world: World, engine_of: Callable[..., Engine]) -> None:
    """fal away is no drift."""
    engine = engine_of()
    engine.take_up()
    keep_once(engine)
    world.fal.fail(grpc.StatusCode.UNAVAILABLE, method="ListSecrets")
    engine.find_drift()
    assert not engine.store.statuses()["ecr"].secrets[0].drifted


def test_a_dry_run_publishes_and_remembers_nothing(
    world: World, engine_of: Callable[..., Engine]
) -> None:
    """`run --dry-run`: issued, verified, and then only said."""
    engine = engine_of(dry_run=True)
    engine.take_up()
    keep_once(engine)
    assert world.aws.calls["GetAuthorizationToken"] == 1
    assert world.fal.writes == []
    assert list(world.directory.glob("refresher.db*")) == []


def test_a_configuration_that_cannot_be_built_changes_nothing(
    world: World, engine_of: Callable[..., Engine], tmp_path: Path
) -> None:
    """A bad reload keeps the targets as they are."""
    engine = engine_of()
    before = engine.targets
    bad = tmp_path / "bad.toml"
    text = world.write_config(bad).read_text()
    bad.write_text(text.replace("123456789012.dkr.ecr.us-east-1.amazonaws.com", "ghcr.io"))
    with pytest.raises(ConfigError, match=r"targets\.ecr\.registry"):
        engine.use(config.load(bad, os.environ))
    assert engine.targets is before


def test_what_failed_for_want_of_a_file_is_tried_when_that_comes(
    world: World, engine_of: Callable[..., Engine], tmp_path: Path
) -> None:
    """Fal's key, here: a retry would come in minutes. Another failure goes on waiting."""
    key = tmp_path / "fal-key"
    engine = engine_of(fal=f'key = {{ file = "{key}" }}')

    def tried() -> tuple[int, str | None]:
        engine.watch_files()
        engine.scheduler.tick()
        engine.scheduler.drain()
        status = engine.store.statuses()["ecr"]
        return status.consecutive_failures, status.last_failure and status.last_failure.reason

    engine.take_up()
    assert tried() == (1, "config")
    assert tried() == (1, "config")
    key.write_text("nobody:nothing\n")
    assert tried() == (2, "unauthorized")
    assert tried() == (2, "unauthorized")
    world.fal.fail(grpc.StatusCode.UNAVAILABLE)
    key.write_text(f"{SANDBOX_KEY.reveal()}\n")
    assert tried() == (3, "unavailable")
    key.touch()
    assert tried() == (3, "unavailable")


def test_a_changed_file_is_noticed_and_published(
    world: World,
    engine_of: Callable[..., Engine],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rotated token of a mounted file; an unreadable one is due once, and then waits."""
    token = tmp_path / "token"
    token.write_text("first\n")
    more = (
        "[targets.oci]\n"
        'source = "oci"\n'
        'registry = "ghcr.example"\n'
        f'registry_url = "{world.registry.url}"\n'
        'username = "AWS"\n'
        f'password = {{ file = "{token}" }}\n'
        'secret = "OCI_TOKEN"\n'
    )
    engine = engine_of(more=more)
    engine.take_up()
    engine.scheduler.tick()
    engine.scheduler.drain()
    engine.watch_values()
    assert engine.store.statuses()["oci"].source_value != "changed"
    token.write_text("second\n")
    engine.watch_values()
    assert engine.store.statuses()["oci"].source_value == "changed"
