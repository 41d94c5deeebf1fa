"""`[tool.fal.apps.NAME.image]` of a `pyproject.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from refresher.discovery.dockerfiles import images_in
from refresher.discovery.findings import Place, Use
from refresher.discovery.passwords import password_of
from refresher.discovery.walking import Unreadable

_Path = tuple[str, ...]

_APPS = ("tool", "fal", "apps")
_FIELDS = {"username", "password"}
#: Of a name that DNS can hold (RFC 1035 section 2.3.4: 255 octets); TOML nests without end.
_MOST_LABELS = 127


def uses(raw: bytes, file: str, folder: Path) -> Iterator[Use]:
    """The registries of the apps, `image` and `dockerfile` alike.

    `file` is its name below the project, `folder` is where it lies. Raises `Unreadable`.
    """
    text, document = _parse(raw)
    rows = _rows(text)
    for app, settings in _table(document, *_APPS).items():
        image = _table(settings, "image")
        dockerfile = _dockerfile(image, folder)
        images = _images(image, dockerfile)
        for keys, login in _logins((), _table(image, "registries")):
            path = (*_APPS, app, "image", "registries", *keys)
            yield Use(
                app=app,
                place=Place(file, _line(rows, path)),
                key=".".join(keys),
                username=_string(login.get("username")),
                password=password_of(login.get("password")),
                images=images,
                dockerfile=dockerfile,
                flaw=_cut(keys),
            )


def _logins(above: _Path, tables: dict[str, Any]) -> Iterator[tuple[_Path, dict[str, Any]]]:
    """The logins in `registries`, each with its keys: one, or several where a host is cut."""
    for key, value in tables.items():
        keys, login = (*above, key), value if isinstance(value, dict) else {}
        below = {name: table for name, table in login.items() if isinstance(table, dict)}
        if not below or login.keys() & _FIELDS or len(keys) == _MOST_LABELS:
            yield keys, login
        else:
            yield from _logins(keys, below)


def _cut(keys: _Path) -> str:
    """What is wrong with a host that was written without quotes; empty where nothing is."""
    if len(keys) == 1:
        return ""
    return f'TOML cuts the host at its dots; write registries."{".".join(keys)}" with the quotes'


def _parse(raw: bytes) -> tuple[str, dict[str, Any]]:
    try:
        text = raw.decode("utf-8-sig")
        return text, tomllib.loads(text)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        problem = f"not read: line {line} is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = f"not read: not TOML: {error}"
    except RecursionError:
        problem = "not read: nested too deeply"
    except ValueError:
        problem = "not read: not TOML: a number has too many digits"
    # Outside of the handlers: the parser's errors hold the text, and it may hold a secret.
    raise Unreadable(problem)


def _table(table: object, *keys: str) -> dict[str, Any]:
    """The table at a path, an empty one where there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table if isinstance(table, dict) else {}


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _dockerfile(image: dict[str, Any], folder: Path) -> Path | None:
    named = _string(image.get("dockerfile"))
    return None if named is None else folder / named


def _images(image: dict[str, Any], dockerfile: Path | None) -> tuple[str, ...]:
    named = _string(image.get("image"))
    if named is not None:
        return (named,)
    return () if dockerfile is None else images_in(dockerfile)


# --- lines, which tomllib does not tell ---------------------------------------------------------

#: A line's number, its text, and the path of its header where it is one.
_Row = tuple[int, str, _Path | None]


def _rows(text: str) -> list[_Row]:
    return [(number, line, _header(line)) for number, line in enumerate(text.splitlines(), 1)]


def _line(rows: list[_Row], path: _Path) -> int:
    """The line of a registry's key: its own header, or where a table above it names it in quotes.

    Where neither is found it is the line of the innermost header above, else the first.
    """
    best: int = 1
    section: _Path = ()
    for number, line, header in rows:
        section = section if header is None else header
        if section != path[: len(section)]:
            continue
        if header == path or (header is None and _names(line, path[-1])):
            return number
        best = number if header is not None else best
    return best


def _names(line: str, key: str) -> bool:
    return f'"{key}"' in line or f"'{key}'" in line


def _header(line: str) -> _Path | None:
    """The path in a header such as `[tool.fal]`; None where the line is none."""
    if not line.lstrip().startswith("["):
        return None
    try:
        table: object = tomllib.loads(line)
    except (ValueError, RecursionError):
        return None
    path = []
    while isinstance(table, dict) and table:
        key, table = next(iter(table.items()))
        path.append(key)
    return tuple(path)
