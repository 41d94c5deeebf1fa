"""The sandbox's world with our real processes in it: `refresher run`, and commands.

Ask for the fixture with `from tests.world import world` in the conftest of a folder, then:

    def test_it(world: World) -> None:
        with world.daemon():
            assert world.cli("status").returncode == 0

The stand-ins (`world.aws`, `world.registry`, `world.fal`) can be told to fail at any time.
`world.configure(...)` writes the configuration anew; `world.environ` is what processes see.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from refresher.sandbox import world as sandbox
from tests.peers import ROOT, free_port

#: Repository and tag that the world's registry has.
IMAGE = "team/app:1"
REGISTRY = sandbox.REGISTRY

#: Seconds until a process must be up, or over after SIGTERM, on a busy machine.
PATIENCE = 30.0


@dataclass(frozen=True)
class Running:
    """A `refresher run`."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        """What it logged under the name of an event."""
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line[:1] == "{"]
        return [line for line in lines if line.get("event") == event]

    def stop(self, kind: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after a signal."""
        self.process.send_signal(kind)
        return self.process.wait(PATIENCE)


class World(sandbox.World):
    """One target called `ecr`, kept in the fal secret AWS_ECR_PASSWORD (main)."""

    def __init__(self, *, token_life: timedelta = timedelta(hours=12)) -> None:
        repository, tag = IMAGE.split(":")
        super().__init__(token_life=token_life, images={repository: [tag]})
        self.port = free_port()
        #: Variables to set or, with None, to take away from what processes see.
        self.extra: dict[str, str | None] = {}

    @property
    def url(self) -> str:
        """Where the daemon is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def config(self) -> Path:
        """The configuration, which REFRESHER_CONFIG names."""
        return self.directory / "refresher.toml"

    @property
    def secret(self) -> str | None:
        """What the fal secret of the target `ecr` holds."""
        return self.fal.value("main", "AWS_ECR_PASSWORD")

    def configure(
        self,
        targets: Mapping[str, str] | None = None,
        *,
        policy: Mapping[str, str | float] | None = None,
        more: str = "",
    ) -> None:
        """Write the configuration; `more` is TOML at its end, which goes into the last target."""
        listen = f"127.0.0.1:{self.port}"
        self.write_config(self.config, targets, listen=listen, policy=policy)
        self.config.write_text(f"{self.config.read_text()}{more}\n")

    def process_environ(self) -> dict[str, str]:
        """The whole environment of our processes."""
        environ: dict[str, str | None] = {
            **self.over({"PATH": os.environ["PATH"], "HOME": str(self.directory)}),
            "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "error::ResourceWarning",
            "REFRESHER_CONFIG": str(self.config),
            **self.extra,
        }
        return {name: value for name, value in environ.items() if value is not None}

    def cli(self, *arguments: str, seconds: float = PATIENCE) -> subprocess.CompletedProcess[str]:
        """A command that has ended."""
        return subprocess.run(
            [sys.executable, "-m", "refresher", *arguments],
            env=self.process_environ(),
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def json(self, *arguments: str) -> Any:
        """What a command prints with `--output json`."""
        return json.loads(self.cli(*arguments, "--output", "json").stdout)

    @contextmanager
    def daemon(self, *arguments: str) -> Iterator[Running]:
        """A `refresher run` that is ready, ended with the block."""
        log = self.directory / "daemon.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "refresher", "run", *arguments],
                env=self.process_environ(),
                cwd=self.directory,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        try:
            self._wait_until_ready(process, log)
            yield Running(process, self.url, log)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()
                process.wait()

    def _wait_until_ready(self, process: subprocess.Popen[bytes], log: Path) -> None:
        until = time.monotonic() + PATIENCE
        while process.poll() is None and time.monotonic() < until:
            if _answers(f"{self.url}/readyz"):
                return
            time.sleep(0.05)
        raise AssertionError(f"the daemon is not ready:\n{log.read_text()}")


def wait_for(done: Callable[[], object], what: str, seconds: float = PATIENCE) -> None:
    """Return once `done()` is true; a test that waits longer fails with `what`."""
    until = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < until, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.05)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except urllib.error.HTTPError as error:
        error.close()
        return False
    except OSError:
        return False


@pytest.fixture
def world() -> Iterator[World]:
    """A world with the target `ecr` configured and nothing running yet."""
    with World() as made:
        made.configure()
        yield made
