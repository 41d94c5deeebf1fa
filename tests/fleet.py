"""A world with several replicas in it: real processes on one real PostgreSQL.

Each reaches the database through a relay of its own, and AWS with a key of its own, so that it can
be cut off alone and what it issued is known to be its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import httpx

from refresher.sandbox.aws import ACCOUNT
from refresher.sandbox.http import Request, Response
from refresher.sandbox.world import World, secret_name
from tests.peers import ROOT, free_port
from tests.publish.relay import Relay
from tests.world import PATIENCE, Running

SECRET = "sandbox/secret/access/key/of/a/replica00"

#: Principals: a region has a registry and passwords of its own.
REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-south-1")


@dataclass(frozen=True)
class Issue:
    """A password that AWS issued."""

    at: datetime
    region: str
    #: Number of the replica that asked.
    replica: int


@dataclass(frozen=True)
class Write:
    """A value that fal took."""

    at: datetime
    name: str
    #: When the password dies, and so the order in which passwords were issued.
    dies_at: datetime


@dataclass
class Replica:
    """One `refresher run`, which can be killed, stopped for a while and cut off."""

    number: int
    config: Path
    url: str
    relay: Relay
    environ: Mapping[str, str]
    lease: float
    log: Path
    process: subprocess.Popen[bytes] | None = None
    lives: int = 0

    def start(self) -> None:
        self.lives += 1
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.replica", str(self.config), str(self.lease)],
                env=dict(self.environ),
                cwd=ROOT,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )

    def wait(self) -> None:
        """Until it is ready."""
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()[-2000:]
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError(f"replica {self.number} is not ready:\n{self.log.read_text()[-2000:]}")

    def send(self, kind: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(kind)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def stop(self) -> int:
        """As a rolling upgrade does; its exit code."""
        self.send(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(PATIENCE)

    def get(self, path: str) -> Any:
        return httpx.get(f"{self.url}{path}", timeout=PATIENCE).json()

    def targets(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.get("/api/v1/targets")["targets"]}

    def metrics(self) -> str:
        return httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text

    def lines(self, event: str) -> list[dict[str, Any]]:
        assert self.process is not None
        return Running(self.process, self.url, self.log).lines(event)


@dataclass
class Fleet:
    """Use it as a context manager; the replicas are made and not yet started."""

    database: str
    replicas_wanted: int
    targets: Mapping[str, str]
    life: timedelta = timedelta(hours=12)
    lease: float = 15.0
    policy: Mapping[str, str | float] = field(default_factory=dict)
    workers: int = 8
    #: Of those whose credential only a person can replace.
    kinds: Sequence[str] = ()
    #: Whatever answers only after so many seconds.
    delay: float = 0.0
    replicas: list[Replica] = field(default_factory=list)
    issues: list[Issue] = field(default_factory=list)
    writes: list[Write] = field(default_factory=list)
    #: Each holds back one write at the door of fal until it is set.
    doors: list[threading.Event] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self.world = self._stack.enter_context(World(token_life=self.life))
        self.world.aws.rate = self.world.aws.burst = 1e6
        self._watch()
        for number in range(self.replicas_wanted):
            self.replicas.append(self._made(number))
        return self

    def __exit__(self, *_: object) -> None:
        for replica in self.replicas:
            if replica.process is not None and replica.process.poll() is None:
                replica.send(signal.SIGCONT)
                replica.kill()
        self._stack.close()

    def start(self) -> None:
        """All of them, ready."""
        for replica in self.replicas:
            replica.start()
        for replica in self.replicas:
            replica.wait()

    def value(self, name: str) -> str | None:
        """What stands in the secret of a target."""
        return self.world.fal.value("main", secret_name(name))

    def standing(self) -> Iterator[tuple[str, datetime | None]]:
        """Each target, and when what stands in its secret dies."""
        for name in self.targets:
            value = self.value(name)
            issued = None if value is None else self.world.aws.passwords.issued(value)
            yield name, None if issued is None else issued.dies_at

    def _made(self, number: int) -> Replica:
        directory = self.world.directory / f"replica{number}"
        directory.mkdir()
        place, _, name = self.database.rpartition("/")
        relay = self._stack.enter_context(Relay(place.rpartition("@")[2]))
        port = free_port()
        key = f"AKIASANDBOX00000000{number}"
        self.world.aws.add_key(key, SECRET)
        config = self.world.write_config(
            directory / "refresher.toml",
            self.targets,
            kinds=self.kinds,
            listen=f"127.0.0.1:{port}",
            policy=self.policy,
        )
        text = re.sub(
            'state = ".*"',
            f'state = "postgresql://refresher@{relay.host}/{name}"\nworkers = {self.workers}',
            config.read_text(),
        )
        config.write_text(text)
        environ = {
            **self.world.over({"PATH": os.environ["PATH"], "HOME": str(directory)}),
            "PYTHONPATH": str(ROOT),
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": SECRET,
        }
        log = directory / "log"
        return Replica(number, config, f"http://127.0.0.1:{port}", relay, environ, self.lease, log)

    def _watch(self) -> None:
        """Note what is issued and what is written."""
        handle, apply = self.world.aws.handle, self.world.fal._apply
        lock = threading.Lock()
        check = self.world.registry.handle

        def issued(request: Request) -> Response:
            self._pause()
            answer = handle(request)
            found = re.search(
                r"Credential=AKIASANDBOX0+(\d)/\d+/([\w-]+)/", request.headers["Authorization"]
            )
            assert found is not None
            with lock:
                self.issues.append(Issue(datetime.now(UTC), found[2], int(found[1])))
            return answer

        def written(request: Any) -> None:
            self._pause()
            if self.doors:
                self.doors.pop().wait(PATIENCE)
            with lock:
                password = self.world.aws.passwords.issued(request.value)
                apply(request)
                if password is None:  # nothing that AWS issued
                    return
                self.writes.append(Write(datetime.now(UTC), request.name, password.dies_at))

        def checked(request: Request) -> Response:
            self._pause()
            return check(request)

        self.world.aws.handle = issued
        self.world.fal._apply = written
        self.world.registry.handle = checked

    def asked(self, name: str) -> int:
        """How often the write of a target's secret was asked for or made."""
        return sum(write.name == secret_name(name) for write in self.writes)

    def _pause(self) -> None:
        if self.delay:
            time.sleep(self.delay)


def targets_of(many: int) -> dict[str, str]:
    """So many targets, spread over the principals."""
    hosts = [f"{ACCOUNT}.dkr.ecr.{region}.amazonaws.com" for region in REGIONS]
    return {f"t{n:03}": hosts[n % len(hosts)] for n in range(many)}


def until(holds: Callable[[], object], what: str, seconds: float = PATIENCE) -> float:
    """Seconds until it held."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < seconds, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return time.monotonic() - began
