"""What no single table can tell: how the parts fit together, and what they refer to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from refresher.config.problems import nearest
from refresher.config.root import Config
from refresher.config.targets import AnyTarget
from refresher.config.values import quoted
from refresher.errors import Misconfigured
from refresher.model import Policy, SecretRef
from refresher.references import Reference

#: Docker Hub locks an account out that is asked too often.
_HUB_CHECK = timedelta(hours=6)


def policy_of(config: Config, target: AnyTarget) -> Policy:
    """The target's numbers: its own, else [policy]'s, else its source's, else the design's."""
    source = Policy(check_interval=_HUB_CHECK) if target.source == "dockerhub" else Policy()
    return replace(source, **{**config.policy.given(), **target.policy.given()})


def active(config: Config) -> dict[str, AnyTarget]:
    """The targets that are not parked."""
    return {name: target for name, target in config.targets.items() if target.enabled}


def misfits(config: Config) -> list[str]:
    """A line `path: text` for each pair of parts that do not fit together."""
    return [*_accounts(config), *_duplicates(config), *_policies(config)]


def _accounts(config: Config) -> Iterator[str]:
    for name, target in config.targets.items():
        if target.account not in config.accounts:
            hint = nearest(target.account, config.accounts)
            yield f"targets.{name}.account: {quoted(target.account)} is no fal account; {hint}"


def _duplicates(config: Config) -> Iterator[str]:
    owners: dict[SecretRef, str] = {}
    for name, target in active(config).items():
        for environment in target.environments:
            ref = SecretRef(target.account, environment, target.secret)
            owner = owners.setdefault(ref, name)
            if owner != name:
                yield f"targets.{name}.secret: {ref} is published by targets.{owner} already"


def _policies(config: Config) -> Iterator[str]:
    general = _contradictions(replace(Policy(), **config.policy.given()))
    yield from (f"policy.{line}" for line in general)
    for name, target in config.targets.items():
        for line in _contradictions(policy_of(config, target)):
            if line not in general:
                yield f"targets.{name}.policy.{line}"


def _contradictions(policy: Policy) -> list[str]:
    rules = (
        (
            policy.refresh_fraction + policy.urgent_fraction > 1,
            "refresh_fraction: makes a credential urgent before it is due; lower it",
        ),
        (policy.retry_first > policy.retry_cap, "retry_first: is longer than retry_cap"),
        (
            policy.retry_first > policy.retry_cap_urgent,
            "retry_first: is longer than retry_cap_urgent",
        ),
        (policy.guard_floor > policy.guard_ceiling, "guard_floor: is longer than guard_ceiling"),
    )
    return [line for broken, line in rules if broken]


def check_references(config: Config, environ: Mapping[str, str], files: bool) -> list[str]:
    """A line `path: text` for each reference in use that leads nowhere.

    Variables are always looked at: they cannot appear later. Files are with `files`. Parked
    targets, and accounts that no target in use names, may refer to what is not there.
    """
    lines = []
    for path, reference in references(config):
        if reference.env is not None or files or path == "daemon.ca_bundle":
            problem = _unreadable(reference, environ)
            if problem is not None:
                lines.append(f"{path}: {problem}")
    return lines


def _unreadable(reference: Reference, environ: Mapping[str, str]) -> str | None:
    try:
        empty = not reference.read(environ).reveal()
    except Misconfigured as error:
        return error.message
    if not empty:
        return None
    if reference.env is not None:
        return f"environment variable {reference.env} is empty"
    return f"{reference} is empty"


def references(config: Config) -> Iterator[tuple[str, Reference]]:
    """Every reference in use with its path; a file that is named by its path is one, too."""
    yield from _within("daemon", config.daemon)
    targets = active(config)
    for name in sorted({target.account for target in targets.values()} & set(config.accounts)):
        path = "fal.key" if name == "default" else f"fal.accounts.{name}.key"
        yield path, config.accounts[name].key
    for name, target in targets.items():
        yield from _within(f"targets.{name}", target)


def _within(path: str, value: object) -> Iterator[tuple[str, Reference]]:
    if isinstance(value, Reference):
        yield path, value
    elif isinstance(value, Path):
        yield path, Reference(file=value)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _within(f"{path}[{index}]", item)
    elif isinstance(value, BaseModel):
        for key, item in value:
            yield from _within(f"{path}.{key}", item)
