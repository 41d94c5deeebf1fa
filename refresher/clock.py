"""The one clock at the edge, the hand-moved one for tests, and what peers tell of time."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Protocol

#: A peer that asks to be left alone for longer is asked again all the same.
MAX_RETRY_AFTER = timedelta(hours=6)


class Clock(Protocol):
    """Where time comes from. Whatever decides takes `now` as an argument instead."""

    def now(self) -> datetime:
        """The wall clock, timezone-aware UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences have a meaning."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only by hand."""

    def __init__(self, now: datetime) -> None:
        self._now = now
        self._monotonic = 0.0

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, by: timedelta) -> None:
        """Let time pass on both clocks."""
        self._now += by
        self._monotonic += by.total_seconds()

    def jump(self, by: timedelta) -> None:
        """Step the wall clock alone, as NTP or a resumed machine does."""
        self._now += by


class Skews:
    """How far each peer's clock is ahead of ours, read off the `Date` headers of its answers."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def observe(
        self, peer: str, now: datetime, date: str | None, age: str | None = None
    ) -> timedelta | None:
        """The peer's clock less ours, or None where the answer does not tell.

        `date` and `age` are the HTTP headers; an answer with `Age` came out of a cache and says
        nothing about the present (RFC 9110 section 6.6.1, RFC 9111 section 5.1).
        """
        if date is None or age is not None:
            return None
        told = _http_date(date)
        if told is None:
            return None
        skew = told - now
        with self._lock:
            self._seconds[peer] = skew.total_seconds()
        return skew

    def seconds(self) -> dict[str, float]:
        """A copy: peer to seconds, positive where the peer is ahead."""
        with self._lock:
            return dict(self._seconds)


def retry_after(headers: Mapping[str, str], now: datetime) -> timedelta | None:
    """How long the peer asks us to stay away, at most 6 h; None where it does not.

    `headers` by their names in lower case. `Retry-After` holds seconds or a date (RFC 9110
    section 10.2.3); Docker Hub's `X-Retry-After` holds a Unix time.
    """
    until = headers.get("x-retry-after", "").strip()
    after = headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,12}", until, re.ASCII):
        seconds = int(until) - now.timestamp()
    elif re.fullmatch(r"\d{1,12}", after, re.ASCII):
        seconds = int(after)
    else:
        seconds = ((_http_date(after) or now) - now).total_seconds()
    if seconds <= 0:
        return None
    return timedelta(seconds=min(seconds, MAX_RETRY_AFTER.total_seconds()))


def _http_date(text: str) -> datetime | None:
    try:
        told = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a year or zone of twenty digits overflows
        return None
    return told if told.tzinfo else told.replace(tzinfo=UTC)
