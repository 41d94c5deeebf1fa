"""The ladder: obtain, verify, publish, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from refresher import policy, record
from refresher.clock import ManualClock
from refresher.errors import (
    Failure,
    FailureReason,
    Forbidden,
    InvalidCredential,
    Throttled,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from refresher.model import (
    Actor,
    Credential,
    DueReason,
    ImageRef,
    Outcome,
    Proof,
    Pull,
    RegistryRef,
    Stage,
    Target,
    Trigger,
    Verdict,
)
from tests.script import Bench, Judge


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """Scripted peers around the real refresher and store."""
    bench = Bench(clock)
    yield bench
    bench.store.close()


def due(bench: Bench, target: Target) -> DueReason | None:
    """Why the target is due now."""
    status = bench.status(target)
    return policy.due(target, status, bench.held.hand(target, status), bench.clock.now())


def test_a_first_attempt_issues_proves_publishes_and_records(bench: Bench) -> None:
    """The main job in one attempt."""
    target = bench.target()
    attempt = bench.attempt(target)

    assert attempt.outcome is Outcome.REFRESHED
    assert attempt.verified
    assert [stage.stage for stage in attempt.stages] == [Stage.SOURCE, Stage.VERIFY, Stage.PUBLISH]
    assert bench.standing() == "token-1"
    status = bench.status(target)
    (secret,) = status.secrets
    assert secret.proved
    assert secret.verdict is Verdict.ACCEPTED
    assert secret.expires_at == bench.clock.now() + timedelta(hours=12)
    assert status.last_success_at == bench.clock.now()
    assert status.consecutive_failures == 0
    assert bench.observed == [attempt]


@pytest.mark.parametrize("failure", [Unavailable("away"), Throttled("slow"), TimedOut("late")])
def test_nothing_unproved_is_written_over_what_may_still_work(
    bench: Bench, failure: Failure
) -> None:
    """Promise 2: the registry gave no verdict, so the secret stays as it is."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(hours=4))
    bench.judge.failure = failure

    attempt = bench.attempt(target, DueReason.STALE)

    assert attempt.outcome is Outcome.FAILED
    assert attempt.failure is not None
    assert (attempt.failure.stage, attempt.failure.reason) == (Stage.VERIFY, failure.reason)
    assert bench.standing() == "token-1"
    assert policy.valid(target, bench.status(target), bench.clock.now()) is None


def test_a_first_secret_is_never_written_unproved(bench: Bench) -> None:
    """What stands in fal before our first write is unknown, so it may still work."""
    bench.judge.failure = Unavailable("away")
    assert bench.attempt(bench.target()).outcome is Outcome.FAILED
    assert bench.standing() is None


def test_an_expired_secret_is_replaced_even_unproved_and_then_proved(bench: Bench) -> None:
    """Proof before write: what is certainly dead may be replaced by what nobody could judge."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(hours=12, seconds=1))
    bench.judge.failure = Unavailable("away")

    attempt = bench.attempt(target, DueReason.EXPIRED)

    assert attempt.outcome is Outcome.REFRESHED
    assert not attempt.verified
    assert bench.standing() == "token-2"
    (secret,) = bench.status(target).secrets
    assert not secret.proved
    assert policy.valid(target, bench.status(target), bench.clock.now()) is None

    bench.judge.failure = None
    bench.clock.advance(timedelta(seconds=60))
    assert due(bench, target) is DueReason.CHECK
    assert bench.attempt(target, DueReason.CHECK).outcome is Outcome.CHECKED
    assert policy.valid(target, bench.status(target), bench.clock.now()) is True


def test_verify_always_forbids_an_unproved_write(bench: Bench) -> None:
    """`verify = "always"` holds even when what stands is dead."""
    target = bench.target(verify_always=True)
    bench.attempt(target)
    bench.clock.advance(timedelta(hours=13))
    bench.judge.failure = Unavailable("away")
    assert bench.attempt(target, DueReason.EXPIRED).outcome is Outcome.FAILED
    assert bench.standing() == "token-1"


def test_a_refused_standing_credential_is_replaced_once_and_not_in_a_loop(bench: Bench) -> None:
    """403 "security token invalid" between refreshes: one new issue, then `forbidden`."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(minutes=15))
    bench.judge.refused = {"token-1", "token-2", "token-3"}

    assert due(bench, target) is DueReason.CHECK
    check = bench.attempt(target, DueReason.CHECK)
    assert check.failure is not None
    assert check.failure.reason is FailureReason.UNAUTHORIZED
    assert policy.valid(target, bench.status(target), bench.clock.now()) is False
    assert due(bench, target) is DueReason.REJECTED

    attempt = bench.attempt(target, DueReason.REJECTED)
    assert bench.issuer.issued == 2
    assert attempt.failure is not None
    assert attempt.failure.reason is FailureReason.FORBIDDEN
    assert bench.standing() == "token-1"
    assert due(bench, target) is None
    allowed = policy.issue_allowed_at(target, bench.status(target), bench.clock.now())
    assert allowed - bench.clock.now() == timedelta(minutes=2)


def test_a_credential_that_died_early_is_replaced_and_its_life_is_learnt(bench: Bench) -> None:
    """Token dies before `expiresAt`: from then on it is refreshed at half of its real life."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(hours=1))
    bench.judge.refused = {"token-1"}
    bench.attempt(target, DueReason.CHECK)
    assert bench.attempt(target, DueReason.REJECTED).outcome is Outcome.REFRESHED

    assert bench.standing() == "token-2"
    status = bench.status(target)
    assert status.learnt_life == timedelta(hours=1)
    (secret,) = status.secrets
    assert secret.refresh_at is not None
    span = secret.refresh_at - bench.clock.now()
    assert timedelta(minutes=27) <= span <= timedelta(minutes=30)


def test_the_loop_guard_doubles_with_every_unplanned_issue(bench: Bench) -> None:
    """Hot loop, runaway issuing: successes do not reset the guard."""
    target = bench.target()
    bench.attempt(target)
    spacings = []
    for _ in range(10):
        status = bench.status(target)
        spacings.append(policy.issue_spacing(target.policy, status))
        bench.clock.advance(spacings[-1])
        wish = Trigger("x", bench.clock.now(), Actor.CLI)
        bench.store.update(target.name, lambda old, w=wish: record.forced(old, w))
        bench.attempt(target, DueReason.REJECTED)
    assert spacings[0] == timedelta(seconds=60)
    assert spacings[1:4] == [timedelta(seconds=60) * 2**n for n in (1, 2, 3)]
    assert max(spacings) == timedelta(hours=4)


def test_a_retry_resumes_at_the_failed_stage_with_the_credential_in_hand(bench: Bench) -> None:
    """fal was away: the same value is sent again, nothing new is issued."""
    target = bench.target()
    bench.vault.failures["main"] = TimedOut("fal did not answer")
    first = bench.attempt(target)
    assert first.failure is not None
    assert first.failure.stage is Stage.PUBLISH

    bench.vault.failures.clear()
    bench.clock.advance(timedelta(seconds=5))
    assert due(bench, target) is DueReason.RETRY
    retry = bench.attempt(target, DueReason.RETRY)

    assert retry.outcome is Outcome.REFRESHED
    assert [stage.stage for stage in retry.stages] == [Stage.PUBLISH]
    assert bench.issuer.issued == 1
    assert bench.judge.calls == 1


def test_a_proof_older_than_a_minute_is_made_again_before_a_write(bench: Bench) -> None:
    """The retry comes late: the credential in hand is proved once more."""
    target = bench.target()
    bench.vault.failures["main"] = Unavailable("away")
    bench.attempt(target)
    bench.vault.failures.clear()
    bench.clock.advance(timedelta(seconds=61))
    retry = bench.attempt(target, DueReason.RETRY)
    assert [stage.stage for stage in retry.stages] == [Stage.VERIFY, Stage.PUBLISH]
    assert bench.issuer.issued == 1


class Drowsy(Judge):
    """A registry after whose first answer the machine sleeps; what it accepted may be dead then."""

    dies: bool = False

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        proof = super().verify(registry, credential, image)
        if self.calls == 1:
            self.clock.jump(timedelta(hours=4))
            self.refused = {credential.password.reveal()} if self.dies else set()
        return proof


@pytest.mark.parametrize(("dies", "standing"), [(False, "token-1"), (True, None)])
def test_a_machine_that_slept_after_the_proof_proves_again_before_the_write(
    bench: Bench, dies: bool, standing: str | None
) -> None:
    """Suspend: what was proved four hours ago may not work any more."""
    judge = Drowsy(bench.clock)
    judge.dies = dies
    attempt = bench.attempt(bench.target(verifier=judge))
    assert judge.calls == 2
    assert bench.standing() == standing
    assert attempt.verified is not dies
    assert attempt.outcome is (Outcome.FAILED if dies else Outcome.REFRESHED)


def test_each_environment_is_reported_and_retried_on_its_own(bench: Bench) -> None:
    """One environment fails: the attempt failed, and only that one is written again."""
    target = bench.target(environments=("main", "staging"))
    bench.vault.failures["staging"] = Forbidden("no")
    attempt = bench.attempt(target)

    assert attempt.outcome is Outcome.FAILED
    status = bench.status(target)
    main, staging = status.secrets
    assert main.fingerprint is not None
    assert main.last_failure is None
    assert staging.fingerprint is None
    assert staging.last_failure is not None

    bench.vault.failures.clear()
    bench.clock.advance(timedelta(minutes=5))
    bench.attempt(target, DueReason.RETRY)
    assert bench.vault.writes == [("main", "token-1"), ("staging", "token-1")]


def test_one_issue_serves_all_targets_of_a_share_key(bench: Bench) -> None:
    """A token under 60 s old is published to the other targets too."""
    targets = [bench.target(name) for name in ("a", "b", "c")]
    for target in targets:
        bench.attempt(target)
    assert bench.issuer.issued == 1
    marks = {bench.status(target).secrets[0].refresh_at for target in targets}
    assert len(marks) == 1


def test_a_shared_token_older_than_a_minute_is_not_handed_on(bench: Bench) -> None:
    """A later target gets a token of its own."""
    bench.attempt(bench.target("a"))
    bench.clock.advance(timedelta(seconds=61))
    bench.attempt(bench.target("b"))
    assert bench.issuer.issued == 2


def test_forced_issues_anew_even_with_a_young_token_in_hand(bench: Bench) -> None:
    """For `forced`, only a token issued after the trigger serves."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(seconds=1))
    wish = Trigger("wish", bench.clock.now(), Actor.CLI)
    bench.store.update(target.name, lambda old: record.forced(old, wish))
    assert due(bench, target) is DueReason.FORCED
    attempt = bench.refresher.attempt(target, DueReason.FORCED, Actor.CLI, "wish")
    assert attempt.outcome is Outcome.REFRESHED
    assert bench.standing() == "token-2"
    assert bench.status(target).trigger is None


@pytest.mark.parametrize("value", ["", " ", "a\nb", "a\rb", "a\0b", "x" * 65536])
def test_an_unusable_value_is_never_published(bench: Bench, value: str) -> None:
    """Good secret destroyed: an empty or broken value ends as `invalid_credential`."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(hours=4))
    bench.issuer.value = value
    attempt = bench.attempt(target, DueReason.STALE)
    assert attempt.failure is not None
    assert attempt.failure.reason is FailureReason.INVALID_CREDENTIAL
    assert bench.standing() == "token-1"
    if value.strip():
        assert value not in attempt.failure.message


def test_an_answer_of_the_issuer_counts_for_the_guard_and_no_answer_does_not(
    bench: Bench,
) -> None:
    """`invalid_credential` was an issue; `unavailable` was none."""
    target = bench.target()
    bench.issuer.failure = Unavailable("away")
    bench.attempt(target)
    assert bench.status(target).last_issue_at is None

    bench.issuer.failure = InvalidCredential("expired in 2015")
    bench.attempt(target, DueReason.RETRY)
    assert bench.status(target).last_issue_at == bench.clock.now()


def test_failures_of_other_stages_never_touch_valid(bench: Bench) -> None:
    """`valid` speaks of what we published: fal's refusal says nothing about it."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(minutes=10))
    bench.issuer.failure = Unauthorized("role gone")
    wish = Trigger("wish", bench.clock.now(), Actor.CLI)
    bench.store.update(target.name, lambda old: record.forced(old, wish))
    attempt = bench.refresher.attempt(target, DueReason.FORCED, Actor.CLI, "wish")
    assert attempt.outcome is Outcome.FAILED
    assert policy.valid(target, bench.status(target), bench.clock.now()) is True


def keep_failing(bench: Bench, target: Target, hours: float) -> None:
    """Retries every 5 min after 4 h, when the credential is stale."""
    bench.clock.advance(timedelta(hours=4))
    for _ in range(int(hours * 12)):
        assert bench.attempt(target, DueReason.RETRY).outcome is Outcome.FAILED
        bench.clock.advance(timedelta(minutes=5))


def break_source(bench: Bench) -> None:
    bench.issuer.failure = Unavailable("AWS is away")


def break_publish(bench: Bench) -> None:
    bench.vault.failures["main"] = Unauthorized("the key was refused")


BROKEN = [(break_source, Stage.SOURCE), (break_publish, Stage.PUBLISH)]


@pytest.mark.parametrize(("broken", "stage"), BROKEN)
def test_what_stands_is_proved_on_while_something_else_fails(
    bench: Bench, broken: Callable[[Bench], None], stage: Stage
) -> None:
    """An outage of AWS or fal makes nobody guess: we hold what stands, and can still ask."""
    target = bench.target()
    bench.attempt(target)
    broken(bench)
    keep_failing(bench, target, 2)

    status = bench.status(target)
    assert policy.valid(target, status, bench.clock.now()) is True
    assert status.consecutive_failures == 24
    assert status.last_failure is not None
    assert status.last_failure.stage is stage
    proofs = [a for a in bench.observed[1:] if a.stages[-1].stage is Stage.VERIFY]
    assert len(proofs) == 8


@pytest.mark.parametrize(("broken", "stage"), BROKEN)
def test_a_refusal_is_found_while_something_else_fails(
    bench: Bench, broken: Callable[[Bench], None], stage: Stage
) -> None:
    """What stands is called bad as soon as the registry says so, and is then left in peace."""
    target = bench.target()
    bench.attempt(target)
    broken(bench)
    bench.judge.refused = {"token-1"}
    keep_failing(bench, target, 1)

    status = bench.status(target)
    assert policy.valid(target, status, bench.clock.now()) is False
    assert status.secrets[0].verdict is Verdict.UNAUTHORIZED
    assert status.learnt_life == timedelta(hours=4)
    assert status.last_failure is not None
    assert status.last_failure.stage is stage
    assert len([a for a in bench.observed if a.stages[-1].stage is Stage.VERIFY]) == 1

    bench.issuer.failure = None
    bench.vault.failures.clear()
    assert bench.attempt(target, DueReason.RETRY).outcome is Outcome.REFRESHED
    assert bench.standing() == "token-2"


def test_nobody_claims_to_know_what_the_registry_does_not_tell(bench: Bench) -> None:
    """AWS and the registry are both away: unknown, and the failure told is still that of AWS."""
    target = bench.target()
    bench.attempt(target)
    break_source(bench)
    bench.judge.failure = Unavailable("the registry is away")
    keep_failing(bench, target, 1)
    status = bench.status(target)
    assert policy.valid(target, status, bench.clock.now()) is None
    assert status.last_failure is not None
    assert status.last_failure.stage is Stage.SOURCE


def test_a_registry_that_gave_no_verdict_is_not_asked_again_in_the_same_attempt(
    bench: Bench,
) -> None:
    """It would cost another deadline and tell nothing."""
    target = bench.target()
    bench.attempt(target)
    bench.judge.failure = TimedOut("late")
    bench.judge.calls = 0
    keep_failing(bench, target, 1)
    assert bench.judge.calls == 12


def test_an_attempt_that_is_cut_by_a_stop_is_interrupted_and_does_not_count(bench: Bench) -> None:
    """After SIGTERM no new stage starts."""
    target = bench.target()
    bench.adopt(target)
    bench.stopping.set()
    attempt = bench.attempt(target)
    assert attempt.failure is not None
    assert attempt.failure.reason is FailureReason.INTERRUPTED
    assert bench.status(target).consecutive_failures == 0
    assert bench.issuer.issued == 0


def test_a_missing_pull_proof_alarms_and_does_not_block(bench: Bench) -> None:
    """Login proof is required; the image's is not."""
    target = bench.target(image=ImageRef("app", "latest"))
    bench.judge.pull = Pull.FORBIDDEN
    assert bench.attempt(target).outcome is Outcome.REFRESHED
    assert bench.status(target).image_pullable is False


def test_a_bug_fails_one_attempt_and_shows_no_value(bench: Bench) -> None:
    """An unexpected error of ours is a failure with a place, not a lost worker."""

    class Broken:
        share_key = "broken"
        quota: str | None = None
        renewable = True

        def obtain(self, now: object) -> object:
            raise KeyError("canary-value")

    target = replace(bench.target(), source=Broken())  # type: ignore[arg-type]
    attempt = bench.attempt(target)
    assert attempt.failure is not None
    assert "KeyError" in attempt.failure.message
    assert "canary" not in attempt.failure.message


def test_a_changed_config_publishes_anew_and_forgets_the_learnt_life(bench: Bench) -> None:
    """Another digest is `config_changed`; a token from before it does not serve."""
    target = bench.target()
    bench.attempt(target)
    changed = replace(target, digest="v2")
    bench.clock.advance(timedelta(seconds=1))
    bench.adopt(changed)
    assert due(bench, changed) is DueReason.CONFIG_CHANGED
    assert bench.attempt(changed, DueReason.CONFIG_CHANGED).outcome is Outcome.REFRESHED
    assert bench.issuer.issued == 2
    assert due(bench, changed) is None
