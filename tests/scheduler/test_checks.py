"""Each proof has its turn: two a second, and one for all who ask for the same."""

from __future__ import annotations

import pytest

from refresher.scheduler.checks import CHECKS_PER_SECOND, Checks


def test_a_turn_is_kept_for_whoever_comes_for_it() -> None:
    checks = Checks()
    keys = [(f"fingerprint-{n}", "https://registry.test", "None") for n in range(10)]
    turns = [checks.turn(key, 100.0) for key in keys]
    assert turns == pytest.approx([max(0.0, (n - 1) / CHECKS_PER_SECOND) for n in range(10)])
    assert checks.turn(keys[9], 101.0) == pytest.approx(turns[9] - 1.0)
    assert checks.turn(keys[9], 105.0) == 0.0


def test_a_turn_that_was_taken_is_not_taken_again() -> None:
    checks, key = Checks(), ("f", "r", "i")
    assert [checks.turn(key, 100.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.5])


def test_a_turn_that_nobody_came_for_is_let_go() -> None:
    checks = Checks()
    for n in range(5):
        checks.turn((f"f{n}", "r", "i"), 100.0)
    checks.forget(100.9)
    assert checks.turn(("f2", "r", "i"), 200.0) == 0.0
    assert checks.turn(("f4", "r", "i"), 100.9) == pytest.approx(0.6)
