"""Targets by themselves, for commands that need no engine. Slow to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager

from refresher.cli.settings import misconfiguration
from refresher.clock import Skews, SystemClock
from refresher.config import Config
from refresher.model import Target
from refresher.targets import Parts, build


@contextmanager
def targets_of(config: Config) -> Iterator[Mapping[str, Target]]:
    """The targets of a configuration, by name. Raises `ConfigError`."""
    with misconfiguration():
        parts = Parts(config, SystemClock(), Skews())
    with closing(parts):
        yield build(config, parts)
