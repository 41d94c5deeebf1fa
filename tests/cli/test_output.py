"""What people read: tables that fit, times as they are said."""

from __future__ import annotations

from datetime import timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher.cli.output import relative, span, table, wrapped
from refresher.view import timestamp
from tests.conftest import NOON

WORDS = st.text(st.characters(codec="ascii", exclude_categories=("C", "Z")), max_size=70)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0, "0s"),
        (59.9, "59s"),
        (60, "1m"),
        (3599, "59m"),
        (3600, "1h"),
        (11520, "3h 12m"),
        (86400, "1d"),
        (86400 * 13 + 3600 * 5, "13d 5h"),
    ],
)
def test_a_span_is_said_in_its_two_largest_units(seconds: float, said: str) -> None:
    """Nobody needs the seconds of three hours."""
    assert span(timedelta(seconds=seconds)) == said


@pytest.mark.parametrize(
    ("ahead", "said"),
    [(11520, "in 3h 12m"), (-120, "2m ago"), (0.9, "now"), (-0.9, "now"), (1, "in 1s")],
)
def test_a_time_is_said_from_now(ahead: float, said: str) -> None:
    """Times come as the API has them, in whole seconds."""
    now = NOON - timedelta(seconds=ahead)
    assert relative(timestamp(NOON), now) == said


def test_a_time_that_is_not_known_is_a_dash() -> None:
    """Null is not never."""
    assert relative(None, NOON) == "-"


def test_columns_line_up() -> None:
    """Each column is as wide as its widest cell, with nothing behind the last."""
    lines = table(("NAME", "STATE", "WHY"), [("a", "odd", ""), ("longer", "x", "so")], 80)
    assert lines == ["NAME    STATE  WHY", "a       odd", "longer  x      so"]


def test_a_long_last_cell_goes_on_below_itself() -> None:
    """A reason is never cut: it says what to do."""
    words = " ".join(["reason"] * 20)
    heading, *lines = table(("NAME", "STATE", "WHY"), [("a", "failed", words)], 60)
    assert heading.index("WHY") == 14
    assert " ".join(line[14:] for line in map(click.unstyle, lines)) == words
    assert all(not line[:14].strip() for line in lines[1:])


def test_a_long_name_is_cut() -> None:
    """A cut cell ends in an ellipsis."""
    _, row = table(("NAME", "STATE", "WHY"), [("n" * 63, "x", "why")], 40)
    assert row == f"{'n' * 27}…  x      why"


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), max_size=4))
def test_no_line_is_wider_than_the_terminal(rows: list[tuple[str, str, str]]) -> None:
    """Whatever is in the cells, 80 columns suffice."""
    lines = table(("NAME", "STATE", "WHY"), rows, 80)
    assert max(len(click.unstyle(line)) for line in lines) <= 80


def test_states_are_coloured_and_nothing_else() -> None:
    """Colour is for the word that tells whether all is well."""
    _, row = table(("NAME", "STATE", "WHY"), [("failed", "failed", "failed")], 80)
    assert row == f"failed  {click.style('failed', fg='red')}  failed"


def test_a_long_text_is_indented_below_its_label() -> None:
    """It fits as well."""
    lines = wrapped("ecr: ", " ".join(["word"] * 40)).splitlines()
    assert lines[0].startswith("ecr: word")
    assert all(line.startswith("     word") for line in lines[1:])
    assert max(map(len, lines)) <= 80
