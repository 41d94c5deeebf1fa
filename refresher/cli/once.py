"""`once`: one pass without a daemon, for cron and CI."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from refresher.cli import options
from refresher.cli.exits import Exit, exit_after
from refresher.cli.output import say_json
from refresher.cli.settings import Settings, require_known
from refresher.cli.shown import say_results
from refresher.errors import ConfigError

if TYPE_CHECKING:
    from refresher.config import Config


@click.command(epilog="Example: refresher once ecr --max-age 4h")
@options.targets
@click.option(
    "--max-age",
    type=options.Duration(),
    metavar="TIME",
    help="Skip what was issued less than this ago and is not known to be refused.",
)
@options.retry_refused
@options.output
@options.daemon
@options.settings
def once(
    settings: Settings,
    *,
    names: tuple[str, ...],
    max_age: timedelta | None,
    retry_refused: bool,
    as_json: bool,
) -> Exit:
    """Refresh TARGETs, or all, once: for cron and CI.

    Beside a running daemon it asks that one.
    """
    from refresher.cli import passes

    config = settings.load("files")
    require_known(names, config.targets)
    _refuse_parked(config, names)
    done = passes.go(settings, config, passes.Wish(names, max_age, retry_refused))
    if as_json:
        skipped = [{"name": name, "why": why} for name, why in done.skipped]
        say_json({"attempts": done.attempts, "skipped": skipped})
    else:
        say_results(done.attempts, done.skipped)
    return exit_after(done.attempts)


def _refuse_parked(config: Config, names: Sequence[str]) -> None:
    keys = [f"targets.{name}.enabled" for name in names if not config.targets[name].enabled]
    if keys:
        raise ConfigError(*(config.problem(key, "is false, so it is parked") for key in keys))
