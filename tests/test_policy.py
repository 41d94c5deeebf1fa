"""When: every number of the design, and that the promises hold for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refresher import policy
from refresher.clock import ManualClock
from refresher.errors import (
    Failure,
    Forbidden,
    Misconfigured,
    Throttled,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from refresher.model import (
    Credential,
    DueReason,
    Hand,
    Life,
    Policy,
    SecretStatus,
    SecretValue,
    SourceValue,
    Status,
    Target,
    Verdict,
)
from tests.conftest import NOON
from tests.script import Bench

HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
TWELVE = 12 * HOUR


@pytest.fixture
def target(clock: ManualClock) -> Iterator[Target]:
    """A renewable target with one secret."""
    bench = Bench(clock)
    yield bench.target()
    bench.store.close()


def published(target: Target, **changes: object) -> Status:
    """A status whose credential was issued at noon for twelve hours, and is good."""
    (ref,) = target.secrets
    secret = SecretStatus(
        ref=ref,
        fingerprint="f",
        issued_at=NOON,
        expires_at=NOON + TWELVE,
        refresh_at=NOON + 4 * HOUR,
        published_at=NOON,
        proved=True,
        verdict=Verdict.ACCEPTED,
        verified_at=NOON,
    )
    status = Status(
        name=target.name,
        digest=target.digest,
        secrets=(secret,),
        next_attempt_at=NOON,
        last_success_at=NOON,
    )
    return replace(status, **changes)  # type: ignore[arg-type]


def of_secret(status: Status, **changes: object) -> Status:
    """The status with its one secret changed."""
    return replace(status, secrets=(replace(status.secrets[0], **changes),))  # type: ignore[arg-type]


@given(seed=st.integers(0, 2**32), life=st.integers(10, 13 * 3600))
def test_a_credential_is_refreshed_between_thirty_and_thirty_three_percent_of_its_life(
    seed: int, life: int
) -> None:
    """1/3 of the returned life minus up to 10 %: for ECR 3.6 to 4 hours of 12."""
    span = timedelta(seconds=life)
    credential = Credential("AWS", SecretValue("x"), NOON, NOON + span)
    at = policy.stale_at(credential, Policy(), None, Random(seed))
    assert at is not None
    assert span * 0.29 <= at - NOON <= span / 3 + timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("age", "expected"),
    [
        (timedelta(), Life.FRESH),
        (4 * HOUR - MINUTE, Life.FRESH),
        (4 * HOUR, Life.STALE),
        (9 * HOUR - MINUTE, Life.STALE),
        (9 * HOUR, Life.URGENT),
        (12 * HOUR, Life.EXPIRED),
    ],
)
def test_a_renewable_life(target: Target, age: timedelta, expected: Life) -> None:
    """fresh, stale after refresh_at, urgent in the last quarter, expired."""
    assert policy.life(target, published(target), NOON + age) is expected


def test_a_target_is_as_bad_as_its_worst_secret(clock: ManualClock) -> None:
    """One environment that was never written makes the target unknown, an expired one expired."""
    bench = Bench(clock)
    target = bench.target(environments=("main", "staging"))
    main, staging = (SecretStatus(ref=ref) for ref in target.secrets)
    good = replace(published(bench.target()).secrets[0], ref=main.ref)
    status = replace(published(bench.target()), secrets=(good, staging))
    assert policy.life(target, status, NOON) is Life.UNKNOWN
    assert policy.valid(target, status, NOON) is None
    dead = replace(good, ref=staging.ref, expires_at=NOON)
    assert policy.life(target, replace(status, secrets=(good, dead)), NOON) is Life.EXPIRED
    assert policy.valid(target, replace(status, secrets=(good, dead)), NOON) is False
    bench.store.close()


def test_validity_is_unknown_once_nobody_could_judge_it_for_two_intervals(target: Target) -> None:
    """valid: true when it last verified, null after two re-verify intervals without a verdict."""
    status = published(target)
    assert policy.valid(target, status, NOON + 30 * MINUTE) is True
    assert policy.valid(target, status, NOON + 30 * MINUTE + timedelta(seconds=1)) is None
    refused = of_secret(status, verdict=Verdict.UNAUTHORIZED)
    assert policy.valid(target, refused, NOON) is False
    assert policy.valid(target, of_secret(status, verdict=Verdict.FORBIDDEN), NOON) is True


@pytest.mark.parametrize(
    ("change", "age", "expected"),
    [
        ({}, timedelta(), None),
        ({"digest": "other"}, timedelta(), DueReason.CONFIG_CHANGED),
        ({}, 4 * HOUR, DueReason.STALE),
        ({}, 9 * HOUR, DueReason.URGENT),
        ({}, 12 * HOUR, DueReason.EXPIRED),
        ({}, 5 * MINUTE, DueReason.UNHELD),
        ({}, 4 * MINUTE, None),
        ({"consecutive_failures": 1}, timedelta(), DueReason.RETRY),
        ({"consecutive_failures": 1, "next_attempt_at": NOON + HOUR}, MINUTE, None),
        ({"paused": True}, 12 * HOUR, None),
    ],
)
def test_why_a_target_is_due(
    target: Target, change: dict[str, object], age: timedelta, expected: DueReason | None
) -> None:
    """The chain of reasons, with nothing held."""
    assert policy.due(target, published(target, **change), Hand(), NOON + age) is expected


def test_a_secret_that_was_never_written_is_missing(target: Target) -> None:
    """`missing` goes before anything else."""
    blank = published(target, secrets=(SecretStatus(ref=target.secrets[0]),), digest="other")
    assert policy.due(target, blank, Hand(), NOON) is DueReason.MISSING


def test_a_parked_target_is_never_due(target: Target) -> None:
    """`enabled = false`."""
    parked = replace(target, enabled=False)
    assert policy.due(parked, published(target), Hand(), NOON + 12 * HOUR) is None


@pytest.mark.parametrize(
    ("failure", "failures", "age", "cap"),
    [
        (Forbidden("x"), 1, timedelta(), 5 * MINUTE),
        (Misconfigured("x"), 9, timedelta(), 5 * MINUTE),
        (Unauthorized("x"), 1, 10 * HOUR, timedelta(seconds=30)),
        (Forbidden("x"), 1, 13 * HOUR, timedelta(seconds=30)),
        (Unavailable("x"), 1, timedelta(), timedelta(seconds=5)),
        (TimedOut("x"), 3, timedelta(), timedelta(seconds=20)),
        (Throttled("x"), 30, timedelta(), 5 * MINUTE),
        (Unavailable("x"), 30, 13 * HOUR, timedelta(seconds=30)),
        (Unavailable("x"), 30, 12 * HOUR - timedelta(seconds=80), timedelta(seconds=10)),
        (Unavailable("x"), 30, 12 * HOUR - timedelta(seconds=1), timedelta(seconds=1)),
    ],
)
def test_the_retry_delay_lies_between_half_of_its_cap_and_all_of_it(
    target: Target, failure: Failure, failures: int, age: timedelta, cap: timedelta
) -> None:
    """Jitter below the cap, so that many targets at the cap do not move as one."""
    status = published(target, consecutive_failures=failures)
    delays = {
        policy.retry_delay(target, status, failure, NOON + age, Random(seed)) for seed in range(50)
    }
    assert cap / 2 <= min(delays)
    assert max(delays) <= cap
    assert len(delays) > 40


@pytest.mark.parametrize(
    ("asked", "least"),
    [
        (timedelta(seconds=40), timedelta(seconds=40)),
        (timedelta(), timedelta(seconds=1)),
        (24 * HOUR, HOUR),
    ],
)
def test_a_peer_that_asks_for_time_gets_it_and_not_more_than_an_hour(
    target: Target, asked: timedelta, least: timedelta
) -> None:
    """Retry-After is a least (RFC 9110); a broken one of a day must not cost a life."""
    failure = Throttled("x", retry_after=asked)
    for seed in range(50):
        delay = policy.retry_delay(target, published(target), failure, NOON, Random(seed))
        assert least <= delay <= least * 1.25


def test_a_refused_static_value_waits_for_an_hour(clock: ManualClock) -> None:
    """Whatever the failure's own reason would say."""
    bench = Bench(clock)
    bench.issuer.renewable = False
    target = bench.target()
    status = published(target, source_value=SourceValue.REJECTED)
    delay = policy.retry_delay(target, status, Unauthorized("x"), NOON, Random(1))
    assert HOUR <= delay <= 1.25 * HOUR
    bench.store.close()


@given(
    life=st.integers(1, 48 * 3600),
    unplanned=st.integers(0, 10_000),
)
def test_the_spacing_of_issues_has_a_floor_and_ends_at_the_refresh_interval(
    life: int, unplanned: int
) -> None:
    """A tenth of the life, 1 to 60 s, doubled up to a third of the life."""
    status = Status(
        name="t",
        digest="d",
        secrets=(),
        next_attempt_at=NOON,
        last_issue_at=NOON,
        last_issue_life=timedelta(seconds=life),
        unplanned_issues=unplanned,
    )
    spacing = policy.issue_spacing(Policy(), status)
    base = min(max(life * 0.1, 1), 60)
    assert base <= spacing.total_seconds() + 1e-6
    assert spacing.total_seconds() <= max(base, life / 3) + 1e-6


def test_a_planned_issue_resets_the_guard(target: Target) -> None:
    """Past refresh_at, or with no issue for a refresh interval, it is planned."""
    status = published(target, last_issue_at=NOON, last_issue_life=TWELVE, unplanned_issues=5)
    assert policy.count_unplanned(target, status, NOON + HOUR) == 6
    assert policy.count_unplanned(target, status, NOON + 4 * HOUR) == 0
    late = of_secret(status, refresh_at=NOON + 40 * HOUR)
    assert policy.count_unplanned(target, late, NOON + 4 * HOUR) == 0


def test_a_credential_in_hand_never_replaces_a_newer_one(clock: ManualClock) -> None:
    """Nothing older than what we know stands there."""
    bench = Bench(clock)
    target = bench.target()
    bench.attempt(target)
    status = bench.status(target)
    hand = bench.held.hand(target, status)
    newer = of_secret(status, issued_at=NOON + MINUTE)
    assert policy.in_hand(target, status, hand, DueReason.RETRY, NOON + MINUTE) is hand.newest
    assert policy.in_hand(target, newer, hand, DueReason.RETRY, NOON + MINUTE) is None
    bench.store.close()
