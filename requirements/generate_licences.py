"""Writes requirements/licences.md to standard output: the licence of each locked dependency.

`make lock` does, with what it has just locked and installed.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

#: Identifiers of spdx.org for what older packages say in other words.
_SPDX = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "Dual License": "Apache-2.0 OR BSD-3-Clause",  # python-dateutil, as its licence file says
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}
#: Locked for another system than the one that prints this.
_ELSEWHERE = {"tzdata": "Apache-2.0", "colorama": "BSD-3-Clause"}

_HEAD = """# Licences

Generated from `runtime.lock` by `generate_licences.py`; refresher itself is under Apache-2.0.
psycopg comes with the extra `postgres` alone, Apprise and what it needs with `notify`.

| package | licence |
|---|---|
"""


def names(lock: str) -> list[str]:
    """The packages of a lock file, in its order."""
    return re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE)


def licence(name: str) -> str:
    """SPDX expression of a package, as its metadata or its licence file has it."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        if name in _ELSEWHERE:
            return _ELSEWHERE[name]
        raise SystemExit(f"{name} is locked and not installed; see _ELSEWHERE") from None
    said = _said(found)
    return _SPDX.get(said, said)


def _said(found: Distribution) -> str:
    fields = found.metadata
    classified = [
        line.rpartition(" :: ")[2]
        for line in fields.get_all("Classifier", [])
        if line.startswith("License :: OSI Approved :: ")
    ]
    plain = fields.get("License", "")
    if expression := fields.get("License-Expression"):
        return str(expression)
    if len(classified) == 1 and (classified[0] != "BSD License" or not plain):
        return classified[0]
    return plain if plain and "\n" not in plain else _first_line(found)


def _first_line(found: Distribution) -> str:
    files = [file for file in found.files or [] if file.name.startswith("LICENSE")]
    return files[0].read_text().strip().splitlines()[0].strip() if files else "unknown"


def table(lock: Path) -> str:
    """The whole page."""
    rows = (f"| {name} | {licence(name)} |\n" for name in names(lock.read_text("utf-8")))
    return _HEAD + "".join(rows)


if __name__ == "__main__":
    sys.stdout.write(table(Path(__file__).with_name("runtime.lock")))
