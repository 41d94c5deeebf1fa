"""How a password is written. Its value goes no further than this."""

from __future__ import annotations

import re

from refresher.discovery.findings import Password, PasswordKind

#: fal puts in its secret where `"$NAME"` is the whole password; `$$` begins a literal with `$`.
_REFERENCE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]{0,127})", re.ASCII)


def password_of(value: object) -> Password:
    """How a password that is known by its value is written."""
    if value is None:
        return _flawed("is missing")
    if not isinstance(value, str):
        return _flawed("is no string, which fal asks for")
    reference = _REFERENCE.fullmatch(value)
    if reference is not None:
        return Password(PasswordKind.REFERENCE, secret=reference[1])
    if value.startswith("$$"):
        return Password(PasswordKind.LITERAL, escaped=True)
    if value.startswith("$"):
        return _flawed('begins with "$" but is not "$NAME" as a whole, so fal puts nothing in')
    return Password(PasswordKind.LITERAL) if value else _flawed("is empty")


def _flawed(flaw: str) -> Password:
    return Password(PasswordKind.LITERAL, flaw=flaw)


#: One that only running the code would tell.
COMPUTED = Password(PasswordKind.COMPUTED)
