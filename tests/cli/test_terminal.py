"""What is different where a person looks at a terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import click
import pytest

from refresher.sandbox.http import Fault
from refresher.sandbox.world import secret_name
from tests.world import REGISTRY, World, wait_for


def on_terminal(world: World, *arguments: str) -> tuple[str, str]:
    """What a command writes to a terminal of 80 columns, and to standard error."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "refresher", *arguments],
        env=world.process_environ() | {"TERM": "xterm"},
        stdout=theirs,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(theirs)
    seen = b""
    try:
        with suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                seen += part
        return seen.decode(), process.communicate(timeout=30)[1]
    finally:
        process.kill()
        os.close(ours)


LONG = "ecr-of-the-platform-team-in-europe"


def test_what_people_read_fits_80_columns(world: World) -> None:
    """Of every command, with names as long as people give, and with something to complain of."""
    world.configure({"ecr": REGISTRY, LONG: REGISTRY}, policy={"reverify_interval": "1s"})
    shown: dict[str, str] = {}
    with world.daemon():
        wait_for(lambda: world.fal.value("main", secret_name(LONG)), "the first publish")
        world.aws.error("AccessDeniedException", 400, "User is not authorized to do this at all")
        for line in (
            f"refresh {LONG}",
            *("status", "status ecr", f"status {LONG}", "history", f"history {LONG}"),
            *("check", "check --within 1d", f"doctor {LONG}", "once --max-age 4h"),
            *(f"pause {LONG}", f"resume {LONG}", "policy ecr", "config check"),
        ):
            shown[line] = "".join(on_terminal(world, *line.split()))
    assert "failed" in shown[f"refresh {LONG}"]
    lines = [(name, each) for name, text in shown.items() for each in standing(text)]
    # A command is there to be copied, and the configuration's path is the test's.
    wide = [(name, each) for name, each in lines if len(each) > 80]
    assert [each for name, each in wide if "fal keys create" not in each] == []


def test_the_state_word_has_a_colour_on_a_terminal(world: World) -> None:
    """Unless NO_COLOR asks for none; a pipe never sees any."""
    coloured, _ = on_terminal(world, "check")
    assert click.style("unknown", fg="yellow") in coloured
    world.extra["NO_COLOR"] = "1"
    plain, _ = on_terminal(world, "check")
    assert plain == click.unstyle(coloured)
    assert "\x1b" not in world.cli("check").stdout


@contextmanager
def watched(
    world: World, *arguments: str
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], str]]]:
    """A command whose standard error is a terminal, and what stands on that so far."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "refresher", *arguments],
        env=world.process_environ() | {"TERM": "xterm", **world.extra},
        cwd=world.directory,
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
    )
    os.close(theirs)
    os.set_blocking(ours, False)
    seen = b""

    def look() -> str:
        nonlocal seen
        with suppress(BlockingIOError, OSError):  # nothing new; the other end is closed
            seen += os.read(ours, 65536)
        return seen.decode()

    try:
        with process:
            yield process, look
    finally:
        process.kill()
        os.close(ours)


def test_waiting_is_one_line_that_goes_away(world: World) -> None:
    """Written anew as time passes; standard output is for the result."""
    world.aws.fail(Fault.hang())
    with watched(world, "once") as (process, look):
        wait_for(lambda: "refreshing ecr: 2s" in look(), "a third look at the clock")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 130
        shown = look()
    assert "refreshing ecr: 0s\r\x1b[Krefreshing ecr: 1s\r\x1b[K" in shown
    assert not any("refreshing" in line for line in standing(shown))


@pytest.mark.parametrize("flag", ["", "--verbose", "-v"])
def test_the_log_stands_above_the_line(world: World, flag: str) -> None:
    """Of what went well only where it is asked for."""
    with watched(world, "once", *flag.split()) as (process, look):
        assert "refreshed" in str(process.communicate(timeout=30)[0])
        lines = standing(look())
    assert any("attempt.refreshed" in line for line in lines) is bool(flag)
    assert not any("refreshing" in line for line in lines)


@pytest.mark.parametrize("variable", ["", "1"])
def test_the_log_has_colours_on_a_terminal(world: World, variable: str) -> None:
    """Unless NO_COLOR asks for none; an empty one does not."""
    world.extra["NO_COLOR"] = variable
    with watched(world, "once", "-v") as (process, look):
        assert process.wait(30) == 0
        assert ("\x1b[0m" in look()) is (not variable)


def test_a_failure_is_logged_above_the_line(world: World) -> None:
    """Whoever watches sees it when it happens."""
    world.aws.error("AccessDeniedException", 400, "User is not authorized")
    with watched(world, "once") as (process, look):
        assert process.wait(30) == 1
        lines = standing(look())
    assert any("attempt.failed" in line for line in lines)
    assert not any("refreshing" in line for line in lines)


def standing(shown: str) -> list[str]:
    """The lines that stand on a terminal in the end, without colours."""
    lines = shown.replace("\r\n", "\n").split("\n")
    return [click.unstyle(line.rpartition("\r\x1b[K")[2]) for line in lines]


def test_without_a_terminal_nothing_is_written_over(world: World) -> None:
    """Neither in a pipe nor on a terminal that knows no more than lines."""
    assert "\r" not in world.cli("once").stderr
    world.extra["TERM"] = "dumb"
    with watched(world, "once") as (process, look):
        assert process.wait(30) == 0
        assert "\x1b[K" not in look()


def test_a_refresh_says_how_long_it_waits(world: World) -> None:
    """At most, for a daemon that may be busy."""
    with world.daemon():
        wait_for(lambda: world.secret, "the first publish")
        world.aws.fail(Fault.hang())
        with watched(world, "refresh", "ecr", "--wait", "1s") as (process, look):
            assert process.wait(30) == 1
            shown = look()
    assert "refreshing ecr: 0s of at most 1s" in shown
    assert standing(shown) == ["note: not done in time; `refresher history` will tell", ""]


def test_a_slow_check_says_how_long_it_takes(world: World) -> None:
    """A peer that never answers is waited for 8 s: in silence that would look like a crash."""
    world.registry.fail(Fault.hang())
    with watched(world, "doctor") as (process, look):
        wait_for(lambda: "examining ecr: 2s" in look(), "a third look at the clock")
        world.registry.mend()
        world.registry.stop()  # lets go of what hangs
        assert process.wait(30) == 1
        assert not any("examining" in line for line in standing(look()))


def test_a_password_on_a_terminal_is_noted(world: World) -> None:
    """It was most likely meant for a pipe; standard output is the same."""
    shown, note = on_terminal(world, "token", "ecr")
    assert world.aws.passwords.issued(shown.strip()) is not None
    assert "note: this is a password" in note
