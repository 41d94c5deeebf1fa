"""The probes tell the truth: of the daemon, and not of its peers.

A real scheduler ticks by hand around scripted peers, and a real server answers.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from refresher.clock import ManualClock
from refresher.errors import (
    ClockSkewed,
    Failure,
    Forbidden,
    InvalidResponse,
    Misconfigured,
    NotFound,
    Throttled,
    TimedOut,
    TlsFailure,
    Unauthorized,
    Unavailable,
)
from refresher.health import ATTEMPT_LIMIT, TICK_LIMIT, Health
from refresher.model import Credential, DueReason, SecretRef, Status, Store, Target
from refresher.scheduler import Scheduler, adopt
from refresher.state import SqlStore
from tests.script import Bench
from tests.serving import WORKERS, Daemon, Stage, staged, wait_for

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
MOMENT = timedelta(milliseconds=1)

#: Statuses of /livez, /readyz and /readyz?strict=1.
GOOD, STRICT, UNREADY = (200, 200, 200), (200, 200, 503), (200, 503, 503)


class Kept(Daemon):
    """A daemon whose scheduler ticks when a test says so."""

    def __init__(self, clock: ManualClock, stage: Stage, store: Store | None = None) -> None:
        super().__init__(clock, stage)
        if store is not None:
            self.bench.store.close()
            self.bench.store = store  # type: ignore[assignment]
            self.bench = Bench(clock, earlier=self.bench)
        self.health = Health(WORKERS, clock.monotonic())
        self.scheduler = Scheduler(
            store=self.bench.store,
            targets=lambda: self.targets,
            refresher=self.bench.refresher,
            held=self.bench.held,
            health=self.health,
            clock=clock,
            workers=WORKERS,
            deferred=lambda _target, _until: None,
        )
        self._client = self.serve()

    def keep(self, *targets: Target) -> None:
        self.targets = {target.name: target for target in targets}
        adopt(self.bench.store, self.targets, self.clock.now())

    def settle(self) -> None:
        """Tick until nothing runs and nothing more is due."""
        count = -1
        while count != len(self.bench.observed):
            count = len(self.bench.observed)
            self.scheduler.tick()
            assert self.scheduler.drain(5)

    def pass_time(self, by: timedelta, step: timedelta) -> None:
        """Let time go by in steps, with a tick at each."""
        until = self.clock.now() + by
        while self.clock.now() < until:
            self.clock.advance(step)
            self.settle()

    def get(self, path: str) -> httpx.Response:
        return self._client.get(path)

    @property
    def probes(self) -> tuple[int, int, int]:
        paths = ("/livez", "/readyz", "/readyz?strict=1")
        live, ready, strict = (self.get(path).status_code for path in paths)
        return live, ready, strict

    def close(self) -> None:
        self.scheduler.stop(5)
        super().close()


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A real server for the tests of this module."""
    with staged() as stage:
        yield stage


@pytest.fixture
def kept(clock: ManualClock, stage: Stage) -> Iterator[Kept]:
    """A daemon with one target, `ecr`, that has not ticked yet."""
    kept = Kept(clock, stage)
    kept.keep(kept.bench.target())
    yield kept
    kept.close()


# --- peers -------------------------------------------------------------------------------------


def break_aws(bench: Bench, failure: Failure | None) -> None:
    bench.issuer.failure = failure


def break_registry(bench: Bench, failure: Failure | None) -> None:
    bench.judge.failure = failure


def break_fal(bench: Bench, failure: Failure | None) -> None:
    bench.vault.failures = {} if failure is None else {"main": failure}


OUTAGES = [
    Unavailable("it cannot be reached"),
    TimedOut("it did not answer within 8 s"),
    Throttled("too many requests", retry_after=HOUR),
    Unauthorized("it refused the key"),
    Forbidden("it does not allow that"),
    NotFound("it knows no such thing"),
    TlsFailure("its certificate cannot be trusted"),
    ClockSkewed("it tells another time"),
    InvalidResponse("it answered with a login page"),
    Misconfigured("cannot read the file"),
]


@pytest.mark.parametrize("broken", [break_aws, break_registry, break_fal])
@pytest.mark.parametrize("failure", OUTAGES, ids=lambda failure: failure.reason)
def test_an_outage_is_no_reason_to_restart_or_to_take_out_of_service(
    kept: Kept, broken: Callable[[Bench, Failure | None], None], failure: Failure
) -> None:
    """From a healthy start until long after the credential has expired, and at a first start."""
    kept.settle()
    broken(kept.bench, failure)
    kept.keep(kept.bench.target(), kept.bench.target("new", ["other"]))
    for _ in range(14):
        kept.pass_time(HOUR, 20 * MINUTE)
        assert kept.probes[:2] == (200, 200)


# --- targets -----------------------------------------------------------------------------------


def healthy(kept: Kept) -> None:
    kept.settle()


def unknown(kept: Kept) -> None:
    """Nothing was ever published."""
    break_aws(kept.bench, Unavailable("away"))
    kept.settle()


def failing(kept: Kept) -> None:
    """What stands is stale, and good."""
    kept.settle()
    break_aws(kept.bench, Unavailable("away"))
    kept.pass_time(5 * HOUR, 5 * MINUTE)


def unjudged(kept: Kept) -> None:
    """Nobody could tell for long."""
    kept.settle()
    break_registry(kept.bench, Unavailable("away"))
    kept.pass_time(HOUR, 5 * MINUTE)


def urgent(kept: Kept) -> None:
    """The last quarter of its life."""
    kept.settle()
    break_aws(kept.bench, Unavailable("away"))
    kept.pass_time(11 * HOUR, 5 * MINUTE)


def expired(kept: Kept) -> None:
    urgent(kept)
    kept.pass_time(HOUR, 5 * MINUTE)


def refused(kept: Kept) -> None:
    """Between two refreshes, and AWS gives no new one."""
    kept.settle()
    break_aws(kept.bench, Unavailable("away"))
    kept.bench.judge.refused = {"token-1"}
    kept.pass_time(20 * MINUTE, 5 * MINUTE)


def past_its_learnt_life(kept: Kept) -> None:
    """The one before was refused at five hours; this one is that old, and still accepted."""
    kept.settle()
    break_aws(kept.bench, Unavailable("away"))
    kept.pass_time(5 * HOUR - 5 * MINUTE, 5 * MINUTE)
    kept.bench.judge.refused = {"token-1"}
    kept.pass_time(20 * MINUTE, 5 * MINUTE)
    break_aws(kept.bench, None)
    kept.pass_time(5 * MINUTE, MINUTE)
    break_aws(kept.bench, Unavailable("away"))
    kept.pass_time(5.5 * HOUR, 5 * MINUTE)


def parked(kept: Kept) -> None:
    """Expired, and taken out of our hands in the configuration."""
    expired(kept)
    kept.keep(replace(kept.targets["ecr"], enabled=False))


def paused(kept: Kept) -> None:
    """Expired, and still used by fal."""
    expired(kept)
    kept.bench.store.update("ecr", lambda old: replace(old, paused=True))  # type: ignore[type-var]


@pytest.mark.parametrize(
    ("happen", "state", "valid", "reason", "expected"),
    [
        (healthy, "fresh", True, None, GOOD),
        (unknown, "unknown", None, "unavailable", GOOD),
        (failing, "stale", True, "unavailable", GOOD),
        (unjudged, "fresh", None, "unavailable", GOOD),
        (urgent, "urgent", True, "unavailable", GOOD),
        (expired, "expired", False, "unavailable", STRICT),
        (refused, "expired", False, "unavailable", STRICT),
        (past_its_learnt_life, "expired", True, "unavailable", STRICT),
        (parked, "expired", False, "unavailable", GOOD),
        (paused, "expired", False, "unavailable", STRICT),
    ],
)
def test_strict_readiness_speaks_of_the_targets(
    *,
    kept: Kept,
    happen: Callable[[Kept], None],
    state: str,
    valid: bool | None,
    reason: str | None,
    expected: tuple[int, int, int],
) -> None:
    """It fails for an expired or refused one and names it; both probes show each with its cause."""
    happen(kept)
    assert kept.probes == expected
    shown = {"name": "ecr", "state": state, "valid": valid, "reason": reason}
    strict = kept.get("/readyz?strict=1").json()
    assert kept.get("/readyz").json()["targets"] == strict["targets"] == [shown]
    if expected is STRICT:
        assert strict["detail"] == "expired or refused: ecr"


def test_the_bad_ones_among_many_are_named(kept: Kept) -> None:
    """And the good ones are not."""
    kept.settle()
    kept.clock.advance(13 * HOUR)
    kept.keep(*kept.targets.values(), kept.bench.target("new"))
    kept.bench.attempt(kept.targets["new"])
    assert kept.probes[2] == 503
    assert kept.get("/readyz?strict=1").json()["detail"] == "expired or refused: ecr"


# --- the loop ----------------------------------------------------------------------------------


def test_before_the_first_tick_it_lives_and_is_not_ready(kept: Kept) -> None:
    """Nobody may rely on it yet, and a restart would not help."""
    assert kept.probes == UNREADY
    assert "first tick" in kept.get("/readyz").json()["detail"]
    kept.settle()
    assert kept.probes == GOOD


def test_a_scheduler_that_never_ticks_fails_livez(kept: Kept) -> None:
    """It is not forgiven for being new."""
    kept.clock.advance(timedelta(seconds=TICK_LIMIT))
    assert kept.probes == UNREADY
    kept.clock.advance(MOMENT)
    assert kept.probes == (503, 503, 503)


def test_a_stopped_scheduler_fails_livez_after_a_minute(kept: Kept) -> None:
    """A second too early would be a restart for nothing; readiness is another question."""
    kept.settle()
    kept.scheduler.stop(1)
    kept.clock.advance(timedelta(seconds=TICK_LIMIT))
    assert kept.probes == GOOD
    kept.clock.advance(SECOND)
    assert kept.probes == (503, 200, 200)
    assert kept.get("/livez").json()["detail"] == "no tick has ended for 61 s"


class Broken(SqlStore):
    """A store with a bug, which is not the same as one that is away."""

    broken = False

    def statuses(self) -> dict[str, Status]:
        if self.broken:
            raise ZeroDivisionError
        return dict(super().statuses())


def test_a_tick_that_dies_of_a_bug_is_none(clock: ManualClock, stage: Stage) -> None:
    """It begins each time and never ends, so nothing is kept."""
    store = Broken("sqlite://", clock=clock)
    store._connect()
    kept = Kept(clock, stage, store)
    kept.settle()
    store.broken = True
    for _ in range(61):
        clock.advance(SECOND)
        with pytest.raises(ZeroDivisionError):
            kept.scheduler.tick()
    assert kept.get("/livez").status_code == 503
    kept.close()


@dataclass
class Hanging:
    """A source whose calls do not even end at their deadline."""

    share_key: str
    quota: str | None = None
    renewable: bool = True
    ended: threading.Event = field(default_factory=threading.Event)

    def obtain(self, now: datetime) -> Credential:
        self.ended.wait(30)
        raise TimedOut("it hung")


@pytest.mark.parametrize(("hung", "expected"), [(WORKERS - 1, 200), (WORKERS, 503)])
def test_hung_workers_fail_livez_when_none_is_left(kept: Kept, hung: int, expected: int) -> None:
    """Each in one attempt for over five minutes, while the tick goes on."""
    sources = [Hanging(f"aws/{number}") for number in range(hung)]
    targets = [
        replace(
            kept.bench.target(source.share_key),
            source=source,
            secrets=(SecretRef(source.share_key, "main", "SECRET"),),
        )
        for source in sources
    ]
    kept.keep(*targets)
    kept.scheduler.tick()
    wait_for(lambda: all(kept.bench.status(target).attempt for target in targets))
    for _ in range(int(ATTEMPT_LIMIT) // 10):
        kept.clock.advance(10 * SECOND)
        kept.scheduler.tick()
        assert kept.get("/livez").status_code == 200
    kept.clock.advance(SECOND)
    answer = kept.get("/livez")
    assert answer.status_code == expected
    if expected == 503:
        assert answer.json()["detail"] == "all 2 workers have been in one attempt for over 5 min"
    for source in sources:
        source.ended.set()
    assert kept.scheduler.drain(5)
    assert kept.get("/livez").status_code == 200


def test_workers_that_take_turns_are_busy_and_not_hung(kept: Kept) -> None:
    """All are busy for twenty minutes, and none of them in one attempt for five."""
    kept.settle()
    for turn in range(8):
        name = str(turn % WORKERS)
        kept.health.ended(name)
        kept.health.began(name, kept.clock.monotonic())
        kept.clock.advance(timedelta(seconds=ATTEMPT_LIMIT / WORKERS))
        kept.scheduler.tick()
        assert kept.get("/livez").status_code == 200


# --- the wall clock ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "strict", "reason"),
    [(5, 200, DueReason.STALE), (13, 503, DueReason.EXPIRED), (24 * 30, 503, DueReason.EXPIRED)],
)
def test_a_suspended_machine_wakes_up_alive(
    kept: Kept, hours: int, strict: int, reason: DueReason
) -> None:
    """The wall clock jumps, the monotonic one does not; the next tick catches up."""
    kept.settle()
    kept.clock.jump(hours * HOUR)
    assert kept.probes == (200, 200, strict)
    kept.pass_time(SECOND, SECOND)
    assert kept.probes == GOOD
    assert [attempt.reason for attempt in kept.bench.observed[1:]] == [reason]


def test_a_clock_that_was_set_back_restarts_nothing(kept: Kept) -> None:
    """NTP corrects it by hours."""
    kept.settle()
    kept.clock.jump(-5 * HOUR)
    assert kept.probes == GOOD
    kept.pass_time(2 * MINUTE, 10 * SECOND)
    assert kept.probes == GOOD


# --- the state ---------------------------------------------------------------------------------


def test_a_tick_that_found_the_store_away_is_one(
    clock: ManualClock, stage: Stage, tmp_path: Path
) -> None:
    """The state's folder is gone: it goes on in memory, says so, and needs no restart."""
    path = tmp_path / "state" / "refresher.db"
    store = SqlStore.open(f"sqlite:///{path}", clock=clock)
    kept = Kept(clock, stage, store)
    kept.keep(kept.bench.target())
    kept.settle()
    shutil.rmtree(path.parent)
    path.parent.write_text("a file in its place")
    kept.pass_time(5 * HOUR, 15 * MINUTE)
    assert kept.probes == GOOD
    assert "\nrefresher_state_up 0.0\n" in kept.get("/metrics").text
    assert kept.bench.standing() == "token-2"

    path.parent.unlink()
    clock.advance(SECOND)
    store.retry()
    assert "\nrefresher_state_up 1.0\n" in kept.get("/metrics").text
    kept.close()


def test_a_store_that_was_never_there_is_tried_and_that_suffices(
    clock: ManualClock, stage: Stage, tmp_path: Path
) -> None:
    """It starts without its state, and is ready once it has ticked."""
    (tmp_path / "state").write_text("a file in its place")
    url = f"sqlite:///{tmp_path / 'state' / 'refresher.db'}"
    kept = Kept(clock, stage, SqlStore.open_or_memory(url, clock=clock))
    kept.keep(kept.bench.target())
    assert kept.probes == UNREADY
    kept.settle()
    assert kept.probes == GOOD
    assert "\nrefresher_state_up 0.0\n" in kept.get("/metrics").text
    kept.close()
