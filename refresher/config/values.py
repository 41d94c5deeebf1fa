"""How a single value of the file is read, refused and written back. Knows no pydantic.

Every reader raises ValueError with the words that a person gets to see. Where a value may hold
a credential, those words never repeat it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from urllib.parse import urlsplit

from refresher.references import Reference


@dataclass(frozen=True, slots=True)
class Context:
    """What the file alone does not tell."""

    #: Name of the file, as problems show it.
    origin: str = "config"
    #: Folder that relative paths start from.
    base: Path = Path()
    #: Environment variables.
    environ: Mapping[str, str] = field(default_factory=dict)


class Refused(ValueError):
    """Problems of several keys of one table, each with its key."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        super().__init__("; ".join(f"{key}: {text}" for key, text in problems))
        self.problems = problems


def refuse(*rules: tuple[bool, str, str]) -> None:
    """Raise `Refused` with the key and the text of every rule that is broken."""
    problems = [(key, text) for broken, key, text in rules if broken]
    if problems:
        raise Refused(problems)


def quoted(text: str) -> str:
    """The text in quotes on one line of plain ASCII, cut where it is long."""
    return json.dumps(text if len(text) <= 60 else f"{text[:57]}...")


DURATION_PATTERN = "[1-9][0-9]{0,8}[smhd]"
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * _UNITS["d"]


def parse_duration(value: object) -> timedelta:
    """The duration that `90s`, `15m`, `4h` or `14d` stands for."""
    if not isinstance(value, str) or not re.fullmatch(DURATION_PATTERN, value, re.ASCII):
        shown = quoted(value) if isinstance(value, str) else "this"
        raise ValueError(
            f"{shown} is not a duration; write a whole number above 0 and its unit,"
            ' such as "90s", "15m", "4h" or "14d"'
        )
    seconds = int(value[:-1]) * _UNITS[value[-1]]
    if seconds > _LONGEST:
        raise ValueError(f"{quoted(value)} is longer than ten years")
    return timedelta(seconds=seconds)


def format_duration(value: timedelta) -> str:
    """The shortest form that `parse_duration` reads back."""
    seconds = int(value.total_seconds())
    unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"


VARIABLE_PATTERN = "[A-Za-z_][A-Za-z0-9_]*"
_REFERENCES = '{ env = "NAME" } or { file = "PATH" }'


def parse_path(value: object, context: Context) -> Path:
    """A path that starts at the configuration's folder where it is relative, `~/` at HOME."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("expected the path of a file")
    home = context.environ.get("HOME")
    if value.startswith("~/") and home:
        return Path(home, value[2:])
    return context.base / value


def parse_reference(value: object, context: Context) -> Reference:
    """The reference that a table of one key stands for."""
    if isinstance(value, str):
        raise ValueError(f"a literal is not allowed here; use {_REFERENCES}")  # noqa: TRY004
    if not isinstance(value, Mapping) or set(value) not in ({"env"}, {"file"}):
        raise ValueError(f"expected exactly one of {_REFERENCES}")
    if "file" in value:
        return Reference(file=parse_path(value["file"], context))
    name = value["env"]
    if not isinstance(name, str) or not re.fullmatch(VARIABLE_PATTERN, name, re.ASCII):
        raise ValueError("env takes the name of an environment variable: letters, digits and _")
    return Reference(env=name)


def format_reference(reference: Reference) -> dict[str, str]:
    """The table that `parse_reference` reads back."""
    if reference.env is not None:
        return {"env": reference.env}
    return {"file": str(reference.file)}


_LABEL = "[a-z0-9](?:[a-z0-9_-]{0,61}[a-z0-9])?"
_AUTHORITY = re.compile(
    rf"(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>{_LABEL}(?:\.{_LABEL})*))(?::(?P<port>[0-9]{{1,5}}))?",
    re.ASCII,
)


def split_authority(text: str) -> tuple[str, int | None]:
    """Host in lower case without brackets, and port or None."""
    match = _AUTHORITY.fullmatch(text.lower()) if len(text) <= 259 else None
    if match is None or not _is_ipv6(match["v6"] or "::") or int(match["port"] or 0) > 65535:
        shown = "this" if "@" in text else quoted(text)  # a user and password may stand there
        raise ValueError(f"{shown} is not a host; expected HOST or HOST:PORT")
    return match["v6"] or match["name"], int(match["port"]) if match["port"] else None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host without its port is this machine, by name or by address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def parse_host(text: str) -> str:
    """HOST or HOST:PORT in lower case."""
    split_authority(text)
    return text.lower()


def parse_registry(text: str) -> str:
    """A registry's host as images name it: lower case, `https://` and the path taken off."""
    if text.lower().startswith("http://"):
        raise ValueError("name the registry by its host; plain HTTP is set with registry_url")
    return parse_host(re.sub("^https://", "", text, flags=re.IGNORECASE).split("/", 1)[0])


def parse_listen(text: str) -> str:
    """HOST:PORT in lower case; at port 0 the system chooses one."""
    host, port = split_authority(text)
    if port is None:
        raise ValueError(f'{quoted(host)} names no port; expected HOST:PORT, as "127.0.0.1:9478"')
    return text.lower()


def parse_url(text: str) -> str:
    """An https URL, or an http one of this machine, without a slash at its end.

    It may hold a password by mistake, so it is never shown.
    """
    if not text.isascii() or not text.isprintable() or not re.match("https?://[^ ]+$", text):
        raise ValueError("expected a URL such as https://host/path")
    parts = urlsplit(text)
    try:
        host, _ = split_authority(parts.netloc)
    except ValueError as error:
        raise ValueError("expected a URL of a plain host, such as https://host/path") from error
    if parts.query or parts.fragment:
        raise ValueError("expected a URL without query and fragment")
    if parts.scheme == "http" and not is_loopback(host):
        raise ValueError("plain HTTP is allowed on loopback only; use https")
    return text.rstrip("/")


_STATE_SCHEMES = ("sqlite", "postgresql", "postgresql+psycopg")


def parse_state(value: object, context: Context) -> str | Reference:
    """The URL of the state, or a reference to it, which one with a password must be."""
    if not isinstance(value, str):
        return parse_reference(value, context)
    scheme, separator, rest = value.partition("://")
    if scheme not in _STATE_SCHEMES or not separator or not value.isprintable():
        raise ValueError('expected "sqlite:///PATH" or "postgresql://USER@HOST/DATABASE"')
    if scheme != "sqlite" and (":" in rest.rpartition("@")[0] or "password" in rest.lower()):
        raise ValueError(f"a URL with a password is not allowed here; use {_REFERENCES}")
    return value


def format_state(state: str | Reference) -> str | dict[str, str]:
    """The value that `parse_state` reads back."""
    return state if isinstance(state, str) else format_reference(state)


def default_state(environ: Mapping[str, str]) -> str:
    """The URL of the SQLite file that is used where none is configured.

    systemd sets STATE_DIRECTORY (systemd.exec(5)), of which the first is taken; XDG_STATE_HOME
    counts only where it is absolute (XDG Base Directory Specification).
    """
    folder = environ.get("STATE_DIRECTORY", "").split(":")[0]
    home = environ.get("HOME")
    xdg = environ.get("XDG_STATE_HOME", "")
    if not folder and xdg.startswith("/"):
        folder = f"{xdg}/refresher"
    if not folder and home:
        folder = f"{home}/.local/state/refresher"
    if not folder:
        raise Refused([("state", "set it; there is no STATE_DIRECTORY, XDG_STATE_HOME or HOME")])
    return f"sqlite:///{folder}/refresher.db"
