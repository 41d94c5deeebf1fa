"""How fast one fal account is written to."""

from __future__ import annotations

import pytest

from refresher.errors import Throttled
from refresher.publish.pace import WRITES_PER_SECOND, WritePace


def starts(pace: WritePace, now: float, count: int) -> list[float]:
    """When `count` writes that are asked for at once may start."""
    return [now + pace.reserve(now) for _ in range(count)]


def test_twenty_writes_start_at_once_and_the_next_a_second_later() -> None:
    """A burst of a second's worth is free; what comes after it waits its turn."""
    begun = starts(WritePace(), 100.0, 41)

    assert begun == [100.0] * 20 + [101.0] * 20 + [102.0]


def test_no_second_sees_more_than_twenty_writes() -> None:
    """The promise holds for every window of a second, not only for whole ones."""
    pace = WritePace()
    begun = sorted(at for now in (0.0, 0.4, 0.7, 1.3, 1.9) for at in starts(pace, now, 9))

    windows = [sum(1 for at in begun if first <= at < first + 1.0) for first in begun]
    assert max(windows) == WRITES_PER_SECOND


def test_a_wait_of_more_than_two_seconds_is_refused_and_takes_no_turn() -> None:
    """A worker is not held back for long: the attempt is put off, with the time to come back."""
    pace = WritePace()
    starts(pace, 0.0, 60)

    with pytest.raises(Throttled, match="20 writes a second") as caught:
        pace.reserve(0.0)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after.total_seconds() == 3.0
    assert pace.reserve(1.0) == 2.0


def test_the_pace_halves_when_fal_says_it_is_too_much() -> None:
    """Ten writes a second are left after the first complaint, five after the next."""
    pace = WritePace()

    pace.slow_down(0.0)
    assert pace.limit(0.0) == 10
    assert starts(pace, 0.0, 11) == [0.0] * 10 + [1.0]
    pace.slow_down(2.0)
    assert pace.limit(2.0) == 5


def test_complaints_about_one_burst_count_once() -> None:
    """Eight workers that are refused together do not bring the pace to a halt."""
    pace = WritePace()

    for worker in range(8):
        pace.slow_down(worker / 10)

    assert pace.limit(1.0) == 10


def test_the_pace_never_falls_to_nothing() -> None:
    """However often fal complains, one write a second is tried."""
    pace = WritePace()

    for second in range(30):
        pace.slow_down(float(second))

    assert pace.limit(30.0) == 1


def test_the_pace_recovers_slowly_and_in_full() -> None:
    """One more write a second every ten seconds, until it is twenty again."""
    pace = WritePace()
    pace.slow_down(0.0)

    assert [pace.limit(now) for now in (9.0, 10.0, 50.0, 100.0, 10_000.0)] == [10, 11, 15, 20, 20]
