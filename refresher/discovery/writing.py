"""Targets as a configuration file that a person will read and edit."""

from __future__ import annotations

import json
import os
import secrets
import stat
import textwrap
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refresher.config import tables
from refresher.discovery.composing import missing
from refresher.discovery.findings import Discovery, Table, Target
from refresher.errors import ConfigError, RefresherError
from refresher.sources.ecr import parse_host

#: Those of a terminal, in which the file is looked at first.
_COLUMNS = 80

_HEAD = """\
# Written by `refresher discover` from what a fal project says; yours to edit.
# `refresher config schema` names every key, `refresher config check` reads it.
#
{variables}

[fal]
# fal key, ID:SECRET; the permission serverless:secrets:write is enough.
key = {{ env = "FAL_KEY" }}
"""

_ADDED = "# Added by `refresher discover --merge`.\n{variables}\n"

_NAMES = {
    "ecr": "Amazon ECR",
    "ecr-public": "Amazon ECR Public",
    "gar": "Google Artifact Registry",
    "dockerhub": "Docker Hub",
    "oci": "Registry",
}
_AWS_IDENTITY = ("AWS credentials: boto3's default chain, such as AWS_PROFILE or a role.",)
_HINTS: dict[str, tuple[str, ...]] = {
    "ecr": _AWS_IDENTITY,
    "ecr-public": (
        *_AWS_IDENTITY,
        "Public images pull anonymously, and a stale secret is worse than none: drop",
        "the login from the app unless its rate limits are in the way.",
    ),
    "gar": (
        "A key file serves as well, such as that of GOOGLE_APPLICATION_CREDENTIALS:",
        'key = { file = "/path/to/key.json" }',
    ),
    "gar token": (
        "Google credentials: application default ones, such as those that",
        "GOOGLE_APPLICATION_CREDENTIALS names.",
    ),
    "dockerhub": ("Nobody is warned of its end unless it stands here: expires_on = 2027-03-01",),
    "oci": ("Nobody is warned of its end unless it stands here: expires_on = 2027-03-01",),
}


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a file."""

    path: Path
    #: The targets that were written.
    targets: tuple[Target, ...]


def write(path: Path, found: Discovery, *, force: bool = False) -> Written:
    """Write a new file with every target, over one that is there only with `force`.

    Raises `RefresherError` where there is one, or it cannot be written.
    """
    head = _HEAD.format(variables=_to_be_set("FAL_KEY", *variables(found.targets)))
    text = "\n".join((head, *map(_block, found.targets)))
    _put(path, text.encode(), over=force)
    return Written(path, found.targets)


def merge(path: Path, found: Discovery) -> Written:
    """Add the targets that a file is missing, and leave every byte of it as it is.

    Raises `ConfigError` where the file is no configuration, `RefresherError` where it cannot be
    written.
    """
    if not path.exists():
        return write(path, found)
    given = tables(path).get("targets", {})
    added = missing(found.targets, given if isinstance(given, dict) else {})
    if added:
        _put(path, _appended(path, added), over=True)
    return Written(path, tuple(added))


def variables(targets: Iterable[Target]) -> list[str]:
    """The environment variables that the targets refer to, once each."""
    values = (value for target in targets for value in target.table.values())
    return list(dict.fromkeys(value["env"] for value in values if isinstance(value, Mapping)))


# --- text ---------------------------------------------------------------------------------------


def _to_be_set(*names: str) -> str:
    return textwrap.fill(
        f"To be set before `refresher run`: {', '.join(names) or 'nothing new'}.",
        _COLUMNS,
        initial_indent="# ",
        subsequent_indent="#   ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _block(target: Target) -> str:
    table = f"[targets.{target.name}]"
    return "\n".join((*_comments(target), table, *_lines(target.table), _ENVIRONMENTS, ""))


_ENVIRONMENTS = '#environments = ["main", "staging"]  # each is written on its own'


def _comments(target: Target) -> Iterator[str]:
    yield f"# {_title(target.table)}; used by"
    yield from (f"#   {finding.app} ({finding.place})" for finding in target.findings)
    source = target.table["source"]
    yield from (f"# {hint}" for hint in _HINTS[f"{source} token" if _is_token(target) else source])


def _is_token(target: Target) -> bool:
    return target.table.get("mode") == "token"


def _title(table: Table) -> str:
    registry = str(table.get("registry", ""))
    host = parse_host(registry)
    about = registry if host is None else f"account {host.account}, region {host.region}"
    return " ".join((_NAMES[table["source"]], about)).strip()


def _lines(table: Table) -> Iterator[str]:
    yield from (f"{key} = {_value(value)}" for key, value in table.items())


def _value(value: Any) -> str:
    """JSON's strings are TOML's as well, as long as they are printable ASCII, as these are."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {_value(item)}' for key, item in value.items())} }}"
    return json.dumps(value)


def _appended(path: Path, added: list[Target]) -> bytes:
    """The file with the targets at its end. Raises `ConfigError` where it takes no more tables."""
    before = path.read_bytes()
    head = _ADDED.format(variables=_to_be_set(*variables(added)))
    gap = "" if before.endswith(b"\n") else "\n"
    text = "\n".join((gap, head, *map(_block, added)))
    if b"\r\n" in before:
        text = text.replace("\n", "\r\n")
    after = before + text.encode()
    try:
        tomllib.loads(after.decode("utf-8-sig"))
    except tomllib.TOMLDecodeError:
        problem = "targets: an inline table takes no more; write it as [targets.NAME] tables"
        raise ConfigError(f"{path}: {problem}") from None
    return after


# --- file ---------------------------------------------------------------------------------------


def _put(path: Path, content: bytes, *, over: bool) -> None:
    """Write aside, flush to the disk, then put it in place at once.

    Raises `RefresherError`.
    """
    try:
        real = path.resolve()
        real.parent.mkdir(parents=True, exist_ok=True)
        aside = real.with_name(f".{real.name}.{secrets.token_hex(8)}")
        try:
            _fill(aside, content, real)
            if over:
                aside.replace(real)
            else:
                _link(aside, real, path)
        finally:
            aside.unlink(missing_ok=True)
        _flush(real.parent)
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "its links lead in circles"
        raise RefresherError(f"{path} cannot be written: {reason}") from error


def _fill(aside: Path, content: bytes, real: Path) -> None:
    """Write a new file with the permissions of the one that it replaces, if any."""
    with aside.open("xb") as stream:
        if real.exists():
            os.fchmod(stream.fileno(), stat.S_IMODE(real.stat().st_mode))
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _link(aside: Path, real: Path, path: Path) -> None:
    """Put it in place where nothing is, which a rename could not tell."""
    try:
        os.link(aside, real)
    except FileExistsError:
        hint = "add what is missing with --merge, or replace it with --force"
        raise RefresherError(f"{path} is there already; {hint}") from None


def _flush(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
