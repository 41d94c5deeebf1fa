"""What every test may ask for."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import settings

from refresher.clock import ManualClock, Skews

# A test beside others on a busy machine may be slow; a hanging one has pytest's own time-out.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

NOON = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at noon until a test moves it."""
    return ManualClock(NOON)


@pytest.fixture
def skews() -> Skews:
    """A book of clock skews with nothing in it yet."""
    return Skews()
