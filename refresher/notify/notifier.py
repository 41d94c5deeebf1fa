"""Finds the news, remembers that it was told, and only then hands it to every URL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from refresher import logs
from refresher.clock import Clock
from refresher.model import Attempt, Status, Store, Target
from refresher.notify.lane import RETRY_SECONDS, Lane, Outcome
from refresher.notify.news import Kind, Notice, news, told
from refresher.references import Reference

_LOG = {
    Kind.BAD: logs.error,
    Kind.URGENT: logs.warning,
    Kind.EXPIRES: logs.warning,
    Kind.GOOD: logs.event,
}


class Notifier:
    """Tells of each target once when it turns bad, urgent or good, and when its end comes nearer.

    What was told stands in the state before it is sent: a crash in between loses a notice, and
    nothing is ever told twice. Without URLs the log alone is told.
    """

    def __init__(
        self,
        *,
        store: Store,
        targets: Callable[[], Mapping[str, Target]],
        references: Callable[[], Sequence[Reference]],
        clock: Clock,
        count: Callable[[Outcome], None],
        retry_seconds: Sequence[float] = RETRY_SECONDS,
        ca_bundle: Path | None = None,
    ) -> None:
        """`references` are the Apprise URLs of the present configuration."""
        self._store = store
        self._targets = targets
        self._references = references
        self._clock = clock
        self._count = count
        self._retry_seconds = retry_seconds
        self._ca_bundle = ca_bundle
        self._lock = threading.Lock()
        self._lanes: dict[Reference, Lane] = {}
        self._closed = False

    def observe(self, target: Target, _status: Status, _attempt: Attempt) -> None:
        """An attempt ended: an `Observer`. Never waits for a service."""
        self._consider(target)

    def look(self) -> None:
        """See what time alone has changed; call it every minute."""
        for target in self._targets().values():
            self._consider(target)

    def close(self, seconds: float) -> None:
        """Tell nothing more, and give what waits so long to be sent."""
        with self._lock:
            self._closed = True
            lanes, self._lanes = list(self._lanes.values()), {}
        for lane in lanes:
            lane.stop()
        until = time.monotonic() + seconds
        for lane in lanes:
            lane.close(max(until - time.monotonic(), 0))

    def _consider(self, target: Target) -> None:
        status = self._store.status(target.name)
        if status is None or told(target, status, self._clock.now()) is status:
            return
        with self._lock:  # one at a time, so that what is claimed first is told first
            notice = None if self._closed else self._claim(target, status)
            if notice is not None:
                self._tell(notice)

    def _claim(self, target: Target, known: Status) -> Notice | None:
        """What nobody else tells, remembered as told."""
        now = self._clock.now()
        claimed: Notice | None = None

        def claim(old: Status | None) -> Status:
            nonlocal claimed
            claimed = news(target, old or known, now)
            return told(target, old or known, now)

        self._store.update(target.name, claim)
        return claimed

    def _tell(self, notice: Notice) -> None:
        _LOG[notice.kind](f"target.{notice.kind}", target=notice.target, message=notice.title)
        for lane in self._present_lanes():
            lane.post(notice)

    def _present_lanes(self) -> list[Lane]:
        """A lane for each URL of the present configuration; those of an earlier one end."""
        references = self._references()
        for gone in self._lanes.keys() - set(references):
            self._lanes.pop(gone).stop()
        for new in set(references) - self._lanes.keys():
            self._lanes[new] = Lane(new, self._count, self._retry_seconds, self._ca_bundle)
        return list(self._lanes.values())
