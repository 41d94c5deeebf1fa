"""Which targets `once` takes and which it leaves alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from refresher.cli.passes import Wish, choose
from tests.cli.views import HOUR, ago, target
from tests.conftest import NOON

YOUNG = Wish(max_age=4 * HOUR)


def test_without_names_all_are_taken_but_the_parked_and_the_paused() -> None:
    """Whoever paused a target does not want cron to write it."""
    targets = [target("a"), target("b", enabled=False), target("c", paused=True)]
    assert choose(targets, Wish(), NOON) == (["a"], [("c", "paused")])


def test_a_named_one_is_taken_although_paused_and_no_other() -> None:
    """A name is a wish."""
    targets = [target("a"), target("c", paused=True)]
    assert choose(targets, Wish(names=("c",)), NOON) == (["c"], [])


@pytest.mark.parametrize(
    "known",
    [
        {"issued_at": ago(4 * HOUR)},
        {"issued_at": None},
        {"issued_at": [ago(HOUR), ago(5 * HOUR)]},
        {"issued_at": [ago(HOUR), None]},
        {"valid": False},
    ],
    ids=["old", "never", "one old", "one missing", "refused"],
)
def test_with_a_max_age_the_old_and_the_bad_are_taken(known: dict[str, Any]) -> None:
    """One secret that is too old, missing or refused is enough."""
    assert choose([target(**known)], YOUNG, NOON) == (["ecr"], [])


def test_with_a_max_age_the_young_are_left_alone() -> None:
    """The oldest of a target's secrets is what counts."""
    known = target(issued_at=[ago(timedelta(minutes=5)), ago(HOUR)])
    assert choose([known], YOUNG, NOON) == ([], [("ecr", "issued 1h ago")])


def test_age_does_not_excuse_what_has_changed() -> None:
    """A young credential of the wrong account, or one that is gone from fal, is replaced."""
    assert choose([target()], YOUNG, NOON, {"ecr"}) == (["ecr"], [])
