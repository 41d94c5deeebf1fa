"""What is remembered: status, history and the fingerprint key. Never a credential's value."""

from refresher.state.file import StateInUse
from refresher.state.store import SqlStore

__all__ = ["SqlStore", "StateInUse"]
