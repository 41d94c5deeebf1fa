"""The command line by itself: options, errors and exit codes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from refresher import __version__
from refresher.cli import options
from refresher.cli.app import main, root
from refresher.cli.exits import exit_after, exit_of
from refresher.cli.settings import Settings
from refresher.errors import (
    ConfigError,
    DaemonError,
    DaemonRefused,
    Misconfigured,
    RefresherError,
    StateError,
    Unavailable,
)
from tests.cli.views import attempt

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def seen() -> Iterator[list[Settings]]:
    """What a command `look`, there for the test, was given; `look bug` has a bug."""
    given: list[Settings] = []

    @click.command()
    @click.argument("how", required=False)
    @options.daemon
    @options.settings
    def look(settings: Settings, how: str | None) -> None:
        given.append(settings)
        if how == "bug":
            raise LookupError("with a secret inside")
        if how == "stop":
            raise KeyboardInterrupt

    root.add_command(look)
    yield given
    del root.commands["look"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--config", "a.toml", "--url", "http://a", "--debug", "look"),
        ("look", "--config", "a.toml", "--url", "http://a", "--debug"),
        ("--config", "b.toml", "--debug", "look", "--url", "http://a", "--config", "a.toml"),
    ],
    ids=["before", "after", "both"],
)
def test_shared_options_stand_before_and_after_the_command(
    seen: list[Settings], arguments: tuple[str, ...]
) -> None:
    """Of two, the one after the command counts."""
    assert main(arguments) == 0
    (settings,) = seen
    assert (settings.config, settings.url, settings.debug) == (Path("a.toml"), "http://a", True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("statsu",), "No such command 'statsu'. Did you mean 'status'?"),
        (("config", "chekc"), "No such command 'chekc'. Did you mean 'check'?"),
        (("status", "--ulr", "x"), "No such option '--ulr'. Did you mean '--url'?"),
        (("refresh",), "name the targets to refresh, or give --all"),
        (("refresh", "ecr", "--all"), "name the targets to refresh, or give --all"),
        (("refresh", "ecr", "--wait", "2"), '"2" is not a duration; write a whole number'),
        (("refresh", "ecr", "--wait", "2h"), "2h is longer than 1h"),
        (("check", "--within", "soon"), '"soon" is not a duration'),
        (("status", "--output", "xml"), "'xml' is not one of 'table', 'json'"),
        (("token",), "Missing argument 'TARGET'. See `refresher token --help`."),
        (("-v",), "Missing command. See `refresher --help`."),
        (("demo", "--config", "a.toml"), "No such option '--config'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(
    capsys: Printed, arguments: tuple[str, ...], said: str
) -> None:
    """It says what is wrong."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert not printed.out
    assert printed.err.startswith("error: ")
    assert said in printed.err
    assert printed.err.count("\n") == 1


def test_no_command_shows_the_help_as_an_error(capsys: Printed) -> None:
    """Scripts that forgot the command do not go on."""
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().err


def test_the_version_is_told(capsys: Printed) -> None:
    """Under the command's own name."""
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"refresher {__version__}\n"


COMMANDS = [
    *((name,) for name in root.commands),
    *(("config", name) for name in ("check", "show", "schema")),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(capsys: Printed, command: tuple[str, ...]) -> None:
    """The example is one that can be typed; all of it fits a terminal."""
    assert main([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert f"Example: refresher {' '.join(command)}" in " ".join(shown.split())
    assert max(map(len, shown.splitlines())) <= 80


@pytest.mark.parametrize("group", [(), ("config",)], ids=["root", "config"])
def test_the_list_of_commands_is_whole(capsys: Printed, group: tuple[str, ...]) -> None:
    """A line of 80 columns each, none of them cut."""
    assert main([*group, "--help"]) == 0
    lines = capsys.readouterr().out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert lines
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)
    assert max(map(len, lines)) <= 80


def test_there_are_these_commands_and_no_others() -> None:
    """Scripts build on their names."""
    assert set(root.commands) == {
        "run", "once", "refresh", "status", "history", "check", "pause", "resume", "policy",
        "token", "notify", "config", "completion", "demo", "discover", "doctor",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("a"), 2),
        (StateError("a"), 1),
        (RefresherError("listen: in use"), 1),
        (Unavailable("a"), 1),
        (Misconfigured("a"), 1),
        (DaemonError("a"), 3),
        (DaemonRefused("a", 401), 1),
        (DaemonRefused("a", 503), 1),
        (DaemonRefused("no target is named a", 404), 2),
        (DaemonRefused("no target is named a", 422), 2),
        (DaemonRefused("parked", 409), 2),
    ],
)
def test_each_error_has_its_exit_code(error: RefresherError, code: int) -> None:
    """Scripts tell a wrong configuration, a failure and an absent daemon apart."""
    assert exit_of(error) == code


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ([], 0),
        (["refreshed", "checked"], 0),
        (["refreshed", "failed"], 1),
        (["refreshed", None], 1),
    ],
)
def test_attempts_are_good_once_all_are(outcomes: list[str | None], code: int) -> None:
    """One that failed or is not done spoils it."""
    assert exit_after([attempt(outcome=outcome) for outcome in outcomes]) == code


def test_each_problem_of_a_configuration_is_a_line(capsys: Printed, tmp_path: Path) -> None:
    """All are told at once."""
    path = tmp_path / "bad.toml"
    path.write_text('[daemon]\nworkes = 3\nlisten = "nowhere"\n')
    assert main(["config", "check", "--config", str(path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"error: {path}: ") for line in lines)
    assert any('did you mean "workers"?' in line for line in lines)


def test_a_bug_is_one_line_without_its_text(capsys: Printed, seen: list[Settings]) -> None:
    """The text of an unexpected error may hold anything."""
    assert main(["look", "bug"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith("error: a bug in refresher: LookupError at cli/app.py:")
    assert "--debug" in printed
    assert "secret" not in printed
    assert printed.count("\n") == 1


def test_with_debug_a_bug_shows_its_traceback(capsys: Printed, seen: list[Settings]) -> None:
    """That is what the option is for."""
    assert main(["look", "bug", "--debug"]) == 1
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_an_interrupt_is_exit_130(capsys: Printed, seen: list[Settings]) -> None:
    """As shells have it, and without a traceback."""
    assert main(["look", "stop"]) == 130
    assert not capsys.readouterr().err.strip()


def test_the_schema_is_json_for_any_configuration(capsys: Printed) -> None:
    """No configuration is needed for it."""
    assert main(["config", "schema"]) == 0
    assert '"targets"' in capsys.readouterr().out
