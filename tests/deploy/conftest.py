"""What the tests of homes share."""

from tests.test_state import cluster
from tests.world import world

__all__ = ["cluster", "world"]
