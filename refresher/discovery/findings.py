"""The nouns of discovery, frozen. None of them has room for a password."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

#: Keys and values as the configuration writes them.
Table = Mapping[str, Any]


class PasswordKind(StrEnum):
    """How a project writes a password."""

    #: `"$NAME"`: fal puts in what its secret NAME holds.
    REFERENCE = "reference"
    #: It stands in the source.
    LITERAL = "literal"
    #: Only running the code would tell.
    COMPUTED = "computed"


@dataclass(frozen=True, slots=True)
class Password:
    """How a password is written; never the password."""

    kind: PasswordKind
    #: The fal secret that a reference names.
    secret: str | None = None
    #: Why no registry can accept a literal, in words behind "the password"; else empty.
    flaw: str = ""
    #: Whether a literal begins with `$$`, by which fal writes one that begins with `$`.
    escaped: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a project's file."""

    #: Path below the project, with slashes.
    file: str
    #: From 1.
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Use:
    """One registry of one app, as the project says it."""

    app: str
    place: Place
    #: The key as it is written; None where only running the code would tell.
    key: str | None
    #: None where it is missing, or only running the code would tell.
    username: str | None
    password: Password
    #: Images of the app, on this registry or on another.
    images: tuple[str, ...] = ()
    #: The Dockerfile that the images are from, there or not; None where they are from none.
    dockerfile: Path | None = None
    #: Why fal cannot take it as it is written, in words; else empty.
    flaw: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One registry of one app, judged."""

    #: Name of the app in `pyproject.toml`, or of the class, function or module in Python.
    app: str
    #: Path below the project, with slashes.
    file: str
    #: From 1.
    line: int
    #: Host, `docker.io` for Docker Hub; None where it cannot be told.
    registry: str | None
    #: `ecr`, `ecr-public`, `gar`, `dockerhub` or `oci`; None where it cannot be told.
    source: str | None
    username: str | None
    #: The fal secret; None where the app uses none.
    secret: str | None
    password: PasswordKind
    #: What will be done, or what to do, in words.
    advice: str

    @property
    def place(self) -> Place:
        return Place(self.file, self.line)


@dataclass(frozen=True, slots=True)
class Target:
    """A target that the project asks for."""

    name: str
    #: What the configuration says under `targets.NAME`.
    table: Table
    #: What asks for it, the first one first.
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Problem:
    """A file or folder of the project that could not be read."""

    #: Path below the project, with slashes.
    file: str
    #: In words, with the line where it is known.
    text: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text}"


@dataclass(frozen=True, slots=True)
class Discovery:
    """What a project says."""

    findings: tuple[Finding, ...] = ()
    #: In the order of their first finding.
    targets: tuple[Target, ...] = ()
    problems: tuple[Problem, ...] = ()
    #: Every file that was looked at, or would have been were it there.
    read: tuple[Path, ...] = ()

    @property
    def unkept(self) -> list[Finding]:
        """What no target keeps; each finding's advice says why."""
        kept = {finding for target in self.targets for finding in target.findings}
        return [finding for finding in self.findings if finding not in kept]

    @property
    def tables(self) -> dict[str, Table]:
        """The targets as the configuration would say them, by name."""
        return {target.name: target.table for target in self.targets}


def printable(text: str) -> str:
    """The text on one line, with whatever could steer a terminal taken out."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
