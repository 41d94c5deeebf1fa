"""At most so many a second, a few of them at once."""

from __future__ import annotations


class Pace:
    """A leaky bucket as a meter (ITU-T I.371, GCRA): all it keeps is when the next one is due.

    Times are seconds of a monotonic clock.
    """

    def __init__(self, rate: float, burst: int) -> None:
        """`rate`: so many a second for ever; `burst`: so many at once after a pause."""
        self._interval = 1.0 / rate
        self._ahead = (burst - 1) * self._interval
        self._due = 0.0

    def wait(self, now: float) -> float:
        """Seconds until the next one may begin; 0 where it may now."""
        return max(0.0, self._due - self._ahead - now)

    def take(self, now: float) -> float:
        """Let the next one begin, and say in how many seconds that is."""
        wait = self.wait(now)
        self._due = max(self._due, now) + self._interval
        return wait
