"""How much of a credential's life is left, as a bar. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from refresher.model import Status, Target
from refresher.view import expires_at, issued_at, refresh_at
from refresher.web.words import span


@dataclass(frozen=True, slots=True)
class Gauge:
    """A bar that is full when a credential is issued and empty when it ends."""

    #: Share of the life that is left, in percent.
    left: float
    #: What is left when the credential is to be refreshed, in percent; None where it is not.
    mark: float | None
    #: The same in words.
    label: str


def gauge(target: Target, status: Status, now: datetime) -> Gauge | None:
    """The bar of the target's first credential to end; None where no end is known."""
    start, end = issued_at(target, status), expires_at(target, status)
    if start is None or end is None or start >= end:
        return None
    life, left = end - start, max(end - now, timedelta())
    mark = refresh_left(target, status)
    words = f"{span(left)} left of {span(life)}" if left else f"expired after {span(life)}"
    refreshed = "" if mark is None else f", refreshed at {span(mark)} left"
    return Gauge(
        left=percent(left, life),
        mark=None if mark is None else percent(mark, life),
        label=f"Remaining life: {words}{refreshed}",
    )


def refresh_left(target: Target, status: Status) -> timedelta | None:
    """The life that is left at `refresh_at`; None where the credential has no such time."""
    end, refresh = expires_at(target, status), refresh_at(target, status)
    return None if end is None or refresh is None else end - refresh


def percent(part: timedelta, whole: timedelta) -> float:
    """From 0 to 100, with one decimal, which is less than a pixel."""
    return round(min(max(part / whole, 0.0), 1.0) * 100, 1)
