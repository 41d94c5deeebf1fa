"""What a server said, fit to be shown."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Set
from urllib.parse import quote

from refresher.model import SecretValue

#: Characters of the server's own words in a message.
MAX_WORDS = 200


class Scrubber:
    """Takes the values of a credential out of what a server said."""

    def __init__(self, username: str, *values: SecretValue) -> None:
        self._username = username
        self._values = values

    def also(self, value: SecretValue) -> Scrubber:
        """One that takes `value` out, too."""
        return Scrubber(self._username, value, *self._values)

    def clean(self, text: str) -> str:
        """One printable line of at most 200 characters that holds none of the values."""
        line = one_line(text)
        hidden = {
            position
            for value in self._values
            for form in _forms(self._username, value.reveal())
            for position in _positions(line, one_line(form))
        }
        line = "".join(_with_gaps(line, hidden))
        return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"


def one_line(text: str) -> str:
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def _forms(username: str, value: str) -> tuple[str, ...]:
    """The ways in which a server may repeat a value to us."""
    plain = value.encode(errors="replace")
    return (
        base64.b64encode(f"{username}:".encode(errors="replace") + plain).decode().rstrip("="),
        base64.b64encode(plain).decode().rstrip("="),
        quote(plain, safe=""),
        json.dumps(value)[1:-1],
        value,
    )


def _positions(line: str, form: str) -> Iterator[int]:
    """Where `line` holds `form`, or a beginning of it of 16 characters or more."""
    start = line.find(form[:16]) if form else -1
    while start >= 0:
        end = start
        while end < len(line) and end - start < len(form) and line[end] == form[end - start]:
            end += 1
        yield from range(start, end)
        start = line.find(form[:16], start + 1)


def _with_gaps(line: str, hidden: Set[int]) -> Iterator[str]:
    for position, character in enumerate(line):
        if position not in hidden:
            yield character
        elif position - 1 not in hidden:
            yield "***"


def said(body: bytes, content_type: str) -> str:
    """The reason in an error's body; empty where it holds none that a person could read.

    Distribution specification, "Error codes": `errors[0].message`; Docker Hub says `details`,
    others `message` or OAuth's `error_description`; ECR plain text.
    """
    if content_type.startswith("text/plain"):
        return body[:1024].decode(errors="replace")
    document = document_of(body)
    errors = document.get("errors")
    if isinstance(errors, list) and errors and isinstance(errors[0], dict):
        document = errors[0]
    names = ("message", "details", "error_description", "error", "code")
    found = (document.get(name) for name in names)
    return next((value for value in found if isinstance(value, str) and value), "")


def document_of(body: bytes) -> dict[str, object]:
    """The JSON object that the body is; an empty one where it is none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}
