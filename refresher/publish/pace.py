"""How fast one fal account is written to."""

from __future__ import annotations

import threading
from collections import deque
from datetime import timedelta

from refresher.errors import Throttled

#: Most writes within any second for one account.
WRITES_PER_SECOND = 20
#: How long after a halving one more write a second is tried again.
RECOVERY_SECONDS = 10.0
#: Longest time that a worker is held back; beyond it the attempt is put off.
LONGEST_WAIT = 2.0


class WritePace:
    """At most 20 writes within any second, half as many each time that fal says it is too much.

    Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._slots: deque[float] = deque(maxlen=WRITES_PER_SECOND)
        self._limit = float(WRITES_PER_SECOND)
        self._limited_at: float | None = None
        self._lock = threading.Lock()

    def limit(self, now: float) -> int:
        """Writes a second that are allowed now."""
        if self._limited_at is None:
            return WRITES_PER_SECOND
        recovered = (now - self._limited_at) / RECOVERY_SECONDS
        return min(WRITES_PER_SECOND, int(self._limit + recovered))

    def reserve(self, now: float) -> float:
        """Seconds to wait before the write. Raises `Throttled` where it is too long to wait."""
        with self._lock:
            limit = self.limit(now)
            at = self._next_slot(now, limit)
            wait = at - now
            if wait <= LONGEST_WAIT:
                self._slots.append(at)
                return wait
        raise Throttled(
            f"the pace of {limit} writes a second to this fal account is used up for {wait:.0f} s",
            retry_after=timedelta(seconds=wait),
        )

    def slow_down(self, now: float) -> None:
        """Halve the limit; answers to writes of the same second count once."""
        with self._lock:
            if self._limited_at is not None and now - self._limited_at < 1.0:
                return
            self._limit = max(1.0, self.limit(now) / 2)
            self._limited_at = now

    def _next_slot(self, now: float, limit: int) -> float:
        earliest = [now, *list(self._slots)[-1:]]
        if len(self._slots) >= limit:
            earliest.append(self._slots[-limit] + 1.0)
        return max(earliest)
