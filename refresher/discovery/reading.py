"""A project, read whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from refresher.discovery import pyproject, source
from refresher.discovery.findings import Discovery, Problem, Use
from refresher.discovery.planning import plan
from refresher.discovery.scopes import Library
from refresher.discovery.walking import PYPROJECT, Unreadable, Walk, read, walk
from refresher.errors import ConfigError

#: A Python file without any of these words uses none, so it is not parsed.
_WORDS = (b"registries", b"ContainerImage")


def discover(project: Path) -> Discovery:
    """What a fal project, or a single file of one, says about private registries.

    Nothing of it is imported or run. What cannot be read is among the problems. Raises
    `ConfigError` where there is no such project.
    """
    found = _walk(project)
    uses: list[Use] = []
    problems = found.problems
    library = Library(found)
    for path in found.files:
        try:
            uses += _uses(path, found, library)
        except Unreadable as error:
            problems.append(Problem(found.name(path), str(error)))
    findings, targets = plan(uses)
    dockerfiles = (use.dockerfile for use in uses if use.dockerfile is not None)
    return Discovery(
        findings,
        targets,
        tuple(sorted(problems, key=str)),
        read=tuple(dict.fromkeys((*found.files, *library.paths, *dockerfiles))),
    )


def sources(project: Path) -> list[Path]:
    """The files that `discover` would begin with now; none where there is no such project."""
    try:
        return _walk(project).files
    except ConfigError:
        return []


def _walk(project: Path) -> Walk:
    try:
        root = project.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: links that lead round in circles
        raise ConfigError(f"{project}: no such fal project") from error
    return walk(root) if root.is_dir() else Walk(root.parent, [root])


def _uses(path: Path, found: Walk, library: Library) -> Iterable[Use]:
    """Raises `Unreadable`."""
    raw = read(path)
    if path.name == PYPROJECT:
        return list(pyproject.uses(raw, found.name(path), path.parent))
    if not any(word in raw for word in _WORDS):
        return ()
    return source.uses(library.parse(path, raw), found.root)
