"""The history with what repeats itself told once. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from refresher.errors import FailureReason
from refresher.model import Actor, Attempt, Outcome, Stage


@dataclass(frozen=True, slots=True)
class Run:
    """Attempts in a row that ended alike."""

    #: The newest of them.
    last: Attempt
    many: int
    #: When the oldest of them began.
    since: datetime


def runs(attempts: Sequence[Attempt]) -> Iterator[Run]:
    """The runs of a history, newest first; what a person asked for, or changed, stands alone."""
    for _, alike in groupby(attempts, _likeness):
        run = list(alike)
        yield Run(run[0], len(run), run[-1].started_at)


def _likeness(attempt: Attempt) -> tuple[str, Stage | None, FailureReason | None, str]:
    failure = attempt.failure
    if attempt.outcome not in (Outcome.CHECKED, Outcome.FAILED):
        return attempt.id, None, None, ""
    if attempt.actor is not Actor.SCHEDULE:
        return attempt.id, None, None, ""
    if failure is None:
        return attempt.outcome, None, None, ""
    return attempt.outcome, failure.stage, failure.reason, failure.message
