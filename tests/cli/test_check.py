"""The gate for a deploy, judged without a daemon."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from refresher.cli.check import Judgement, exit_for, judge
from tests.cli.views import HOUR, ago, ahead, failure, target
from tests.conftest import NOON

TWO_HOURS = 2 * HOUR


@pytest.mark.parametrize(
    ("known", "verdict", "why"),
    [
        ({}, "good", "verified 2m ago, expires in 11h"),
        ({"expires_at": None}, "good", "verified 2m ago"),
        ({"expires_at": ahead(TWO_HOURS)}, "bad", "expires in 2h, sooner than 2h"),
        ({"expires_at": ahead(HOUR)}, "bad", "expires in 1h, sooner than 2h"),
        ({"expires_at": ahead(HOUR), "valid": None}, "bad", "expires in 1h, sooner than 2h"),
        ({"expires_at": ago(HOUR), "valid": False}, "bad", "expired 1h ago"),
        ({"valid": False}, "bad", "refused by the registry"),
        (
            {"valid": False, "last_failure": failure("wrong password")},
            "bad",
            "refused by the registry: wrong password",
        ),
        ({"valid": None}, "unknown", "last verified 2m ago"),
        ({"valid": None, "verified_at": None}, "unknown", "never verified"),
        ({"valid": None, "issued_at": None, "expires_at": None}, "unknown", "never published"),
    ],
)
def test_a_target_is_good_bad_or_unknown(known: dict[str, Any], verdict: str, why: str) -> None:
    """Refused or ending too soon is bad, verified is good, the rest nobody knows."""
    assert judge(target(**known), NOON, TWO_HOURS) == Judgement("ecr", verdict, why)


def test_without_a_time_only_now_counts() -> None:
    """What ends in a second is still good now."""
    known = target(expires_at=ahead(timedelta(seconds=1)))
    assert judge(known, NOON, timedelta()).verdict == "good"


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ([], 0),
        (["good", "good"], 0),
        (["good", "unknown"], 3),
        (["unknown", "bad", "good"], 1),
    ],
)
def test_the_worst_decides(verdicts: list[Any], code: int) -> None:
    """Any bad before any unknown before good."""
    judgements = [Judgement(f"t{index}", v, "") for index, v in enumerate(verdicts)]
    assert exit_for(judgements) == code
