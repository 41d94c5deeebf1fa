"""What comes next for a target, and when. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from refresher.model import Status, Target
from refresher.view import next_attempt_at, refresh_at
from refresher.web.words import due


@dataclass(frozen=True, slots=True)
class Coming:
    """Something that will happen."""

    #: In words, with the time from now: `check in 12 min`.
    text: str
    #: None where it happens now, or never.
    at: datetime | None = None


def coming(target: Target, status: Status, now: datetime) -> Iterator[Coming]:
    """The next attempt, and the next refresh where that is another one."""
    at = next_attempt_at(target, status)
    if in_progress(status):
        yield Coming("in progress")
    elif at is None:
        yield Coming("nothing while paused" if target.enabled else "nothing while disabled")
    else:
        yield Coming(f"{_what(target, status)} {due(at, now)}", at)
    refresh = refresh_at(target, status)
    if at is not None and refresh is not None and refresh > max(at, now):
        yield Coming(f"refresh {due(refresh, now)}", refresh)


def in_progress(status: Status) -> bool:
    """Whether an attempt runs, or was asked for and is about to."""
    return status.attempt is not None or status.trigger is not None


def _what(target: Target, status: Status) -> str:
    if status.consecutive_failures:
        return "retry"
    if any(status.secret(ref).fingerprint is None for ref in target.secrets):
        return "first publish"
    refresh = refresh_at(target, status)
    return "refresh" if refresh is not None and refresh <= status.next_attempt_at else "check"
