"""The options that commands share, and the kinds of values that options take."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import click

from refresher.cli import completion
from refresher.cli.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])

#: Hands a command its `Settings`.
settings = click.make_pass_decorator(Settings, ensure=True)


class Duration(click.ParamType[timedelta]):
    """`90s`, `15m`, `4h` or `14d`, as in the configuration."""

    name = "duration"

    def __init__(self, longest: timedelta | None = None) -> None:
        self._longest = longest

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> timedelta:
        from refresher.config import format_duration, parse_duration

        if isinstance(value, timedelta):
            return value
        try:
            duration = parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if self._longest is not None and duration > self._longest:
            self.fail(f"{value} is longer than {format_duration(self._longest)}", param, ctx)
        return duration


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    """An option may stand before the command and after it; the one after it goes before."""
    name = parameter.name
    if value and name is not None:
        setattr(context.ensure_object(Settings), name, value)


def debugging(command: Command) -> Command:
    """Add what every command takes."""
    verbose = click.option(
        "--verbose",
        "-v",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="Show on a terminal, too, what is done at each step.",
    )
    debug = click.option(
        "--debug",
        is_flag=True,
        expose_value=False,
        callback=_remember,
        help="More log, and a traceback with an error.",
    )
    return verbose(debug(command))


def common(command: Command) -> Command:
    """Add what a command takes that lives on a configuration."""
    config = click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        expose_value=False,
        callback=_remember,
        help="Configuration; REFRESHER_CONFIG, else ./config/refresher.toml, ./refresher.toml"
        " or /etc/refresher/refresher.toml.",
    )
    project = click.option(
        "--fal-project",
        type=click.Path(path_type=Path),
        metavar="PATH",
        expose_value=False,
        callback=_remember,
        help="Keep what this fal project uses, with a configuration or without;"
        " REFRESHER_FAL_PROJECT.",
    )
    return config(project(debugging(command)))


def daemon(command: Command) -> Command:
    """Add what a command takes that may ask a running daemon."""
    url = click.option(
        "--url",
        metavar="URL",
        expose_value=False,
        callback=_remember,
        help="Where the daemon is; REFRESHER_URL, else daemon.listen of the configuration.",
    )
    return common(url(command))


def output(command: Command) -> Command:
    """Add `--output`; the command gets `as_json`."""
    return click.option(
        "--output",
        "as_json",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        callback=lambda _context, _parameter, value: value == "json",
        help="For people or for programs.",
    )(command)


def targets(command: Command) -> Command:
    """Add the names of targets, which the shell completes; the command gets `names`."""
    return click.argument(
        "names", metavar="[TARGET]...", nargs=-1, shell_complete=completion.target_names
    )(command)


def target(*, required: bool) -> Callable[[Command], Command]:
    """Add the name of one target; the command gets `name`, None where there is none."""
    metavar = "TARGET" if required else "[TARGET]"
    return click.argument(
        "name", metavar=metavar, required=required, shell_complete=completion.target_names
    )


def retry_refused(command: Command) -> Command:
    """Add `--retry-refused`."""
    return click.option(
        "--retry-refused",
        is_flag=True,
        help="Also try a value again that the registry refused less than an hour ago.",
    )(command)
