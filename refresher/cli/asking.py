"""Commands that ask a running daemon."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta

import click

from refresher.cli import options
from refresher.cli.exits import Exit, exit_after
from refresher.cli.output import note, say_json
from refresher.cli.progress import Line, those
from refresher.cli.settings import Settings
from refresher.cli.shown import (
    say_history,
    say_replicas,
    say_results,
    say_target,
    say_target_history,
    say_targets,
)


def _now() -> datetime:
    return datetime.now(UTC)


@click.command(epilog="Example: refresher refresh ecr --wait 2m")
@options.targets
@click.option("--all", "every", is_flag=True, help="All targets, as one trigger.")
@click.option(
    "--wait",
    type=options.Duration(longest=timedelta(hours=1)),
    default="60s",
    show_default=True,
    metavar="TIME",
    help="How long to wait for the outcome.",
)
@options.retry_refused
@options.output
@options.daemon
@options.settings
def refresh(
    settings: Settings,
    *,
    names: tuple[str, ...],
    every: bool,
    wait: timedelta,
    retry_refused: bool,
    as_json: bool,
) -> Exit:
    """Ask the running daemon to refresh TARGETs now."""
    if bool(names) == every:
        raise click.UsageError("name the targets to refresh, or give --all")
    asked = None if every else list(dict.fromkeys(names))
    line = Line(sys.stderr)
    with settings.client() as client, line.waiting(f"refreshing {those(asked)}", wait):
        attempts = client.refresh(asked, wait, retry_refused=retry_refused)
    if as_json:
        say_json({"attempts": attempts})
    else:
        say_results(attempts)
    if any(attempt["outcome"] is None for attempt in attempts):
        note("note: not done in time; `refresher history` will tell")
    return exit_after(attempts)


@click.command(epilog="Example: refresher status ecr")
@options.target(required=False)
@options.output
@options.daemon
@options.settings
def status(settings: Settings, name: str | None, as_json: bool) -> Exit:
    """Show what stands and what comes next, of one TARGET in detail."""
    with settings.client() as client:
        targets = client.targets() if name is None else [client.target(name)]
        replicas = client.replicas()
    if as_json:
        say_json({"targets": targets, "replicas": replicas})
    elif name is None:
        say_targets(targets, _now())
        say_replicas(replicas, _now())
    else:
        say_target(targets[0], _now())
    return Exit.GOOD


@click.command(epilog="Example: refresher history ecr --limit 100")
@options.target(required=False)
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="At most so many attempts.",
)
@options.output
@options.daemon
@options.settings
def history(settings: Settings, name: str | None, limit: int, as_json: bool) -> Exit:
    """Show the attempts, newest first; of one TARGET in detail."""
    with settings.client() as client:
        names = [target["name"] for target in client.targets()] if name is None else [name]
        found = [attempt for each in names for attempt in client.attempts(each, limit)]
    attempts = sorted(found, key=lambda attempt: attempt["started_at"], reverse=True)[:limit]
    if as_json:
        say_json({"attempts": attempts})
    elif name is None:
        say_history(attempts, _now())
    else:
        say_target_history(attempts, _now())
    return Exit.GOOD


@click.command(epilog="Example: refresher pause ecr")
@options.target(required=True)
@options.output
@options.daemon
@options.settings
def pause(settings: Settings, name: str, as_json: bool) -> Exit:
    """Stop keeping TARGET until it is resumed. What stands in fal is left alone."""
    return _change(settings, name, "pause", as_json)


@click.command(epilog="Example: refresher resume ecr")
@options.target(required=True)
@options.output
@options.daemon
@options.settings
def resume(settings: Settings, name: str, as_json: bool) -> Exit:
    """Keep TARGET again, with a look at once."""
    return _change(settings, name, "resume", as_json)


def _change(settings: Settings, name: str, verb: str, as_json: bool) -> Exit:
    with settings.client() as client:
        target = client.pause(name) if verb == "pause" else client.resume(name)
    if as_json:
        say_json({"targets": [target]})
    else:
        say_targets([target], _now())
    return Exit.GOOD
