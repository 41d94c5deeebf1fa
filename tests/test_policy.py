"""When: every number of the design, and that the promises hold for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
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
    NotFound,
    Throttled,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from refresher.model import (
    Actor,
    Credential,
    DueReason,
    Hand,
    HeldCredential,
    Life,
    Policy,
    RegistryRef,
    SecretRef,
    SecretStatus,
    SecretValue,
    SourceValue,
    Status,
    Target,
    Trigger,
    Verdict,
)
from tests.conftest import NOON
from tests.script import Bench, Issuer, Judge

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


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, DueReason.UNHELD),
        ({"consecutive_failures": 3}, DueReason.RETRY),
        ({"paused": True}, None),
    ],
)
def test_a_clock_that_was_set_back_leaves_no_target_waiting(
    target: Target, change: dict[str, object], expected: DueReason | None
) -> None:
    """What was booked an hour ahead by the wrong clock is looked at once, and then booked anew."""
    booked = published(target, next_attempt_at=NOON + 5 * MINUTE, last_attempt_at=NOON, **change)
    before = NOON - HOUR
    assert policy.due(target, booked, Hand(), before) is expected
    looked_at = replace(booked, last_attempt_at=before)
    assert policy.due(target, looked_at, Hand(), before + MINUTE) is None


def test_a_clock_that_was_set_back_does_not_forbid_an_issue(target: Target) -> None:
    """The loop guard counts from an issue that lies behind, never from one that lies ahead."""
    status = published(target, last_issue_at=NOON, last_issue_life=TWELVE)
    assert policy.issue_allowed_at(target, status, NOON) == NOON + MINUTE
    assert policy.issue_allowed_at(target, status, NOON - HOUR) == NOON - HOUR


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


# --- for all inputs ----------------------------------------------------------------------------

_SPANS = st.timedeltas(min_value=-2 * TWELVE, max_value=2 * TWELVE)
_MOMENTS = _SPANS.map(lambda span: NOON + span)
_SOMETIMES = st.none() | _MOMENTS
_FAILURES = st.builds(
    lambda kind, asked: kind("x", retry_after=asked),
    st.sampled_from(
        [Unauthorized, Forbidden, Misconfigured, Throttled, TimedOut, Unavailable, NotFound]
    ),
    st.none() | st.timedeltas(min_value=-HOUR, max_value=48 * HOUR),
)


@st.composite
def targets(draw: st.DrawFn) -> Target:
    """Renewable or static, with one secret or two."""
    secrets = [SecretRef("default", env, "S") for env in ("main", "staging")]
    renewable = draw(st.booleans())
    return Target(
        name="t",
        kind="ecr" if renewable else "oci",
        registry=RegistryRef("registry.test", "https://registry.test"),
        image=None,
        secrets=tuple(secrets[: draw(st.integers(1, 2))]),
        source=Issuer(ManualClock(NOON), renewable=renewable),
        verifier=Judge(ManualClock(NOON)),
        policy=Policy(),
        digest="v1",
        enabled=draw(st.booleans()),
    )


@st.composite
def secret_statuses(draw: st.DrawFn, ref: SecretRef) -> SecretStatus:
    """Never written, or written with whatever times."""
    if draw(st.booleans()):
        return SecretStatus(ref=ref, drifted=draw(st.booleans()))
    return SecretStatus(
        ref=ref,
        fingerprint=draw(st.sampled_from(["a", "b"])),
        issued_at=draw(_MOMENTS),
        expires_at=draw(_SOMETIMES),
        refresh_at=draw(_SOMETIMES),
        published_at=draw(_MOMENTS),
        verdict=draw(st.none() | st.sampled_from(Verdict)),
        verified_at=draw(_SOMETIMES),
    )


@st.composite
def statuses(draw: st.DrawFn, target: Target) -> Status:
    """What may be stored of a target, sensible or not."""
    return Status(
        name=target.name,
        digest=draw(st.sampled_from(["v1", "v0"])),
        secrets=tuple(draw(secret_statuses(ref)) for ref in target.secrets),
        next_attempt_at=draw(_MOMENTS),
        trigger=draw(st.none() | st.builds(Trigger, st.just("x"), _MOMENTS, st.just(Actor.CLI))),
        fresh_after=draw(_SOMETIMES),
        paused=draw(st.booleans()),
        last_attempt_at=draw(_SOMETIMES),
        last_success_at=draw(_SOMETIMES),
        consecutive_failures=draw(st.integers(0, 10**6)),
        learnt_life=draw(st.none() | st.timedeltas(timedelta(seconds=1), TWELVE)),
        last_issue_at=draw(_SOMETIMES),
        last_issue_life=draw(st.none() | st.timedeltas(timedelta(seconds=1), 2 * TWELVE)),
        unplanned_issues=draw(st.integers(0, 10**6)),
        source_value=draw(st.none() | st.sampled_from(SourceValue)),
    )


@st.composite
def situations(draw: st.DrawFn) -> tuple[Target, Status, Hand]:
    """A target, what is stored of it, and what is held."""
    target = draw(targets())
    credentials = st.builds(
        Credential, st.just("AWS"), st.just(SecretValue("x")), _MOMENTS, _SOMETIMES
    )
    held = st.none() | st.builds(
        HeldCredential, credentials, st.sampled_from(["a", "b"]), _SOMETIMES, st.booleans()
    )
    return target, draw(statuses(target)), Hand(standing=draw(held), newest=draw(held))


@given(situations(), _MOMENTS)
def test_every_target_is_due_for_a_reason_or_has_its_time(
    situation: tuple[Target, Status, Hand], now: datetime
) -> None:
    """A parked one is never due, a paused one only when a person asks, any other when it fails."""
    target, status, hand = situation
    reason = policy.due(target, status, hand, now)
    if not target.enabled:
        assert reason is None
    elif status.trigger is not None:
        assert reason is DueReason.FORCED
    elif status.paused or policy.resting(status, now):
        assert reason is None
    elif status.consecutive_failures:
        assert reason is not None or status.fresh_after is not None


@given(situations(), st.sampled_from(DueReason), _MOMENTS)
def test_what_is_handed_on_is_never_refused_stale_or_too_old(
    situation: tuple[Target, Status, Hand], reason: DueReason, now: datetime
) -> None:
    """Nothing older than what stands, than what was asked for, or past its refresh."""
    target, status, hand = situation
    held = policy.in_hand(target, status, hand, reason, now)
    if held is None or reason is DueReason.CHECK:
        return
    issued_at = held.credential.issued_at
    assert not held.refused
    assert held.refresh_at is None or held.refresh_at > now
    assert status.fresh_after is None or issued_at >= status.fresh_after
    assert all(s.issued_at is None or s.issued_at <= issued_at for s in status.secrets)


@given(situations(), _FAILURES, _MOMENTS, st.integers(0, 2**32))
def test_no_failure_is_retried_in_a_loop_or_forgotten(
    situation: tuple[Target, Status, Hand], failure: Failure, now: datetime, seed: int
) -> None:
    """Half a second at the least, five minutes at the most, an hour and a quarter where asked."""
    target, status, _hand = situation
    delay = policy.retry_delay(target, status, failure, now, Random(seed))
    asked = failure.retry_after is not None or status.source_value is SourceValue.REJECTED
    assert timedelta(seconds=0.5) <= delay <= (1.25 * HOUR if asked else 5 * MINUTE)


@given(situations(), _MOMENTS)
def test_a_target_that_succeeded_is_looked_at_within_its_interval(
    situation: tuple[Target, Status, Hand], now: datetime
) -> None:
    """A proof of now leads to the next one, or to a refresh before it; never to nothing."""
    target, status, hand = situation
    proved = tuple(replace(secret, verified_at=now) for secret in status.secrets)
    succeeded = replace(status, secrets=proved, last_success_at=now)
    interval = max(policy.verify_interval(target), target.policy.unheld_after)
    assert policy.next_look(target, succeeded, hand) <= now + interval


@given(situations(), _MOMENTS, st.floats(0, 1, exclude_max=True), st.integers(1, 10_000))
def test_a_restart_looks_at_every_target_within_twenty_minutes(
    situation: tuple[Target, Status, Hand], now: datetime, place: float, many: int
) -> None:
    """Five minutes after its last success, spread over fifteen; never in the past."""
    target, status, _hand = situation
    past = replace(status, last_success_at=now - MINUTE)
    at = policy.resume_at(target, past, now, place, many)
    assert now <= at <= now + 20 * MINUTE


@given(situations(), st.lists(_MOMENTS, min_size=2, max_size=6))
def test_a_life_only_ever_goes_on(
    situation: tuple[Target, Status, Hand], moments: list[datetime]
) -> None:
    """Fresh, stale, urgent, expired: time alone makes none of them better."""
    target, status, _hand = situation
    order = [Life.UNKNOWN, Life.FRESH, Life.STALE, Life.URGENT, Life.EXPIRED]
    for secret in status.secrets:
        lives = [policy.secret_life(target, secret, status, now) for now in sorted(moments)]
        assert lives == sorted(lives, key=order.index)


@given(situations(), _MOMENTS)
def test_no_stored_time_forbids_an_issue_for_longer_than_the_guard(
    situation: tuple[Target, Status, Hand], now: datetime
) -> None:
    """Whatever the clock did: a third of the returned life at the most."""
    target, status, _hand = situation
    wait = policy.issue_allowed_at(target, status, now) - now
    assert wait <= policy.issue_spacing(target.policy, status)
    assert policy.issue_spacing(target.policy, status) <= 8 * HOUR
