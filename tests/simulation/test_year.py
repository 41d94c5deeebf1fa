"""A fleet of fifty targets under faults: what must hold does, and it is better than what is used.

`pytest -s` shows the figures.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from refresher.model import Outcome
from tests.simulation import fleet, rivals
from tests.simulation.fleet import Member
from tests.simulation.keeper import Keeper
from tests.simulation.trace import (
    BOUNDARIES,
    DAY,
    HOUR,
    MINUTE,
    Happening,
    Kind,
    Machine,
    Trace,
    Trouble,
    draw,
)

RENEWABLE = Member("p0-0", "p0", True, "p0", "one")


@dataclass(frozen=True, slots=True)
class Report:
    """What one seed came to."""

    seed: int
    seconds: float
    attempts: dict[str, int]
    deaths: int
    outages: int
    violations: list[str]
    #: Of our stale seconds, those of tokens that lived to the end that their issuer had told.
    after_long_outages: float
    #: Ours first.
    outcomes: list[rivals.Outcome]

    def __str__(self) -> str:
        made = ", ".join(f"{count:,} {name}" for name, count in self.attempts.items())
        head = f"seed {self.seed}: {made}; {self.outages} outages, {self.deaths} deaths of the"
        rest = f"of refresher's stale seconds {self.after_long_outages:.0f} not of an early death"
        return f"{head} process; {self.seconds:.0f} s\n{rivals.table(self.outcomes)}\n{rest}"


def simulate(seed: int, days: float, directory: Path, *, attentive: bool = False) -> Report:
    """One trace, through refresher and through the others."""
    started = time.monotonic()
    trace = draw(seed, days, fleet.CAST)
    keeper = Keeper(trace, directory, attentive=attentive)
    watch = keeper.run()
    spans = [spell.span for spell in watch.spells]
    ours = rivals.summary("refresher", spans, watch.destroyed, keeper.world.issues)
    return Report(
        seed=seed,
        seconds=time.monotonic() - started,
        attempts={outcome.value: watch.outcomes[outcome] for outcome in Outcome},
        deaths=keeper.deaths,
        outages=len(trace.troubles),
        violations=watch.violations,
        after_long_outages=sum(s.span.seconds for s in watch.spells if not s.early),
        outcomes=[ours, *(rivals.play(rival, trace, keeper.members) for rival in rivals.RIVALS)],
    )


def check(report: Report) -> None:
    """All invariants held, and nobody else was as good."""
    sys.stdout.write(f"\n{report}\n")
    assert report.violations == []
    ours, *others = report.outcomes
    assert all(ours.stale_seconds < other.stale_seconds for other in others)
    assert ours.destroyed == 0


def test_two_weeks_of_fifty_targets_keeps_every_promise(tmp_path: Path) -> None:
    """Outages, deaths, crashes, suspends and clock jumps: zero stale seconds that need not be."""
    check(simulate(4, 14, tmp_path))


def test_a_day_with_every_proof_made_keeps_every_promise(tmp_path: Path) -> None:
    """The same with all re-verifications of the policy, none of them left out as uneventful."""
    check(simulate(5, 1, tmp_path, attentive=True))


@pytest.mark.parametrize("kind", [Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.THROTTLED])
@pytest.mark.parametrize("peer", ["aws", "registry/p0", "fal/one"])
def test_no_outage_of_up_to_seven_hours_and_three_quarters_costs_a_second(
    tmp_path: Path, peer: str, kind: Kind
) -> None:
    """One after the other, each at another moment of a token's life."""
    starts = [day * DAY + day * 60 * MINUTE for day in range(1, 9)]
    troubles = [Trouble(peer, at, at + 7.75 * HOUR, kind) for at in starts]
    watch = Keeper(Trace(days=10, troubles=troubles), tmp_path, members=[RENEWABLE]).run()
    assert watch.violations == []
    assert watch.stale_seconds == 0
    assert watch.outcomes[Outcome.FAILED] > 8 * 30


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_a_death_at_any_boundary_of_a_stage_costs_nothing(tmp_path: Path, boundary: str) -> None:
    """Whatever was issued, proved or written when the process died unheard."""
    machine = [Machine(at * HOUR, Happening.CRASH, 5.0, boundary) for at in range(3, 70, 5)]
    keeper = Keeper(Trace(days=3, machine=machine), tmp_path, members=[RENEWABLE], attentive=True)
    watch = keeper.run()
    assert watch.violations == []
    assert watch.stale_seconds == 0
    assert keeper.deaths == len(machine)


@pytest.mark.parametrize(
    ("happening", "seconds"),
    [
        (Happening.SUSPEND, 7 * HOUR),
        (Happening.JUMP, HOUR),
        (Happening.JUMP, -HOUR),
        (Happening.RESTART, 7 * HOUR),
    ],
)
def test_sleep_and_a_stepped_clock_cost_nothing(
    tmp_path: Path, happening: Happening, seconds: float
) -> None:
    """Each twice a day or so; a step forwards is followed by one back, and the other way round."""
    signs = itertools.cycle((1, -1) if happening is Happening.JUMP else (1,))
    moments = range(5, 9 * 24, 11)
    machine = [Machine(at * HOUR, happening, seconds * next(signs)) for at in moments]
    trace = Trace(days=10, machine=machine)
    watch = Keeper(trace, tmp_path, members=[RENEWABLE], attentive=True).run()
    assert watch.violations == []
    assert watch.stale_seconds == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_year_of_fifty_targets_keeps_every_promise(tmp_path: Path, seed: int) -> None:
    """The whole cast for 365 days."""
    check(simulate(seed, 365, tmp_path))
