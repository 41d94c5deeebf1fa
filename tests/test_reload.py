"""What makes a daemon read its configuration anew, and what it says of what it then finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from refresher import config
from refresher.cli.composed import Reader
from refresher.cli.settings import Settings
from refresher.clock import ManualClock
from refresher.config import Config
from refresher.daemon import FIXED, WATCH_SECONDS, Daemon, Options
from tests.discovery.projects import ECR, project, table

MINIMAL = """
[daemon]
listen = "127.0.0.1:0"
state = "sqlite://"
[targets.a]
source = "oci"
registry = "127.0.0.1:9"
username = "user"
password = { env = "OCI_PASSWORD" }
secret = "A"
enabled = false
"""
APP = table(ECR, "$AWS_ECR_PASSWORD", image='dockerfile = "gpu.docker"')


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory, and what the configuration refers to."""
    monkeypatch.chdir(tmp_path)
    for name in ("REFRESHER_CONFIG", "REFRESHER_FAL_PROJECT", "FAL_GRPC_HOST"):
        monkeypatch.delenv(name, raising=False)
    for name in ("FAL_KEY", "OCI_PASSWORD"):
        monkeypatch.setenv(name, "id:secret")
    return tmp_path


def parsed(text: str) -> Config:
    return config.parse(text, "test", os.environ)


@contextmanager
def made(load: Callable[[], Config], options: Options, clock: ManualClock) -> Iterator[Daemon]:
    """A daemon as `refresher run` makes it, which does not run."""
    daemon = Daemon(load, options, clock)
    try:
        yield daemon
    finally:
        daemon._end()


def events(lines: list[Any], *names: str) -> list[Any]:
    return [line for line in lines if line["event"] in names]


# --- what is watched ---------------------------------------------------------------------------


class Watched:
    """A daemon on a fal project and a file, and the time in hand."""

    def __init__(self, daemon: Daemon, clock: ManualClock) -> None:
        self.daemon = daemon
        self._clock = clock

    def later(self) -> list[str]:
        """What a look at the files leads to, by the names of its events."""
        self._clock.advance(timedelta(seconds=WATCH_SECONDS))
        with capture_logs() as lines:
            self.daemon.watch()
        return [line["event"] for line in events(lines, "config.reloaded", "config.rejected")]

    @property
    def targets(self) -> list[str]:
        return list(self.daemon._engine.targets)


@pytest.fixture
def watched(folder: Path, clock: ManualClock) -> Iterator[Watched]:
    """A project with one app, and a file that has a target of its own."""
    project(folder, {"p/pyproject.toml": APP, "p/gpu.docker": "FROM scratch"})
    Path("refresher.toml").write_text(MINIMAL)
    read = Reader(Settings(fal_project=Path("p")))
    with made(read, Options(watched=read.watched), clock) as daemon:
        yield Watched(daemon, clock)


def image(watched: Watched) -> str:
    return str(watched.daemon._engine.targets["ecr"].image)


def test_a_file_and_a_project_are_watched_together(watched: Watched, folder: Path) -> None:
    """Each of them alone makes it read both; where nothing changed it reads nothing."""
    assert watched.targets == ["a", "ecr"]
    assert watched.later() == []
    Path("refresher.toml").write_text(MINIMAL.replace("[targets.a]", "[targets.renamed]"))
    assert watched.later() == ["config.reloaded"]
    assert watched.targets == ["renamed", "ecr"]
    Path("p/pyproject.toml").write_text(APP.replace("AWS_ECR_PASSWORD", "OTHER_PASSWORD"))
    assert watched.later() == ["config.reloaded"]
    assert watched.targets == ["renamed", "other-password"]
    assert watched.later() == []


def test_a_source_that_comes_or_goes_counts(watched: Watched, folder: Path) -> None:
    """A new app is kept without anybody touching what was there before."""
    project(folder, {"p/new/pyproject.toml": table(ECR, "$NEW_PASSWORD", name="b")})
    assert watched.later() == ["config.reloaded"]
    assert watched.targets == ["a", "new-password", "ecr"]
    Path("p/new/pyproject.toml").unlink()
    assert watched.later() == ["config.reloaded"]
    assert watched.targets == ["a", "ecr"]


def test_what_a_source_names_is_watched_as_well(watched: Watched, folder: Path) -> None:
    """A Dockerfile says which image is to be proved; one that is newly named is no change."""
    Path("p/gpu.docker").write_text(f"FROM {ECR}/team/app:1\n")
    assert watched.later() == ["config.reloaded"]
    assert image(watched) == "team/app:1"
    project(folder, {"p/pyproject.toml": APP.replace("gpu", "cpu")})
    assert watched.later() == ["config.reloaded"]
    assert watched.later() == []
    Path("p/gpu.docker").unlink()
    assert watched.later() == []
    project(folder, {"p/cpu.docker": f"FROM {ECR}/team/app:2\n"})
    assert watched.later() == ["config.reloaded"]
    assert image(watched) == "team/app:2"


@pytest.mark.parametrize(("took", "pause"), [(0.0, 5), (0.1, 20), (9.0, 60)])
def test_what_takes_long_is_looked_at_less_often(
    clock: ManualClock, took: float, pause: float
) -> None:
    """At most a two-hundredth of the time, but at least once a minute."""
    looks = 0

    def slowly() -> list[Path]:
        nonlocal looks
        looks += 1
        clock.advance(timedelta(seconds=took))
        return []

    with made(lambda: parsed(MINIMAL), Options(watched=slowly), clock) as daemon:
        clock.advance(timedelta(seconds=WATCH_SECONDS))
        daemon.watch()
        before = looks
        clock.advance(timedelta(seconds=pause - 0.1))
        daemon.watch()
        assert looks == before
        clock.advance(timedelta(seconds=0.1))
        daemon.watch()
        assert looks == before + 1


def test_a_file_that_is_searched_for_may_come_later(watched: Watched) -> None:
    """The first of the usual places counts, and its going away changes nothing."""
    Path("config").mkdir()
    Path("config/refresher.toml").write_text(MINIMAL.replace("[targets.a]", "[targets.first]"))
    assert watched.later() == ["config.reloaded"]
    assert watched.targets == ["first", "ecr"]
    Path("p/pyproject.toml").write_text("[tool")
    assert watched.later() == ["config.rejected"]
    assert watched.targets == ["first", "ecr"]


def test_a_configuration_that_goes_away_changes_nothing(folder: Path, clock: ManualClock) -> None:
    """It is said, and the daemon goes on."""
    Path("refresher.toml").write_text(MINIMAL)
    read = Reader(Settings())
    with made(read, Options(watched=read.watched), clock) as daemon:
        watched = Watched(daemon, clock)
        Path("refresher.toml").unlink()
        assert watched.later() == ["config.rejected"]
        assert watched.targets == ["a"]


# --- what a reload cannot change ---------------------------------------------------------------

CHANGES = {
    "daemon.listen": ('"127.0.0.1:0"', '"127.0.0.1:1"'),
    "daemon.state": ('"sqlite://"', '"sqlite:///other.db"'),
    "daemon.workers": ("[daemon]", "[daemon]\nworkers = 3"),
    "daemon.ca_bundle": ("[daemon]", '[daemon]\nca_bundle = "ca.pem"'),
    "daemon.log_format": ("[daemon]", '[daemon]\nlog_format = "json"'),
    "daemon.fingerprint_key": ("[daemon]", '[daemon]\nfingerprint_key = { env = "FAL_KEY" }'),
    "google.token_uris": ("[daemon]", '[google]\ntoken_uris = ["https://a.test/t"]\n[daemon]'),
    "google.certs_url": ("[daemon]", '[google]\ncerts_url = "https://a.test/c"\n[daemon]'),
    "dockerhub.auth_url": ("[daemon]", '[dockerhub]\nauth_url = "https://a.test/t"\n[daemon]'),
    "dockerhub.api_url": ("[daemon]", '[dockerhub]\napi_url = "https://a.test"\n[daemon]'),
}


def test_every_setting_that_needs_a_restart_has_its_test() -> None:
    """One that is added is named by a row."""
    assert CHANGES.keys() == set(FIXED)


@pytest.mark.parametrize("key", FIXED)
def test_what_needs_a_restart_is_named(key: str, clock: ManualClock) -> None:
    """At each reload until it is done, and no more once it is as it was at the start."""
    Path("ca.pem").write_text("never read here\n")
    changed = parsed(MINIMAL.replace(*CHANGES[key]))
    loads = iter([parsed(MINIMAL), changed, changed, parsed(MINIMAL)])
    with made(lambda: next(loads), Options(), clock) as daemon, capture_logs() as lines:
        daemon.reload()
        daemon.reload()
        named = [line["keys"] for line in events(lines, "config.restart_needed")]
        assert named == [[key], [key]]
        daemon.reload()
    assert len(events(lines, "config.restart_needed")) == 2


@pytest.mark.parametrize(
    "change",
    [
        ("[daemon]", '[daemon]\nhistory = "1d"'),
        ("[daemon]", '[daemon]\nheartbeat_url = { env = "FAL_KEY" }'),
        ("[daemon]", '[policy]\nretry_first = "9s"\n[daemon]'),
        ('secret = "A"', 'secret = "B"'),
    ],
)
def test_all_else_applies_without_a_word(change: tuple[str, str], clock: ManualClock) -> None:
    """A restart that helps nobody is not asked for."""
    loads = iter([parsed(MINIMAL), parsed(MINIMAL.replace(*change))])
    with made(lambda: next(loads), Options(), clock) as daemon, capture_logs() as lines:
        daemon.reload()
    assert events(lines, "config.restart_needed", "config.rejected") == []
    assert len(events(lines, "config.reloaded")) == 1


# --- what is doubtful --------------------------------------------------------------------------


def test_a_heartbeat_in_plain_text_is_doubted(
    monkeypatch: pytest.MonkeyPatch, clock: ManualClock
) -> None:
    """At the start and at each reload, without the URL, which is a credential by itself."""
    monkeypatch.setenv("BEAT", "http://beats.test/canary-3d1e")
    text = MINIMAL.replace("[daemon]", '[daemon]\nheartbeat_url = { env = "BEAT" }')
    options = Options(dry_run=True)
    with made(lambda: parsed(text), options, clock) as daemon, capture_logs() as lines:
        daemon.stop()
        daemon.run()
        daemon.reload()
    said = events(lines, "config.doubtful")
    assert [line["log_level"] for line in said] == ["warning"] * 2
    assert "daemon.heartbeat_url: is plain HTTP to another machine" in said[0]["message"]
    assert "canary-3d1e" not in str(lines)
