"""Each renewable credential is proved again once for all targets that it stands in, at a pace."""

from __future__ import annotations

from refresher.scheduler.pace import Pace

#: Renewable credentials proved again per second in one process.
CHECKS_PER_SECOND = 2.0

#: Fingerprint, registry and image: what a proof is about.
Key = tuple[str, str, str]


class Checks:
    """Gives each proof its turn. Times are seconds of a monotonic clock."""

    def __init__(self) -> None:
        self._pace = Pace(CHECKS_PER_SECOND, burst=2)
        self._booked: dict[Key, float] = {}

    def turn(self, key: Key, now: float) -> float:
        """In how many seconds the proof has its turn: 0 for now, and then that is taken.

        Who asks for the same proof again gets the same turn.
        """
        at = self._booked.get(key)
        if at is None:
            at = self._booked[key] = now + self._pace.take(now)
        if at > now:
            return at - now
        del self._booked[key]
        return 0.0

    def forget(self, before: float) -> None:
        """Let go of turns that nobody came for."""
        for key in [key for key, at in self._booked.items() if at < before]:
            del self._booked[key]
