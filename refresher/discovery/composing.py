"""A project and a configuration file that refines it, together one configuration."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refresher.config import Config, Context, Follow, build, tables
from refresher.discovery.findings import Discovery, Table, Target
from refresher.discovery.planning import unique
from refresher.discovery.reading import discover
from refresher.errors import ConfigError

_ENVIRONMENT = "main"
_ACCOUNT = "default"


@dataclass(frozen=True, slots=True)
class Composed:
    """A configuration, and where its targets come from."""

    config: Config
    discovery: Discovery
    #: Targets of the file, by name.
    from_file: tuple[str, ...]
    #: Targets of the project: name to the first place that asks for it.
    from_project: Mapping[str, str]


def compose(
    project: Path, file: Path | None, environ: Mapping[str, str], *, follow: Follow
) -> Composed:
    """The targets of a fal project, and those of a file, which win where both write a secret.

    All else is the file's, or the defaults. Raises `ConfigError` with every problem.
    """
    data = {} if file is None else tables(file)
    found = discover(project)
    given = data.get("targets", {})
    if not isinstance(given, dict):
        given, added = {}, []  # which `build` refuses
    else:
        added = missing(found.targets, given)
        data = {**data, "targets": {**given, **{each.name: dict(each.table) for each in added}}}
    if data["targets"] == {}:
        raise ConfigError(_nothing(project, found))
    origin = f"fal project {project}" if file is None else f"{file} with fal project {project}"
    base = Path.cwd() if file is None else file.absolute().parent
    config = build(data, Context(origin=origin, base=base, environ=environ), follow=follow)
    places = {each.name: str(each.findings[0].place) for each in added}
    return Composed(config, found, tuple(given), places)


def _nothing(project: Path, found: Discovery) -> str:
    cause = "no private registry is used" if not found.findings else "nothing can be kept"
    command = f"refresher discover {shlex.quote(str(project))}"
    return f"fal project {project}: {cause}; `{command}` tells more"


def missing(found: Iterable[Target], given: Mapping[str, Any]) -> list[Target]:
    """The found targets whose secret no given one writes, under names that are free."""
    added: list[Target] = []
    for target in found:
        if not any(_writes(table, target.table) for table in given.values()):
            name = unique(target.name, {*given, *(each.name for each in added)})
            added.append(Target(name, target.table, target.findings))
    return added


def _writes(given: object, found: Table) -> bool:
    """Whether a target of a file writes to the secret of a found one, parked or not."""
    if not isinstance(given, dict):
        return False
    environments = given.get("environments", [_ENVIRONMENT])
    return (
        given.get("secret") == found["secret"]
        and given.get("account", _ACCOUNT) == _ACCOUNT
        and isinstance(environments, list)
        and _ENVIRONMENT in environments
    )
