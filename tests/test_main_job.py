"""The main job with real parts: a daemon process, docker-registry, skopeo, fal's CLI, moto."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from refresher.model import SecretValue
from refresher.sandbox.aws import ACCOUNT
from refresher.sandbox.http import Fault
from refresher.sandbox.world import REGISTRY, World
from tests.oci import docker_registry, push_image, skopeo_inspect
from tests.peers import free_port, require, running, wait_for_port

IMAGE = "team/app:latest"


@dataclass
class Running:
    """A daemon process and where it is reached."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def target(self, name: str = "ecr") -> dict[str, object]:
        answer: dict[str, object] = httpx.get(f"{self.url}/api/v1/targets/{name}").json()
        return answer

    def attempts(self, name: str = "ecr") -> list[dict[str, object]]:
        answer = httpx.get(f"{self.url}/api/v1/targets/{name}/attempts").json()
        attempts: list[dict[str, object]] = answer["attempts"]
        return attempts

    def refresh(self, name: str = "ecr", wait: int = 20) -> dict[str, object]:
        url = f"{self.url}/api/v1/targets/{name}/refresh?wait={wait}"
        answer: dict[str, object] = httpx.post(url, json={}, timeout=wait + 5).json()
        return answer


@contextmanager
def daemon(
    world: World, config: Callable[[str], Path], log: Path, extra: Sequence[str] = ()
) -> Iterator[Running]:
    """`refresher run` as a process, ready."""
    port = free_port()
    path = config(f"127.0.0.1:{port}")
    command = [sys.executable, "-m", "refresher", "--config", str(path), "run", *extra]
    with running(command, log, world.over(os.environ)) as process:
        wait_for_port(port)
        yield Running(process, f"http://127.0.0.1:{port}", log)


def until(holds: Callable[[], bool], what: str, seconds: float = 20) -> None:
    """Return once it holds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@pytest.fixture
def world() -> Iterator[World]:
    """AWS, a registry and fal on loopback."""
    with World() as world:
        yield world


def standing(world: World) -> str | None:
    """What stands in the fal secret."""
    return world.fal.value("main", "AWS_ECR_PASSWORD")


def test_what_stands_in_fal_pulls_from_a_real_registry(world: World, tmp_path: Path) -> None:
    """After a refresh skopeo pulls with the value in fal, and not with the one before it."""
    with docker_registry(tmp_path / "registry", {"seed": "seed"}) as registry:
        push_image(tmp_path, registry.host, IMAGE, "seed", "seed")

        def issue(_end: datetime) -> str:
            password = secrets.token_urlsafe(32)  # bcrypt hears no more than 72 bytes
            registry.set_password("AWS", password)
            return password

        world.aws.make_password = issue

        def config(listen: str) -> Path:
            path = world.write_config(tmp_path / "refresher.toml", listen=listen)
            text = path.read_text().replace(world.registry.url, registry.ref.url)
            path.write_text(f'{text}image = "{IMAGE}"\n')
            return path

        with daemon(world, config, tmp_path / "log") as run:
            until(lambda: standing(world) is not None, "the first publish")
            first = standing(world)
            assert first is not None
            assert skopeo_inspect(tmp_path, registry.host, IMAGE, "AWS", first).returncode == 0

            assert run.refresh()["outcome"] == "refreshed"
            second = standing(world)
            assert second is not None
            assert second != first
            assert skopeo_inspect(tmp_path, registry.host, IMAGE, "AWS", second).returncode == 0
            old = skopeo_inspect(tmp_path, registry.host, IMAGE, "AWS", first)
            assert old.returncode != 0
            assert "unauthorized" in old.stderr.lower()
            assert run.target()["image_pullable"] is True


def test_fals_own_client_reads_back_what_was_published(world: World, tmp_path: Path) -> None:
    """The real CLI lists the secret that the daemon wrote."""
    fal = require("fal")
    closed = f"http://127.0.0.1:{free_port()}"
    environ = {
        **world.over(os.environ),
        "HOME": str(tmp_path),
        "FAL_CONFIG_PATH": os.devnull,
        "FAL_REST_HOST": closed,
        "FAL_RUN_HOST": closed,
    }

    def config(listen: str) -> Path:
        return world.write_config(tmp_path / "refresher.toml", listen=listen)

    with daemon(world, config, tmp_path / "log"):
        until(lambda: standing(world) is not None, "the first publish")
        listed = subprocess.run(
            [fal, "secrets", "list", "--output", "json"],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
    assert "AWS_ECR_PASSWORD" in json.dumps(json.loads(listed.stdout))


def test_kill_9_in_the_middle_of_an_attempt(world: World, tmp_path: Path) -> None:
    """It starts again, catches up, loses no value, and issues nothing within the loop guard."""
    world.aws.token_life = timedelta(seconds=60)  # a guard of six seconds
    path = tmp_path / "refresher.toml"

    def config(listen: str) -> Path:
        return world.write_config(path, listen=listen)

    with daemon(world, config, tmp_path / "log1") as first:
        until(lambda: standing(world) is not None, "the first publish")
        before = standing(world)
        world.fal.hang(method="SetSecret", applied=False)
        threading.Thread(target=_swallow, args=(first,), daemon=True).start()
        until(lambda: world.aws.calls["GetAuthorizationToken"] == 2, "the second issue")
        time.sleep(0.3)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        killed = time.monotonic()
    world.fal.mend()
    assert standing(world) == before

    with daemon(world, config, tmp_path / "log2") as second:
        until(lambda: standing(world) != before, "the catch-up", 30)
        assert time.monotonic() - killed > 4.5
        assert world.aws.calls["GetAuthorizationToken"] == 3
        outcomes = [(a["outcome"], a["reason"]) for a in second.attempts()]
        assert outcomes[0][0] == "refreshed"
        cut = next(a for a in second.attempts() if a["outcome"] == "failed")
        assert isinstance(cut["failure"], dict)
        assert cut["failure"]["reason"] == "interrupted"
        assert second.target()["valid"] is True


def _swallow(run: Running) -> None:
    """Ask for a refresh that nobody will answer."""
    try:
        run.refresh()
    except httpx.HTTPError:
        return


def test_sigterm_stops_within_ten_seconds_and_leaves_nothing_half_recorded(
    world: World, tmp_path: Path
) -> None:
    """Even with fal hanging: the running stage ends, and what was cut says `interrupted`."""

    def config(listen: str) -> Path:
        return world.write_config(tmp_path / "refresher.toml", listen=listen)

    with daemon(world, config, tmp_path / "log1") as run:
        until(lambda: standing(world) is not None, "the first publish")
        world.aws.fail(Fault.hang())
        threading.Thread(target=_swallow, args=(run,), daemon=True).start()
        until(lambda: len(run.attempts()) == 2, "the attempt to begin")
        began = time.monotonic()
        run.process.send_signal(signal.SIGTERM)
        assert run.process.wait(timeout=10) == 0
        assert time.monotonic() - began < 10
    world.aws.mend()
    with daemon(world, config, tmp_path / "log2") as again:
        assert all(attempt["outcome"] is not None for attempt in again.attempts())


def test_sighup_and_a_changed_file_reload_and_sigusr1_refreshes_all(
    world: World, tmp_path: Path
) -> None:
    """A new target is taken up, a bad file changes nothing, a removed one keeps its secret."""
    path = tmp_path / "refresher.toml"

    def config(listen: str) -> Path:
        return world.write_config(path, listen=listen)

    with daemon(world, config, tmp_path / "log") as run:
        until(lambda: standing(world) is not None, "the first publish")
        good = path.read_text()
        listen = run.url.removeprefix("http://")
        world.write_config(path, {"ecr": REGISTRY, "two": REGISTRY}, listen=listen)
        run.process.send_signal(signal.SIGHUP)
        until(lambda: world.fal.value("main", "AWS_TWO_PASSWORD") is not None, "the new target")

        path.write_text("[targets.ecr]\nsource = 'nonsense'\n")
        until(lambda: _metric(run, "refresher_config_last_reload_successful") == 0, "the bad file")
        assert run.target()["state"] == "fresh"

        path.write_text(good)
        until(lambda: _metric(run, "refresher_config_last_reload_successful") == 1, "the good one")
        assert httpx.get(f"{run.url}/api/v1/targets/two").status_code == 404
        assert world.fal.value("main", "AWS_TWO_PASSWORD") is not None

        before = standing(world)
        run.process.send_signal(signal.SIGUSR1)
        until(lambda: standing(world) != before, "the refresh of all")
        assert run.attempts()[0]["actor"] == "signal"


def _metric(run: Running, name: str) -> float:
    lines = httpx.get(f"{run.url}/metrics").text.splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{name} "))


def test_a_second_daemon_on_the_same_state_is_refused(world: World, tmp_path: Path) -> None:
    """A SQLite file has one owner: exit 1, with a line that names it."""
    path = tmp_path / "refresher.toml"

    def config(listen: str) -> Path:
        return world.write_config(path, listen=listen)

    with daemon(world, config, tmp_path / "log") as run:
        world.write_config(path, listen=f"127.0.0.1:{free_port()}")
        second = subprocess.run(
            [sys.executable, "-m", "refresher", "--config", str(path), "run"],
            env=world.over(os.environ),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert second.returncode == 1
        assert str(run.process.pid) in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1


def test_moto_answers_with_2015_and_nothing_is_published(world: World, tmp_path: Path) -> None:
    """An independent AWS whose tokens expired in 2015: `invalid_credential`, and no loop."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, tmp_path / "moto.log"):
        wait_for_port(port, 60)
        environ = {
            **world.over(os.environ),
            "AWS_ENDPOINT_URL_ECR": f"http://127.0.0.1:{port}",
            "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{port}",
        }
        path = world.write_config(tmp_path / "refresher.toml", listen=f"127.0.0.1:{free_port()}")
        role = f'aws = {{ role_arn = "arn:aws:iam::{ACCOUNT}:role/fal-pull" }}\n'
        path.write_text(path.read_text() + role)
        listen = path.read_text().split('listen = "')[1].split('"')[0]
        daemon_command = [sys.executable, "-m", "refresher", "--config", str(path), "run"]
        with running(daemon_command, tmp_path / "log", environ) as process:
            wait_for_port(int(listen.split(":")[1]))
            run = Running(process, f"http://{listen}", tmp_path / "log")
            until(lambda: run.target()["last_failure"] is not None, "the first answer of moto")
            time.sleep(5)
            failure = run.target()["last_failure"]
            assert isinstance(failure, dict)
            assert (failure["stage"], failure["reason"]) == ("source", "invalid_credential")
            assert "2015" in str(failure["message"])
            assert len(run.attempts()) <= 2
        assert standing(world) is None
        # AssumeRole and GetAuthorizationToken, once each: the loop guard holds the next back.
        assert (tmp_path / "moto.log").read_text().count('"POST / HTTP/1.1" 200') == 2


def test_a_refusal_between_refreshes_is_answered_once(world: World, tmp_path: Path) -> None:
    """The registry says 403 "security token … invalid": replaced once, and not in a loop."""
    world.aws.token_life = timedelta(seconds=90)  # a guard of nine seconds

    def config(listen: str) -> Path:
        policy = {"reverify_interval": "1s"}
        return world.write_config(tmp_path / "refresher.toml", listen=listen, policy=policy)

    with daemon(world, config, tmp_path / "log") as run:
        until(lambda: standing(world) is not None, "the first publish")
        first = standing(world)
        assert first is not None
        world.aws.passwords.revoke(first)
        until(lambda: standing(world) != first, "the replacement")
        calls = world.aws.calls["GetAuthorizationToken"]
        assert calls == 2
        reasons = [attempt["reason"] for attempt in run.attempts()]
        assert "rejected" in reasons
        time.sleep(3)
        assert world.aws.calls["GetAuthorizationToken"] == calls


def test_no_value_is_in_the_state_or_the_log(world: World, tmp_path: Path) -> None:
    """Promise 4: keyed fingerprints only."""

    def config(listen: str) -> Path:
        return world.write_config(tmp_path / "refresher.toml", listen=listen)

    with daemon(world, config, tmp_path / "log") as run:
        until(lambda: standing(world) is not None, "the first publish")
        run.refresh()
        value = standing(world)
        assert value is not None
        page = httpx.get(run.url).text + httpx.get(f"{run.url}/metrics").text
        page += json.dumps(run.target()) + json.dumps(run.attempts())
        argv = Path(f"/proc/{run.process.pid}/cmdline").read_bytes().decode()
        files = [*world.directory.glob("refresher.db*"), tmp_path / "log"]
        seen = page + argv + "".join(path.read_bytes().decode("latin-1") for path in files)
    assert str(SecretValue(value)) not in seen
    for held in world.fal.history("main", "AWS_ECR_PASSWORD"):
        assert held.value is None or str(held.value) not in seen
    assert value not in seen
    assert value[:40] not in seen
