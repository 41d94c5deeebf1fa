"""The tick: what is due is found, handed out fairly, and never forgotten."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from refresher import record
from refresher.clock import ManualClock
from refresher.control import Control
from refresher.errors import TimedOut, Unavailable
from refresher.health import Health
from refresher.model import (
    Actor,
    Attempt,
    Credential,
    DueReason,
    ImageRef,
    Observer,
    Outcome,
    Proof,
    RegistryRef,
    SecretRef,
    Target,
)
from refresher.scheduler import Scheduler, adopt, resume
from refresher.sharing import Sharing
from tests.conftest import NOON
from tests.script import Bench, Issuer, Judge


class Run:
    """A scheduler that ticks by hand around scripted peers."""

    def __init__(self, clock: ManualClock, workers: int = 4, earlier: Run | None = None) -> None:
        self.bench = Bench(clock, earlier.bench if earlier else None, self._observers)
        self.clock = clock
        self.targets: dict[str, Target] = {}
        self.deferred: list[tuple[str, datetime]] = []
        self.health = Health(workers, clock.monotonic())
        self.scheduler = Scheduler(
            store=self.bench.store,
            targets=lambda: self.targets,
            refresher=self.bench.refresher,
            held=self.bench.held,
            health=self.health,
            clock=clock,
            workers=workers,
            deferred=lambda target, until: self.deferred.append((target.name, until)),
        )
        self.control = Control(self.bench.store, lambda: self.targets, clock)

    def _observers(self, bench: Bench) -> list[Observer]:
        return [Sharing(store=bench.store, held=bench.held, targets=lambda: self.targets)]

    def keep(self, *targets: Target) -> None:
        self.targets = {target.name: target for target in targets}
        adopt(self.bench.store, self.targets, self.clock.now())

    def settle(self) -> list[Attempt]:
        """Tick until nothing runs and nothing more is due; the attempts that this made."""
        before = len(self.bench.observed)
        while True:
            count = len(self.bench.observed)
            self.scheduler.tick()
            self.scheduler.drain()
            if len(self.bench.observed) == count:
                return self.bench.observed[before:]

    def pass_time(self, by: timedelta, step: timedelta) -> list[Attempt]:
        """Let time go by in steps, ticking at each."""
        made: list[Attempt] = []
        until = self.clock.now() + by
        while self.clock.now() < until:
            self.clock.advance(step)
            made += self.settle()
        return made


@pytest.fixture
def run(clock: ManualClock) -> Iterator[Run]:
    """A scheduler over scripted peers."""
    run = Run(clock)
    yield run
    run.scheduler.stop(5)
    run.bench.store.close()


def test_a_day_of_one_target_never_holds_a_stale_secret(run: Run) -> None:
    """Refreshed about every 4 h, re-verified every 15 min, never past a third of its life."""
    run.keep(run.bench.target())
    made = run.settle() + run.pass_time(timedelta(hours=24), timedelta(minutes=1))
    reasons = [attempt.reason for attempt in made]
    assert set(reasons) == {DueReason.MISSING, DueReason.STALE, DueReason.CHECK}
    assert 6 <= reasons.count(DueReason.STALE) <= 7
    assert reasons.count(DueReason.CHECK) >= 85
    assert all(attempt.outcome is not Outcome.FAILED for attempt in made)


def test_renewal_goes_on_after_any_failure_by_itself(run: Run) -> None:
    """Renewal silently stops, a restart fixes it: here the next tick does."""
    run.keep(run.bench.target())
    run.settle()
    run.bench.issuer.failure = Unavailable("AWS is away")
    run.pass_time(timedelta(hours=7), timedelta(minutes=1))
    assert run.bench.standing() == "token-1"
    run.bench.issuer.failure = None
    run.pass_time(timedelta(minutes=6), timedelta(seconds=30))
    assert run.bench.standing() == "token-2"


def test_a_registry_that_refuses_everything_makes_no_loop_of_issues(run: Run) -> None:
    """Runaway issuing: 12 h of refusals cost a handful of tokens, not hundreds."""
    run.keep(run.bench.target())
    run.settle()
    run.bench.judge.refused = {f"token-{n}" for n in range(1000)}
    made = run.pass_time(timedelta(hours=3), timedelta(seconds=30))
    assert made[0].reason is DueReason.CHECK
    assert made[1].reason is DueReason.REJECTED
    assert run.bench.issuer.issued <= 9
    assert run.deferred


def test_one_call_serves_all_targets_of_a_principal(run: Run) -> None:
    """Twenty targets of one principal become due together: one issue, twenty writes."""
    run.keep(
        *(
            replace(
                run.bench.target(f"t{n}"), secrets=(SecretRef("default", "main", f"SECRET_{n}"),)
            )
            for n in range(20)
        )
    )
    made = run.settle()
    assert len(made) == 20
    assert run.bench.issuer.issued == 1


def test_a_forced_refresh_runs_at_once_and_answers_with_its_attempt(run: Run) -> None:
    """A wish is stored and the next tick finds it, whatever the backoff says."""
    run.keep(run.bench.target())
    run.settle()
    run.clock.advance(timedelta(seconds=5))
    ids = run.control.refresh(["ecr"], Actor.HTTP)
    assert run.control.refresh(["ecr"], Actor.HTTP) == ids
    (attempt,) = run.settle()
    assert attempt.id == ids["ecr"]
    assert attempt.actor is Actor.HTTP
    assert attempt.reason is DueReason.FORCED
    assert run.bench.standing() == "token-2"


def test_a_paused_target_is_left_alone_until_it_is_resumed(run: Run) -> None:
    """Parked by a person."""
    run.keep(run.bench.target())
    run.settle()
    run.control.pause("ecr")
    assert run.pass_time(timedelta(hours=6), timedelta(minutes=10)) == []
    run.control.resume("ecr")
    (attempt,) = run.settle()
    assert attempt.reason is DueReason.STALE


class Stuck(Issuer):
    """A source that answers only once it is let go."""

    gate: threading.Event

    def obtain(self, now: datetime) -> Credential:
        self.gate.wait(20)
        raise Unavailable("let go")


def test_a_dead_account_leaves_room_for_the_others(run: Run) -> None:
    """One target blocks the others: ten targets of a hanging account, one of a good one."""
    stuck = Stuck(run.clock, share_key="aws/dead")
    stuck.gate = threading.Event()
    dead = [
        replace(
            run.bench.target(f"dead{n}"),
            source=stuck,
            secrets=(SecretRef("default", "main", f"DEAD_{n}"),),
        )
        for n in range(10)
    ]
    run.keep(*dead, run.bench.target("zz-good"))
    try:
        run.scheduler.tick()
        _until(lambda: run.bench.standing() == "token-1")
    finally:
        stuck.gate.set()
    run.scheduler.drain()


def _until(holds: Callable[[], bool]) -> None:
    patience = threading.Event()
    for _ in range(500):
        if holds():
            return
        patience.wait(0.01)
    raise AssertionError("it did not come to pass within 5 s")


def test_a_restart_takes_up_what_nobody_holds_after_five_minutes(run: Run) -> None:
    """`unheld`: the copy in memory is gone, so the credential cannot be re-verified."""
    target = run.bench.target()
    run.keep(target)
    run.settle()

    again = Run(run.clock, earlier=run)
    again.keep(target)
    resume(again.bench.store, again.targets, run.clock.now())
    run.clock.advance(timedelta(minutes=4))
    assert again.settle() == []
    run.clock.advance(timedelta(minutes=2))
    (attempt,) = again.settle()
    assert attempt.reason is DueReason.UNHELD
    again.scheduler.stop(5)


def test_many_unheld_targets_are_spread_and_urgent_ones_are_not(run: Run) -> None:
    """A restart is no storm: 900 targets resume over 15 min, the dying ones at once."""
    targets = [run.bench.target(f"t{n}") for n in range(900)]
    run.keep(*targets)
    run.settle()
    again = Run(run.clock, earlier=run)
    again.keep(*targets)
    run.clock.advance(timedelta(minutes=5))
    resume(again.bench.store, again.targets, run.clock.now())
    looks = sorted(s.next_attempt_at for s in again.bench.store.statuses().values())
    assert looks[0] == run.clock.now()
    assert timedelta(minutes=14) < looks[-1] - looks[0] <= timedelta(minutes=15)

    run.clock.advance(timedelta(hours=10))
    resume(again.bench.store, again.targets, run.clock.now())
    assert {s.next_attempt_at for s in again.bench.store.statuses().values()} == {run.clock.now()}
    again.scheduler.stop(5)


def test_an_attempt_cut_by_a_crash_is_closed_and_followed_at_once(run: Run) -> None:
    """kill -9 in the middle: history says `interrupted`, and the target is due again."""
    target = run.bench.target()
    run.keep(target)
    status = run.bench.status(target)
    orphan = Attempt(
        id="orphan",
        target="ecr",
        actor=Actor.SCHEDULE,
        reason=DueReason.MISSING,
        started_at=run.clock.now(),
    )
    run.bench.store.begin(orphan, lambda _old: record.opened(target, status, orphan, issues=True))
    run.clock.advance(timedelta(seconds=2))

    closed = replace(orphan, ended_at=run.clock.now(), outcome=Outcome.FAILED)
    run.bench.store.finish(closed, lambda old: replace(old or status, attempt=None))
    assert run.settle() == []
    made = run.pass_time(timedelta(minutes=5), timedelta(seconds=1))
    assert made[0].outcome is Outcome.REFRESHED
    assert made[0].started_at - orphan.started_at >= timedelta(seconds=60)


def test_a_clock_set_back_does_not_stop_the_jobs(run: Run) -> None:
    """APScheduler books by the wall clock: an hour back would be an hour of silence."""
    ticked = threading.Event()
    run.scheduler.every(3600, ticked.set)
    run.scheduler.start()
    _until(ticked.is_set)
    ticked.clear()
    run.clock.jump(-timedelta(hours=1))
    run.scheduler.mind_the_clock()
    _until(ticked.is_set)


def test_the_lag_is_how_long_the_most_overdue_target_waits(run: Run) -> None:
    """`refresher_scheduler_lag_seconds`."""
    run.keep(run.bench.target())
    run.clock.advance(timedelta(seconds=3))
    run.scheduler.tick()
    tick = run.health.last_tick
    assert tick is not None
    assert tick.lag_seconds == 3


def _siblings(run: Run, count: int, **changes: object) -> list[Target]:
    """Targets of one principal at one registry, each with a secret of its own."""
    return [
        replace(
            run.bench.target(f"t{n}", **changes),
            secrets=(SecretRef("default", "main", f"SECRET_{n}"),),
        )
        for n in range(count)
    ]


def _principal(run: Run, number: int, quota: str | None = None) -> Issuer:
    return Issuer(run.clock, share_key=f"p{number}", quota=quota, prefix=f"p{number}")


def test_one_proof_serves_all_secrets_that_hold_the_credential(run: Run) -> None:
    """Twenty targets in one registry: one visit an interval, and no attempt of the others."""
    targets = _siblings(run, 20)
    run.keep(*targets)
    run.settle()
    assert run.bench.judge.calls == 1
    made = run.pass_time(timedelta(minutes=50), timedelta(seconds=30))
    assert [attempt.reason for attempt in made] == [DueReason.CHECK] * 3
    assert run.bench.judge.calls == 4
    for target in targets:
        verified_at = run.bench.status(target).secrets[0].verified_at
        assert verified_at is not None
        assert run.clock.now() - verified_at < timedelta(minutes=16)


def test_a_refusal_reaches_each_secret_that_holds_the_credential(run: Run) -> None:
    """Only good news is passed on unasked: bad news makes the others due, and one issue serves."""
    run.keep(*_siblings(run, 5))
    run.settle()
    run.bench.judge.refused = {"token-1"}
    made = run.pass_time(timedelta(minutes=17), timedelta(seconds=10))
    assert run.bench.issuer.issued == 2
    assert {attempt.target for attempt in made if attempt.outcome is Outcome.REFRESHED} == {
        f"t{n}" for n in range(5)
    }
    assert set(run.bench.vault.values.values()) == {"token-2"}


def test_checks_that_are_due_at_once_get_a_time_each(run: Run) -> None:
    """Sixty credentials that slept together: two a second, and nobody is late who has a turn."""
    targets = [
        replace(target, source=_principal(run, n)) for n, target in enumerate(_siblings(run, 60))
    ]
    run.keep(*targets)
    run.settle()
    run.clock.advance(timedelta(hours=1))
    before = run.bench.judge.calls
    lags, made = [], 0
    for _ in range(90):
        run.scheduler.tick()
        run.scheduler.drain()
        tick = run.health.last_tick
        assert tick is not None
        lags.append(tick.lag_seconds)
        assert run.bench.judge.calls - before <= 2 + (made := made + 1) * 0.5 * 2
        run.clock.advance(timedelta(seconds=0.5))
    assert run.bench.judge.calls - before == 60
    assert max(lags[1:]) <= 0.5


def test_the_quota_of_an_account_and_region_is_kept(run: Run) -> None:
    """AWS throttles beyond 20 a second and 200 at once: a thousand principals never see it."""
    targets = [
        replace(target, source=_principal(run, n, quota="ecr us-east-1 1"))
        for n, target in enumerate(_siblings(run, 300))
    ]
    run.keep(*targets)
    issued = []
    for _ in range(25):
        run.scheduler.tick()
        run.scheduler.drain()
        issued.append(len(run.bench.vault.writes))
        run.clock.advance(timedelta(seconds=0.5))
    assert issued[0] <= 100
    assert all(later - earlier <= 11 for earlier, later in itertools.pairwise(issued))
    assert issued[-1] == 300


def test_what_one_issue_serves_runs_together(run: Run) -> None:
    """All are due at once and the pass takes longer than a credential may be shared: each
    principal is asked once all the same, for its targets do not wait for those of others."""
    sources = [_principal(run, n) for n in range(8)]
    targets = [
        replace(target, source=sources[n % 8]) for n, target in enumerate(_siblings(run, 160))
    ]
    slow = Slow(run.clock, seconds=0.5)
    images = [ImageRef("app", f"v{n}") for n in range(160)]  # so that each has a proof of its own
    run.keep(*(replace(t, verifier=slow, image=i) for t, i in zip(targets, images, strict=True)))
    run.settle()
    assert run.clock.now() - NOON >= timedelta(seconds=80)
    assert [source.issued for source in sources] == [1] * 8


@dataclass
class Slow(Judge):
    """A registry at which time passes."""

    seconds: float = 1.0

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        self.clock.advance(timedelta(seconds=self.seconds))
        return super().verify(registry, credential, image)


def test_accounts_that_do_not_answer_leave_half_of_the_workers(run: Run) -> None:
    """Eight accounts hang, each for as long as a call may take; one works, and is never late."""
    gate = threading.Event()
    dead = []
    for n in range(8):
        stuck = Stuck(run.clock, share_key=f"aws/dead{n}")
        stuck.gate = gate
        dead.append(
            replace(
                run.bench.target(f"dead{n}"),
                source=stuck,
                secrets=(SecretRef("default", "main", f"DEAD_{n}"),),
            )
        )
    gate.set()
    run.keep(*dead, run.bench.target("zz-good"))
    run.settle()  # now it is known which do not answer
    gate.clear()
    run.clock.advance(timedelta(hours=4))
    try:
        run.scheduler.tick()
        _until(lambda: run.bench.standing() == "token-2")
    finally:
        gate.set()
    run.scheduler.drain()


def test_the_lag_leaves_out_who_waits_for_an_account_that_does_not_answer(run: Run) -> None:
    """It tells of the scheduler; the account is told of by each target's own series."""
    run.bench.vault.failures = {"main": TimedOut("fal is away")}
    run.keep(*_siblings(run, 12))
    run.scheduler.tick()
    run.scheduler.drain()
    run.clock.advance(timedelta(seconds=40))
    run.scheduler.tick()
    tick = run.health.last_tick
    assert tick is not None
    assert tick.lag_seconds == 0
    run.scheduler.drain()


def test_a_turn_that_was_booked_gives_way_to_what_happened_since(run: Run) -> None:
    """A change of the configuration is not put off by a check that waits for its turn."""
    targets = [
        replace(target, source=_principal(run, n)) for n, target in enumerate(_siblings(run, 40))
    ]
    run.keep(*targets)
    run.settle()
    run.clock.advance(timedelta(hours=1))
    run.scheduler.tick()
    run.scheduler.drain()
    late = max(targets, key=lambda target: run.bench.status(target).next_attempt_at)
    assert run.bench.status(late).next_attempt_at > run.clock.now() + timedelta(seconds=10)
    run.keep(*(replace(t, digest="v2") if t is late else t for t in targets))
    made = run.settle()
    assert [(a.target, a.reason) for a in made] == [(late.name, DueReason.CONFIG_CHANGED)]
