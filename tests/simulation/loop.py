"""Virtual time: it passes only where every worker waits.

A call to a peer takes virtual time, so eight attempts overlap as they would. A worker is a
greenlet and not a thread: it gives way at such a call and nowhere else, so there are no races,
and a year has a few hundred thousand of them, which threads would spend waiting for each other.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from greenlet import greenlet

from refresher.clock import ManualClock

Action = Callable[[], None]


class Crash(BaseException):
    """The process died here. No `except Exception` of it may notice."""


class VirtualClock(ManualClock):
    """The machine's clock, and the true time that only the simulation knows."""

    def __init__(self, start: datetime) -> None:
        super().__init__(start)
        #: Seconds since the start of the simulation.
        self.true = 0.0

    def pass_to(self, true: float) -> None:
        """Let time pass up to this moment; one that is over already is now."""
        if true > self.true:
            self.advance(timedelta(seconds=true - self.true))
            self.true = true

    def suspend(self, seconds: float) -> None:
        """The machine sleeps: the wall clock goes on, the monotonic one stands."""
        self.jump(timedelta(seconds=seconds))
        self.true += seconds

    def when(self, wall: datetime) -> float:
        """The true time at which the wall clock will show this, if nobody steps it."""
        return self.true + (wall - self.now()).total_seconds()


class Loop:
    """The order of events."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        #: When to call `tick`, if nothing comes first; infinite while no process runs.
        self.wake: Callable[[], float] = lambda: float("inf")
        self.tick: Action = lambda: None
        self._events: list[tuple[float, int, Action]] = []
        self._numbers = itertools.count()
        self._hub = greenlet.getcurrent()
        #: Those that wait for a peer's answer, in the order in which they began to.
        self._waiting: dict[greenlet, None] = {}
        #: Errors that left a worker: each is a bug.
        self.errors: list[BaseException] = []

    def at(self, true: float, action: Action) -> None:
        """Do something then."""
        heapq.heappush(self._events, (true, next(self._numbers), action))

    def run(self, until: float) -> None:
        """Do everything that comes before this moment."""
        while (coming := self._next()) < until:
            self.clock.pass_to(coming)
            if self._events and self._events[0][0] <= coming:
                heapq.heappop(self._events)[2]()
            else:
                self.tick()
        self.clock.pass_to(until)

    def spend(self, seconds: float) -> None:
        """A call to a peer takes this long. Raises `Crash` where the process dies meanwhile."""
        end = self.clock.true + seconds
        worker = greenlet.getcurrent()
        if worker is self._hub or self._next() >= end:
            self.clock.pass_to(end)
            return
        self._waiting[worker] = None
        self.at(end, lambda: self._resume(worker))
        self._hub.switch()

    def start(self, job: Action) -> None:
        """Run a job on a worker of its own, now."""
        greenlet(partial(self._work, job), self._hub).switch()

    def kill(self) -> None:
        """End every worker where it stands."""
        while self._waiting:
            worker, _ = self._waiting.popitem()
            worker.throw(Crash)

    def _next(self) -> float:
        first = self._events[0][0] if self._events else float("inf")
        return max(min(first, self.wake()), self.clock.true)

    def _resume(self, worker: greenlet) -> None:
        if worker in self._waiting:  # else it was killed while it waited
            del self._waiting[worker]
            worker.switch()

    def _work(self, job: Action) -> None:
        try:
            job()
        except Crash:
            pass
        except BaseException as error:  # noqa: BLE001 - shown by the test
            self.errors.append(error)


class Pool(Executor):
    """The scheduler's pool in virtual time; whoever is cut by a crash never answers."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._open = True

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def job() -> None:
            future.set_result(fn(*args, **kwargs))

        self._loop.at(self._loop.clock.true, lambda: self._open and self._loop.start(job))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._open = False
