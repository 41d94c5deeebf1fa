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

    Raises `TypeError` for anything that is not meant to be stored, a `SecretValue` above all.
    """
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, datetime):
        return timestamp(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    if is_dataclass(value):
        return {name: encode(getattr(value, name)) for name in _field_names(value.__class__)}
    raise TypeError(f"a {type(value).__name__} is not stored")


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
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


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
