"""What the tests of homes share."""

from tests.world import world

__all__ = ["world"]
