"""What a server said, fit to be shown."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher.model import SecretValue
from refresher.registry.words import MAX_WORDS, Scrubber, document_of, said

KEY = '{\n  "type": "service_account",\n  "private_key": "-----BEGIN\\nMIIE\\n"\n}'
TOKEN = base64.b64encode(bytes(range(200))).decode()


@pytest.mark.parametrize("value", ["hunter2", "pä:ss wörd", KEY, TOKEN])
@pytest.mark.parametrize(
    "repeat",
    [
        pytest.param(lambda value: value, id="plain"),
        pytest.param(lambda value: base64.b64encode(value.encode()).decode(), id="base64"),
        pytest.param(lambda value: base64.b64encode(f"user:{value}".encode()).decode(), id="Basic"),
        pytest.param(lambda value: quote(value, safe=""), id="in a URL"),
        pytest.param(json.dumps, id="in JSON"),
        pytest.param(lambda value: value.replace("e", "e\u200b"), id="with zero-width spaces"),
        pytest.param(lambda value: value + value, id="twice"),
    ],
)
def test_the_value_is_taken_out_however_it_is_repeated(
    value: str, repeat: Callable[[str], str]
) -> None:
    """What remains of the line holds no form of it."""
    text = f"bad login {repeat(value)} at 12:00"
    cleaned = Scrubber("user", SecretValue(value)).clean(text)
    assert re.fullmatch(r'bad login ["*=]+ at 12:00', cleaned)


def test_a_beginning_of_a_long_value_is_taken_out() -> None:
    """A server that cuts what it repeats does not get it through."""
    cleaned = Scrubber("AWS", SecretValue(TOKEN)).clean(f"token {TOKEN[:40]}… is bad")
    assert cleaned == "token ***… is bad"


def test_a_second_value_is_taken_out_too() -> None:
    """A bearer token is as secret as the password."""
    scrubber = Scrubber("user", SecretValue("hunter2")).also(SecretValue("bearer-1"))
    assert scrubber.clean("hunter2 bearer-1 x") == "*** *** x"


@given(st.text(), st.text("ab:/+é \n", min_size=4).filter(str.strip))
def test_the_line_is_short_printable_and_without_the_value(text: str, value: str) -> None:
    """Whatever the server says and whatever the value is."""
    line = Scrubber("user", SecretValue(value)).clean(f"{text} {value}")
    assert len(line) <= MAX_WORDS
    assert line.isprintable()
    assert " ".join(value.split()) not in line


@pytest.mark.parametrize(
    ("body", "content_type", "words"),
    [
        (b'{"errors":[{"code":"DENIED","message":"no"}]}', "application/json", "no"),
        (b'{"errors":[{"code":"DENIED","message":""}]}', "application/json", "DENIED"),
        (b'{"details":"incorrect username or password"}', "", "incorrect username or password"),
        (b'{"error":"invalid_grant","error_description":"late"}', "", "late"),
        (b"Not Authorized\n", "text/plain; charset=utf-8", "Not Authorized\n"),
        (b"<html>Sign in</html>", "text/html", ""),
        (b'{"errors":[]}', "application/json", ""),
        (b'{"errors":["no"]}', "application/json", ""),
        (b'{"message":null}', "application/json", ""),
        (b"[1]", "application/json", ""),
        (b"", "", ""),
    ],
)
def test_the_reason_is_found_where_registries_put_it(
    body: bytes, content_type: str, words: str
) -> None:
    """Each registry has its own place; pages for browsers are no reason."""
    assert said(body, content_type) == words


@pytest.mark.parametrize(
    "body", [b"[" * 65536, b"9" * 65536, b"\xff\xfe", b'{"a":', b"null", b'"x"']
)
def test_what_is_no_object_is_an_empty_one(body: bytes) -> None:
    """Deep nesting, long numbers and other text break nothing."""
    assert document_of(body) == {}
