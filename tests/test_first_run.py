"""The recording of a first run, held against the program: who follows it sees the same."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refresher.sandbox.world import World
from tests.peers import ROOT, free_port, require

CAST = ROOT / "docs" / "first-run.cast"
PAGE = ROOT / "docs" / "first-run.md"


@pytest.fixture(scope="module")
def recorder() -> dict[str, Any]:
    """The names of the script that made it."""
    return runpy.run_path(str(ROOT / "docs" / "record_first_run.py"))


@pytest.fixture(scope="module")
def recorded(recorder: dict[str, Any]) -> dict[str, str]:
    """What stands on the terminal, by chapter."""
    texts: dict[str, str] = recorder["chapters"](CAST.read_text("utf-8"))
    return texts


def alike(text: str) -> str:
    """A text without what differs between two runs: times, ports, identifiers, line breaks."""
    text = re.sub(r"\b[0-9a-f]{8}(?:[0-9a-f]{8}(?:[0-9a-f]{16})?)?\b", "ID", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(?:Z|\+00:00)", "TIME", text)
    text = re.sub(r"127\.0\.0\.1:\d+", "PORT", text)
    text = re.sub(r"\bin (\d+[dhms] ?)+|(\d+[dhms] ?)+ago|\bnow\b", "WHEN ", text)
    return " ".join(re.sub(r"\d+(\.\d+)?", "0", text).split())


def test_it_is_a_file_of_asciinema() -> None:
    """Version 2: a header, then a time, a kind and a text in each line; nobody waits for long."""
    header, *events = map(json.loads, CAST.read_text("utf-8").splitlines())
    assert header.keys() == {"version", "width", "height", "title"}
    assert (header["version"], header["width"]) == (2, 80)
    before = 0.0
    for at, kind, text in events:
        assert 0 <= at - before <= 2.001
        assert kind in ("o", "m")
        assert isinstance(text, str)
        before = at
    assert events[-1][0] < 180


def test_the_page_shows_what_the_recording_shows(recorder: dict[str, Any]) -> None:
    """The one is made of the other."""
    made = recorder["page"](CAST.read_text("utf-8"))
    hint = "run: python docs/record_first_run.py --page > docs/first-run.md"
    assert made == PAGE.read_text("utf-8"), hint


def test_it_has_every_step(recorder: dict[str, Any], recorded: dict[str, str]) -> None:
    """Typed as the script says, from the clone to the end of the daemon."""
    for chapter in recorder["CHAPTERS"]:
        lines = recorded[chapter.title].splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")]
        assert typed == [step.command for step in chapter.steps]


def test_nothing_of_the_machine_is_in_it(recorded: dict[str, str]) -> None:
    """No folder, no user, no index of packages, no warning; nor a credential of the sandbox."""
    text = "".join(recorded.values())
    assert not re.findall(r"/(?:tmp|root|home|work|opt|usr)\b|WARNING|https?://(?!127\.)", text)
    assert not re.findall(
        r"sandbox-key|AKIA|dckr_pat_|ghp_|sandbox/secret", CAST.read_text("utf-8")
    )


def test_its_lines_fit_a_terminal(recorded: dict[str, str]) -> None:
    """But those of the log, which a terminal breaks."""
    lines = "".join(recorded.values()).splitlines()
    wide = [line for line in lines if len(line) > 80]
    assert all(re.match(r"20\d\d-\S+ \[info", line) for line in wide), wide


def test_the_demo_still_begins_and_ends_so(recorded: dict[str, str]) -> None:
    """What it says of itself, and its verdict; what happens between is told by its own tests."""
    shown = next(iter(recorded.values())).partition("refresher demo\n")[2].partition("\n\n$")[0]
    done = subprocess.run(
        [sys.executable, "-m", "refresher", "demo", "--for", "2s", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert _introduction(done.stdout) == _introduction(shown)
    assert _verdict(done.stdout) == _verdict(shown)


def _introduction(demo: str) -> str:
    return demo.partition("Status page")[0]


def _verdict(demo: str) -> list[str]:
    lines = re.sub(r" besides \d+ planned", "", demo).splitlines()[-3:]
    return [re.sub(r"\d+", "0", line) for line in lines]


@pytest.mark.timeout(300)  # a dozen processes, one after another, on a machine that may be busy
def test_the_commands_still_print_that(
    recorder: dict[str, Any], recorded: dict[str, str], tmp_path: Path
) -> None:
    """Every step after the demo, typed anew into a shell on a terminal."""
    require("setsid")
    first, *others = recorder["CHAPTERS"]
    own = Path(sys.executable).parent
    with World(images={"my-app": ["latest"]}) as world:
        recorder["prepare"](tmp_path, world, f"127.0.0.1:{free_port()}")
        (tmp_path / "refresher").mkdir()
        environ = {"PATH": f"{own}:{os.defpath}", "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        with recorder["terminal"](tmp_path / "refresher", environ, pace=0) as terminal:
            cast = recorder["record"](others, terminal)
    seen = recorder["chapters"](cast)
    assert seen.keys() == recorded.keys() - {first.title}
    for title, text in seen.items():
        assert alike(text) == alike(recorded[title]), title
