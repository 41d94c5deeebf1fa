"""Values that must appear nowhere, and the search for them in every form in which they could."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

#: So many characters of a value, in a row and in any encoding, are a leak.
RUN = 16


def canary() -> str:
    """A value like no other, with characters that encodings change."""
    return f"{secrets.token_urlsafe(24)}/{secrets.token_urlsafe(24)}+="


def runs(value: str) -> Iterator[bytes]:
    """Each run of the value, as it is and in base64 and hexadecimal.

    A base64 of anything that holds the value has one of these, wherever the value stands in it.
    In URLs and JSON a run of the value is the same.
    """
    raw = value.encode()
    assert len(raw) >= 2 * RUN
    for start in range(len(raw) - RUN + 1):
        yield raw[start : start + RUN]
        encoded = base64.b64encode(raw[start : start + RUN // 4 * 3])
        yield encoded
        yield encoded.replace(b"+", b"-").replace(b"/", b"_")
        yield raw[start : start + RUN // 2].hex().encode()


@dataclass
class Canaries:
    """All of them, by name."""

    values: dict[str, str] = field(default_factory=dict)

    def new(self, name: str) -> str:
        """A new one."""
        self.values[name] = canary()
        return self.values[name]

    def also(self, name: str, values: Iterable[str]) -> None:
        """Values that somebody else made."""
        self.values |= {f"{name} {number}": value for number, value in enumerate(values)}

    def in_(self, places: Mapping[str, bytes]) -> list[str]:
        """Which are where."""
        wanted = {run: name for name, value in self.values.items() for run in runs(value)}
        found: set[str] = set()
        for place, content in places.items():
            windows = {content[at : at + RUN] for at in range(len(content))}
            found |= {f"{wanted[run]} in {place}" for run in windows & wanted.keys()}
        return sorted(found)
