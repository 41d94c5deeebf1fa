"""What pydantic found, in the words of the file: a line each, never with a value."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from refresher.config import sections, targets
from refresher.config.root import Config
from refresher.config.values import Refused, quoted

Location = tuple[int | str, ...]

_TABLE = "expected a table"
_TEXTS = {
    "missing": "missing; it is required",
    "model_type": _TABLE,
    "dict_type": _TABLE,
    "model_attributes_type": _TABLE,
    "string_type": "expected a string",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "tuple_type": "expected a list",
    "date_type": "expected a date without quotes, such as 2027-03-01",
    "finite_number": "expected a finite number",
}


def dotted(parts: Iterable[int | str]) -> str:
    """The path of a key as TOML writes it, with list entries as `[0]`."""
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            bare = re.fullmatch("[A-Za-z0-9_-]{1,80}", part, re.ASCII)
            path += f".{part if bare else quoted(part)}"
    return path.removeprefix(".")


def nearest(name: str, known: Iterable[str]) -> str:
    """Words that lead from a name that is none to the one that was meant."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:80], names, n=1)
    return f"did you mean {quoted(close[0])}?" if close else f"known here: {', '.join(names)}"


def location(detail: ErrorDetails) -> Location:
    """Where an error is, in keys of the file.

    Behind a target's name pydantic puts the tag of its union, and `[key]` for the name itself.
    """
    loc = detail["loc"]
    if loc[:1] == ("targets",):
        loc = loc[:2] + loc[3:]
    return tuple(part for part in loc if part != "[key]")


def locations(error: ValidationError) -> list[Location]:
    """Where the problems are, in keys of the file."""
    return [location(detail) for detail in error.errors(include_url=False, include_input=False)]


def explain(error: ValidationError) -> list[str]:
    """A line `path: text` for each problem, in the order of the file's model."""
    details = error.errors(include_url=False, include_input=False)
    return [line for detail in details for line in _lines(detail)]


def _lines(detail: ErrorDetails) -> Iterator[str]:
    loc = location(detail)
    context = detail.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, Refused):
        yield from (f"{dotted((*loc, key))}: {text}" for key, text in cause.problems)
    elif detail["type"] == "extra_forbidden":
        key, table = str(loc[-1]), _table_at(detail["loc"])
        yield f"{dotted(loc)}: {_stranger(key, table)}; {nearest(key, table.model_fields)}"
    elif detail["type"] == "union_tag_not_found":
        yield f"{dotted(loc)}.source: missing; {nearest('', targets.TARGETS)}"
    elif detail["type"] == "union_tag_invalid":
        tag = context["tag"]
        yield f"{dotted(loc)}.source: {quoted(tag)} is no source; {nearest(tag, targets.TARGETS)}"
    else:
        yield f"{dotted(loc)}: {_text(detail, context, cause)}"


def _text(detail: ErrorDetails, context: dict[str, Any], cause: object) -> str:
    if cause is not None:
        return str(cause)
    if detail["type"] == "literal_error":
        return f"expected {context['expected']}".replace("'", '"')
    if detail["type"] == "too_short":
        return f"expected a list of at least {context['min_length']}"
    known = _TEXTS.get(detail["type"])
    return known or detail["msg"].replace("Input should be", "expected a number")


def _stranger(key: str, table: type[BaseModel]) -> str:
    sources = [name for name, kind in targets.TARGETS.items() if key in kind.model_fields]
    if issubclass(table, targets.TargetSection) and sources:
        return f"a key of source {' and '.join(sources)} only"
    return "unknown key"


def _table_at(loc: Location) -> type[BaseModel]:
    """The table in which a key was found at pydantic's `loc`."""
    match loc[:-1]:
        case ():
            return Config
        case ("targets", _, str(tag)):
            return targets.TARGETS[tag]
        case ("fal", "accounts", _):
            return sections.Account
        case (*_, "policy"):
            return sections.PolicySettings
        case (*_, "aws"):
            return targets.Aws
        case (str(section),):
            return _TABLES[section]
    raise AssertionError(loc)


_TABLES: dict[str, type[BaseModel]] = {
    "daemon": sections.Daemon,
    "fal": sections.Fal,
    "google": sections.Google,
    "dockerhub": sections.DockerHub,
}
