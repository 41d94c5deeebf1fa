"""What every test may ask for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import settings

from refresher.clock import ManualClock, Skews
from tests.peers import free_port
from tests.postgres import Cluster, new_cluster, new_database

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


@pytest.fixture(scope="session")
def server() -> Iterator[int]:
    """The port of a PostgreSQL that runs for all tests."""
    port = free_port()
    with new_cluster() as made, made.running(port):
        yield port


@pytest.fixture
def database(server: int) -> str:
    """The URL of an empty PostgreSQL database."""
    return new_database(server)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A real PostgreSQL that does not run yet."""
    with new_cluster() as made:
        yield made
