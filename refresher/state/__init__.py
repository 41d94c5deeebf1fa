"""What is remembered: status, history and the fingerprint key. Never a credential's value."""

from refresher.state.database import is_shared
from refresher.state.file import StateInUse
from refresher.state.shared import LEASE_SECONDS, SharedStore
from refresher.state.store import SqlStore

__all__ = ["LEASE_SECONDS", "SharedStore", "SqlStore", "StateInUse", "is_shared"]
