"""From a file to a `Config`, or to every problem that it has."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from refresher.config.checks import check_references, misfits
from refresher.config.problems import Location, explain, locations
from refresher.config.root import Config
from refresher.config.values import Context
from refresher.errors import ConfigError

#: How far references are followed: not at all, to variables, or to files too.
Follow = Literal["nothing", "environment", "files"]

#: Ten thousand targets take 3 MiB.
_MAX_BYTES = 16 * 1024 * 1024

_NO_TARGETS = (
    "targets: there are none; add a table such as [targets.ecr] with source, registry and secret"
)


def load(path: Path, environ: Mapping[str, str], *, follow: Follow = "environment") -> Config:
    """The configuration that a file holds; relative paths in it start at its folder.

    Raises `ConfigError` with every problem, one line each: the file, the key's path, the text.
    """
    return parse(_read(path), str(path), environ, base=path.absolute().parent, follow=follow)


def tables(path: Path) -> dict[str, Any]:
    """The tables of a file as they stand there, not validated. Raises `ConfigError`."""
    return _toml(_read(path), str(path))


def parse(
    text: str | bytes,
    origin: str,
    environ: Mapping[str, str],
    *,
    base: Path | None = None,
    follow: Follow = "environment",
) -> Config:
    """The configuration that a TOML text holds.

    `origin` names it in problems, `base` is the folder of relative paths, by default the working
    directory. Raises `ConfigError` with every problem.
    """
    context = Context(origin=origin, base=base or Path.cwd(), environ=environ)
    return build(_toml(text, origin), context, follow=follow)


def build(data: dict[str, Any], context: Context, *, follow: Follow = "environment") -> Config:
    """The configuration that parsed tables hold. Raises `ConfigError` with every problem."""
    config, sound, lines = _validate(data, context)
    if data.get("targets", {}) == {}:
        lines.append(_NO_TARGETS)
    if sound is not None:
        known = tuple(line.partition(": ")[0] for line in lines)
        lines += [line for line in _check(sound, context, follow) if not _covered(line, known)]
    if config is None or lines:
        raise ConfigError(*(f"{context.origin}: {line}" for line in lines))
    return config


def _check(config: Config, context: Context, follow: Follow) -> list[str]:
    lines = misfits(config)
    if follow != "nothing":
        lines += check_references(config, context.environ, files=follow == "files")
    return lines


def _covered(line: str, known: tuple[str, ...]) -> bool:
    """Whether a line is about a key, or a part of it, that has a problem already."""
    path, _, _ = line.partition(": ")
    return any(path == other or path.startswith((f"{other}.", f"{other}[")) for other in known)


def _validate(
    data: dict[str, Any], context: Context
) -> tuple[Config | None, Config | None, list[str]]:
    """The configuration, the sound part of it, and the problems of the rest."""
    try:
        config = Config.model_validate(data, context=context)
        return config, config, []
    except ValidationError as error:
        return None, _sound_part(data, error, context), explain(error)


def _sound_part(data: dict[str, Any], error: ValidationError, context: Context) -> Config | None:
    """What is left without the keys, then without the targets, that have problems.

    It serves to hold the rest against each other, so that one run shows every problem.
    """
    rest = copy.deepcopy(data)
    for depth in (None, 2):
        for loc in locations(error):
            if depth and loc[0] != "targets":
                return None
            _remove(rest, loc[:depth])
        try:
            return Config.model_validate(rest, context=context)
        except ValidationError as again:
            error = again
    return None


def _remove(data: dict[str, Any], loc: Location) -> None:
    """Take the key at `loc` out; from a list, the whole list."""
    *path, key = takewhile(lambda part: isinstance(part, str), loc)
    table: Any = data
    for part in path:
        table = table.get(part) if isinstance(table, dict) else None
    if isinstance(table, dict):
        table.pop(key, None)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a path"
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path}: larger than 16 MiB, which no configuration is")
    return raw


def _toml(text: str | bytes, origin: str) -> dict[str, Any]:
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return tomllib.loads(decoded)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = f"line {line}: not UTF-8; save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = f"not TOML: {error}"
    except RecursionError:
        problem = "not a configuration: nested too deeply"
    except ValueError:
        problem = "not TOML: a number has too many digits"
    # Outside of the handlers: the parser's errors hold the text, and it may hold a secret.
    raise ConfigError(f"{origin}: {problem}")
