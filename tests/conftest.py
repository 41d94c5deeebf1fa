"""What every test may ask for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from refresher.clock import ManualClock, Skews

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at noon until a test moves it."""
    return ManualClock(NOON)


@pytest.fixture
def skews() -> Skews:
    """A book of clock skews with nothing in it yet."""
    return Skews()
