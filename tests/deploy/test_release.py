"""A release: its version, what is in it, that it stands alone, and that it reads the old state."""

from __future__ import annotations

import email
import json
import os
import re
import sqlite3
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

from refresher import __version__
from refresher.clock import ManualClock
from refresher.model import Outcome, SecretRef
from refresher.state import SqlStore
from tests.deploy.container import require_namespaces
from tests.peers import ROOT, require

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CHANGES = (ROOT / "CHANGELOG.md").read_text()
OLD_STATE = ROOT / "tests" / "state" / "schema-1.sql"


class Built(NamedTuple):
    """What `make build` leaves in dist/."""

    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """By the command of the Makefile, into a folder of its own."""
    dry = ["make", "--no-print-directory", "--dry-run", "--always-make", "build"]
    said = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    folder = tmp_path_factory.mktemp("dist")
    command = [*said.strip().splitlines()[-1].split(), "--directory", str(folder)]
    assert command[:2] == [".venv/bin/hatchling", "build"]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def tracked(*folders: str) -> set[str]:
    """The files of the project, with those that are to be committed."""
    command = [require("git"), "ls-files", "--cached", "--others", "--exclude-standard", *folders]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in done.stdout.splitlines() if (ROOT / name).exists()}


# --- the version -------------------------------------------------------------------------------


def test_the_version_is_in_one_place() -> None:
    """`__version__`; the examples that name a released image are held to it by their own tests."""
    assert PROJECT["dynamic"] == ["version"]
    assert "version" not in PROJECT
    told = re.compile(rf"(?<![\w.]){re.escape(__version__)}(?![\w.])")
    others = {
        name
        for name in tracked("refresher", "config", "docs/deploy.md", "Dockerfile", "Makefile")
        if told.search((ROOT / name).read_text("utf-8", errors="ignore"))
    }
    assert others - {"refresher/__init__.py"} == {
        "config/kubernetes/example/kustomization.yaml",
        "config/kubernetes/example-sidecar/kustomization.yaml",
        "docs/deploy.md",
    }


def test_the_changes_are_told() -> None:
    """Under the next release, or under this one."""
    first = re.search(r"^## (.+)$", CHANGES, re.MULTILINE)
    assert first
    assert first[1] == "Unreleased" or first[1].startswith(f"[{__version__}]")
    assert re.search(r"^### (Added|Changed|Fixed|Removed|Deprecated|Security)$", CHANGES, re.M)


# --- what is in it -----------------------------------------------------------------------------


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    """Each file of refresher/, with templates and the mark of types, and the usual five."""
    info = f"refresher-{__version__}.dist-info"
    five = ("METADATA", "WHEEL", "entry_points.txt", "licenses/LICENSE", "RECORD")
    with zipfile.ZipFile(built.wheel) as wheel:
        assert set(wheel.namelist()) == tracked("refresher") | {f"{info}/{name}" for name in five}
    assert built.wheel.name == f"refresher-{__version__}-py3-none-any.whl"
    assert {"refresher/py.typed", "refresher/web/static/page.js"} <= tracked("refresher")


def test_the_sdist_holds_the_project(built: Built) -> None:
    """Whatever is needed to build, test and deploy it; not how this project is checked."""
    top = f"refresher-{__version__}"
    with tarfile.open(built.sdist) as sdist:
        names = {member.name.removeprefix(f"{top}/") for member in sdist if member.isfile()}
    assert names == {name for name in tracked() if not name.startswith(".ci/")} | {"PKG-INFO"}


def test_the_metadata_says_what_pyproject_says(built: Built) -> None:
    """Name, version, Python, dependencies and extras."""
    with zipfile.ZipFile(built.wheel) as wheel:
        raw = wheel.read(f"refresher-{__version__}.dist-info/METADATA").decode()
        entry = wheel.read(f"refresher-{__version__}.dist-info/entry_points.txt").decode()
    told = email.message_from_string(raw)
    assert (told["Name"], told["Version"]) == ("refresher", __version__)
    assert told["Requires-Python"] == PROJECT["requires-python"]
    assert told["License-Expression"] == "Apache-2.0"
    asked = [Requirement(line) for line in told.get_all("Requires-Dist") or []]
    plain = {(each.name, each.specifier) for each in asked if each.marker is None}
    assert plain == {(r.name, r.specifier) for r in map(Requirement, PROJECT["dependencies"])}
    assert set(told.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    assert entry.split() == ["[console_scripts]", "refresher", "=", "refresher.cli:main"]


# --- that it stands alone ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_wheel_in_an_empty_environment_runs_the_demo_offline(
    built: Built, tmp_path: Path
) -> None:
    """With what the lock names, fetched before; then there is no network any more."""
    require_namespaces()
    wheels, venv = tmp_path / "wheels", tmp_path / "venv"
    fetch = [
        sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary",
        ":all:", "--dest", str(wheels), "--requirement", str(ROOT / "requirements/runtime.lock"),
    ]  # fmt: skip
    subprocess.run(fetch, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
    pip = [f"{venv}/bin/pip", "install", "--no-index", "--find-links", str(wheels)]
    offline([*pip, f"{built.wheel}[notify,postgres]"], tmp_path)
    offline([f"{venv}/bin/pip", "check"], tmp_path)

    refresher = f"{venv}/bin/refresher"
    assert offline([refresher, "--version"], tmp_path).strip() == f"refresher {__version__}"
    said = offline([refresher, "demo", "--for", "20s"], tmp_path)
    assert "Good: at every moment it held a password that the registry accepts." in said


def offline(command: list[str], home: Path) -> str:
    """What a command prints where nothing but loopback is there, and nothing of ours."""
    script = f'{require("ip")} link set lo up && exec "$@"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, "sh", *command],
        cwd=home, env={"PATH": os.environ["PATH"], "HOME": str(home)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


# --- that it reads the old state ---------------------------------------------------------------


@pytest.fixture
def old_state(tmp_path: Path) -> Path:
    """A file as an earlier release left it, with a daemon's permissions."""
    path = tmp_path / "refresher.db"
    with closing(sqlite3.connect(path)) as raw:
        raw.executescript(OLD_STATE.read_text())
    path.chmod(0o600)
    return path


def test_the_state_of_an_earlier_release_is_taken_over(old_state: Path) -> None:
    """Every status, every attempt and the key of the fingerprints; and it can be written to."""
    clock = ManualClock(datetime(2026, 11, 25, 14, 0, tzinfo=UTC))
    with closing(sqlite3.connect(old_state)) as raw:
        old = {name: json.loads(text) for name, text in raw.execute(
            "SELECT name, document FROM targets"
        )}  # fmt: skip
        (key,) = raw.execute("SELECT value FROM meta WHERE key = 'fingerprint_key'").fetchone()
    with closing(SqlStore.open(f"sqlite:///{old_state}", clock=clock)) as store:
        statuses = store.statuses()
        assert statuses.keys() == old.keys() == {"ecr", "gar", "dockerhub", "oci"}
        assert store.fingerprint_key.hex() == key
        ecr = statuses["ecr"].secret(SecretRef("default", "main", "AWS_ECR_PASSWORD"))
        assert ecr.fingerprint == "67b2bd6e97479627"
        assert ecr.expires_at == datetime(2026, 11, 26, 1, 27, 18, 551824, tzinfo=UTC)
        assert ecr.refresh_at == datetime(2026, 11, 25, 17, 14, 45, 514433, tzinfo=UTC)
        for name, status in statuses.items():
            assert status.digest == old[name]["digest"]
            assert [s.fingerprint for s in status.secrets] == [
                s["fingerprint"] for s in old[name]["secrets"]
            ]
            assert status.consecutive_failures == old[name]["consecutive_failures"]
        failure = statuses["dockerhub"].last_failure
        assert failure is not None
        assert (failure.stage, failure.reason) == ("verify", "unauthorized")

        attempts = store.attempts()
        assert len(attempts) == 8
        failed = [each.target for each in attempts if each.outcome is Outcome.FAILED]
        assert failed == ["dockerhub"]
        store.update("ecr", lambda status: status)
        assert store.up
    with closing(SqlStore.open(f"sqlite:///{old_state}", clock=clock)) as again:
        assert again.statuses() == statuses
        assert again.attempts() == attempts
