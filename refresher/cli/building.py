"""Targets by themselves, for commands that need no engine. Slow to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from refresher.cli.settings import misconfiguration
from refresher.clock import Skews, SystemClock
from refresher.config import Config
from refresher.model import Target
from refresher.registry import RegistryVerifier
from refresher.sources.aws import AwsClients
from refresher.targets import Parts, build


@contextmanager
def targets_of(config: Config) -> Iterator[Mapping[str, Target]]:
    """The targets of a configuration, by name. Raises `ConfigError`."""
    clock, skews = SystemClock(), Skews()
    with misconfiguration():
        verifier = RegistryVerifier(clock=clock, skews=skews, ca_bundle=config.daemon.ca_bundle)
    with verifier:
        yield build(config, Parts(clock, skews, AwsClients(), verifier))
