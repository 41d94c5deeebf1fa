"""Remaining life as a bar and over time, and the history told once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from refresher.clock import ManualClock
from refresher.errors import Forbidden, Unavailable
from refresher.model import Actor, Attempt, DueReason, Target
from refresher.web.gauge import gauge
from refresher.web.plot import Plot, plot
from refresher.web.runs import runs
from tests.script import Bench

HOUR = timedelta(hours=1)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """Scripted peers around the real refresher and store."""
    bench = Bench(clock)
    yield bench
    bench.store.close()


def history(bench: Bench, target: Target) -> list[Attempt]:
    return list(bench.store.attempts(target.name))


def drawn(bench: Bench, target: Target) -> Plot:
    """The plot of the target now."""
    found = plot(target, bench.status(target), history(bench, target), bench.clock.now())
    assert found is not None
    return found


def corners(path: str) -> list[tuple[float, float]]:
    """The points of a path, in percent from the left and of life left."""
    assert re.fullmatch(r"M[\d.]+ [\d.]+(L[\d.]+ [\d.]+)*", path)
    pairs = [pair.split() for pair in path[1:].split("L")]
    return [(float(x), 100 - float(y)) for x, y in pairs]


@pytest.mark.parametrize(
    ("hours", "left", "words"),
    [(0, 100.0, "12 h left of 12 h"), (9, 25.0, "3 h left"), (13, 0.0, "expired after 12 h")],
)
def test_a_bar_is_full_at_first_and_empty_at_the_end(
    bench: Bench, hours: int, left: float, words: str
) -> None:
    """With a mark where it is refreshed, and all of it in words."""
    target = bench.target()
    bench.attempt(target)
    found = gauge(target, bench.status(target), bench.clock.now() + hours * HOUR)

    assert found is not None
    assert found.left == left
    assert found.mark is not None
    assert 66 < found.mark < 71
    assert words in found.label
    assert "refreshed at 8 h" in found.label


def test_without_a_known_end_there_is_nothing_to_draw(bench: Bench) -> None:
    """Neither before the first publish nor for a credential that tells no end."""
    bench.issuer.life = None
    target = bench.target()
    blank = bench.adopt(target)
    assert gauge(target, blank, bench.clock.now()) is None
    assert plot(target, blank, [], bench.clock.now()) is None
    bench.attempt(target)
    assert gauge(target, bench.status(target), bench.clock.now()) is None


def test_each_refresh_is_a_tooth(bench: Bench) -> None:
    """Life falls evenly and is whole again with each refresh."""
    target = bench.target()
    bench.attempt(target)
    for _ in range(2):
        bench.clock.advance(3 * HOUR)
        bench.attempt(target, DueReason.FORCED)
    bench.clock.advance(6 * HOUR)
    found = drawn(bench, target)

    teeth = [(0, 100), (25, 75), (25, 100), (50, 75), (50, 100), (100, 50)]
    assert corners(found.line) == teeth
    assert found.label == (
        "Remaining life over the last 12 h: 3 refreshes, 0 failed attempts, lowest 6 h"
    )
    assert [level.label for level in found.levels] == ["issued", "refresh", "urgent"]
    assert found.levels[2].at == 75


def test_a_life_that_ended_lies_at_the_foot(bench: Bench) -> None:
    """Until the next one begins; failures are marked."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(18 * HOUR)
    bench.issuer.failure = Unavailable("away")
    bench.attempt(target, DueReason.EXPIRED)
    bench.clock.advance(6 * HOUR)
    bench.issuer.failure = None
    bench.attempt(target, DueReason.RETRY)
    found = drawn(bench, target)

    assert corners(found.line) == [(0, 100), (50, 0), (100, 0), (100, 100), (100, 100)]
    assert found.failures == (75.0,)
    assert "1 failed attempt, lowest 0 s" in found.label


def test_what_is_long_past_is_cut_off(bench: Bench) -> None:
    """The plot looks back eight lives, and its line begins at the edge."""
    target = bench.target()
    bench.attempt(target)
    for _ in range(20):
        bench.clock.advance(6 * HOUR)
        bench.attempt(target, DueReason.FORCED)
    bench.clock.advance(3 * HOUR)
    first, *_, last = corners(drawn(bench, target).line)

    assert first == (0, 75)
    assert last == (100, 75)


def test_a_history_that_was_pruned_still_draws_what_stands(bench: Bench) -> None:
    """From the status alone."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(3 * HOUR)
    found = plot(target, bench.status(target), [], bench.clock.now())
    assert found is not None
    assert corners(found.line) == [(0, 100), (100, 75)]


@pytest.mark.parametrize("life", [timedelta(seconds=30), HOUR, 12 * HOUR, timedelta(days=365)])
def test_ticks_are_few_and_in_order(bench: Bench, life: timedelta) -> None:
    """At round times, whatever the life is."""
    bench.issuer.life = life
    target = bench.target()
    bench.attempt(target)
    for _ in range(9):
        bench.clock.advance(life * 0.9)
        bench.attempt(target, DueReason.FORCED)
    places = [tick.at for tick in drawn(bench, target).ticks]
    assert 2 <= len(places) <= 9
    assert places == sorted(places)


# --- the history -------------------------------------------------------------------------------


def test_what_repeats_itself_is_told_once(bench: Bench) -> None:
    """Checks and failures alike, newest first, with the time of the first of them."""
    target = bench.target()
    began: list[datetime] = []

    def attempt(reason: DueReason) -> None:
        began.append(bench.clock.now())
        bench.attempt(target, reason)
        bench.clock.advance(timedelta(minutes=5))

    for reason in (DueReason.MISSING, DueReason.CHECK, DueReason.CHECK, DueReason.FORCED):
        attempt(reason)
    for failure in (Unavailable("away"), Unavailable("away"), Forbidden("no")):
        bench.issuer.failure = failure
        attempt(DueReason.FORCED)
    told = list(runs(history(bench, target)))

    assert [(run.last.outcome, run.many, run.since) for run in told] == [
        ("failed", 1, began[6]),
        ("failed", 2, began[4]),
        ("refreshed", 1, began[3]),
        ("checked", 2, began[1]),
        ("refreshed", 1, began[0]),
    ]
    assert told[1].last.started_at == began[5]


def test_what_a_person_asked_for_stands_alone(bench: Bench) -> None:
    """However alike it ended."""
    target = bench.target()
    bench.attempt(target)
    for name, actor in (("a", Actor.SCHEDULE), ("b", Actor.HTTP), ("c", Actor.SCHEDULE)):
        bench.clock.advance(timedelta(minutes=1))
        bench.refresher.attempt(target, DueReason.CHECK, actor, name)
    assert [run.last.id for run in runs(history(bench, target))] == ["c", "b", "a", "1"]
