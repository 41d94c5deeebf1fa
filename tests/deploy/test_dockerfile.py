"""The Dockerfile by itself: its rules, what it copies, what it promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from refresher import __version__
from tests.peers import ROOT

TEXT = (ROOT / "Dockerfile").read_text("utf-8")
BUILD, FINAL = re.split(r"^FROM .*$", TEXT, flags=re.MULTILINE)[1:]


def test_hadolint_finds_nothing() -> None:
    """With its rules as they are."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", "Dockerfile"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_an_argument() -> None:
    """The same for both stages."""
    assert re.search(r"^ARG BASE=python:3\.13-slim-bookworm$", TEXT, re.MULTILINE)
    assert re.findall(r"^FROM (\S+)", TEXT, re.MULTILINE) == ["${BASE}", "${BASE}"]


def test_what_is_installed_is_pinned() -> None:
    """Nothing comes from the index without a hash, and nothing is compiled."""
    for command in re.findall(r"pip [^&]*?install.*?(?=&&|\n\n)", BUILD, re.DOTALL):
        assert "--no-cache-dir" in command
        assert "--no-index" in command or {"--require-hashes", "--only-binary"} < set(
            command.split()
        )
    assert BUILD.count("install --no-cache-dir") == 3
    assert "pip" not in re.sub("#.*", "", FINAL)


def test_the_final_stage_says_how_it_is_run() -> None:
    """A number for the user, a signal to stop, a probe, labels."""
    assert re.search(r"^USER 65532:65532$", FINAL, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", FINAL, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*CMD \[", FINAL, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["refresher"\]$', FINAL, re.MULTILINE)
    labels = {"title", "description", "licenses", "version"}
    assert set(re.findall(r"org\.opencontainers\.image\.(\w+)=", FINAL)) == labels


def test_a_build_sees_what_it_copies_and_no_more() -> None:
    """Each source of a COPY is let in by .dockerignore; everything else stays out."""
    first, *lines = (ROOT / ".dockerignore").read_text("utf-8").splitlines()[1:]
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        source
        for words in re.findall(r"^COPY (?!--from)(.+)$", TEXT, re.MULTILINE)
        for source in words.split()[:-1]
    }
    assert first == "*"
    assert copied == let_in
    assert all((ROOT / each).exists() for each in copied)


def wheels(python: str, machine: str) -> int:
    """Whether pip finds a wheel of everything that is locked: its exit code, 0 where it does."""
    platforms = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")
    command = [
        sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--target", "t",
        "--quiet", "--python-version", python, "--implementation", "cp",
        *(f"--abi={abi}" for abi in (f"cp{python.replace('.', '')}", "abi3", "none")),
        *(f"--platform={platform}_{machine}" for platform in platforms),
        "--only-binary=:all:", "--no-deps", "--require-hashes",
        "--requirement", "requirements/runtime.lock",
    ]  # fmt: skip
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_default_base_finds_a_wheel_of_everything(machine: str) -> None:
    """For its Python, on both machines that the base is made for; an old one would find none."""
    found = re.search(r"^ARG BASE=python:([\d.]+)-slim-bookworm$", TEXT, re.MULTILINE)
    assert found
    assert wheels(found[1], machine) == 0
    assert wheels("3.6", machine) != 0


def test_make_builds_it_under_its_version() -> None:
    """One command, and a builder of one's choice."""
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "image",
         "DOCKER=buildah", "IMAGE_FLAGS=--format=docker"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == (
        f"buildah build --format=docker --build-arg VERSION={__version__}"
        f" --tag refresher:{__version__} ."
    )


def test_the_probe_asks_the_usual_port() -> None:
    """Its command is what the engine runs: JSON, with a script that Python reads."""
    found = re.search(r"^HEALTHCHECK .*?CMD (\[.*?\]$)", FINAL, re.MULTILINE | re.DOTALL)
    assert found
    program, option, script = json.loads(found[1].replace("\\\n", ""))
    assert (program, option) == ("python3", "-c")
    compile(script, "HEALTHCHECK", "exec")
    assert "9478" in script
