"""A tick that asks the store what is due and hands it to a bounded pool.

Level-triggered: nothing runs only because an earlier run booked it. The tick is an APScheduler
interval job; a tick that is lost, late or doubled changes nothing but the lag.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.schedulers.background import BackgroundScheduler

from refresher import policy
from refresher.clock import Clock
from refresher.health import Health, Tick
from refresher.held import Held, proof_key
from refresher.model import (
    Actor,
    Attempt,
    DueReason,
    HeldCredential,
    Life,
    Replicas,
    Status,
    Store,
    Target,
)
from refresher.refresh import Refresher
from refresher.replicas import Alone
from refresher.scheduler.checks import Checks
from refresher.scheduler.lanes import Lanes
from refresher.scheduler.pace import Pace
from refresher.scheduler.queue import Queue, Ready

#: Seconds between two ticks.
TICK_SECONDS = 0.5

#: Issues that count against one quota: AWS allows 20 a second and 200 at once for each account
#: and region (ECR service quotas), of which others may want some, too.
ISSUES_PER_SECOND = 20.0
ISSUES_AT_ONCE = 100

#: Seconds after which a turn is let go that nobody came for.
_FORGET_SECONDS = 60.0

Change = Callable[[Status | None], Status]

#: Called with a target whose next issue the loop guard puts off, and until when.
Deferred = Callable[[Target, datetime], None]


@dataclass(frozen=True, slots=True)
class _Pick:
    """An attempt that has a worker, and begins once no other replica is at its target."""

    target: Target
    #: By what it was found due.
    status: Status
    reason: DueReason
    actor: Actor
    id: str
    #: Of what there is no second at the same time.
    alone: Hashable
    #: Whether what stands is urgent or expired.
    dying: bool


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
        replicas: Replicas | None = None,
    ) -> None:
        """`pool`: runs the attempts in place of that many threads; never more at a time.

        `replicas`: with whom the targets are shared; None for nobody.
        """
        self._replicas = replicas or Alone()
        self._picked: list[_Pick] = []
        self._store = store
        self._targets = targets
        self._refresher = refresher
        self._held = held
        self._health = health
        self._clock = clock
        self._deferred = deferred
        self._lock = threading.RLock()
        self._idle = threading.Condition(self._lock)
        self._closed = False
        self._queue = Queue(store, held, self._replicas)
        self._lanes = Lanes(workers)
        self._checks = Checks()
        self._quotas: dict[str, Pace] = {}
        self._running: set[str] = set()
        #: Issues and checks of which one at a time is enough.
        self._under_way: set[Hashable] = set()
        self._known: Mapping[str, Target] = {}
        self._offset = self._wall_offset()
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
            self._queue.clear()
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
        self._replicas.look()
        with self._lock:
            now, targets = self._clock.now(), self._targets()
            if targets is not self._known:
                self._lanes.know(targets)
                self._known = targets
            self._checks.forget(self._clock.monotonic() - _FORGET_SECONDS)
            self._queue.look(targets, self._running, now)
            lag = self._lag(now)
            booked = self._hand_out()
        self._book(booked)
        self._health.tick(Tick(now, lag.total_seconds()), self._clock.monotonic())

    def _lag(self, now: datetime) -> timedelta:
        """How long the most overdue target waits; for want of an answer is not for us."""
        waits = (now - ready.since for ready in self._queue if not self._lanes.silent(ready.name))
        return max(waits, default=timedelta())

    def _hand_out(self) -> dict[str, Change]:
        """Give due targets to free workers; one that must wait stays for the next time.

        Returns what to write of those whose time is known.
        """
        booked: dict[str, Change] = {}
        while not self._closed:
            self._queue.hand_out(lambda ready: self._start(ready, booked), lambda: self._lanes.full)
            if self._launch():
                break
        return booked

    def _launch(self) -> bool:
        """Begin what was picked and no other replica has; whether that was all of it."""
        picked, self._picked = self._picked, []
        claimed = self._replicas.claim(
            [pick.status for pick in picked], [pick.target.name for pick in picked if pick.dying]
        )
        for pick in picked:
            if pick.target.name in claimed:
                self._begin(pick)
            else:
                self._let_go(pick.target.name, pick.id, pick.alone)
        return len(claimed) == len(picked)

    def _book(self, booked: Mapping[str, Change]) -> None:
        """Outside of the lock: the state may be slow."""
        if booked:
            self._store.update_many(booked)

    def _start(self, ready: Ready, booked: dict[str, Change]) -> bool:
        """Start an attempt, or drop a target that is not due any more; False where it must wait."""
        name = ready.name
        if ready.waits_for in self._under_way or not self._lanes.room(name):
            return False
        target, status = self._targets().get(name), self._store.status(name)
        if target is None or status is None or name in self._running:
            return True
        now = self._clock.now()
        hand = self._held.hand(target, status)
        reason = policy.due(target, status, hand, now)
        if reason is None:
            return True
        if target.renewable and policy.in_hand(target, status, hand, reason, now) is None:
            return self._start_issue(ready, target, status, reason, booked)
        if target.renewable and reason is DueReason.CHECK and hand.standing is not None:
            return self._start_check(ready, target, status, hand.standing, booked)
        self._submit(target, status, reason)
        return True

    def _start_issue(
        self,
        ready: Ready,
        target: Target,
        status: Status,
        reason: DueReason,
        booked: dict[str, Change],
    ) -> bool:
        """One at a time per principal, within its quota, and not before the loop guard allows."""
        now = self._clock.now()
        allowed = policy.issue_allowed_at(target, status, now)
        if reason is not DueReason.FORCED and allowed > now:
            self._deferred(target, allowed)
            booked[target.name] = partial(_booked, allowed, status)
            return True
        ready.waits_for = ("issue", target.source.share_key)
        if ready.waits_for in self._under_way or not self._in_quota(target.source.quota):
            return False
        self._submit(target, status, reason, ready.waits_for)
        return True

    def _in_quota(self, quota: str | None) -> bool:
        if quota is None:
            return True
        pace = self._quotas.setdefault(quota, Pace(ISSUES_PER_SECOND, ISSUES_AT_ONCE))
        monotonic = self._clock.monotonic()
        if pace.wait(monotonic) > 0:
            return False
        pace.take(monotonic)
        return True

    def _start_check(
        self,
        ready: Ready,
        target: Target,
        status: Status,
        standing: HeldCredential,
        booked: dict[str, Change],
    ) -> bool:
        """One for all targets in which the credential stands, and each in its turn."""
        key = proof_key(standing, target)
        ready.waits_for = ("check", key)
        if ready.waits_for in self._under_way:
            return False
        wait = self._checks.turn(key, self._clock.monotonic())
        if wait > 0:
            at = self._clock.now() + timedelta(seconds=wait)
            booked[target.name] = partial(_booked, at, status)
            return True
        self._submit(target, status, DueReason.CHECK, ready.waits_for)
        return True

    # --- pool ----------------------------------------------------------------------------------

    def _submit(
        self, target: Target, status: Status, reason: DueReason, alone: Hashable = None
    ) -> None:
        """`alone`: of what there is no second at the same time."""
        trigger = status.trigger if reason is DueReason.FORCED else None
        attempt = trigger.id if trigger else uuid.uuid4().hex
        actor = trigger.actor if trigger else Actor.SCHEDULE
        dying = policy.life(target, status, self._clock.now()) in (Life.URGENT, Life.EXPIRED)
        self._running.add(target.name)
        self._lanes.enter(target.name)
        if alone is not None:
            self._under_way.add(alone)
        self._health.began(attempt, self._clock.monotonic())
        self._picked.append(_Pick(target, status, reason, actor, attempt, alone, dying))

    def _begin(self, pick: _Pick) -> None:
        future = self._pool.submit(
            self._refresher.attempt, pick.target, pick.reason, pick.actor, pick.id
        )
        future.add_done_callback(
            lambda done: self._release(done, pick.target.name, pick.id, pick.alone)
        )

    def _release(self, done: Future[Attempt], name: str, id: str, alone: Hashable) -> None:
        with self._idle:
            self._let_go(name, id, alone, None if done.exception() else done.result())
            booked = self._hand_out()
            self._idle.notify_all()
        self._book(booked)
        done.result()  # an attempt raises only by a bug of ours, which the pool then logs

    def _let_go(self, name: str, id: str, alone: Hashable, attempt: Attempt | None = None) -> None:
        """The worker is free again."""
        self._running.discard(name)
        self._lanes.leave(name, attempt)
        self._under_way.discard(alone)
        self._health.ended(id)


def _booked(at: datetime, known: Status, status: Status | None) -> Status:
    """Look at the target again then, unless something has happened to it meanwhile."""
    return replace(known, next_attempt_at=at) if status is known else status or known
