"""How a registry wants to be logged in to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a `WWW-Authenticate` header."""

    #: Lower case, such as `basic` or `bearer`.
    scheme: str
    #: Names in lower case.
    parameters: Mapping[str, str] = field(default_factory=dict)


_TOKEN = r"[\w!#$%&'*+.^`|~-]+"  # noqa: S105 - grammar
_CHALLENGE_PART = re.compile(rf'({_TOKEN})(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+))?', re.ASCII)


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """The challenges in the `WWW-Authenticate` headers, in order (RFC 9110 section 11.6.1)."""
    challenges: list[Challenge] = []
    for header in headers:
        parameters: dict[str, str] = {}
        for name, value in _CHALLENGE_PART.findall(header):
            if not value:
                parameters = {}
                challenges.append(Challenge(name.lower(), parameters))
            elif value.startswith('"'):
                parameters[name.lower()] = re.sub(r"\\(.)", r"\1", value[1:-1])
            else:
                parameters[name.lower()] = value
    return challenges
