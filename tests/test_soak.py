"""One process, 10,000 refreshes: what it holds on to does not grow."""

from __future__ import annotations

import pytest

from benchmarks.soak import FIRST, soak


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_ten_thousand_refreshes_leave_nothing_behind() -> None:
    first, last, _ = soak(refreshes=10_000, seconds=300)

    assert last.refreshes >= 2 * FIRST
    assert last.beyond(first) == [], (first, last)
    assert (last.threads, last.descriptors, last.channels) > (0, 0, 0)
