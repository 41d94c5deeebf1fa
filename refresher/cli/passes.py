"""One pass over targets: by ourselves, or by the daemon that has the state. Slow to import."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TextIO, cast

from refresher import logs, policy
from refresher.cli.output import note, span
from refresher.cli.progress import Line, those
from refresher.cli.settings import Settings, misconfiguration, require_known
from refresher.cli.shown import Skipped
from refresher.client import LONGEST_WAIT, Answer, Client
from refresher.clock import SystemClock
from refresher.config import Config
from refresher.engine import Engine, running
from refresher.errors import DaemonError, DaemonRefused, StateError
from refresher.model import Actor, Status, Target
from refresher.state import StateInUse
from refresher.view import TargetView, attempt_view, target_view, with_status


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for."""

    #: Targets by name; none means all that are enabled and not paused.
    names: tuple[str, ...] = ()
    #: Leave alone what was issued less than this ago.
    max_age: timedelta | None = None
    #: Also try a value again that the registry refused less than an hour ago.
    retry_refused: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """What became of it."""

    attempts: Sequence[Answer]
    skipped: Sequence[Skipped]


def go(settings: Settings, config: Config, wish: Wish) -> Pass:
    """Make the attempts that are wished for, and wait for them.

    Raises `StateError` where another process has the state and does not answer.
    """
    line = Line(sys.stderr)
    _log_to(line, settings, config)
    try:
        return _alone(config, wish, line)
    except StateInUse as owned:
        return _beside(settings, wish, owned, line)


def _log_to(line: Line, settings: Settings, config: Config) -> None:
    """Standard output is the result's. Who sees the line need not read each step as well."""
    stream = cast("TextIO", line)
    logs.configure(config.daemon.log_format, debug=settings.debug, stream=stream)
    if line.seen and not (settings.verbose or settings.debug):
        logging.getLogger("refresher").setLevel(logging.WARNING)


# --- which targets -----------------------------------------------------------------------------


def choose(
    targets: Sequence[TargetView],
    wish: Wish,
    now: datetime,
    changed: Set[str] = frozenset(),
) -> tuple[list[str], list[Skipped]]:
    """The names to refresh, and what is left alone with the reason.

    `changed`: targets whose credential is not what is wanted any more, whatever its age.
    """
    asked = [t for t in targets if t["enabled"] and (not wish.names or t["name"] in wish.names)]
    reasons = {target["name"]: _why_not(target, wish, now, changed) for target in asked}
    chosen = [name for name, why in reasons.items() if why is None]
    return chosen, [(name, why) for name, why in reasons.items() if why is not None]


def _why_not(target: TargetView, wish: Wish, now: datetime, changed: Set[str]) -> str | None:
    """Why a target is left alone; None where it is not."""
    if target["paused"] and not wish.names:
        return "paused"
    if wish.max_age is None or target["valid"] is False or target["name"] in changed:
        return None
    issued = [secret["issued_at"] for secret in target["secrets"]]
    ages = [now - datetime.fromisoformat(at) for at in issued if at is not None]
    if len(ages) < len(issued) or max(ages) >= wish.max_age:
        return None
    return f"issued {span(max(ages))} ago"


# --- by ourselves ------------------------------------------------------------------------------


def _alone(config: Config, wish: Wish, line: Line) -> Pass:
    with misconfiguration():
        engine = Engine(config, clock=SystemClock())
    with running(engine):
        names, skipped = _choose_here(engine, wish)
        # Whatever else is due is not this command's to do.
        chosen = {name: config.targets[name] for name in names}
        engine.use(config.model_copy(update={"targets": chosen}))
        engine.take_up()
        ids = engine.control.refresh(names, Actor.CLI, retry_refused=wish.retry_refused)
        with line.waiting(f"refreshing {those(names)}"):
            engine.scheduler.run_once(ids, engine.stopping)
        attempts = [engine.store.attempt(each) for each in ids.values()]
        engine.tidy(config)
    return Pass([attempt_view(attempt) for attempt in attempts if attempt], skipped)


def _choose_here(engine: Engine, wish: Wish) -> tuple[list[str], list[Skipped]]:
    if wish.max_age is not None:
        engine.find_drift()
    now = engine.clock.now()
    rows = with_status(engine.targets, engine.store.statuses(), now)
    changed = {target.name for target, status in rows if _has_changed(target, status, now)}
    views = [target_view(target, status, now) for target, status in rows]
    return choose(views, wish, now, changed)


def _has_changed(target: Target, status: Status, now: datetime) -> bool:
    """Whether the configuration or somebody at fal changed what is wanted or what stands."""
    drifted = any(policy.to_be_reasserted(secret, now) for secret in status.secrets)
    return drifted or status.digest != target.digest


# --- by the daemon -----------------------------------------------------------------------------


def _beside(settings: Settings, wish: Wish, owned: StateInUse, line: Line) -> Pass:
    with settings.client() as client:
        targets = _ask(client, owned)
        note(f"note: a daemon has the state; asking it at {client.url}")
        require_known(wish.names, [target["name"] for target in targets])
        names, skipped = choose(targets, wish, SystemClock().now())
        if not names:
            return Pass([], skipped)
        with line.waiting(f"refreshing {those(names)}"):
            attempts = client.refresh(names, LONGEST_WAIT, retry_refused=wish.retry_refused)
    return Pass(attempts, skipped)


def _ask(client: Client, owned: StateInUse) -> list[TargetView]:
    try:
        return client.targets()
    except DaemonRefused:
        raise
    except DaemonError as error:
        raise StateError(f"{owned.message}; and {error.message}") from error
