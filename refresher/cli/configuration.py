"""`config check`, `config show` and `config schema`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import note, say, say_json
from refresher.cli.settings import Settings
from refresher.errors import ConfigError

if TYPE_CHECKING:
    from refresher.config import Config


@click.group(epilog="Example: refresher config check")
@options.common
def config() -> None:
    """Validate and show the configuration."""


@config.command(epilog="Example: refresher config check --config new.toml")
@options.output
@options.common
@options.settings
def check(settings: Settings, as_json: bool) -> Exit:
    """List every problem of the configuration, or say that it is good."""
    path = settings.file or settings.project
    verdict = _checked(settings)
    if as_json:
        say_json({"file": str(path), "ok": not verdict.problems, **asdict(verdict)})
        return Exit.USAGE if verdict.problems else Exit.GOOD
    for warning in verdict.warnings:
        note(f"warning: {warning}")
    if verdict.problems:
        raise ConfigError(*verdict.problems)
    say(f"ok: {path}, {verdict.targets} target{'' if verdict.targets == 1 else 's'}")
    return Exit.GOOD


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What there is to say of a configuration."""

    #: How many there are.
    targets: int
    #: What any part finds that cannot be used.
    problems: tuple[str, ...]
    #: What works, and is most likely not meant so.
    warnings: tuple[str, ...] = ()


def _checked(settings: Settings) -> _Verdict:
    from refresher import notify

    problems = _problems(lambda: settings.load("files"))
    try:
        config = settings.load("nothing")
    except ConfigError:
        return _Verdict(0, problems)
    found = problems + _problems(lambda: _build(config))
    warnings = notify.warnings(config, settings.environ)
    return _Verdict(len(config.targets), tuple(dict.fromkeys(found)), tuple(warnings))


def _build(config: Config) -> None:
    """What only sources and registries can judge: hosts of ECR, images."""
    from refresher.cli.building import targets_of

    with targets_of(config):
        pass


def _problems(part: Callable[[], object]) -> tuple[str, ...]:
    try:
        part()
    except ConfigError as error:
        return error.problems
    return ()


@config.command(epilog="Example: refresher config show --output json")
@options.output
@options.common
@options.settings
def show(settings: Settings, as_json: bool) -> Exit:
    """Show every key with the value in effect. Of a secret only where it is kept."""
    from refresher.config import effective

    shown = effective(settings.load("environment"))
    if as_json:
        say_json(shown)
    else:
        say("\n".join(_toml(shown)).strip())
    return Exit.GOOD


@config.command(epilog="Example: refresher config schema > refresher.schema.json")
@options.debugging
def schema() -> Exit:
    """Print the JSON Schema of the configuration."""
    from refresher.config import schema as json_schema

    say_json(json_schema())
    return Exit.GOOD


# --- TOML --------------------------------------------------------------------------------------


def _toml(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """The lines of a table and of those within; a key without a value is left out."""
    values = {key: value for key, value in table.items() if not _is_table(value)}
    if path and values:
        yield ""
        yield f"[{path}]"
    for key, value in values.items():
        if value is not None:
            yield f"{key} = {_inline(value)}"
    for key, value in table.items():
        if _is_table(value):
            yield from _toml(value, f"{path}.{key}" if path else key)


def _is_table(value: object) -> bool:
    """A reference such as `{ env = "NAME" }` stands on one line."""
    return isinstance(value, Mapping) and set(value) not in ({"env"}, {"file"})


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        inside = ", ".join(f"{key} = {_inline(item)}" for key, item in value.items())
        return f"{{ {inside} }}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    return json.dumps(value)
