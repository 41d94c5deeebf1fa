"""What an expression comes to, where that can be known without running it."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from refresher.discovery.findings import Place

#: Longer strings are nobody's registry; a few additions in a row could fill the memory.
_LONGEST = 64 * 1024


class Unknown(Enum):
    """What only running the code would tell."""

    UNKNOWN = "unknown"


UNKNOWN = Unknown.UNKNOWN


@dataclass(frozen=True, slots=True)
class Entry:
    """A value in a dictionary."""

    value: object
    #: Where its key stands.
    place: Place


#: A dictionary; `UNKNOWN` as a key stands for entries that cannot be told.
Entries = dict[object, Entry]


class Names(Protocol):
    """What names stand for where an expression is."""

    #: The file that the expression is in, as findings name it.
    file: str

    def lookup(self, name: str) -> object:
        """The value of a name, `UNKNOWN` where it cannot be told."""
        ...


def value_of(node: ast.expr, names: Names) -> object:
    """A constant, a dictionary of `Entries`, whatever a name stands for, or `UNKNOWN`."""
    reader = _READERS.get(type(node))
    return UNKNOWN if reader is None else reader(node, names)


def merged(first: object, second: object, place: Place) -> object:
    """Two dictionaries in one, as `first | second`; what cannot be told is an entry of its own."""
    if not isinstance(first, dict):
        return UNKNOWN
    if not isinstance(second, dict):
        second = {UNKNOWN: Entry(UNKNOWN, place)}
    return {**first, **second}


# --- kinds of expressions -----------------------------------------------------------------------


def _constant(node: ast.expr, _names: Names) -> object:
    assert isinstance(node, ast.Constant)  # noqa: S101 - as in each reader: the table's key
    return node.value


def _name(node: ast.expr, names: Names) -> object:
    assert isinstance(node, ast.Name)  # noqa: S101
    return names.lookup(node.id)


def _attribute(node: ast.expr, names: Names) -> object:
    """`module.NAME` and `Class.NAME`: what they stand for are names themselves."""
    assert isinstance(node, ast.Attribute)  # noqa: S101
    owner = value_of(node.value, names)
    lookup: Callable[[str], object] | None = getattr(owner, "member", None)
    return UNKNOWN if lookup is None else lookup(node.attr)


def _joined(node: ast.expr, names: Names) -> object:
    assert isinstance(node, ast.JoinedStr)  # noqa: S101
    text = ""
    for part in node.values:
        value = _part(part, names)
        if not isinstance(value, str):
            return UNKNOWN
        text += value
    return _bounded(text)


def _part(part: ast.expr, names: Names) -> object:
    if not isinstance(part, ast.FormattedValue):
        return value_of(part, names)
    value = value_of(part.value, names)
    if part.conversion != -1 or part.format_spec is not None:
        return UNKNOWN
    # Account ids are written as numbers, too; Python refuses to spell out huge ones.
    return str(value) if isinstance(value, int) and value.bit_length() < 64 else value


def _operation(node: ast.expr, names: Names) -> object:
    assert isinstance(node, ast.BinOp)  # noqa: S101
    if not isinstance(node.op, ast.Add | ast.BitOr):
        return UNKNOWN
    left, right = value_of(node.left, names), value_of(node.right, names)
    if isinstance(node.op, ast.BitOr):
        return merged(left, right, _place(node, names))
    both = isinstance(left, str) and isinstance(right, str)
    return _bounded(f"{left}{right}") if both else UNKNOWN


def _bounded(text: str) -> object:
    return text if len(text) <= _LONGEST else UNKNOWN


def _dictionary(node: ast.expr, names: Names) -> object:
    assert isinstance(node, ast.Dict)  # noqa: S101
    found: object = {}
    for key, item in zip(node.keys, node.values, strict=True):
        place = _place(item if key is None else key, names)
        if key is None:
            found = merged(found, value_of(item, names), place)
        else:
            found = merged(found, _entry(value_of(key, names), item, names, place), place)
    return found


def _entry(key: object, item: ast.expr, names: Names, place: Place) -> Entries:
    if not isinstance(key, str):
        return {UNKNOWN: Entry(UNKNOWN, place)}
    return {key: Entry(value_of(item, names), place)}


def _call(node: ast.expr, names: Names) -> object:
    """`dict(…)` alone: every other call is one that would have to run."""
    assert isinstance(node, ast.Call)  # noqa: S101
    if not (isinstance(node.func, ast.Name) and node.func.id == "dict"):
        return UNKNOWN
    return merged_all(_arguments(node, names), _place(node, names))


def _arguments(node: ast.Call, names: Names) -> Iterator[object]:
    yield from (value_of(argument, names) for argument in node.args)
    for keyword in node.keywords:
        if keyword.arg is None:
            yield value_of(keyword.value, names)
        else:
            yield _entry(keyword.arg, keyword.value, names, Place(names.file, keyword.lineno))


def merged_all(parts: Iterator[object], place: Place) -> object:
    """Dictionaries in one, the last one first."""
    found: object = {}
    for part in parts:
        found = merged(found, part, place)
    return found


def _item(node: ast.expr, names: Names) -> object:
    assert isinstance(node, ast.Subscript)  # noqa: S101
    owner, key = value_of(node.value, names), value_of(node.slice, names)
    if not isinstance(owner, dict) or not isinstance(key, str) or UNKNOWN in owner:
        return UNKNOWN
    entry = owner.get(key)
    return entry.value if isinstance(entry, Entry) else UNKNOWN


def _place(node: ast.expr, names: Names) -> Place:
    return Place(names.file, node.lineno)


_READERS: dict[type[ast.expr], Callable[[ast.expr, Names], object]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.JoinedStr: _joined,
    ast.BinOp: _operation,
    ast.Dict: _dictionary,
    ast.Call: _call,
    ast.Subscript: _item,
}
