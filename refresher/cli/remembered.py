"""What the state remembers of the targets, read beside its owner. Slow to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from refresher.cli.building import targets_of
from refresher.cli.output import note
from refresher.cli.settings import Settings
from refresher.clock import SystemClock
from refresher.config import Config
from refresher.errors import StateError
from refresher.model import Status
from refresher.state import SqlStore
from refresher.view import TargetView, target_view, with_status


def targets(settings: Settings, now: datetime) -> Sequence[TargetView]:
    """The targets of the configuration as the state knows them, which may be not at all.

    Raises `ConfigError`.
    """
    config = settings.load("nothing")
    with targets_of(config) as kept:
        rows = with_status(kept, _statuses(settings, config), now)
        return [target_view(target, status, now) for target, status in rows]


def _statuses(settings: Settings, config: Config) -> Mapping[str, Status]:
    state = config.daemon.state
    url = state if isinstance(state, str) else settings.read(config, "daemon.state", state).reveal()
    try:
        store = SqlStore.open(url, clock=SystemClock(), read_only=True)
    except StateError as error:
        note(f"note: {error.message}")
        return {}
    statuses = dict(store.statuses())
    store.close()
    return statuses
