"""`discover`: what a fal project says about private registries."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import note, paint, say, say_json, table, wrapped
from refresher.cli.settings import SEARCHED

if TYPE_CHECKING:
    from refresher.discovery import Discovery, Finding

_HEADINGS = ("APP", "SOURCE", "SECRET")
_BELOW = ("FILE:LINE, REGISTRY AS USERNAME", "WHAT WILL BE DONE")

_LONGEST_APP = 24
#: The name of a secret stands whole on its line: it is there to be copied.
_WIDE = 1000

_MARKS = {True: "✓", False: "✗"}


@click.command(epilog="Example: refresher discover . --write config/refresher.toml")
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--write",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Also write a commented configuration, never over one that is there.",
)
@click.option("--force", is_flag=True, help="With --write: over one that is there.")
@click.option("--merge", is_flag=True, help="With --write: add to it what is missing.")
@options.output
@options.debugging
def discover(*, path: Path, file: Path | None, force: bool, merge: bool, as_json: bool) -> Exit:
    """Tell which private registries the fal project at PATH uses.

    With user name and secret of each, and with what will be done. pyproject.toml and Python
    sources are read, never imported or run. Ends with 1 if nothing is found.
    """
    from refresher.discovery import discover as read

    if (force or merge) and file is None:
        raise click.UsageError("--force and --merge go with --write FILE")
    if force and merge:
        raise click.UsageError("--force replaces the file, --merge keeps it: give one of them")
    found = read(path)
    if as_json:
        findings = [asdict(finding) for finding in found.findings]
        say_json({"findings": findings, "targets": found.tables})
    else:
        _say(found)
    for problem in found.problems:
        note(f"note: {problem}")
    if file is not None:
        return _write(file, found, force=force, merge=merge)
    _suggest(path, found)
    return Exit.GOOD if found.findings else Exit.FAILED


def _write(file: Path, found: Discovery, *, force: bool, merge: bool) -> Exit:
    from refresher import discovery

    if not found.targets:
        note(f"note: nothing can be kept, so {file} was not written")
        return Exit.FAILED
    done = discovery.merge(file, found) if merge else discovery.write(file, found, force=force)
    if not done.targets:
        note(f"note: nothing is missing in {file}")
        return Exit.GOOD
    names = ", ".join(target.name for target in done.targets)
    needed = ", ".join(("FAL_KEY", *discovery.variables(done.targets)))
    note(f"note: written to {file}: {names}; to be set: {needed}")
    option = "" if file in SEARCHED else f" --config {shlex.quote(str(file))}"
    note(f"note: next, `refresher doctor{option}`, then `refresher run{option}`")
    return Exit.GOOD


def _suggest(path: Path, found: Discovery) -> None:
    if not found.findings:
        note(f"note: no app in {path} logs in to a registry; `registries` of its image would")
    elif found.targets:
        where = shlex.quote(str(path))
        note(
            f"note: next, `refresher discover {where} --write config/refresher.toml`,"
            f" or `refresher run --fal-project {where}`"
        )


# --- table --------------------------------------------------------------------------------------


def _say(found: Discovery) -> None:
    """A row a finding, and indented below it where it is, and what will be done."""
    if not found.findings:
        return
    unkept = set(found.unkept)
    headings, *rows = table(_HEADINGS, [_row(each) for each in found.findings], _WIDE)
    for text in (headings, *(f"    {below}" for below in _BELOW)):
        say(text)
    for row, finding in zip(rows, found.findings, strict=True):
        say(row)
        say(wrapped("    ", _where(finding)))
        mark = _MARKS[finding not in unkept]
        say(wrapped(f"  {mark} ", finding.advice).replace(mark, paint(mark), 1))


def _row(finding: Finding) -> tuple[str, str, str]:
    app = finding.app
    app = app if len(app) <= _LONGEST_APP else f"{app[: _LONGEST_APP - 1]}…"
    return (app, finding.source or "?", finding.secret or "-")


def _where(finding: Finding) -> str:
    user = f" as {finding.username}" if finding.username else ""
    return f"{finding.place}, {finding.registry or '?'}{user}"
