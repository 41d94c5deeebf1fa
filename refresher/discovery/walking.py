"""Which files a project has, and their bytes."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from refresher.discovery.findings import Problem, printable

#: Nobody writes a source file of this size by hand.
MAX_BYTES = 1024 * 1024

PYPROJECT = "pyproject.toml"

#: Folders of tools and of other people's code; so is every one that begins with a dot.
_SKIPPED = frozenset({"__pycache__", "dist", "node_modules", "site-packages", "venv"})
#: What marks a virtual environment under any name (PEP 405).
_VENV = "pyvenv.cfg"


class Unreadable(Exception):
    """A file cannot be read; the argument says why, in words."""


@dataclass(slots=True)
class Walk:
    """The files of a project that may speak of registries."""

    root: Path
    files: list[Path] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """A path below the project, fit to be shown."""
        return printable(path.relative_to(self.root).as_posix())


def walk(root: Path) -> Walk:
    """The `pyproject.toml` and `*.py` below a folder, sorted; folders that are links are left out.

    A link to a folder leads round in circles, or to what is found without it, or out.
    """
    found = Walk(root)
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError as error:
            found.problems.append(Problem(found.name(folder), f"not read: {error.strerror}"))
            continue
        if folder != root and any(entry.name == _VENV for entry in entries):
            continue
        folders += _folders(entries)
        found.files += (Path(entry.path) for entry in entries if _is_source(entry))
    found.files.sort()
    return found


def _folders(entries: Iterable[os.DirEntry[str]]) -> Iterator[Path]:
    for entry in entries:
        skipped = entry.name.startswith(".") or entry.name in _SKIPPED
        if not skipped and entry.is_dir(follow_symlinks=False):
            yield Path(entry.path)


def _is_source(entry: os.DirEntry[str]) -> bool:
    named = entry.name == PYPROJECT or entry.name.endswith(".py")
    return named and not entry.is_dir(follow_symlinks=False)


def read(path: Path) -> bytes:
    """What a file holds. Raises `Unreadable` for what is no file, too large or not allowed."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unreadable("not read: it is no regular file")
        if status.st_size > MAX_BYTES:
            raise Unreadable("skipped: it is larger than 1 MiB")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES)
    except OSError as error:
        raise Unreadable(f"not read: {error.strerror}") from error
