"""What the API speaks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from refresher.clock import Clock
from refresher.control import Control
from refresher.health import Health
from refresher.metrics import Metrics
from refresher.model import Replica, Store, Target
from refresher.references import Reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """The parts of a running daemon that its API shows and asks."""

    store: Store
    #: The targets of the present configuration, by name.
    targets: Callable[[], Mapping[str, Target]]
    control: Control
    metrics: Metrics
    health: Health
    clock: Clock
    #: Why the daemon has not started yet, in words; None once it has.
    ready: Callable[[], str | None]
    #: What a POST must bring by the present configuration; None where none is configured.
    token: Callable[[], Reference | None]
    #: Whether the listener is reached from this machine alone.
    loopback: bool
    #: Who shares the state, none where nobody can.
    replicas: Callable[[], Sequence[Replica]] = tuple
    #: Why the configuration was not taken up when it last changed; None where it was.
    config_problem: Callable[[], str | None] = lambda: None

    @property
    def writable(self) -> bool:
        """Whether anyone may ask for anything: without a token this machine alone."""
        return self.loopback or self.token() is not None
