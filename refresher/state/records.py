"""Values as they are stored: in terms of JSON, and back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache, partial
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")


def encode(value: object) -> Any:
    """The value in terms of JSON: times in RFC 3339 UTC, durations in seconds.

    Of a dataclass without the fields that hold their default, as `decode` puts them in again.
    Raises `TypeError` for anything that is not meant to be stored, a `SecretValue` above all.
    """
    kind: Any = value.__class__
    return _writer(kind)(value)


def columns(record: object) -> dict[str, Any]:
    """Every field of a dataclass by name, each encoded."""
    kind: Any = record.__class__
    return {name: encode(getattr(record, name)) for name in _field_names(kind)}


def decode(kind: Callable[..., T], document: object) -> T:
    """What `encode` was given. A field that is missing gets its default, an unknown one goes.

    Raises `ValueError` where the document does not describe a `kind`.
    """
    try:
        result: T = _reader(kind)(document)
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError("a record is malformed") from error
    return result


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC and always as wide, so that text sorts as time does."""
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return f"{utc.isoformat(timespec='microseconds')[: -len('+00:00')]}Z"


@cache
def _writer(kind: Any) -> Callable[[Any], Any]:
    """`encode` for values of one class, which is looked at once."""
    if kind in (NoneType, str, int, float, bool):
        return lambda value: value
    if kind is datetime:
        return timestamp
    if kind is timedelta:
        return timedelta.total_seconds
    if kind is tuple:
        return lambda items: [encode(item) for item in items]
    if issubclass(kind, StrEnum):
        return str.__str__
    if is_dataclass(kind):
        return _dataclass_writer(kind)
    raise TypeError(f"a {kind.__name__} is not stored")


def _dataclass_writer(kind: Any) -> Callable[[Any], Any]:
    defaults = [(field.name, field.default) for field in fields(kind)]

    def write(record: Any) -> dict[str, Any]:
        document = {}
        for name, default in defaults:
            value = getattr(record, name)
            if value is not default:
                document[name] = encode(value)
        return document

    return write


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


@cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """The inverse of `encode` for values of one type."""
    if kind is datetime:
        return datetime.fromisoformat
    if kind is timedelta:
        return lambda seconds: timedelta(seconds=seconds)
    if is_dataclass(kind):
        return _dataclass_reader(kind)
    if get_origin(kind) is tuple:
        read = _reader(get_args(kind)[0])
        return lambda items: tuple(read(item) for item in items)
    if NoneType in get_args(kind):
        (some,) = (option for option in get_args(kind) if option is not NoneType)
        read_some = _reader(some)
        return lambda value: None if value is None else read_some(value)
    return _enum_or_plain_reader(kind)


def _dataclass_reader(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    readers = {name: _reader(hints[name]) for name in _field_names(kind)}
    return lambda document: kind(
        **{name: readers[name](value) for name, value in document.items() if name in readers}
    )


def _enum_or_plain_reader(kind: Any) -> Callable[[Any], Any]:
    if issubclass(kind, StrEnum):
        return partial(kind)
    accepted = (float, int) if kind is float else (kind,)

    def read(value: Any) -> Any:
        if type(value) not in accepted:
            raise TypeError(f"{type(value).__name__} where {kind.__name__} is due")
        return value

    return read
