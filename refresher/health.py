"""Whether the loop turns: what the scheduler reports and the probes read."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import datetime

#: Seconds without a tick after which the process is stuck.
TICK_LIMIT = 60.0
#: Seconds that every worker may spend in one attempt before the process is stuck.
ATTEMPT_LIMIT = 300.0


@dataclass(frozen=True, slots=True)
class Tick:
    """One look at what is due."""

    at: datetime
    #: How late the most overdue target was when the tick looked, in seconds.
    lag_seconds: float


class Health:
    """Judged by a monotonic clock, so that neither NTP nor a suspend makes it lie."""

    def __init__(self, workers: int, monotonic: float) -> None:
        self._workers = workers
        self._lock = threading.Lock()
        self._ticked = monotonic
        self._last: Tick | None = None
        self._busy: dict[str, float] = {}

    def tick(self, tick: Tick, monotonic: float) -> None:
        """The scheduler looked at what is due."""
        with self._lock:
            self._ticked, self._last = monotonic, tick

    def began(self, attempt: str, monotonic: float) -> None:
        """A worker took up an attempt."""
        with self._lock:
            self._busy[attempt] = monotonic

    def ended(self, attempt: str) -> None:
        """A worker is free again."""
        with self._lock:
            self._busy.pop(attempt, None)

    @property
    def last_tick(self) -> Tick | None:
        """None before the first."""
        with self._lock:
            return self._last

    def stuck(self, monotonic: float) -> str | None:
        """Why a restart would help, in words; None while the loop turns."""
        with self._lock:
            since, busy = monotonic - self._ticked, list(self._busy.values())
        if since > TICK_LIMIT:
            return f"no tick has ended for {since:.0f} s"
        if len(busy) >= self._workers and monotonic - max(busy) > ATTEMPT_LIMIT:
            return f"all {self._workers} workers have been in one attempt for over 5 min"
        return None
