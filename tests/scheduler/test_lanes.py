"""No account, registry or principal takes all workers, and least of all one that is dead."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from refresher.clock import ManualClock
from refresher.errors import FailureReason
from refresher.model import (
    Actor,
    Attempt,
    DueReason,
    FailureRecord,
    Outcome,
    RegistryRef,
    SecretRef,
    Stage,
    StageTime,
    Target,
)
from refresher.scheduler.lanes import Lanes
from tests.script import Bench, Issuer

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.fixture
def bench(clock: ManualClock) -> Bench:
    return Bench(clock)


def _target(
    bench: Bench, name: str, principal: str = "p", registry: str = "r", account: str = "a"
) -> Target:
    return replace(
        bench.target(name),
        source=Issuer(bench.clock, share_key=principal),
        registry=RegistryRef(registry, f"https://{registry}"),
        secrets=(SecretRef(account, "main", "SECRET"),),
    )


def _lanes(workers: int, *targets: Target) -> Lanes:
    lanes = Lanes(workers)
    lanes.know({target.name: target for target in targets})
    return lanes


def _attempt(
    name: str,
    *stages: Stage,
    failed: Stage | None = None,
    reason: FailureReason = FailureReason.TIMEOUT,
) -> Attempt:
    return Attempt(
        id=name,
        target=name,
        actor=Actor.SCHEDULE,
        reason=DueReason.STALE,
        started_at=NOW,
        ended_at=NOW,
        outcome=Outcome.REFRESHED if failed is None else Outcome.FAILED,
        failure=None if failed is None else FailureRecord(NOW, failed, reason, "away"),
        stages=tuple(StageTime(stage, 8.0) for stage in stages),
    )


def test_what_all_targets_are_on_may_take_every_worker(bench: Bench) -> None:
    lanes = _lanes(4, *(_target(bench, f"t{n}") for n in range(5)))
    for n in range(4):
        assert lanes.room(f"t{n}")
        lanes.enter(f"t{n}")
    assert lanes.full
    assert not lanes.room("t4")


@pytest.mark.parametrize("shared", ["principal", "registry", "account"])
def test_one_of_several_takes_half_of_them(bench: Bench, shared: str) -> None:
    many = [
        _target(
            bench,
            f"t{n}",
            **({"principal": f"p{n}", "registry": f"r{n}", "account": f"a{n}"} | {shared: "x"}),
        )
        for n in range(4)
    ]
    lanes = _lanes(4, *many, _target(bench, "other", "q", "s", "b"))
    for n in range(2):
        lanes.enter(f"t{n}")
    assert not lanes.room("t2")
    assert lanes.room("other")


@pytest.mark.parametrize(
    ("failed", "reason", "silent"),
    [
        (Stage.SOURCE, FailureReason.TIMEOUT, True),
        (Stage.VERIFY, FailureReason.UNAVAILABLE, True),
        (Stage.PUBLISH, FailureReason.TIMEOUT, True),
        (Stage.PUBLISH, FailureReason.UNAUTHORIZED, False),
        (Stage.SOURCE, FailureReason.THROTTLED, False),
        (Stage.STATE, FailureReason.TIMEOUT, False),
    ],
)
def test_what_did_not_answer_gets_one_worker(
    bench: Bench, failed: Stage, reason: FailureReason, silent: bool
) -> None:
    """A refusal is an answer."""
    lanes = _lanes(8, *(_target(bench, f"t{n}") for n in range(4)))
    lanes.enter("t0")
    lanes.leave("t0", _attempt("t0", failed, failed=failed, reason=reason))
    assert lanes.silent("t1") is silent
    lanes.enter("t1")
    assert lanes.room("t2") is not silent


def test_it_gets_all_of_them_again_once_it_answers(bench: Bench) -> None:
    lanes = _lanes(8, *(_target(bench, f"t{n}") for n in range(4)))
    lanes.enter("t0")
    lanes.leave("t0", _attempt("t0", Stage.PUBLISH, failed=Stage.PUBLISH))
    lanes.enter("t1")
    lanes.leave("t1", _attempt("t1", Stage.VERIFY, Stage.PUBLISH))
    assert not lanes.silent("t2")
    lanes.enter("t2")
    assert lanes.room("t3")


def test_only_the_part_that_is_silent_is_waited_for(bench: Bench) -> None:
    """fal is away for one account; principal and registry have answered to the same attempt."""
    lanes = _lanes(8, _target(bench, "dead", account="gone"), _target(bench, "good"))
    lanes.enter("dead")
    lanes.leave(
        "dead", _attempt("dead", Stage.SOURCE, Stage.VERIFY, Stage.PUBLISH, failed=Stage.PUBLISH)
    )
    assert lanes.silent("dead")
    assert not lanes.silent("good")


def test_many_dead_accounts_together_take_half_of_the_workers(bench: Bench) -> None:
    dead = [_target(bench, f"d{n}", f"p{n}", f"r{n}", f"a{n}") for n in range(20)]
    lanes = _lanes(8, *dead, _target(bench, "good"))
    for target in dead:
        lanes.enter(target.name)
        lanes.leave(target.name, _attempt(target.name, Stage.SOURCE, failed=Stage.SOURCE))
    taken = 0
    for target in dead:
        if lanes.room(target.name):
            lanes.enter(target.name)
            taken += 1
    assert taken == 4
    assert lanes.room("good")


def test_a_target_that_is_gone_is_no_trouble(bench: Bench) -> None:
    """A reload in the middle of its attempt."""
    lanes = _lanes(2, _target(bench, "t0", account="gone"))
    lanes.enter("t0")
    lanes.know({"t1": _target(bench, "t1")})
    lanes.leave("t0", _attempt("t0", Stage.PUBLISH, failed=Stage.PUBLISH))
    lanes.enter("t1")
    lanes.leave("t1", None)
    assert not lanes.full
