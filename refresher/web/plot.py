"""Remaining life over time, drawn from the history: a saw-tooth. Pure.

The history knows when something new was published and not how long that lived, so every earlier
life is drawn as long as the present one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from refresher import policy
from refresher.model import Attempt, Outcome, Status, Target
from refresher.view import expires_at, issued_at
from refresher.web.gauge import percent, refresh_left
from refresher.web.words import span

#: Lives that the plot looks back, and the longest time that it does.
_LIVES = 8
_LONGEST = timedelta(days=30)
#: Ticks on the axis of time, at most.
_TICKS = 8
_STEPS = tuple(
    timedelta(seconds=seconds)
    for seconds in (5, 10, 30, 60, 300, 900, 3600, 10_800, 21_600, 43_200, 86_400, 172_800, 604_800)
)
_DAY = timedelta(days=1)

#: A moment and the life that was left then.
Point = tuple[datetime, timedelta]


@dataclass(frozen=True, slots=True)
class Mark:
    """A labelled place on an axis, in percent from the left or from the top."""

    at: float
    label: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Plot:
    """The drawing, in percent, so that it fits any width."""

    #: SVG path in a box of 100 by 100.
    line: str
    ticks: tuple[Mark, ...]
    levels: tuple[Mark, ...]
    #: When attempts failed.
    failures: tuple[float, ...]
    #: The plot in words.
    label: str


def plot(target: Target, status: Status, attempts: Sequence[Attempt], now: datetime) -> Plot | None:
    """The plot of a target; None where no end is known, or nothing was published."""
    issued, end = issued_at(target, status), expires_at(target, status)
    if issued is None or end is None or issued >= end:
        return None
    life = end - issued
    starts = _starts(attempts, issued, now)
    window = _Window(max(starts[0], now - min(_LIVES * life, _LONGEST)), now, life)
    points = list(_clipped(list(_saw(starts, life, now)), window.start))
    failed = [a.started_at for a in attempts if _failed_within(a, window.start)]
    return Plot(
        line=_path(points, window),
        ticks=tuple(_ticks(window)),
        levels=tuple(_levels(target, status, end, window)),
        failures=tuple(dict.fromkeys(window.x(at) for at in failed)),
        label=_in_words(points, window, starts, len(failed)),
    )


@dataclass(frozen=True, slots=True)
class _Window:
    """What the drawing spans: a stretch of time, and the life of a credential."""

    start: datetime
    end: datetime
    life: timedelta

    @property
    def width(self) -> timedelta:
        return max(self.end - self.start, timedelta(seconds=1))

    def x(self, at: datetime) -> float:
        return percent(at - self.start, self.width)

    def y(self, left: timedelta) -> float:
        return round(100 - percent(left, self.life), 1)


def _starts(attempts: Sequence[Attempt], issued: datetime, now: datetime) -> list[datetime]:
    """When each life began, in order; the present one where the history has forgotten it."""
    ended = (a.ended_at for a in attempts if a.outcome is Outcome.REFRESHED)
    starts = sorted(at for at in ended if at is not None and at <= now)
    return starts if starts and starts[-1] >= issued else [*starts, min(issued, now)]


def _saw(starts: Sequence[datetime], life: timedelta, now: datetime) -> Iterator[Point]:
    """The corners of the saw-tooth."""
    for start, end in pairwise([*starts, now]):
        yield start, life
        if end - start > life:
            yield start + life, timedelta()
        yield end, max(life - (end - start), timedelta())


def _clipped(points: Sequence[Point], start: datetime) -> Iterator[Point]:
    """The corners from `start` on, where the line is cut."""
    for (before, high), (after, low) in pairwise(points):
        if before < start < after:
            yield start, high - (high - low) * ((start - before) / (after - before))
        if after >= start:
            break
    yield from (point for point in points if point[0] >= start)


def _path(points: Sequence[Point], window: _Window) -> str:
    corners = (f"{window.x(at):g} {window.y(left):g}" for at, left in points)
    return f"M{'L'.join(corners)}"


def _failed_within(attempt: Attempt, start: datetime) -> bool:
    return attempt.outcome is Outcome.FAILED and attempt.started_at >= start


def _levels(target: Target, status: Status, end: datetime, window: _Window) -> Iterator[Mark]:
    """Full, where it is refreshed, and where it is urgent."""
    yield Mark(0, "issued", span(window.life))
    refresh = refresh_left(target, status)
    if refresh is not None:
        yield Mark(window.y(refresh), "refresh", span(refresh))
    first = min(target.secrets, key=lambda ref: status.secret(ref).expires_at or end)
    urgent = end - policy.urgent_at(target, status.secret(first), end)
    yield Mark(window.y(urgent), "urgent", span(urgent))


def _ticks(window: _Window) -> Iterator[Mark]:
    """Round times in UTC, so few that their labels have room."""
    step = next((step for step in _STEPS if window.width / step <= _TICKS), _STEPS[-1])
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    at = window.start - (window.start - epoch) % step + step
    while at <= window.end:
        yield Mark(window.x(at), _tick(at, step))
        at += step


def _tick(at: datetime, step: timedelta) -> str:
    if step >= _DAY or at.hour == at.minute == at.second == 0:
        return f"{at.day} {at:%b}"
    return f"{at:%H:%M}" if at.second == 0 and step.seconds >= 60 else f"{at:%H:%M:%S}"


def _in_words(
    points: Sequence[Point], window: _Window, starts: Sequence[datetime], failed: int
) -> str:
    refreshed = sum(start >= window.start for start in starts)
    lowest = min(left for _at, left in points)
    return (
        f"Remaining life over the last {span(window.width)}:"
        f" {_counted(refreshed, 'refresh', 'refreshes')},"
        f" {_counted(failed, 'failed attempt', 'failed attempts')},"
        f" lowest {span(lowest)}"
    )


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
