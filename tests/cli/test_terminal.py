"""What is different where a person looks at a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import click

from tests.world import World


def on_terminal(world: World, *arguments: str) -> tuple[str, str]:
    """What a command writes to a terminal, and to standard error."""
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "refresher", *arguments],
            env=world.process_environ() | {"TERM": "xterm"},
            stdout=theirs,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
        return os.read(ours, 65536).decode(), done.stderr
    finally:
        os.close(theirs)
        os.close(ours)


def test_the_state_word_has_a_colour_on_a_terminal(world: World) -> None:
    """Unless NO_COLOR asks for none; a pipe never sees any."""
    coloured, _ = on_terminal(world, "check")
    assert click.style("unknown", fg="yellow") in coloured
    world.extra["NO_COLOR"] = "1"
    plain, _ = on_terminal(world, "check")
    assert plain == click.unstyle(coloured)
    assert "\x1b" not in world.cli("check").stdout


def test_a_password_on_a_terminal_is_noted(world: World) -> None:
    """It was most likely meant for a pipe; standard output is the same."""
    shown, note = on_terminal(world, "token", "ecr")
    assert world.aws.passwords.issued(shown.strip()) is not None
    assert "note: this is a password" in note
