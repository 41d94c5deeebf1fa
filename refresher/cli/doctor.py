"""`doctor`: everything but the write, with the cause and the fix of whatever is broken."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import paint, say, say_json, width
from refresher.cli.progress import Line
from refresher.cli.settings import (
    NoConfiguration,
    Settings,
    misconfiguration,
    require_known,
)
from refresher.errors import ConfigError

if TYPE_CHECKING:
    from refresher.config import Config
    from refresher.discovery import Discovery
    from refresher.doctor import Check

_MARKS = {True: "✓", False: "✗", None: "?"}
_HERE = "this machine"
#: Columns of the names, so that what was found stands in one column.
_NAMES = 14
_INDENT = 4 + _NAMES + 1


@dataclass(frozen=True, slots=True)
class Section:
    """Some checks; they are made while they are read."""

    title: str
    checks: Iterable[Check]
    #: Whether they are those of a target, after which it is titled.
    of_target: bool = False


@click.command(epilog="Example: refresher doctor ecr --output json")
@options.targets
@options.retry_refused
@options.output
@options.common
@options.settings
def doctor(
    settings: Settings, *, names: tuple[str, ...], retry_refused: bool, as_json: bool
) -> Exit:
    """Try all but the write, and say how to mend what is broken.

    Of TARGETs, or of all that are not parked. Tells from the state what was written and refused
    before. Changes nothing anywhere; of ECR and Google it has a token issued. Ends with 1 if
    anything is broken.
    """
    from refresher import logs

    logs.configure("console", debug=settings.debug, stream=sys.stderr)
    sections = _sections(settings, names, retry_refused=retry_refused)
    broken = _say_json(sections) if as_json else _say(sections)
    return Exit.FAILED if broken else Exit.GOOD


def _sections(
    settings: Settings, names: tuple[str, ...], *, retry_refused: bool
) -> Iterator[Section]:
    """In the order in which they are made. Raises `ConfigError` for an unknown target."""
    from refresher.clock import SystemClock
    from refresher.doctor import Check, Doctor, unusable

    try:
        config, project = _read(settings)
        with misconfiguration():
            made = Doctor(
                config,
                clock=SystemClock(),
                environ=settings.environ,
                project=project,
                retry_refused=retry_refused,
            )
    except NoConfiguration as error:
        yield Section(_HERE, [Check("config", ok=False, words=error.cause, fix=error.fix)])
        return
    except ConfigError as error:
        yield Section(_HERE, unusable(error))
        return
    with made:
        require_known(names, config.targets)
        yield Section(_HERE, made.machine())
        for name in names or _enabled(config):
            yield Section(name, made.target(name), of_target=True)
        yield Section("all peers", [made.clock()])


def _read(settings: Settings) -> tuple[Config, Discovery | None]:
    """What references lead to is a check of its own."""
    if settings.project is None:
        return settings.load("nothing"), None
    composed = settings.compose(settings.project, "nothing")
    return composed.config, composed.discovery


def _enabled(config: Config) -> list[str]:
    return [name for name, target in config.targets.items() if target.enabled]


# --- output ------------------------------------------------------------------------------------


def _say_json(sections: Iterable[Section]) -> int:
    """One document; how many checks are broken."""
    checks: list[dict[str, Any]] = []
    targets: list[dict[str, Any]] = []
    for section in sections:
        made = [asdict(check) for check in section.checks]
        if section.of_target:
            targets.append({"name": section.title, "checks": made})
        else:
            checks += made
    every = [*checks, *(check for target in targets for check in target["checks"])]
    broken = sum(check["ok"] is False for check in every)
    say_json({"ok": not broken, "checks": checks, "targets": targets})
    return broken


def _say(sections: Iterable[Section]) -> int:
    """A line or more for each check, as it is made; how many are broken."""
    broken = 0
    for section in sections:
        say(section.title)
        for check in _awaited(section):
            say(shown(check))
            broken += check.ok is False
    say("nothing is broken" if not broken else f"{broken} broken, each with its fix above")
    return broken


def _awaited(section: Section) -> Iterator[Check]:
    """The checks of a section; who waits for one sees for how long."""
    line, checks = Line(sys.stderr), iter(section.checks)
    while True:
        with line.waiting(f"examining {section.title}"):
            check = next(checks, None)
        if check is None:
            return
        yield check


def shown(check: Check) -> str:
    """A check as people read it, in lines of at most 80 columns, or as many as there are."""
    mark = _MARKS[check.ok]
    lines = _beside(f"  {mark} {check.name:<{_NAMES}} ", check.words)
    if check.fix:
        lines += "\n" + _beside(" " * _INDENT + "fix: ", check.fix)
    return lines.replace(mark, paint(mark), 1)


def _beside(label: str, text: str) -> str:
    """The text in a column of its own; below the label where that is too long."""
    above, label = (f"{label}\n", " " * _INDENT) if len(label) > _INDENT + 5 else ("", label)
    return above + textwrap.fill(
        text,
        width(),
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
