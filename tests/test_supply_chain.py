"""What is installed is what was locked, and may be used."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.peers import ROOT

LOCKS = ROOT / "requirements"

#: With no condition but to name the author, or for changes of the package itself.
FREE = {
    "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MIT-0", "MPL-2.0",
    "PSF-2.0",
}  # fmt: skip
#: Used as it is, as a library that anyone may replace, and only with the extra `postgres`.
LESSER = {"psycopg", "psycopg-binary"}


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.lock")), ids=lambda path: path.name)
def test_each_dependency_is_pinned_to_its_hashes(lock: Path) -> None:
    """One version of each, and no address besides the index."""
    blocks = re.split(r"^(?=\S)", lock.read_text().replace("\\\n", ""), flags=re.MULTILINE)
    entries = [block for block in blocks if block.strip()]
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==\S+ ", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]
        assert "://" not in entry


def generated(script: Path) -> subprocess.CompletedProcess[str]:
    """What the list would be now."""
    command = [sys.executable, str(script)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_what_is_locked_anew_is_listed_anew() -> None:
    """`make lock` ends with the list, of what it has installed by then."""
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "lock"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    steps = ("dev.lock", "fal.lock", "make setup", "generate_licences.py > ", "mv requirements/")
    places = [done.stdout.rindex(step) for step in steps]
    assert places == sorted(places)
    assert done.stdout.rstrip().endswith(" requirements/licences.md")


def test_a_package_without_a_licence_stops_the_list(tmp_path: Path) -> None:
    """Its name is said; a list with a hole in it is never written."""
    script = tmp_path / "generate_licences.py"
    script.write_text((LOCKS / script.name).read_text())
    (tmp_path / "runtime.lock").write_text("certifi==1\nno-such-package==1\n")
    done = generated(script)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no-such-package is locked and not installed")


def test_licences_are_listed_and_let_us() -> None:
    """The list is that of the lock, generated, and holds no licence that asks more of a user."""
    page = (LOCKS / "licences.md").read_text()
    assert generated(LOCKS / "generate_licences.py").stdout == page

    listed = dict(re.findall(r"^\| ([a-z0-9._-]+) \| (.+) \|$", page, re.MULTILINE))
    other = {
        name
        for name, licence in listed.items()
        if not set(re.split(" OR | AND ", licence)) <= FREE and name != "package"
    }
    assert other == LESSER
