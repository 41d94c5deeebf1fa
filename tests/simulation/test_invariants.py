"""Each invariant can fail: a policy or a peer that is wrong on purpose makes it."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from refresher.model import HeldCredential, Policy, Proof
from refresher.refresh import Refresher
from tests.simulation.fleet import Member
from tests.simulation.keeper import Keeper
from tests.simulation.peers import Registry
from tests.simulation.trace import (
    HOUR,
    Edition,
    Kind,
    Trace,
    Trouble,
)

RENEWABLE = Member("p0-0", "p0", True, "p0", "one")
STATIC = Member("hub-a-0", "hub-a", False, "hub", "one")


def kinds(trace: Trace, directory: Path, *members: Member, **wrong: Any) -> set[str]:
    """The invariants that a run of a trace with these members broke."""
    keeper = Keeper(trace, directory, members=list(members), attentive=True, **wrong)
    return {violation.split()[0] for violation in keeper.run().violations}


def slip(mended: float = math.inf) -> Trace:
    """A person puts a value into the static source that never worked."""
    editions = [Edition(0.0, "good"), Edition(6 * HOUR, "slip", 0.0), Edition(mended, "better")]
    return Trace(days=1, editions={"hub-a": [e for e in editions if e.at < math.inf]})


def away(peer: str, hours: float, kind: Kind = Kind.UNAVAILABLE, start: float = 3.5) -> Trace:
    """A peer is away once."""
    trouble = Trouble(peer, start * HOUR, (start + hours) * HOUR, kind)
    return Trace(days=1, troubles=[trouble], editions={"hub-a": [Edition(0.0, "good")]})


class Flatterer(Registry):
    """A registry that accepts whatever it is shown."""

    def accepts(self, value: str) -> bool:
        return True


class Trusting(Refresher):
    """Takes every credential for proved."""

    def _prove(self, job: Any, held: HeldCredential) -> None:
        job.proof = Proof(self._clock.now())


class Nostalgic(Refresher):
    """Goes back, at its third write, to what it held first."""

    held: tuple[HeldCredential, ...] = ()

    def _publish(self, job: Any, held: HeldCredential, writes: Any) -> None:
        self.held = (*self.held, held)
        super()._publish(job, held if len(self.held) < 3 else self.held[0], writes)


def test_a_quiet_day_breaks_nothing(tmp_path: Path) -> None:
    """The frame of the tests below: what they find is what they put in."""
    assert kinds(away("aws", 0.1), tmp_path, RENEWABLE, STATIC) == set()
    (tmp_path / "slip").mkdir()
    assert kinds(slip(9 * HOUR), tmp_path / "slip", STATIC) == set()


def test_a_secret_that_gets_worse_is_seen(tmp_path: Path) -> None:
    """A registry that accepts a slip of the hand, and fal that then does not."""
    assert kinds(slip(), tmp_path, STATIC, registry=Flatterer) >= {"worse"}


def test_an_unproved_write_is_seen(tmp_path: Path) -> None:
    """A refresher that proves nothing."""
    assert kinds(slip(), tmp_path, STATIC, refresher_class=Trusting) == {"worse", "unproved"}


def test_an_older_value_is_seen(tmp_path: Path) -> None:
    """A refresher that goes back to what it held before."""
    found = kinds(Trace(days=0.4), tmp_path, RENEWABLE, refresher_class=Nostalgic)
    assert found == {"older", "unproved"}


def test_issuing_without_a_guard_is_seen(tmp_path: Path) -> None:
    """A registry that refuses everything, and a policy whose guard is off."""
    nothing = timedelta()
    policy = Policy(
        guard_floor=nothing, guard_fraction=0.0, guard_ceiling=nothing, retry_permanent=nothing
    )
    trace = away("registry/p0", 2, Kind.REFUSING)
    assert "rate" in kinds(trace, tmp_path, RENEWABLE, policy=policy)


def test_a_forgotten_target_is_seen(tmp_path: Path) -> None:
    """A backoff that leaves a target alone for an hour."""
    policy = Policy(retry_first=timedelta(hours=9), retry_cap=timedelta(hours=9))
    assert "forgotten" in kinds(away("aws", 1), tmp_path, RENEWABLE, policy=policy)


@pytest.mark.parametrize("peer", ["aws", "registry/p0", "fal/one"])
def test_a_refresh_that_comes_too_late_is_seen(tmp_path: Path, peer: str) -> None:
    """An outage of 7.7 h costs nothing at a third of the life, and much at its end."""
    trace = replace(away(peer, 7.7), days=2)
    assert kinds(trace, tmp_path, RENEWABLE) == set()
    (tmp_path / "late").mkdir()
    trace, late = replace(away(peer, 7.7, start=6), days=2), Policy(refresh_fraction=0.9)
    assert "stale" in kinds(trace, tmp_path / "late", RENEWABLE, policy=late)


def test_an_early_death_that_is_noticed_too_late_is_seen(tmp_path: Path) -> None:
    """One re-verify interval and one attempt, not three hours."""
    trace = Trace(days=1, revocations={"p0": [5 * HOUR]})
    assert kinds(trace, tmp_path, RENEWABLE) == set()
    (tmp_path / "late").mkdir()
    late = Policy(reverify_interval=timedelta(hours=3))
    assert "stale" in kinds(trace, tmp_path / "late", RENEWABLE, policy=late)


def test_an_error_of_ours_is_seen(tmp_path: Path) -> None:
    """An exception that leaves an attempt is a bug, whatever the secrets look like."""

    class Broken(Refresher):
        def attempt(self, *args: Any) -> Any:
            raise RuntimeError("a bug")

    assert "error" in kinds(Trace(days=0.1), tmp_path, RENEWABLE, refresher_class=Broken)
