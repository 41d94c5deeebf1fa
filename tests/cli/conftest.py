"""What the tests of commands share."""

from tests.world import world

__all__ = ["world"]
