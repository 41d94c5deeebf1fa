"""What may ever stand in a fal secret."""

from __future__ import annotations

import traceback
from datetime import datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from refresher.errors import InvalidCredential
from refresher.model import MAX_VALUE_BYTES, Credential, SecretValue, check_publishable, fingerprint
from tests.conftest import NOON

_VALUES = st.text(st.characters(codec=None), max_size=200) | st.builds(
    "".join, st.lists(st.sampled_from(["x" * 9_000, "\n", "\0", "\r", "\ud800", " ", "é" * 9_000]))
)
_ENDS = st.none() | st.datetimes(
    NOON.replace(tzinfo=None) - timedelta(days=1), NOON.replace(tzinfo=None) + timedelta(days=1)
).map(lambda end: end.replace(tzinfo=NOON.tzinfo))


@given(_VALUES, _ENDS)
@example("a good one", NOON)
@example("a good one", NOON + timedelta(microseconds=1))
@example("x" * (MAX_VALUE_BYTES - 1), None)
@example("x" * MAX_VALUE_BYTES, None)
def test_only_a_whole_living_line_is_published(value: str, end: datetime | None) -> None:
    """For all values and ends: what passes has text, no line break, an encoding, life left."""
    credential = Credential("AWS", SecretValue(value), issued_at=NOON, expires_at=end)
    sound = bool(value.strip()) and not set(value) & set("\r\n\0") and _bytes(value) is not None
    small = sound and len(_bytes(value) or b"") < MAX_VALUE_BYTES
    alive = end is None or end > NOON
    if small and alive:
        check_publishable(credential, NOON)
        return
    with pytest.raises(InvalidCredential, match="nothing was published"):
        check_publishable(credential, NOON)


@pytest.mark.parametrize(
    "value", ["hunter2\ud800", "hunter2\n", "hunter2\0", "hunter2" * 10_000], ids=repr
)
def test_a_refused_value_is_not_in_its_error(value: str) -> None:
    """Neither in the message nor in the cause, whose object would hold it whole."""
    with pytest.raises(InvalidCredential) as refused:
        check_publishable(Credential("AWS", SecretValue(value), issued_at=NOON), NOON)
    assert "hunter2" not in "".join(traceback.format_exception(refused.value))
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


@given(st.binary(min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
def test_a_fingerprint_tells_values_apart_and_shows_none(key: bytes, value: str) -> None:
    """Sixteen hexadecimal digits that depend on all of the value and on the key."""
    mark = fingerprint(key, SecretValue(value))
    assert mark == fingerprint(key, SecretValue(value))
    assert len(mark) == 16
    assert int(mark, 16) >= 0
    assert mark != fingerprint(key, SecretValue(f"{value}x"))
    assert mark != fingerprint(key + b"x", SecretValue(value))


def _bytes(value: str) -> bytes | None:
    try:
        return value.encode()
    except UnicodeEncodeError:
        return None
