"""Commands that do the work themselves: `run`, `token` and `demo`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from refresher.cli import options
from refresher.cli.exits import Exit
from refresher.cli.output import note, say
from refresher.cli.settings import Settings, misconfiguration, require_known
from refresher.errors import ConfigError
from refresher.model import check_publishable

if TYPE_CHECKING:
    from refresher.config import Config


@click.command(epilog="Example: refresher run --config /etc/refresher/refresher.toml")
@click.option("--dry-run", is_flag=True, help="Publish nothing and remember nothing.")
@options.common
@options.settings
def run(settings: Settings, dry_run: bool) -> Exit:
    """Keep every target fresh until told to stop.

    SIGTERM and Ctrl-C stop it, SIGHUP or a changed file reloads the configuration, SIGUSR1
    refreshes all.
    """
    from refresher.cli.composed import Reader
    from refresher.daemon import Daemon, Options

    read = Reader(settings)
    with misconfiguration():
        daemon = Daemon(read, Options(watched=read.watched, dry_run=dry_run))
    with daemon.signals():
        daemon.run()
    return Exit.GOOD


@click.command(
    epilog="Example: refresher token ecr | docker login -u AWS --password-stdin REGISTRY"
)
@options.target(required=True)
@options.common
@options.settings
def token(settings: Settings, name: str) -> Exit:
    """Print a fresh password of TARGET, and nothing else."""
    from refresher import logs
    from refresher.cli.building import targets_of

    logs.configure("console", debug=settings.debug, stream=sys.stderr)
    config = settings.load("nothing")
    require_known([name], config.targets)
    config = config.model_copy(update={"targets": {name: config.targets[name]}})
    problems = list(_unset(settings, config, name))
    if problems:
        raise ConfigError(*problems)
    with targets_of(config) as targets:
        credential = targets[name].source.obtain(datetime.now(UTC))
    check_publishable(credential, datetime.now(UTC))
    if sys.stdout.isatty():
        note("note: this is a password; pipe it to `docker login --password-stdin`")
    say(credential.password.reveal())
    return Exit.GOOD


def _unset(settings: Settings, config: Config, target: str) -> Iterator[str]:
    """Unset variables that the target itself refers to; fal's key is not needed here."""
    from refresher.config import check_references

    for line in check_references(config, settings.environ, files=False):
        path, _, text = line.partition(": ")
        if path.startswith(f"targets.{target}."):
            yield config.problem(path, text)


@click.command(epilog="Example: refresher demo --for 30s")
@click.option(
    "--for", "life", type=options.Duration(), metavar="TIME", help="End by itself after this long."
)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Of the status page; else 9478 where that is free.",
)
@options.debugging
def demo(life: timedelta | None, port: int | None) -> Exit:
    """Show the whole thing against local stand-ins.

    Its passwords live 30 s. Ends with 0 only if the secret held a good one at every moment.
    """
    from refresher.demo import run as run_demo

    good = run_demo(None if life is None else life.total_seconds(), port, say)
    return Exit.GOOD if good else Exit.FAILED
