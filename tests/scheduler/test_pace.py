"""At most so many a second, whoever asks and whenever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher.scheduler.pace import Pace


@given(
    rate=st.floats(0.5, 50),
    burst=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_no_window_holds_more_than_the_burst_and_the_rate(
    rate: float, burst: int, gaps: list[float]
) -> None:
    pace, now, starts = Pace(rate, burst), 1000.0, []
    for gap in gaps:
        now += gap
        starts.append(now + pace.take(now))
    assert starts == sorted(starts)
    for first in range(0, len(starts), 7):
        for last in range(first, len(starts)):
            allowed = burst + (starts[last] - starts[first]) * rate
            assert last - first + 1 <= allowed + 1e-6


def test_who_waits_is_told_how_long() -> None:
    pace = Pace(rate=2, burst=1)
    assert (pace.wait(5.0), pace.take(5.0)) == (0.0, 0.0)
    assert pace.wait(5.1) == pytest.approx(0.4)
    assert pace.take(5.1) == pytest.approx(0.4)
    assert pace.wait(5.1) == pytest.approx(0.9)
    assert pace.wait(7.0) == 0.0
