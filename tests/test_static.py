"""Credentials that only a person can replace: watched, published when they change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from refresher import policy, record
from refresher.clock import ManualClock
from refresher.errors import FailureReason, Throttled, Unavailable
from refresher.model import Actor, DueReason, Life, Outcome, SourceValue, Target, Trigger
from tests.script import Bench

HOUR = timedelta(hours=1)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """A static source of the value `first`, with no known expiry."""
    bench = Bench(clock)
    bench.issuer.renewable = False
    bench.issuer.value = "first"
    bench.issuer.life = None
    yield bench
    bench.store.close()


@pytest.fixture
def target(bench: Bench) -> Target:
    """A Docker Hub token that stands in fal."""
    target = bench.target("hub", kind="dockerhub", username="me")
    assert bench.attempt(target).outcome is Outcome.REFRESHED
    return target


def change_value(bench: Bench, target: Target, value: str) -> None:
    """What the watch on the source does when it sees another value."""
    bench.issuer.value = value
    now = bench.clock.now()
    status = bench.status(target)
    bench.store.update(target.name, lambda old: record.value_changed(old or status, now))


def due(bench: Bench, target: Target) -> DueReason | None:
    """Why the target is due now."""
    status = bench.status(target)
    return policy.due(target, status, bench.held.hand(target, status), bench.clock.now())


def test_a_good_value_is_checked_and_not_written_again(bench: Bench, target: Target) -> None:
    """`checked`: verified, nothing to write; it counts as a success of a static target."""
    bench.clock.advance(HOUR)
    assert due(bench, target) is DueReason.CHECK
    assert bench.attempt(target, DueReason.CHECK).outcome is Outcome.CHECKED
    assert bench.vault.writes == [("main", "first")]
    assert bench.status(target).last_success_at == bench.clock.now()
    assert bench.status(target).source_value is SourceValue.OK


def test_a_changed_value_is_verified_and_published(bench: Bench, target: Target) -> None:
    """A rotated token in a mounted file goes out by itself."""
    bench.clock.advance(timedelta(minutes=1))
    change_value(bench, target, "second")
    assert due(bench, target) is DueReason.VALUE_CHANGED
    assert bench.attempt(target, DueReason.VALUE_CHANGED).outcome is Outcome.REFRESHED
    assert bench.standing() == "second"
    assert due(bench, target) is None


def test_a_bad_new_value_alarms_while_the_old_one_stays(bench: Bench, target: Target) -> None:
    """Promise 2: what may still work is not replaced, and `valid` speaks of what stands."""
    bench.clock.advance(timedelta(minutes=1))
    bench.judge.refused = {"typo"}
    change_value(bench, target, "typo")
    attempt = bench.attempt(target, DueReason.VALUE_CHANGED)
    assert attempt.failure is not None
    assert attempt.failure.reason is FailureReason.UNAUTHORIZED
    assert bench.standing() == "first"
    status = bench.status(target)
    assert status.source_value is SourceValue.REJECTED
    assert policy.valid(target, status, bench.clock.now()) is True


def test_a_refused_value_is_left_alone_for_an_hour(bench: Bench, target: Target) -> None:
    """Bursts of credential checks lock the account out: one try, then an hour of silence."""
    bench.judge.refused = {"first"}
    bench.clock.advance(6 * HOUR)
    bench.attempt(target, DueReason.CHECK)
    calls = bench.judge.calls
    assert policy.valid(target, bench.status(target), bench.clock.now()) is False
    wait = bench.status(target).next_attempt_at - bench.clock.now()
    assert HOUR <= wait <= 1.25 * HOUR

    bench.clock.advance(timedelta(minutes=30))
    bench.attempt(target, DueReason.RETRY)
    assert bench.judge.calls == calls
    bench.clock.advance(timedelta(minutes=30))
    bench.attempt(target, DueReason.RETRY)
    assert bench.judge.calls == calls + 1


def test_a_person_cannot_force_a_refused_hub_value_by_accident(
    bench: Bench, target: Target
) -> None:
    """`forced` is held back as well; only `--retry-refused` asks the registry again."""
    bench.judge.refused = {"first"}
    bench.clock.advance(6 * HOUR)
    bench.attempt(target, DueReason.CHECK)
    calls = bench.judge.calls
    for retry_refused, more in ((False, 0), (True, 1)):
        wish = Trigger("wish", bench.clock.now(), Actor.CLI, retry_refused=retry_refused)
        status = bench.status(target)
        bench.store.update("hub", lambda old, w=wish, s=status: record.forced(old or s, w))
        attempt = bench.refresher.attempt(target, DueReason.FORCED, Actor.CLI, "wish")
        assert attempt.outcome is Outcome.FAILED
        assert bench.judge.calls == calls + more


def test_one_refusal_counts_for_all_targets_of_a_user_and_value(
    bench: Bench, target: Target
) -> None:
    """Ten targets with one dead token ask once, also after a restart."""
    bench.judge.refused = {"first"}
    bench.clock.advance(6 * HOUR)
    bench.attempt(target, DueReason.CHECK)
    calls = bench.judge.calls
    again = Bench(bench.clock, earlier=bench)
    other = replace(target, name="other")
    attempt = again.attempt(other)
    assert attempt.failure is not None
    assert "refused this value before" in attempt.failure.message
    assert bench.judge.calls == calls


def test_a_changed_value_is_tried_at_once_after_a_refusal(bench: Bench, target: Target) -> None:
    """The hour is for the refused value, not for its successor."""
    bench.judge.refused = {"first"}
    bench.clock.advance(6 * HOUR)
    bench.attempt(target, DueReason.CHECK)
    bench.clock.advance(timedelta(minutes=1))
    change_value(bench, target, "second")
    assert due(bench, target) is DueReason.VALUE_CHANGED
    assert bench.attempt(target, DueReason.VALUE_CHANGED).outcome is Outcome.REFRESHED


def test_a_lock_out_says_nothing_about_the_credential(bench: Bench, target: Target) -> None:
    """429: wait as long as told, `valid` stays what it was."""
    bench.clock.advance(6 * HOUR)
    bench.judge.failure = Throttled("locked out", retry_after=HOUR)
    bench.attempt(target, DueReason.CHECK)
    status = bench.status(target)
    assert status.source_value is SourceValue.OK
    assert status.next_attempt_at - bench.clock.now() >= HOUR


def test_without_an_expiry_it_is_fresh_and_never_stale(bench: Bench, target: Target) -> None:
    """Static: fresh, urgent from 7 days ahead, expired."""
    bench.clock.advance(timedelta(days=400))
    assert policy.life(target, bench.status(target), bench.clock.now()) is Life.FRESH


def test_a_known_end_makes_no_static_credential_stale(bench: Bench) -> None:
    """It has no `refresh_at`, so past a third of its life the next look still lies ahead."""
    bench.issuer.life = timedelta(days=90)
    target = bench.target("hub", kind="dockerhub", username="me")
    bench.attempt(target)
    bench.clock.advance(timedelta(days=50))
    bench.attempt(target, DueReason.CHECK)
    status = bench.status(target)
    assert status.secrets[0].refresh_at is None
    assert status.next_attempt_at == bench.clock.now() + HOUR


def test_the_end_is_announced_at_thirty_fourteen_seven_and_one_days(bench: Bench) -> None:
    """Each warning once, and urgent for the last week."""
    bench.issuer.life = timedelta(days=40)
    target = bench.target("hub", kind="dockerhub", username="me")
    bench.attempt(target)
    given = []
    for day in range(41):
        status, now = bench.status(target), bench.clock.now()
        ahead = policy.warning(target, status, now)
        if ahead is not None:
            given.append((day, ahead.days))
            bench.store.update("hub", lambda old, s=status, a=ahead: replace(old or s, warned=a))
        expected = Life.FRESH if day < 33 else Life.URGENT if day < 40 else Life.EXPIRED
        assert policy.life(target, status, now) is expected
        bench.clock.advance(timedelta(days=1))
    assert given == [(10, 30), (26, 14), (33, 7), (39, 1)]


def test_an_unreachable_registry_leaves_the_verdict_and_retries(
    bench: Bench, target: Target
) -> None:
    """`unavailable` is no verdict: the value stands as it was judged before."""
    bench.clock.advance(HOUR)
    bench.judge.failure = Unavailable("away")
    bench.attempt(target, DueReason.CHECK)
    status = bench.status(target)
    assert status.source_value is SourceValue.OK
    assert status.next_attempt_at - bench.clock.now() <= timedelta(seconds=5)


def test_a_corrected_expiry_takes_effect_at_the_next_check(bench: Bench, target: Target) -> None:
    """`expires_on` was added to the config; the token is the same."""
    bench.issuer.life = timedelta(days=3)
    bench.clock.advance(6 * HOUR)
    assert bench.attempt(target, DueReason.CHECK).outcome is Outcome.CHECKED
    (secret,) = bench.status(target).secrets
    assert secret.expires_at == bench.clock.now() + timedelta(days=3)
    assert policy.life(target, bench.status(target), bench.clock.now()) is Life.URGENT
