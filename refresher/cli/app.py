"""The command, and what becomes of whatever ends it."""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from refresher import __version__
from refresher.cli import (
    asking,
    check,
    completion,
    configuration,
    discover,
    doctor,
    once,
    options,
    privileges,
    service,
    telling,
)
from refresher.cli.exits import Exit, exit_of
from refresher.cli.output import note
from refresher.cli.settings import Settings
from refresher.errors import ConfigError, RefresherError

_PACKAGE = Path(__file__).resolve().parent.parent


@click.group(
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: refresher once --config config/refresher.toml",
)
@options.daemon
@click.version_option(__version__, message="%(prog)s %(version)s")
def root() -> None:
    """Keeps the private-registry credentials of fal apps alive."""


for command in (
    service.run,
    once.once,
    asking.refresh,
    asking.status,
    asking.history,
    check.check,
    discover.discover,
    doctor.doctor,
    asking.pause,
    asking.resume,
    service.token,
    privileges.policy,
    telling.notify,
    configuration.config,
    completion.completion,
    service.demo,
):
    root.add_command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line, by default that of the process; its exit code."""
    # Read when gRPC is imported; its own lines on standard error tell nothing that we do not.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    _furnish()
    settings = Settings()
    try:
        code = root.main(arguments, prog_name="refresher", standalone_mode=False, obj=settings)
        sys.stdout.flush()
    except click.ClickException as error:
        _explain_usage(error)
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        return Exit.INTERRUPTED
    except BrokenPipeError:
        _drop_output()
        return Exit.FAILED
    except RefresherError as error:
        _explain(error, settings)
        return exit_of(error)
    except Exception as error:  # noqa: BLE001 - the last resort of the process, and it is told
        _confess(error, settings)
        return Exit.FAILED
    return int(code or Exit.GOOD)


def _furnish() -> None:
    """Give the process what a library looks for as it loads, and a bare container lacks."""
    try:
        Path.home()
    except RuntimeError:  # a user that is no more than a number
        os.environ["HOME"] = "/"
    try:
        tempfile.gettempdir()
    except FileNotFoundError:  # nothing to write to; nothing of ours does
        tempfile.tempdir = "/"


def _explain_usage(error: click.ClickException) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return
    message = " ".join(error.format_message().split())
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = ""
    if context is not None and message.startswith("Missing"):
        hint = f" See `{context.command_path} --help`."
    note(f"error: {message}{hint}")


def _explain(error: RefresherError, settings: Settings) -> None:
    if settings.debug:
        traceback.print_exception(error)
    problems = error.problems if isinstance(error, ConfigError) else (error.message,)
    for problem in problems:
        note(f"error: {problem}")


def _confess(error: Exception, settings: Settings) -> None:
    """Name a bug of ours by its type and place; its text may hold anything."""
    if settings.debug:
        traceback.print_exception(error)
    else:
        note(
            f"error: a bug in refresher: {type(error).__name__} at {_place(error)};"
            " run again with --debug and report what it shows"
        )


def _place(error: Exception) -> str:
    """The innermost line of our own that the error came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _PACKAGE in Path(frame.filename).parents]
    return f"{Path(ours[-1].filename).relative_to(_PACKAGE)}:{ours[-1].lineno}" if ours else "?"


def _drop_output() -> None:
    """The reader has gone: let nothing be flushed to it any more (docs of Python's signal)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
