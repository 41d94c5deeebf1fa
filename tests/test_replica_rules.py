"""What several replicas make of one target's status."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from refresher import policy, replicas
from refresher.clock import ManualClock
from refresher.errors import Interrupted
from refresher.model import (
    Actor,
    Attempt,
    Condition,
    DueReason,
    Hand,
    Outcome,
    SecretStatus,
    Status,
    Target,
    Trigger,
)
from refresher.replicas import Alone
from tests.conftest import NOON
from tests.script import Bench
from tests.test_state import any_of, blank

SECOND = timedelta(seconds=1)


class Two(Alone):
    """One of two replicas on one store; the other one does what the test does to the store."""

    replica = "me"

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        #: What happens once a write is announced and before it is made.
        self.meanwhile: Callable[[], None] = lambda: None

    def intend(self, attempt: Attempt, mark: str, *, pressing: bool) -> int:
        status = self._bench.store.update(
            attempt.target, lambda s: replicas.intended(s or blank(), attempt.id, mark)
        )
        self.meanwhile()
        return status.generation


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """Scripted peers around the real refresher and store, in which there is another replica."""
    bench = Bench(clock)
    bench.two = Two(bench)  # type: ignore[attr-defined]
    bench.refresher._replicas = bench.two  # type: ignore[attr-defined]
    yield bench
    bench.store.close()


@pytest.fixture
def bench_target(bench: Bench) -> Target:
    """A renewable target with one secret."""
    return bench.target()


REF = blank().secrets[0].ref


def published(mark: str, seconds: int, verified: int | None = None) -> SecretStatus:
    """A secret with a value that was issued so many seconds after noon."""
    return SecretStatus(
        ref=REF,
        fingerprint=mark,
        issued_at=NOON + seconds * SECOND,
        verified_at=None if verified is None else NOON + verified * SECOND,
    )


def with_secret(status: Status, secret: SecretStatus, tried: int) -> Status:
    return replace(status, secrets=(secret,), last_attempt_at=NOON + tried * SECOND)


# --- order -------------------------------------------------------------------------------------


def test_each_announced_write_is_a_generation() -> None:
    """It rises with each, and tells whose value is on its way."""
    status = replace(blank(), attempt="a1")
    first = replicas.intended(status, "a1", "f1")
    second = replicas.intended(first, "a1", "f2")
    assert (first.generation, first.intent) == (1, "f1")
    assert (second.generation, second.intent) == (2, "f2")


def test_a_write_for_an_attempt_that_was_taken_over_is_not_announced() -> None:
    """Another attempt is under way, or none any more."""
    for other in ("b1", None):
        with pytest.raises(Interrupted, match="nothing was written"):
            replicas.intended(replace(blank(), attempt=other), "a1", "f1")


def test_a_contested_secret_is_written_again_at_once() -> None:
    """Also where one rewrite by others was answered before; nothing is learnt from fal's times."""
    secret = replace(
        published("f1", 0), contested_until=NOON + 100 * SECOND, created_time=NOON - SECOND
    )
    later = NOON + 10 * SECOND
    status = replicas.contested(replace(blank(), secrets=(secret,)), {REF}, later)
    found = status.secret(REF)
    assert policy.to_be_reasserted(found, later)
    assert found.created_time is None
    assert (status.next_attempt_at, status.generation) == (later, 1)


def test_a_secret_that_was_never_published_is_not_contested() -> None:
    """It is `missing`, which is due anyway."""
    assert replicas.contested(blank(), {REF}, NOON).secret(REF) == blank().secret(REF)


def test_a_publish_makes_its_replica_the_holder_and_announces_itself(bench: Bench) -> None:
    """The fingerprint is there before the value is."""
    target = bench.target()
    assert bench.attempt(target).outcome is Outcome.REFRESHED
    status = bench.status(target)
    assert (status.holder, status.generation) == ("me", 1)
    assert status.intent == status.secrets[0].fingerprint
    assert not status.secrets[0].drifted


def test_a_newer_generation_makes_the_target_due_at_once(bench: Bench) -> None:
    """Another replica announced a write while ours was made."""
    target = bench.target()
    bench.adopt(target)
    bench.two.meanwhile = lambda: announce(bench, target)  # type: ignore[attr-defined]
    assert bench.attempt(target).outcome is Outcome.REFRESHED
    status = bench.status(target)
    now = bench.clock.now()
    assert status.next_attempt_at == now
    hand = bench.held.hand(target, status)
    assert policy.due(target, status, hand, now) is DueReason.DRIFTED
    assert policy.in_hand(target, status, hand, DueReason.DRIFTED, now) is not None


def announce(bench: Bench, target: Target) -> None:
    bench.store.update(
        target.name, lambda s: replace(s or blank(), generation=(s or blank()).generation + 1)
    )


def test_a_write_that_a_stop_delayed_makes_the_target_due_at_once(bench: Bench) -> None:
    """The wall clock went on by more than any call may take."""
    target = bench.target()
    bench.adopt(target)
    publish = bench.vault.publish

    def stopped(*arguments: Any) -> None:
        publish(*arguments)
        bench.clock.jump(timedelta(minutes=2))

    bench.vault.publish = stopped  # type: ignore[method-assign]
    assert bench.attempt(target).outcome is Outcome.REFRESHED
    assert bench.status(target).next_attempt_at == bench.clock.now()
    assert bench.status(target).secrets[0].drifted


def test_what_another_replica_recorded_meanwhile_stands(bench: Bench) -> None:
    """It took the target over and published; our late write is noted, and written over at once."""
    target = bench.target()
    bench.adopt(target)
    theirs = replace(published("theirs", 5), ref=target.secrets[0])

    def taken_over() -> None:
        bench.store.update(
            target.name,
            lambda s: replace(
                s or blank(), attempt=None, secrets=(theirs,), holder="other", generation=7
            ),
        )

    bench.two.meanwhile = taken_over  # type: ignore[attr-defined]
    bench.attempt(target)
    status = bench.status(target)
    assert (status.secrets[0].fingerprint, status.holder) == ("theirs", "other")
    assert status.secrets[0].drifted
    assert status.next_attempt_at == bench.clock.now()
    assert (status.generation, status.consecutive_failures) == (8, 0)


def test_a_newer_value_of_an_attempt_that_was_closed_is_what_should_stand(bench: Bench) -> None:
    """It was taken for dead and nobody published since: its value is known, held, and written
    again, rather than the older one that was remembered."""
    target = bench.target()
    bench.attempt(target)
    older = bench.status(target).secrets[0]
    bench.clock.advance(timedelta(hours=5))
    bench.two.meanwhile = lambda: forget_attempt(bench, target)  # type: ignore[attr-defined]
    bench.attempt(target, DueReason.STALE)
    status = bench.status(target)
    newer = status.secrets[0]
    assert newer.issued_at is not None
    assert older.issued_at is not None
    assert newer.issued_at > older.issued_at
    assert (newer.drifted, status.holder) == (True, "me")
    now = bench.clock.now()
    hand = bench.held.hand(target, status)
    assert policy.due(target, status, hand, now) is DueReason.DRIFTED
    assert policy.in_hand(target, status, hand, DueReason.DRIFTED, now) == hand.standing


def forget_attempt(bench: Bench, target: Target) -> None:
    bench.store.update(target.name, lambda s: replace(s or blank(), attempt=None))


def test_an_attempt_that_was_taken_over_before_its_write_writes_and_records_nothing(
    bench: Bench,
) -> None:
    """And counts as no failure of the target."""
    target = bench.target()
    before = bench.adopt(target)
    obtain = bench.issuer.obtain

    def taken_over(now: Any) -> Any:
        credential = obtain(now)
        bench.store.update(target.name, lambda s: replace(s or before, attempt="b1"))
        return credential

    bench.issuer.obtain = taken_over  # type: ignore[method-assign]
    attempt = bench.attempt(target)
    assert attempt.failure is not None
    assert attempt.failure.reason == "interrupted"
    assert bench.standing() is None
    status = bench.status(target)
    assert (status.attempt, status.consecutive_failures, status.last_failure) == ("b1", 0, None)


# --- merging -----------------------------------------------------------------------------------


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(any_of(Status), any_of(Status))
def test_what_only_one_side_changed_is_taken_whole(base: Status, changed: Status) -> None:
    """Whichever side it was."""
    assert replicas.merged(base, changed, base, NOON) == changed
    assert replicas.merged(base, base, changed, NOON) == changed
    assert replicas.merged(base, changed, changed, NOON) == changed


def test_changes_of_different_fields_are_both_kept() -> None:
    """Neither side loses what the other did not touch, and it does not matter who asks."""
    base = blank()
    mine = {"paused": True, "told": Condition.BAD, "last_attempt_at": NOON}
    other = {"trigger": Trigger("w1", NOON, Actor.HTTP), "fresh_after": NOON, "holder": "other"}
    ours, theirs = replace(base, **mine), replace(base, **other)  # type: ignore[arg-type]
    both = replicas.merged(base, ours, theirs, NOON)
    assert both == replicas.merged(base, theirs, ours, NOON)
    assert both == replace(base, **mine, **other)  # type: ignore[arg-type]


def test_of_two_values_the_newer_is_taken_and_contested() -> None:
    """Nobody can tell in which order fal took them."""
    base = with_secret(blank(), published("f0", 0), 0)
    ours = with_secret(base, published("f1", 10), 10)
    theirs = with_secret(base, published("f2", 20), 20)
    for one, other in ((ours, theirs), (theirs, ours)):
        both = replicas.merged(base, one, other, NOON + 30 * SECOND)
        assert both.secret(REF).fingerprint == "f2"
        assert both.secret(REF).drifted
        assert both.next_attempt_at == NOON + 30 * SECOND
        assert both.generation == 1


def test_a_value_that_one_side_published_and_the_other_proved_the_old_of_stands() -> None:
    """A proof of what stood before says nothing of what stands."""
    base = with_secret(blank(), published("f0", 0), 0)
    ours = with_secret(base, published("f0", 0, verified=40), 40)
    theirs = with_secret(base, published("f2", 20), 20)
    for one, other in ((ours, theirs), (theirs, ours)):
        both = replicas.merged(base, one, other, NOON)
        assert both.secret(REF) == published("f2", 20)
        assert both.generation == 0


def test_the_later_proof_of_the_same_value_holds() -> None:
    """Both sides proved it."""
    base = with_secret(blank(), published("f0", 0), 0)
    ours = with_secret(base, published("f0", 0, verified=40), 40)
    theirs = with_secret(base, published("f0", 0, verified=30), 30)
    for one, other in ((ours, theirs), (theirs, ours)):
        assert replicas.merged(base, one, other, NOON).secret(REF) == ours.secret(REF)


def test_a_field_that_both_changed_is_the_later_attempts() -> None:
    """But for the next look, which is the earlier of the two."""
    base = blank()
    ours = replace(
        base,
        consecutive_failures=2,
        last_attempt_at=NOON + SECOND,
        next_attempt_at=NOON + 5 * SECOND,
    )
    theirs = replace(
        base,
        consecutive_failures=7,
        last_attempt_at=NOON + 2 * SECOND,
        next_attempt_at=NOON + 9 * SECOND,
    )
    for one, other in ((ours, theirs), (theirs, ours)):
        both = replicas.merged(base, one, other, NOON)
        assert both.consecutive_failures == 7
        assert both.next_attempt_at == NOON + 5 * SECOND


# --- what is due -------------------------------------------------------------------------------


def test_what_another_live_replica_holds_is_not_unheld_and_its_own_to_reassert(
    bench_target: Target,
) -> None:
    """Here it is nobody's to check; once that replica is gone, it is `unheld`."""
    target = bench_target
    secret = replace(
        published("f1", 0, verified=0), ref=target.secrets[0], expires_at=NOON + 43_200 * SECOND
    )
    status = replace(
        blank(target.name),
        digest=target.digest,
        secrets=(secret,),
        holder="other",
        last_success_at=NOON,
    )
    later = NOON + 1800 * SECOND
    assert policy.due(target, status, Hand(elsewhere=True), later) is None
    assert policy.due(target, status, Hand(), later) == "unheld"
    drifted = replace(status, secrets=(replace(secret, drifted=True),))
    assert policy.due(target, drifted, Hand(elsewhere=True), later) is None
    assert policy.due(target, drifted, Hand(), later) == "drifted"


def test_a_replica_with_the_older_configuration_leaves_alone_what_differs(
    bench_target: Target,
) -> None:
    """Whatever it would be due for, a wish of a person included."""
    target = bench_target
    wished = replace(blank(target.name), digest="newer", trigger=Trigger("w1", NOON, Actor.HTTP))
    assert policy.due(target, wished, Hand(), NOON) == "forced"
    assert policy.due(target, wished, Hand(behind=True), NOON) is None
    same = replace(wished, digest=target.digest)
    assert policy.due(target, same, Hand(behind=True), NOON) == "forced"


def test_a_digest_of_a_config_is_that_of_what_is_kept(bench_target: Target) -> None:
    """The same for the same targets in any order, another for another policy."""
    one, two = bench_target, replace(bench_target, name="two")
    digest = replicas.config_digest({"a": one, "b": two})
    assert replicas.config_digest({"b": two, "a": one}) == digest
    slower = replace(two, policy=replace(two.policy, reverify_interval=timedelta(hours=1)))
    assert replicas.config_digest({"a": one, "b": slower}) != digest
