"""A tick that asks the store what is due and hands it to a bounded pool.

Level-triggered: nothing runs only because an earlier run booked it. The tick is an APScheduler
interval job; a tick that is lost, late or doubled changes nothing but the lag.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.schedulers.background import BackgroundScheduler

from refresher import policy, record
from refresher.clock import Clock
from refresher.errors import FailureReason
from refresher.health import Health, Tick
from refresher.held import Held
from refresher.model import (
    Actor,
    Attempt,
    DueReason,
    FailureRecord,
    Life,
    Outcome,
    Stage,
    Status,
    Store,
    Target,
)
from refresher.refresh import Refresher

#: Seconds between two ticks.
TICK_SECONDS = 0.5

#: Renewable credentials proved again per second in one process.
CHECKS_PER_SECOND = 2.0

_NEVER = datetime.min.replace(tzinfo=UTC)

#: Called with a target whose next issue the loop guard puts off, and until when.
Deferred = Callable[[Target, datetime], None]


@dataclass(frozen=True, slots=True)
class _Ready:
    """A target that a tick found due."""

    name: str
    #: Before all others: a person waits, or a secret is about to die.
    pressing: bool
    since: datetime
    #: When it was last tried: after a restart all that is overdue is due since then.
    tried: datetime


class Scheduler:
    """Owns the tick and the pool. `start` and `stop` it, or `run_once` without either."""

    def __init__(
        self,
        *,
        store: Store,
        targets: Callable[[], Mapping[str, Target]],
        refresher: Refresher,
        held: Held,
        health: Health,
        clock: Clock,
        workers: int,
        deferred: Deferred,
        pool: Executor | None = None,
    ) -> None:
        """`pool`: runs the attempts in place of that many threads; never more at a time."""
        self._store = store
        self._targets = targets
        self._refresher = refresher
        self._held = held
        self._health = health
        self._clock = clock
        self._workers = workers
        self._deferred = deferred
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._closed = False
        self._ready: list[_Ready] = []
        self._running: dict[str, Target] = {}
        self._issuing: set[str] = set()
        self._checks = CHECKS_PER_SECOND
        self._checks_filled = clock.monotonic()
        self._offset = self._wall_offset()
        self._known: Mapping[str, Target] = {}
        self._lane_limit = workers
        self._pool = pool or ThreadPoolExecutor(workers, thread_name_prefix="worker")
        self._jobs = BackgroundScheduler(
            timezone=UTC,
            # One late or doubled run is worth one run; none is ever dropped for being late.
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1},
        )

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to tick."""
        self.every(TICK_SECONDS, self.tick)
        self._jobs.start()

    def every(self, seconds: float, job: Callable[[], None]) -> None:
        """Run `job` at this interval, beside the tick."""
        self._jobs.add_job(job, "interval", seconds=seconds, next_run_time=datetime.now(UTC))

    def stop(self, seconds: float) -> bool:
        """Start nothing more and wait for what runs; whether all of it ended in time."""
        with self._lock:
            self._closed = True
            self._ready = []
        if self._jobs.running:
            self._jobs.shutdown(wait=False)
        ended = self.drain(seconds)
        self._pool.shutdown(wait=False, cancel_futures=True)
        return ended

    def drain(self, seconds: float = 30.0) -> bool:
        """Wait until no attempt runs; whether that came in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._running, seconds)

    def run_once(self, attempts: Mapping[str, str], stopping: threading.Event) -> None:
        """Tick until each of these attempts, by target, has ended; for use without `start`."""
        waiting = set(attempts.values())
        while waiting and not stopping.wait(0.02):
            self.tick()
            waiting = {attempt for attempt in waiting if not self._ended(attempt)}

    def _ended(self, id: str) -> bool:
        attempt = self._store.attempt(id)
        return attempt is not None and attempt.outcome is not None

    def mind_the_clock(self) -> None:
        """Book the jobs anew when the wall clock was set back.

        APScheduler 3 books by the wall clock: set back by an hour, it would sleep that hour.
        Call this every second or so from a thread that does not depend on it.
        """
        offset = self._wall_offset()
        set_back, self._offset = self._offset - offset, offset
        if set_back < 2 * TICK_SECONDS:
            return
        for job in self._jobs.get_jobs():
            job.modify(next_run_time=datetime.now(UTC))

    def _wall_offset(self) -> float:
        return self._clock.now().timestamp() - self._clock.monotonic()

    # --- tick ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Find what is due and hand out as much of it as the pool takes."""
        with self._lock:
            now = self._clock.now()
            self._know(self._targets())
            self._refill_checks()
            self._ready = self._find(now)
            lag = max((now - ready.since for ready in self._ready), default=timedelta())
            self._hand_out()
        self._health.tick(Tick(now, max(lag.total_seconds(), 0.0)), self._clock.monotonic())

    def _find(self, now: datetime) -> list[_Ready]:
        """Every due target that does not run, the pressing ones first, then the longest due."""
        found = []
        statuses = self._store.statuses()
        for name, target in self._targets().items():
            status = statuses.get(name)
            if status is None or name in self._running:
                continue
            if policy.resting(status, now) and status.trigger is None:
                continue
            if self._due(target, status, now) is not None:
                found.append(_ready(target, status, now))
        return sorted(found, key=lambda ready: (not ready.pressing, ready.since, ready.tried))

    def _due(self, target: Target, status: Status, now: datetime) -> DueReason | None:
        return policy.due(target, status, self._held.hand(target, status), now)

    def _hand_out(self) -> None:
        """Give due targets to free workers; one that must wait stays for the next time."""
        if self._closed:
            return
        self._ready = [ready for ready in self._ready if not self._start(ready.name)]

    def _start(self, name: str) -> bool:
        """Start an attempt, or drop a target that is not due any more; False where it must wait."""
        if len(self._running) >= self._workers:
            return False
        target, status = self._targets().get(name), self._store.status(name)
        if target is None or status is None or name in self._running:
            return True
        now = self._clock.now()
        hand = self._held.hand(target, status)
        reason = policy.due(target, status, hand, now)
        if reason is None:
            return True
        issues = target.renewable and policy.in_hand(target, status, hand, reason, now) is None
        if issues and self._put_off(target, status, reason, now):
            return True
        if not self._has_room(target, reason, issues):
            return False
        self._submit(target, status, reason, issues)
        return True

    def _put_off(self, target: Target, status: Status, reason: DueReason, now: datetime) -> bool:
        """Whether the loop guard forbids an issue now; then the target waits for its time."""
        allowed = policy.issue_allowed_at(target, status, now)
        if reason is DueReason.FORCED or allowed <= now:
            return False
        self._store.update(target.name, lambda old: replace(old or status, next_attempt_at=allowed))
        self._deferred(target, allowed)
        return True

    def _has_room(self, target: Target, reason: DueReason, issues: bool) -> bool:
        """One issue at a time per principal, a share of the pool per account, paced checks."""
        if issues and target.source.share_key in self._issuing:
            return False
        if any(self._busy(lane) >= self._lane_limit for lane in target.lanes):
            return False
        if reason is not DueReason.CHECK or not target.renewable:
            return True
        if self._checks < 1:
            return False
        self._checks -= 1
        return True

    def _busy(self, lane: str) -> int:
        return sum(lane in target.lanes for target in self._running.values())

    def _know(self, targets: Mapping[str, Target]) -> None:
        """With more than one account, each gets half of the pool: a dead one leaves room."""
        if targets is self._known:
            return
        self._known = targets
        sources = {target.source.share_key for target in targets.values()}
        accounts = {ref.account for target in targets.values() for ref in target.secrets}
        several = len(sources) > 1 or len(accounts) > 1
        self._lane_limit = max(1, self._workers // 2) if several else self._workers

    def _refill_checks(self) -> None:
        now = self._clock.monotonic()
        earned = (now - self._checks_filled) * CHECKS_PER_SECOND
        self._checks = min(CHECKS_PER_SECOND, self._checks + earned)
        self._checks_filled = now

    # --- pool ----------------------------------------------------------------------------------

    def _submit(self, target: Target, status: Status, reason: DueReason, issues: bool) -> None:
        trigger = status.trigger if reason is DueReason.FORCED else None
        attempt = trigger.id if trigger else uuid.uuid4().hex
        actor = trigger.actor if trigger else Actor.SCHEDULE
        self._running[target.name] = target
        if issues:
            self._issuing.add(target.source.share_key)
        self._health.began(attempt, self._clock.monotonic())
        future = self._pool.submit(self._refresher.attempt, target, reason, actor, attempt)
        future.add_done_callback(lambda done: self._release(done, target, attempt, issues))

    def _release(self, done: Future[Attempt], target: Target, id: str, issued: bool) -> None:
        with self._idle:
            self._running.pop(target.name, None)
            if issued:
                self._issuing.discard(target.source.share_key)
            self._health.ended(id)
            self._hand_out()
            self._idle.notify_all()
        done.result()  # an attempt raises only by a bug of ours, which the pool then logs


def _ready(target: Target, status: Status, now: datetime) -> _Ready:
    trigger = status.trigger
    dying = policy.life(target, status, now) in (Life.URGENT, Life.EXPIRED)
    since = status.next_attempt_at if trigger is None else trigger.at
    tried = status.last_attempt_at or _NEVER
    return _Ready(target.name, pressing=dying or trigger is not None, since=since, tried=tried)


def adopt(store: Store, targets: Mapping[str, Target], now: datetime) -> None:
    """Take up the targets of a config, at the start and at every reload."""
    for target in targets.values():
        if record.adopted(target, store.status(target.name), now) is not store.status(target.name):
            store.update(target.name, partial(record.adopted, target, now=now))


def resume(store: Store, targets: Mapping[str, Target], now: datetime) -> None:
    """Pick up after an earlier process: close what it left open, and spread what nobody holds."""
    close_orphans(store, now)
    unheld = [target for target in targets.values() if target.renewable]
    for place, target in enumerate(unheld):
        share = place / len(unheld)
        store.update(
            target.name, partial(record.resumed, target, now=now, place=share, many=len(unheld))
        )


def close_orphans(store: Store, now: datetime) -> None:
    """Record as interrupted what an earlier process began and never ended."""
    for orphan in store.orphans():
        failure = FailureRecord(
            at=now,
            stage=Stage.STATE,
            reason=FailureReason.INTERRUPTED,
            message="the process ended during the attempt; the next one follows at once",
        )
        attempt = replace(orphan, ended_at=now, outcome=Outcome.FAILED, failure=failure)
        store.finish(attempt, partial(record.interrupted, id=orphan.id, failure=failure))
