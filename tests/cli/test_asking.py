"""Commands that ask a real daemon, and what they say where there is none."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from refresher.sandbox.http import Fault
from tests.world import Running, World, wait_for

ASKING = ["status", "history", "refresh --all", "refresh ecr", "pause ecr", "resume ecr"]


@pytest.fixture
def kept(world: World) -> Iterator[Running]:
    """A daemon that has refreshed its target."""
    with world.daemon() as running:
        wait_for(lambda: world.secret, "the first publish")
        wait_for(lambda: running.lines("attempt.refreshed"), "its record")
        yield running


@pytest.mark.parametrize("command", ASKING)
def test_without_a_daemon_it_is_exit_3(world: World, command: str) -> None:
    """And one line that says what to do."""
    done = world.cli(*command.split())
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"error: no daemon answers at {world.url} (Connection refused);")
    assert "start `refresher run`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_what_a_daemon_answers(world: World, kept: Running) -> None:
    """Status, history, refresh, check, pause and resume, for people and for programs."""
    assert world.cli("status").stdout.splitlines()[1].split()[:3] == ["ecr", "fresh", "yes"]
    (target,) = world.json("status")["targets"]
    assert (target["name"], target["valid"]) == ("ecr", True)
    assert world.json("status", "ecr")["targets"][0]["name"] == "ecr"
    assert f"fingerprint {target['secrets'][0]['fingerprint']}" in world.cli("status", "ecr").stdout

    before = world.secret
    refreshed = world.cli("refresh", "ecr")
    assert refreshed.returncode == 0
    assert refreshed.stdout.splitlines()[1].split()[:2] == ["ecr", "refreshed"]
    assert world.secret != before
    assert world.json("refresh", "--all")["attempts"][0]["outcome"] == "refreshed"

    attempts = world.json("history")["attempts"]
    assert [(a["reason"], a["actor"]) for a in attempts] == [
        ("forced", "cli"), ("forced", "cli"), ("missing", "schedule"),
    ]  # fmt: skip
    assert_audited(attempts, world.json("status", "ecr")["targets"][0]["secrets"][0]["fingerprint"])
    assert world.json("history", "ecr", "--limit", "1")["attempts"] == attempts[:1]
    assert f"→ {attempts[0]['fingerprint_after']}" in world.cli("history", "ecr").stdout
    assert len(world.cli("history").stdout.splitlines()) == 4

    assert world.json("pause", "ecr")["targets"][0]["paused"] is True
    assert "paused" in world.cli("status").stdout
    assert world.json("once")["skipped"] == [{"name": "ecr", "why": "paused"}]
    resumed = world.cli("resume", "ecr")
    assert (resumed.returncode, "paused" in resumed.stdout) == (0, False)


def assert_audited(attempts: list[dict[str, Any]], standing: str) -> None:
    """Each of these refreshes found what the one before it left, and says how long it took."""
    newest_first = [(a["fingerprint_before"], a["fingerprint_after"]) for a in attempts]
    chain = [None, *(after for _, after in reversed(newest_first))]
    assert newest_first[::-1] == list(pairwise(chain))
    assert len(set(chain)) == len(chain)
    assert chain[-1] == standing
    for attempt in attempts:
        assert [stage["stage"] for stage in attempt["stages"]] == ["source", "verify", "publish"]
        assert sum(stage["seconds"] for stage in attempt["stages"]) > 0
        assert attempt["started_at"] <= attempt["ended_at"]


def test_once_beside_a_daemon_asks_that_one(world: World, kept: Running) -> None:
    """The daemon has the state; the output is the same."""
    before = world.secret
    done = world.cli("once")
    assert done.returncode == 0
    assert done.stdout.splitlines()[1].split()[:2] == ["ecr", "refreshed"]
    assert f"asking it at {world.url}" in done.stderr
    assert world.secret != before
    assert "skipped" in world.cli("once", "--max-age", "4h").stdout
    wait_for(lambda: len(kept.lines("attempt.refreshed")) == 2, "the daemon's own log of it")


@pytest.mark.parametrize("command", ["status erc", "history erc", "refresh erc", "pause erc"])
def test_an_unknown_target_is_exit_2(world: World, kept: Running, command: str) -> None:
    """The daemon knows the nearest name."""
    done = world.cli(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no target is named erc; did you mean ecr?\n"


def test_a_refresh_that_is_not_done_in_time_is_exit_1(world: World, kept: Running) -> None:
    """It goes on, and history will tell."""
    world.aws.fail(Fault.hang())
    began = time.monotonic()
    done = world.cli("refresh", "ecr", "--wait", "1s")
    assert done.returncode == 1
    assert done.stdout.splitlines()[1].split()[1] in ("pending", "running")
    assert "not done in time" in done.stderr
    assert time.monotonic() - began < 6


def test_a_refresh_that_fails_is_exit_1(world: World, kept: Running) -> None:
    """With the cause."""
    world.aws.error("AccessDeniedException", 400, "User is not authorized")
    done = world.cli("refresh", "ecr")
    assert done.returncode == 1
    assert "source/forbidden" in done.stdout
    failing = world.cli("status")
    assert "ecr: source/forbidden " in failing.stdout
    assert max(map(len, failing.stdout.splitlines())) <= 80


def test_what_changes_something_needs_the_token(world: World) -> None:
    """Of the environment, else of the configuration; reading needs none."""
    text = world.config.read_text()
    world.config.write_text(text.replace("[daemon]", '[daemon]\napi_token = { env = "OWN" }'))
    world.extra["OWN"] = "sesame"
    with world.daemon():
        assert world.cli("pause", "ecr").returncode == 0
        world.extra["REFRESHER_API_TOKEN"] = "wrong"
        refused = world.cli("resume", "ecr")
        assert refused.returncode == 1
        assert "daemon.api_token" in refused.stderr
        assert world.cli("status").returncode == 0
        world.extra |= {"REFRESHER_API_TOKEN": "sesame", "OWN": None}
        assert world.cli("resume", "ecr", "--url", world.url).returncode == 0


# --- check -------------------------------------------------------------------------------------


def test_check_asks_the_daemon(world: World, kept: Running) -> None:
    """Good for two hours, not for twenty."""
    assert world.cli("check").returncode == 0
    assert world.cli("check", "--within", "2h").returncode == 0
    bad = world.cli("check", "--within", "20h")
    assert bad.returncode == 1
    assert "sooner than 20h" in bad.stdout
    told = world.json("check", "--within", "2h")
    assert told["within"] == 7200
    (judgement,) = told["targets"]
    assert (judgement["name"], judgement["verdict"]) == ("ecr", "good")


def test_check_without_a_daemon_reads_the_state(world: World) -> None:
    """Before anything is known nobody can tell; afterwards the state does."""
    unknown = world.cli("check")
    assert unknown.returncode == 3
    assert unknown.stdout.splitlines()[1].split() == ["ecr", "unknown", "never", "published"]
    assert not (world.directory / "refresher.db").exists()
    assert world.cli("once").returncode == 0
    assert world.cli("check", "--within", "2h").returncode == 0
    assert world.cli("check", "--within", "1d").returncode == 1


def test_check_with_a_url_reads_no_state(world: World) -> None:
    """The state of this machine says nothing about a daemon elsewhere."""
    assert world.cli("once").returncode == 0
    done = world.cli("check", "--url", world.url)
    assert (done.returncode, done.stdout) == (3, "")


def test_check_of_an_expired_credential_is_bad(world: World) -> None:
    """Nobody was there to refresh it."""
    world.aws.token_life = timedelta(seconds=2)
    assert world.cli("once").returncode == 0
    wait_for(lambda: world.cli("check").returncode == 1, "the end of the credential", 10)
    assert "expired" in world.cli("check").stdout


# --- run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_with_0_after_a_clean_stop(world: World, kind: signal.Signals) -> None:
    """Whoever stops it."""
    with world.daemon() as running:
        assert running.stop(kind) == 0
        assert running.lines("daemon.stopped")[0]["clean"] is True


def test_a_second_run_names_the_first(world: World, kept: Running) -> None:
    """One state has one owner."""
    second = world.cli("run")
    assert (second.returncode, second.stdout) == (1, "")
    assert f"in use by another refresher (pid {kept.process.pid})" in second.stderr
    assert second.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_one_line(world: World, kept: Running) -> None:
    """It is found before anything is refreshed."""
    text = world.config.read_text().replace("refresher.db", "other.db")
    other = world.directory / "other.toml"
    other.write_text(text)
    second = world.cli("run", "--config", str(other))
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr.startswith(f"error: listen: 127.0.0.1:{world.port} is in use")
    assert second.stderr.count("\n") == 1


def test_a_dry_run_writes_nothing(world: World) -> None:
    """Neither to fal nor to the state."""
    with world.daemon("--dry-run") as running:
        wait_for(lambda: running.lines("dry_run.would_publish"), "a rehearsed publish")
    assert world.secret is None
    assert not (world.directory / "refresher.db").exists()
