"""`once`, `token` and `config` as real processes against the stand-ins."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from typing import Any

import pytest

from refresher.sandbox.http import Fault
from tests.world import IMAGE, REGISTRY, World, wait_for

OTHER = "210987654321.dkr.ecr.us-east-1.amazonaws.com"


def test_once_publishes_what_the_registry_accepts(world: World) -> None:
    """The main job in one command."""
    done = world.cli("once")
    assert done.returncode == 0, done.stderr
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["TARGET", "OUTCOME", "TOOK", "DETAIL"]
    assert row.split()[:2] == ["ecr", "refreshed"]
    assert row.endswith("verified")
    assert world.secret is not None
    assert world.aws.passwords.issued(world.secret) is not None


def test_the_result_alone_is_on_standard_output(world: World) -> None:
    """The log goes to standard error, so that a program can read the other."""
    done = world.cli("once", "ecr", "--output", "json")
    document = json.loads(done.stdout)
    (attempt,) = document["attempts"]
    assert (attempt["target"], attempt["outcome"], attempt["actor"]) == ("ecr", "refreshed", "cli")
    assert document["skipped"] == []
    assert "attempt.refreshed" in done.stderr


def test_once_refreshes_the_named_target_alone(world: World) -> None:
    """Another one that is due as well is not this command's to do."""
    world.configure({"ecr": REGISTRY, "other": OTHER})
    assert world.cli("once", "other").returncode == 0
    assert world.secret is None
    assert world.fal.value("main", "AWS_OTHER_PASSWORD")


def test_what_is_young_is_skipped(world: World) -> None:
    """For cron and CI that run more often than the credential needs."""
    assert world.cli("once", "--max-age", "4h").returncode == 0
    published = world.secret
    again = world.cli("once", "--max-age", "4h")
    assert again.returncode == 0
    assert "skipped" in again.stdout
    assert "issued " in again.stdout
    assert world.secret == published
    assert world.json("once", "--max-age", "4h")["skipped"][0]["name"] == "ecr"
    assert world.json("once", "--max-age", "1s")["skipped"] == []
    assert world.secret != published


def test_a_secret_that_is_gone_from_fal_is_not_young(world: World) -> None:
    """Somebody deleted it: age does not matter."""
    assert world.cli("once").returncode == 0
    del world.fal.secrets["main", "AWS_ECR_PASSWORD"]
    assert world.cli("once", "--max-age", "4h").returncode == 0
    assert world.secret is not None


def test_a_failure_is_exit_1_and_names_its_cause(world: World) -> None:
    """In the table; what stands in fal is left alone."""
    world.aws.error("AccessDeniedException", 400, "User is not authorized")
    done = world.cli("once")
    assert done.returncode == 1
    assert "source/forbidden" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert world.secret is None


def test_two_at_once_do_not_share_a_state(world: World) -> None:
    """The second finds no daemon to ask and says who has the state."""
    world.aws.fail(Fault.hang())
    first = subprocess.Popen(
        [sys.executable, "-m", "refresher", "once"],
        env=world.process_environ(),
        cwd=world.directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with first:
        wait_for(lambda: world.aws.requests, "a request to AWS")
        second = world.cli("once")
        assert second.returncode == 1
        assert f"in use by another refresher (pid {first.pid})" in second.stderr
        assert "no daemon answers at" in second.stderr
        assert not second.stdout
        first.send_signal(signal.SIGINT)
        assert first.wait(20) == 130
        assert "Traceback" not in (first.stderr.read() if first.stderr else "")


@pytest.mark.parametrize("command", ["once", "token"])
def test_an_unknown_target_is_exit_2_with_the_nearest_name(world: World, command: str) -> None:
    """Before anything is asked of anybody."""
    done = world.cli(command, "erc")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'error: no target is named "erc"; did you mean ecr?\n'
    assert not world.aws.requests


def test_a_parked_target_is_not_refreshed_by_name(world: World) -> None:
    """Its configuration says that it is not to be kept."""
    world.configure(more="enabled = false")
    done = world.cli("once", "ecr")
    assert done.returncode == 2
    assert "targets.ecr.enabled: is false, so it is parked" in done.stderr


@pytest.mark.parametrize("command", ["once", "run", "config check", "config show"])
def test_an_unset_variable_is_exit_2(world: World, command: str) -> None:
    """It cannot appear later."""
    world.extra["FAL_KEY"] = None
    done = world.cli(*command.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert "fal.key: environment variable FAL_KEY is not set" in done.stderr
    assert done.stderr.count("\n") == 1


# --- token -------------------------------------------------------------------------------------


def test_token_prints_a_fresh_password_and_nothing_else(world: World) -> None:
    """It goes into `docker login --password-stdin`; fal's key is not needed, no state opened."""
    world.extra["FAL_KEY"] = None
    done = world.cli("token", "ecr")
    assert done.returncode == 0
    assert not done.stderr
    password, end = done.stdout.split("\n")
    assert world.aws.passwords.issued(password) is not None
    assert not end
    assert not (world.directory / "refresher.db").exists()
    assert world.secret is None


def test_token_that_fails_prints_nothing(world: World) -> None:
    """An empty password would be passed on to docker."""
    world.aws.error("AccessDeniedException", 400, "User is not authorized")
    done = world.cli("token", "ecr")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert "User is not authorized" in done.stderr


def test_a_password_that_cannot_be_used_is_not_printed(world: World) -> None:
    """What must not stand in fal must not go to docker either."""
    world.aws.raw_token = "QVdTOg=="  # AWS: and nothing behind the colon
    done = world.cli("token", "ecr")
    assert (done.returncode, done.stdout) == (1, "")
    assert "empty password" in done.stderr


# --- config ------------------------------------------------------------------------------------


def test_a_good_configuration_is_ok(world: World) -> None:
    """With its file and how many targets it has."""
    world.configure({"ecr": REGISTRY, "other": OTHER}, more=f'image = "{IMAGE}"')
    done = world.cli("config", "check")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"ok: {world.config}, 2 targets\n"


def test_what_works_and_is_doubtful_is_told_as_well(world: World) -> None:
    """It is no problem: the exit code stays, and the value is not shown."""
    text = world.config.read_text()
    world.config.write_text(text.replace("[daemon]", '[daemon]\nheartbeat_url = { env = "BEAT" }'))
    world.extra["BEAT"] = "http://beats.test/canary-91b0"
    done = world.cli("config", "check")
    assert done.returncode == 0
    assert done.stderr.startswith(f"warning: {world.config}: daemon.heartbeat_url: is plain HTTP")
    assert "canary" not in done.stdout + done.stderr
    told = world.json("config", "check")
    assert (told["ok"], len(told["warnings"])) == (True, 1)


def test_every_problem_is_told_whoever_finds_it(world: World) -> None:
    """A variable, a file and an ECR host that is none are found by three different parts."""
    world.configure(
        {"ecr": "example.com"}, more='aws.access_key_id = { env = "NO_ID" }\n'
        'aws.secret_access_key = { file = "no-such-file" }'
    )  # fmt: skip
    done = world.cli("config", "check")
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert "targets.ecr.aws.access_key_id: environment variable NO_ID is not set" in lines[0]
    assert "targets.ecr.aws.secret_access_key: cannot read" in lines[1]
    assert 'targets.ecr.registry: "example.com" is no ECR registry' in lines[2]
    told = world.json("config", "check")
    assert (told["ok"], len(told["problems"])) == (False, 3)


def test_the_effective_configuration_hides_values(world: World) -> None:
    """It names where secrets are kept; people get as TOML what programs get as JSON."""
    shown = world.cli("config", "show").stdout
    assert 'key = { env = "FAL_KEY" }' in shown
    assert world.environ["FAL_KEY"] not in shown
    assert tomllib.loads(shown) == _without_nulls(world.json("config", "show"))


def _without_nulls(table: dict[str, Any]) -> dict[str, Any]:
    """TOML has no null, and no need of an empty table."""
    inside = {k: _without_nulls(v) if isinstance(v, dict) else v for k, v in table.items()}
    return {key: value for key, value in inside.items() if value not in (None, {})}


def test_a_reader_that_goes_away_is_no_error(world: World) -> None:
    """As with `refresher config schema | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "refresher", "config", "schema"],
            env=world.process_environ(),
            stdout=gone,
            stderr=subprocess.PIPE,
            timeout=30,
            check=False,
        )
    assert done.stderr == b""


def test_a_stop_in_the_middle_leaves_no_half_attempt(world: World) -> None:
    """Ctrl-C is recorded as interrupted, and the next pass goes on as usual."""
    world.aws.fail(Fault.hang(), times=1)
    process = subprocess.Popen(
        [sys.executable, "-m", "refresher", "once"],
        env=world.process_environ(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    with process:
        wait_for(lambda: world.aws.requests, "a request to AWS")
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
    assert time.monotonic() - began < 12
    assert world.cli("once").returncode == 0
    with world.daemon():
        outcomes = [attempt["outcome"] for attempt in world.json("history")["attempts"]]
    assert outcomes == ["refreshed", "failed"]
