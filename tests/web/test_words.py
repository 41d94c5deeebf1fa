"""Times, spans and failures in words."""

from __future__ import annotations

from datetime import timedelta, timezone

import pytest

from refresher.errors import FailureReason
from refresher.model import FailureRecord, Stage
from refresher.web import words
from tests.conftest import NOON


@pytest.mark.parametrize(
    ("duration", "shown"),
    [
        (timedelta(seconds=-5), "0 s"),
        (timedelta(seconds=59.9), "59 s"),
        (timedelta(minutes=59, seconds=59), "59 min"),
        (timedelta(hours=12), "12 h"),
        (timedelta(hours=23, minutes=59), "23 h 59 min"),
        (timedelta(days=3, hours=22), "3 d 22 h"),
        (timedelta(days=110, hours=5), "110 d"),
        (timedelta(days=3650), "3,650 d"),
    ],
)
def test_a_span_has_two_units_and_is_never_too_long(duration: timedelta, shown: str) -> None:
    """What is left is cut, not rounded."""
    assert words.span(duration) == shown


@pytest.mark.parametrize(
    ("ahead", "relative", "due"),
    [
        (timedelta(hours=3, minutes=12), "in 3 h 12 min", "in 3 h 12 min"),
        (timedelta(seconds=0.5), "now", "now"),
        (timedelta(seconds=-20), "20 s ago", "now"),
        (timedelta(minutes=-5), "5 min ago", "overdue by 5 min"),
    ],
)
def test_a_moment_is_told_from_now(ahead: timedelta, relative: str, due: str) -> None:
    """What was, and what is to come, which may be late."""
    assert words.relative(NOON + ahead, NOON) == relative
    assert words.due(NOON + ahead, NOON) == due


@pytest.mark.parametrize(
    ("ahead", "shown"),
    [
        (timedelta(seconds=30), "12:00:30"),
        (timedelta(hours=2), "14:00"),
        (timedelta(hours=12), "24 Nov, 00:00"),
        (timedelta(days=-20), "3 Nov, 12:00"),
        (timedelta(days=40), "2 Jan 2027"),
    ],
)
def test_a_time_is_as_long_as_it_must_be(ahead: timedelta, shown: str) -> None:
    """In UTC, whatever zone it is given in."""
    abroad = timezone(timedelta(hours=9))
    assert words.absolute((NOON + ahead).astimezone(abroad), NOON) == shown


def failure(stage: Stage, reason: FailureReason, message: str) -> FailureRecord:
    return FailureRecord(NOON, stage, reason, message)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("reason", FailureReason)
def test_every_failure_says_what_to_do(stage: Stage, reason: FailureReason) -> None:
    """Whatever the stage and the reason are."""
    what, to_do = words.told(failure(stage, reason, "it broke"))
    assert what == "it broke"
    assert to_do
    assert words.failed_stage(failure(stage, reason, "it broke")).endswith(reason.replace("_", " "))


def test_a_message_that_says_what_to_do_is_heeded() -> None:
    """Our messages end with it; for what heals by itself, the usual words are better."""
    message = "fal refused; its words; put another key there"
    refused = failure(Stage.PUBLISH, FailureReason.UNAUTHORIZED, message)
    away = failure(Stage.PUBLISH, FailureReason.UNAVAILABLE, message)

    assert words.told(refused) == ("fal refused; its words", "put another key there")
    assert words.told(away)[0] == message
