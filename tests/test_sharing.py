"""What one attempt proved counts wherever the same credential stands, and for nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from refresher.clock import ManualClock
from refresher.errors import Unavailable
from refresher.model import (
    Actor,
    DueReason,
    FailureRecord,
    ImageRef,
    RegistryRef,
    SecretRef,
    Stage,
    Status,
    Target,
    Trigger,
    Verdict,
)
from refresher.sharing import Sharing
from tests.script import Bench, Issuer

QUARTER = timedelta(minutes=15)


class Pair:
    """Two targets in whose secrets the same credential stands."""

    def __init__(self, clock: ManualClock, **changes: object) -> None:
        self.clock = clock
        self.bench = Bench(clock, observers=self._observers)
        self.one = self._target("one")
        self.other = self._target("other", **changes)
        self.bench.attempt(self.one)
        self.bench.attempt(self.other)

    def _observers(self, bench: Bench) -> list[Sharing]:
        return [Sharing(store=bench.store, held=bench.held, targets=self._targets)]

    def _targets(self) -> dict[str, Target]:
        return {"one": self.one, "other": self.other}

    def _target(self, name: str, **changes: object) -> Target:
        secret = SecretRef("default", "main", name.upper())
        return replace(self.bench.target(name, **changes), secrets=(secret,))

    @property
    def status(self) -> Status:
        return self.bench.status(self.other)

    def change(self, **changes: object) -> Status:
        """Something happened to the other one."""
        return self.bench.store.update("other", lambda old: replace(old or self.status, **changes))  # type: ignore[arg-type]

    def check_one(self) -> None:
        """A quarter of an hour later the first one's check is due."""
        self.clock.advance(QUARTER)
        assert self.bench.attempt(self.one, DueReason.CHECK).failure is None


def test_the_proof_of_one_is_that_of_the_other(clock: ManualClock) -> None:
    pair = Pair(clock)
    pair.check_one()
    assert pair.status.secrets[0].verified_at == clock.now()
    assert pair.status.next_attempt_at == clock.now() + QUARTER
    assert len(pair.bench.store.attempts("other")) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"registry": RegistryRef("b.test", "https://b.test")},
        {"image": ImageRef("app", "latest")},
    ],
    ids=["another registry", "another image"],
)
def test_a_proof_says_nothing_of_another_question(
    clock: ManualClock, changes: dict[str, object]
) -> None:
    pair = Pair(clock, **changes)
    before = pair.status
    pair.check_one()
    assert pair.status == before


def test_a_proof_says_nothing_of_another_credential(clock: ManualClock) -> None:
    pair = Pair(clock, source=Issuer(clock, share_key="another", prefix="another"))
    before = pair.status
    pair.check_one()
    assert pair.status == before


def test_what_stands_there_since_is_not_what_was_proved(clock: ManualClock) -> None:
    """The other one was refreshed meanwhile, and the first one was not yet."""
    pair = Pair(clock)
    secret = replace(pair.status.secrets[0], fingerprint="f" * 16)
    before = pair.change(secrets=(secret,))
    pair.check_one()
    assert pair.status == before


def _failing(pair: Pair) -> None:
    failure = FailureRecord.of(Unavailable("fal is away"), Stage.PUBLISH, pair.clock.now())
    pair.change(consecutive_failures=3, last_failure=failure, next_attempt_at=pair.clock.now())


def _asked(pair: Pair) -> None:
    pair.change(trigger=Trigger("wish", pair.clock.now(), Actor.CLI))


def _changed(pair: Pair) -> None:
    pair.change(digest="before", next_attempt_at=pair.clock.now())


def _put_off(pair: Pair) -> None:
    """The registry refused it, and the loop guard allows the next issue only later."""
    secret = replace(pair.status.secrets[0], verdict=Verdict.FORBIDDEN)
    later = pair.clock.now() + timedelta(minutes=40)
    pair.change(secrets=(secret,), next_attempt_at=later)


@pytest.mark.parametrize("happened", [_failing, _asked, _changed, _put_off])
def test_a_proof_puts_nothing_else_off(
    clock: ManualClock, happened: Callable[[Pair], None]
) -> None:
    """What is due for another reason than the check stays due when it is."""
    pair = Pair(clock)
    happened(pair)
    before = pair.status
    pair.check_one()
    assert pair.status.secrets[0].verified_at == clock.now()
    assert pair.status.next_attempt_at == before.next_attempt_at
    assert pair.status.consecutive_failures == before.consecutive_failures
    assert pair.status.trigger == before.trigger


def test_the_check_is_not_later_than_the_refresh(clock: ManualClock) -> None:
    pair = Pair(clock)
    soon = clock.now() + timedelta(minutes=20)
    pair.change(secrets=(replace(pair.status.secrets[0], refresh_at=soon),))
    pair.check_one()
    assert pair.status.next_attempt_at == soon


def test_a_failed_attempt_shares_what_it_proved_of_what_stands(clock: ManualClock) -> None:
    """AWS is away, the registry is not: one visit tells of all, though no attempt succeeds."""
    pair = Pair(clock)
    pair.bench.issuer.failure = Unavailable("AWS is away")
    clock.advance(timedelta(hours=4))
    assert pair.bench.attempt(pair.one, DueReason.STALE).failure is not None
    assert pair.bench.attempt(pair.other, DueReason.STALE).failure is not None
    assert pair.bench.judge.calls == 2
    assert pair.status.secrets[0].verified_at == clock.now()
