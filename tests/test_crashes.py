"""Kill −9 wherever an attempt can be, again and again, and what the next life makes of it."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import grpc
import pytest

from refresher import policy
from refresher.clock import ManualClock, SystemClock
from refresher.errors import FailureReason
from refresher.model import Attempt, Credential, Policy, SecretValue, Stage, Status, fingerprint
from refresher.sandbox.aws import ACCOUNT
from refresher.sandbox.http import Request, Response
from refresher.sandbox.registry import basic_login
from refresher.sandbox.world import World, secret_name
from refresher.scheduler import resume
from refresher.state import SqlStore
from tests.nursery import RECORDED, Nursery
from tests.peers import running
from tests.scheduler.test_ticking import Run
from tests.script import Issuer

#: How long a credential lives: a third of it to its refresh, the rest to survive many a death.
LIFE = timedelta(seconds=45)
#: A target that was killed may issue again after a twentieth of that, at first.
GUARD = Policy(guard_fraction=0.05)
SPACING = LIFE * GUARD.guard_fraction

TARGETS = {f"ecr-{n}": f"{ACCOUNT}.dkr.ecr.us-east-{n + 1}.amazonaws.com" for n in range(16)}
OF_REGION = {host.split(".")[3]: name for name, host in TARGETS.items()}
OF_SECRET = {secret_name(name): name for name in TARGETS}

AWS_ASKED = "AWS was asked"
AWS_ANSWERED = "AWS issued"
REGISTRY_ASKED = "the registry was asked"
REGISTRY_ANSWERED = "the registry accepted"
FAL_ASKED = "fal was asked"
FAL_APPLIED = "fal applied the write"
HELD = (AWS_ASKED, AWS_ANSWERED, REGISTRY_ASKED, REGISTRY_ANSWERED, FAL_ASKED, FAL_APPLIED)
ANY_MOMENT = "any-moment"

PATIENCE = 30.0


class Gate:
    """Where one request of a daemon is held until the daemon is dead."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._point: str | None = None
        self._dead = threading.Event()
        self._reached = threading.Event()
        self.victim = ""
        #: Targets that were hit and published nothing since: the next hit is another's.
        self.spared: set[str] = set()

    def arm(self, point: str) -> None:
        """Hold the first request that comes to this point."""
        self._dead, self._reached, self._point = threading.Event(), threading.Event(), point

    def wait(self) -> None:
        """Until a request is held."""
        assert self._reached.wait(PATIENCE), f"nothing came to where {self._point}"
        self.spared.add(self.victim)

    def open(self) -> None:
        """Let go of what is held: its daemon is dead."""
        self._point = None
        self._dead.set()

    def hold(self, point: str, target: str) -> bool:
        """Called by the stand-ins. Whether the daemon died of it."""
        with self._lock:
            if point != self._point or target in self.spared:
                return False
            self._point, self.victim, dead = None, target, self._dead
        self._reached.set()
        return dead.wait(PATIENCE)


@dataclass
class Peers:
    """The stand-ins with a gate before and after whatever they do."""

    world: World
    gate: Gate
    #: Target and time of every password that AWS issued.
    issues: list[tuple[str, datetime]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._watch_aws(self.world.aws.handle)
        self._watch_registry(self.world.registry.handle)
        self._watch_fal(self.world.fal._admit, self.world.fal._apply)

    def _watch_aws(self, handle: Callable[[Request], Response]) -> None:
        def watched(request: Request) -> Response:
            scope = re.search(r"Credential=\w+/\d+/([\w-]+)/", request.headers["Authorization"])
            assert scope is not None
            target = OF_REGION[scope[1]]
            self.gate.hold(AWS_ASKED, target)
            answer = handle(request)
            self.issues.append((target, datetime.now(UTC)))
            self.gate.hold(AWS_ANSWERED, target)
            return answer

        self.world.aws.handle = watched

    def _watch_registry(self, handle: Callable[[Request], Response]) -> None:
        def watched(request: Request) -> Response:
            login = basic_login(request)
            issued = self.world.aws.passwords.issued(login[1]) if login else None
            if issued is None:
                return handle(request)
            self.gate.hold(REGISTRY_ASKED, OF_REGION[issued.region])
            answer = handle(request)
            self.gate.hold(REGISTRY_ANSWERED, OF_REGION[issued.region])
            return answer

        self.world.registry.handle = watched

    def _watch_fal(self, admit: Callable[..., None], apply: Callable[[Any], None]) -> None:
        def admitted(method: str, permission: str, request: Any, context: Any) -> None:
            admit(method, permission, request, context)
            if method == "SetSecret" and self.gate.hold(FAL_ASKED, OF_SECRET[request.name]):
                context.abort(grpc.StatusCode.CANCELLED, "the client has gone")

        def applied(request: Any) -> None:
            apply(request)
            self.gate.spared.discard(OF_SECRET[request.name])
            self.gate.hold(FAL_APPLIED, OF_SECRET[request.name])

        self.world.fal._admit = admitted
        self.world.fal._apply = applied

    def values(self, target: str) -> list[str | None]:
        """What the fal secret of a target held, oldest first."""
        history = self.world.fal.history("main", secret_name(target))
        return [held.value.reveal() if held.value else None for held in history]


@dataclass(frozen=True)
class Remembered:
    """The state as a dead daemon left it."""

    statuses: Mapping[str, Status]
    attempts: Sequence[Attempt]
    key: bytes

    @classmethod
    def read(cls, path: Path) -> Remembered:
        """As any command reads it beside its owner. Fails if it is damaged."""
        url = f"sqlite:///{path}"
        with closing(SqlStore.open(url, clock=SystemClock(), read_only=True)) as store:
            found = cls(store.statuses(), store.attempts(limit=100_000), store.fingerprint_key)
        with closing(sqlite3.connect(path)) as raw:
            assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return found

    @property
    def open(self) -> set[str]:
        """Attempts that were under way."""
        return {attempt.id for attempt in self.attempts if attempt.ended_at is None}

    def of(self, target: str) -> list[Attempt]:
        """The attempts at a target, oldest first."""
        return [a for a in reversed(self.attempts) if a.target == target]


class Deaths:
    """One world, one state, and a daemon that does not live long."""

    def __init__(self, world: World, nursery: Nursery, path: Path) -> None:
        self.gate = Gate()
        self.peers = Peers(world, self.gate)
        self._nursery = nursery
        self._world = world
        self._state = path
        self._rng = Random(9)
        self._before: Remembered | None = None
        #: Deaths by where the daemon was.
        self.count: Counter[str] = Counter()
        #: Attempts that were cut.
        self.cut: set[str] = set()

    def publish_all(self) -> None:
        """A first life, in which every secret gets a value."""
        pid = self._nursery.start(ANY_MOMENT)
        until = time.monotonic() + PATIENCE
        while len(self._world.fal.secrets) < len(TARGETS) and time.monotonic() < until:
            time.sleep(0.01)
        assert len(self._world.fal.secrets) == len(TARGETS)
        os.kill(pid, signal.SIGKILL)
        assert self._nursery.wait() == -signal.SIGKILL
        self.check(took_up=True)

    def die(self, point: str) -> None:
        """One life and its end at this point, and what it left."""
        self.gate.arm(point)
        pid = self._nursery.start(point)
        if point in HELD:
            self.gate.wait()
            self.check_good()
        if point == ANY_MOMENT:
            time.sleep(self._rng.uniform(0, 0.4))
        if point != RECORDED:
            os.kill(pid, signal.SIGKILL)
        assert self._nursery.wait() == -signal.SIGKILL
        self.gate.open()
        self.count[point] += 1
        self.check(took_up=point != ANY_MOMENT)

    def check(self, *, took_up: bool) -> Remembered:
        """All that must hold of what a daemon left, which had time to take up its state or not."""
        found = Remembered.read(self._state)
        self.check_good()
        for target in TARGETS:
            check_order(found.of(target))
            self._check_knowledge(found, target)
            self._check_guard(found, target)
        if self._before is not None and took_up:
            check_interrupted(found, self._before.open)
        self.cut |= found.open
        self._before = found
        return found

    def check_good(self) -> None:
        """Every secret holds what the registry accepts now."""
        now = datetime.now(UTC)
        for target in TARGETS:
            value = self._world.fal.value("main", secret_name(target))
            assert value is not None
            assert self._world.aws.passwords.judge(value, now) == "good", target

    def _check_knowledge(self, found: Remembered, target: str) -> None:
        """What is remembered as published is what stands, or what stood before a write that was
        cut. A target that a daemon was killed at again and again has one such write each time."""
        known = found.statuses[target].secrets[0].fingerprint
        marks = [fingerprint(found.key, SecretValue(v)) for v in self.peers.values(target) if v]
        cut = [a for a in found.of(target) if a.id in self.cut | found.open]
        since = 0
        for attempt in reversed(found.of(target)):
            if attempt not in cut:
                break
            since += 1
        assert known in {None, *marks[-1 - since :]}

    def _check_guard(self, found: Remembered, target: str) -> None:
        """Issues are as far apart as the guard wants, also across a death."""
        attempts = found.of(target)
        issuing = [
            max((a for a in attempts if a.started_at <= at), key=lambda a: a.started_at)
            for name, at in self.peers.issues
            if name == target
        ]
        assert len({attempt.id for attempt in issuing}) == len(issuing)
        for earlier, later in pairwise(issuing):
            assert later.started_at - earlier.started_at >= SPACING
        if self._before is None:
            return
        status = self._before.statuses[target]
        known = {attempt.id for attempt in self._before.attempts}
        assert status.last_issue_at is not None
        allowed = status.last_issue_at + policy.issue_spacing(GUARD, status)
        assert all(a.started_at >= allowed for a in issuing if a.id not in known)


def check_order(attempts: Sequence[Attempt]) -> None:
    """Each ends after it began and before the next one begins; none but the last is open."""
    for attempt in attempts:
        assert attempt.ended_at is None or attempt.ended_at >= attempt.started_at
        assert (attempt.ended_at is None) == (attempt.outcome is None)
    for earlier, later in pairwise(attempts):
        assert earlier.ended_at is not None
        assert earlier.ended_at <= later.started_at


def check_interrupted(found: Remembered, ids: set[str]) -> None:
    """What an earlier daemon was at is closed, and says why."""
    for attempt in found.attempts:
        if attempt.id in ids:
            assert attempt.failure is not None
            assert attempt.failure.reason is FailureReason.INTERRUPTED
            assert attempt.failure.stage is Stage.STATE


@pytest.fixture
def deaths() -> Iterator[Deaths]:
    """Sixteen targets with tokens of half a minute, published once."""
    with World(token_life=LIFE) as world:
        settings: dict[str, str | float] = {
            "guard_fraction": GUARD.guard_fraction,
            "unheld_after": "1s",
            "unheld_spread": "1s",
        }
        path = world.write_config(world.directory / "refresher.toml", TARGETS, policy=settings)
        path.write_text(path.read_text().replace("[daemon]", "[daemon]\nworkers = 4"))
        environ = world.over(os.environ)
        with Nursery(path, world.directory / "log", environ) as nursery:
            deaths = Deaths(world, nursery, world.directory / "refresher.db")
            deaths.publish_all()
            yield deaths


def kill(deaths: Deaths, times: int) -> None:
    points = (*HELD, RECORDED, ANY_MOMENT)
    for number in range(times):
        deaths.die(points[number % len(points)])


def test_ten_kills(deaths: Deaths) -> None:
    """One death at each stage boundary, and a few more."""
    kill(deaths, 10)
    assert set(deaths.count) == {*HELD, RECORDED, ANY_MOMENT}
    assert deaths.cut


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_hundred_kills(deaths: Deaths) -> None:
    """Every 25 at each boundary; no secret held a dead value for a moment, and a last daemon, a
    whole process, finds all in order."""
    kill(deaths, 200)
    assert min(deaths.count.values()) == 25
    check_never_stale(deaths)
    live_on(deaths)
    # Shown with `pytest -s` or `-rP`.
    sys.stdout.write(f"{deaths.count.total()} kills cut {len(deaths.cut)} attempts\n")


@dataclass
class Fatal(Issuer):
    """A source whose process is told to stop as soon as it is asked."""

    run: Run | None = None
    asked: int = 0

    def obtain(self, now: datetime) -> Credential:
        assert self.run is not None
        self.asked += 1
        self.run.bench.stopping.set()
        self.run.scheduler.stop(0)
        return super().obtain(now)


def test_short_lives_serve_all_targets_in_turn(clock: ManualClock) -> None:
    """A daemon that is stopped in its first attempt every time starts with another one each."""
    run = Run(clock, workers=1)
    sources = [Fatal(clock, share_key=f"aws/{n}") for n in range(4)]
    targets = [run.bench.target(f"t{n}", source=source) for n, source in enumerate(sources)]
    for _ in range(2 * len(targets)):
        run = Run(clock, workers=1, earlier=run)
        for source in sources:
            source.run = run
        run.keep(*targets)
        resume(run.bench.store, run.targets, clock.now())
        run.scheduler.tick()
        assert run.scheduler.drain()
        clock.advance(timedelta(minutes=1))
    assert [source.asked for source in sources] == [2, 2, 2, 2]
    run.bench.store.close()


def check_never_stale(deaths: Deaths) -> None:
    """Each value was replaced before its end."""
    world = deaths.peers.world
    for target in TARGETS:
        history = world.fal.history("main", secret_name(target))
        until = [held.since for held in history[1:]] + [datetime.now(UTC)]
        for held, replaced in zip(history, until, strict=True):
            assert held.value is not None
            issued = world.aws.passwords.issued(held.value.reveal())
            assert issued is not None
            assert replaced < issued.dies_at


def live_on(deaths: Deaths) -> None:
    """`refresher run` as a process of its own, until every target was refreshed by it."""
    world = deaths.peers.world
    before = {target: len(deaths.peers.values(target)) for target in TARGETS}
    command = [
        sys.executable,
        "-m",
        "refresher",
        "--config",
        str(world.directory / "refresher.toml"),
    ]
    with running([*command, "run"], world.directory / "log2", world.over(os.environ)) as process:
        until = time.monotonic() + PATIENCE
        while any(len(deaths.peers.values(t)) == before[t] for t in TARGETS):
            assert time.monotonic() < until
            time.sleep(0.05)
        process.terminate()
        assert process.wait(timeout=12) == 0
    assert deaths.check(took_up=True).open == set()
