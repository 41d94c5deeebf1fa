"""The HTML. Whatever comes from outside is escaped by the templates."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING

from refresher import __version__
from refresher.model import Attempt, Status, Target
from refresher.view import ReplicaView, expires_at, timestamp
from refresher.web import coming, facts, fleet, gauge, plot, runs, standing, words
from refresher.web.fleet import STATES, Filter, Row

if TYPE_CHECKING:
    from jinja2 import Environment

#: Runs of attempts in a target's table.
_RUNS_SHOWN = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What the page says of the daemon itself."""

    now: datetime
    #: When the scheduler last looked at what is due; None before the first time.
    ticked_at: datetime | None
    #: Why a restart would help, in words; None while the loop turns.
    stuck: str | None
    #: False while the state cannot be written.
    state_up: bool
    #: Why the configuration was not read when it last changed; None while it was.
    config_problem: str | None
    #: Whether anyone may ask for a refresh, with a token or without.
    writable: bool
    #: Who shares the state; none where nobody can.
    replicas: Sequence[ReplicaView] = ()

    @property
    def differ(self) -> bool:
        """Whether not all that live keep the same targets alike."""
        return len({each["config"] for each in self.replicas if each["alive"]}) > 1


def fleet_page(targets: Iterable[tuple[Target, Status]], wanted: Filter, process: Process) -> str:
    """The page of all targets."""
    found = fleet.fleet(targets, wanted, process.now)
    return _render(
        "fleet.html",
        process,
        fleet=found,
        headline=fleet.headline(found),
        wanted=wanted,
        states=STATES,
    )


def target_page(
    target: Target, status: Status, attempts: Sequence[Attempt], process: Process
) -> str:
    """The page of one target; `attempts` are the newest first."""
    now = process.now
    word = standing.standing(target, status, now)
    return _render(
        "target.html",
        process,
        row=Row(target, status, word, expires_at(target, status)),
        facts=list(facts.facts(target, status, now)),
        plot=plot.plot(target, status, attempts, now),
        runs=list(islice(runs.runs(attempts), _RUNS_SHOWN)),
    )


def missing_page(detail: str, process: Process) -> str:
    """The page of a target that is not configured; `detail` says so."""
    return _render("missing.html", process, detail=detail)


@cache
def asset(name: str) -> bytes:
    """A file that the pages refer to."""
    return resources.files(__package__).joinpath("static", name).read_bytes()


def _render(template: str, process: Process, **context: object) -> str:
    return (
        _environment()
        .get_template(template)
        .render(process=process, now=process.now, version=__version__, **context)
    )


@cache
def _environment() -> Environment:
    """Made for the first page: many daemons are only scraped, and it takes megabytes."""
    from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415 - see above

    environment = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.globals.update(
        gauge=gauge.gauge,
        coming=coming.coming,
        in_progress=coming.in_progress,
        notes=standing.notes,
        secret_state=facts.secret_state,
        timestamp=timestamp,
        relative=words.relative,
        absolute=words.absolute,
        span=words.span,
        number=words.number,
        failed_stage=words.failed_stage,
        told=words.told,
    )
    return environment
