"""Tables that fit a terminal, relative times, and JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime, timedelta

import click

#: Columns of the narrowest terminal that tables are made for.
NARROW = 80

_GAP = "  "
#: A name cut to less tells nothing, nor does prose in a narrower column.
_LEAST_CELL = 8
_LEAST_PROSE = 36
#: Deepest indentation of the further lines of a text.
_DEEPEST = 16

_COLOURS = {
    **dict.fromkeys(("fresh", "good", "refreshed", "checked", "✓"), "green"),
    **dict.fromkeys(("stale", "unknown", "running", "pending", "?"), "yellow"),
    **dict.fromkeys(("urgent", "expired", "bad", "failed", "✗"), "red"),
}


def say(text: str = "") -> None:
    """A line to standard output, in colours on a terminal without NO_COLOR."""
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def say_json(document: object) -> None:
    """A document for programs to standard output."""
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """A line that is not part of the output."""
    click.echo(text, err=True)


def paint(word: str) -> str:
    """A word that tells a state, in its colour; `click.echo` takes that off where it must."""
    colour = _COLOURS.get(word.strip())
    return word if colour is None else click.style(word, fg=colour)


def say_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Rows under headings; the column of states is the second."""
    for line in table(headings, rows, width()):
        say(line)


def width() -> int:
    """Columns to use: those of the terminal, 80 where there is none."""
    if not sys.stdout.isatty():
        return NARROW
    return max(NARROW, shutil.get_terminal_size((NARROW, 24)).columns)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]], columns: int) -> list[str]:
    """Lines of at most `columns` characters.

    The last column takes what room the others leave and goes on below itself where that is too
    little; of the others, the widest are cut where they must be.
    """
    *widths, last = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    room = columns - len(_GAP) * len(widths) - min(last, _LEAST_PROSE)
    while sum(widths) > room and max(widths) > _LEAST_CELL:
        widths[widths.index(max(widths))] -= 1
    return [line for row in (headings, *rows) for line in _lines(row, widths, columns)]


def _lines(row: Sequence[str], widths: Sequence[int], columns: int) -> list[str]:
    *cells, last = row
    fitted = [_fit(cell, width) for cell, width in zip(cells, widths, strict=True)]
    indent = sum(widths) + len(_GAP) * len(widths)
    first, *more = textwrap.wrap(last, columns - indent, break_on_hyphens=False) or [""]
    fitted[1] = paint(fitted[1])
    return [_GAP.join((*fitted, first)).rstrip(), *(" " * indent + line for line in more)]


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else f"{cell[: width - 1]}…"


def wrapped(label: str, text: str) -> str:
    """A text of any length behind its label, below it where that is long, its lines indented."""
    indent = " " * min(len(label), _DEEPEST)
    above, beside = ("", label) if len(label) <= width() // 2 else (f"{label.rstrip()}\n", indent)
    return above + textwrap.fill(
        text,
        width(),
        initial_indent=beside,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def span(duration: timedelta) -> str:
    """A length of time in its two largest units: `3h 12m`."""
    seconds = max(int(duration.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 60:
        return f"{seconds}s"
    if minutes < 60:
        return f"{minutes}m"
    if hours < 24:
        return f"{hours}h {minutes % 60}m" if minutes % 60 else f"{hours}h"
    return f"{days}d {hours % 24}h" if hours % 24 else f"{days}d"


def relative(at: str | None, now: datetime) -> str:
    """A time of the API as people say it: `in 3h 12m`, `2m ago`, `now`; `-` for none."""
    if at is None:
        return "-"
    ahead = datetime.fromisoformat(at) - now
    if abs(ahead) < timedelta(seconds=1):
        return "now"
    return f"in {span(ahead)}" if ahead > timedelta() else f"{span(-ahead)} ago"
