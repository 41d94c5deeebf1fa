"""What an attempt, a person or a restart leaves in a target's status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

from refresher import policy, replicas
from refresher.errors import Failure, FailureReason, InvalidCredential, StillRefused
from refresher.model import (
    Attempt,
    Condition,
    DueReason,
    FailureRecord,
    Hand,
    HeldCredential,
    Outcome,
    Proof,
    Pull,
    SecretRef,
    SecretStatus,
    SourceValue,
    Stage,
    Status,
    Target,
    Trigger,
    Verdict,
)

#: The next look while an attempt runs, so that one that kills the process cannot crash-loop.
_WHILE_RUNNING = timedelta(seconds=60)

#: What a better value in a file can mend.
_OF_A_FILE = {FailureReason.CONFIG, FailureReason.UNAUTHORIZED, FailureReason.FORBIDDEN}

_REFUSALS = {
    FailureReason.UNAUTHORIZED: Verdict.UNAUTHORIZED,
    FailureReason.FORBIDDEN: Verdict.FORBIDDEN,
}


@dataclass(frozen=True, slots=True)
class Recheck:
    """What the registry says of what stands, asked where an attempt failed at something else."""

    held: HeldCredential
    proof: Proof | None = None
    #: Why the registry does not accept it; None where it does.
    refusal: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an attempt did, as far as it came."""

    target: Target
    #: The status before the attempt was opened.
    before: Status
    attempt: Attempt
    #: The credential that was obtained; None where the source failed.
    held: HeldCredential | None = None
    #: Whether that was issued for this attempt, rather than found in hand.
    issued: bool = False
    #: None where the registry did not or could not accept it.
    proof: Proof | None = None
    #: None where that was not asked.
    recheck: Recheck | None = None
    #: Secrets that fal accepted.
    written: tuple[SecretRef, ...] = ()
    #: Secrets whose write failed.
    unwritten: Mapping[SecretRef, Failure] = field(default_factory=dict)
    #: What ended the attempt; None where it succeeded.
    failure: Failure | None = None
    #: Which replica made it; None where no others share the state.
    replica: str | None = None
    #: Of the last write that was announced to the others.
    generation: int | None = None
    #: A write took longer than any call may: the process was stopped, and time went on.
    late: bool = False

    @property
    def ended_at(self) -> datetime:
        return self.attempt.ended_at or self.attempt.started_at

    @property
    def touched(self) -> frozenset[SecretRef]:
        """Secrets that fal was asked to write, whatever it said."""
        return frozenset([*self.written, *self.unwritten])


def adopted(target: Target, status: Status | None, now: datetime) -> Status:
    """The status of a target that the config names, new or known from before."""
    if status is None:
        secrets = tuple(SecretStatus(ref=ref) for ref in target.secrets)
        return Status(name=target.name, digest=target.digest, secrets=secrets, next_attempt_at=now)
    if status.digest == target.digest:
        return status
    return replace(
        status,
        secrets=tuple(status.secret(ref) for ref in target.secrets),
        next_attempt_at=now,
        fresh_after=now,
        learnt_life=None,
        source_value=None,
        source_fingerprint=None,
    )


def forced(status: Status, trigger: Trigger) -> Status:
    """A person wants a refresh now. A wish that waits is kept; one that runs came too early."""
    if status.trigger is not None and status.trigger.id != status.attempt:
        return status
    return replace(status, trigger=trigger, fresh_after=trigger.at)


def value_changed(status: Status, now: datetime) -> Status:
    """The value of a static source is another one than was last read."""
    return replace(status, source_value=SourceValue.CHANGED, fresh_after=now, next_attempt_at=now)


def file_changed(status: Status, now: datetime) -> Status:
    """A file that holds a credential is new: what failed for want of a good one is tried now.

    A value that a registry refused is no such thing, for it is known when that one changes.
    """
    failure = status.last_failure
    if failure is None or not status.consecutive_failures:
        return status
    if failure.stage is Stage.VERIFY or failure.reason not in _OF_A_FILE:
        return status
    return replace(status, next_attempt_at=min(status.next_attempt_at, now))


def interrupted(status: Status, id: str, failure: FailureRecord) -> Status:
    """The process died during an attempt: look again at once; the loop guard still holds.

    A wish that it was to answer is answered with that; what it asked for stays due. A status that
    went on since, as one in memory does, hears of no failure.
    """
    if status.attempt != id:
        return replace(status, trigger=_unanswered(status, id))
    secrets = tuple(_unsure(secret) for secret in status.secrets)
    return replace(
        _answered(status, id), secrets=secrets, last_failure=failure, next_attempt_at=failure.at
    )


def recalled(stored: Status | None, status: Status) -> Status:
    """The status of a target that a process took up without its memory, which is back.

    What the process did is newer; what it never did stands as it was stored.
    """
    if stored is None:
        return status
    published = all(secret.fingerprint is not None for secret in status.secrets)
    issued = status if status.last_issue_at is not None else stored
    return replace(
        status,
        digest=status.digest if published else stored.digest,
        secrets=tuple(
            secret if secret.fingerprint is not None else stored.secret(secret.ref)
            for secret in status.secrets
        ),
        trigger=status.trigger or stored.trigger,
        fresh_after=status.fresh_after or stored.fresh_after,
        paused=status.paused or stored.paused,
        last_success_at=status.last_success_at or stored.last_success_at,
        learnt_life=status.learnt_life or stored.learnt_life,
        last_issue_at=issued.last_issue_at,
        last_issue_life=issued.last_issue_life,
        unplanned_issues=issued.unplanned_issues,
        told=stored.told if status.told is Condition.GOOD else status.told,
    )


def resumed(target: Target, status: Status, now: datetime, place: float, many: int) -> Status:
    """A new process took up a target and holds nothing of it yet."""
    unpublished = any(secret.fingerprint is None for secret in status.secrets)
    if status.consecutive_failures or unpublished:
        return replace(status, next_attempt_at=max(status.next_attempt_at, now))
    at = policy.resume_at(target, status, now, place, many)
    return replace(status, next_attempt_at=at)


def opened(target: Target, status: Status, attempt: Attempt, issues: bool) -> Status:
    """An attempt begins. That it may issue is stored before the call, so that no crash hides it."""
    now = attempt.started_at
    pushed = replace(
        status,
        attempt=attempt.id,
        last_attempt_at=now,
        next_attempt_at=max(status.next_attempt_at, now + _WHILE_RUNNING),
    )
    if not issues:
        return pushed
    unplanned = policy.count_unplanned(target, status, now)
    return replace(pushed, last_issue_at=now, unplanned_issues=unplanned)


def closed(result: Result, status: Status, hand: Hand, rng: Random) -> Status:
    """An attempt ended. `status` is the present one: a person may have changed it meanwhile."""
    if result.replica is not None and status.attempt != result.attempt.id:
        return _overtaken(result, status)
    ended = _held(result, _ended(result, status, hand, rng))
    if result.generation is None or not result.touched:
        return ended
    if result.late or status.generation != result.generation:
        return replicas.contested(ended, result.touched, result.ended_at)
    return ended


def _overtaken(result: Result, status: Status) -> Status:
    """Another replica took the target over meanwhile, so what it recorded stands.

    Of two values the newer is what should stand, as when both sides of an outage are merged.
    """
    answered = replace(status, trigger=_unanswered(status, result.attempt.id))
    if result.held is None or not result.touched:
        return answered
    held = result.held
    secrets = tuple(
        _judged(held, _published(result, held, secret), result.proof, None)
        if secret.ref in result.written and _is_newer(held, secret)
        else secret
        for secret in answered.secrets
    )
    known = _held(result, replace(answered, secrets=secrets))
    return replicas.contested(known, result.touched, result.ended_at)


def _is_newer(held: HeldCredential, secret: SecretStatus) -> bool:
    return secret.issued_at is None or secret.issued_at < held.credential.issued_at


def _held(result: Result, status: Status) -> Status:
    """Who holds what stands, where that became of the attempt's credential."""
    held = result.held
    if result.replica is None or held is None or not result.target.renewable:
        return status
    stands = all(status.secret(r).fingerprint == held.fingerprint for r in result.target.secrets)
    return replace(status, holder=result.replica) if stands else status


def _ended(result: Result, status: Status, hand: Hand, rng: Random) -> Status:
    settled = _with_issue(result, _answered(status, result.attempt.id))
    settled = _with_secrets(result, _with_recheck(result, settled))
    if result.failure is None:
        succeeded = _succeeded(result, settled)
        next_look = policy.next_look(result.target, succeeded, hand)
        return replace(succeeded, next_attempt_at=next_look)
    if result.failure.reason is FailureReason.INTERRUPTED:
        failure = result.attempt.failure
        return replace(settled, last_failure=failure, next_attempt_at=result.ended_at)
    return _failed(result, settled, result.failure, rng)


def proved(
    target: Target, status: Status, held: HeldCredential, proof: Proof, hand: Hand
) -> Status:
    """An attempt for another target proved what stands in this one's secrets, too."""
    secrets = tuple(
        _judged(held, secret, proof, None) if tells_more(secret, held, proof) else secret
        for secret in status.secrets
    )
    if secrets == status.secrets:
        return status
    judged = _with_findings(proof, None, replace(status, secrets=secrets))
    booked_for = policy.due(target, status, hand, max(status.next_attempt_at, proof.verified_at))
    if booked_for is not DueReason.CHECK:
        return judged
    return replace(judged, next_attempt_at=policy.next_look(target, judged, hand))


def tells_more(secret: SecretStatus, held: HeldCredential, proof: Proof) -> bool:
    """Whether a proof of `held` is of what stands in the secret, and newer than what is known."""
    if secret.fingerprint != held.fingerprint:
        return False
    return secret.verified_at is None or secret.verified_at < proof.verified_at


def _answered(status: Status, id: str) -> Status:
    return replace(status, attempt=None, trigger=_unanswered(status, id))


def _unanswered(status: Status, id: str) -> Trigger | None:
    """The wish that still waits once an attempt has ended."""
    answered = status.trigger is not None and status.trigger.id == id
    return None if answered else status.trigger


def _with_issue(result: Result, status: Status) -> Status:
    """Every answer of the issuer that holds a token counts; no answer does not."""
    before = result.before
    if status.last_issue_at == before.last_issue_at:
        return status
    if result.issued and result.held is not None:
        credential = result.held.credential
        ends = credential.expires_at
        return replace(status, last_issue_life=ends - credential.issued_at if ends else None)
    if isinstance(result.failure, InvalidCredential):
        return status
    return replace(
        status,
        last_issue_at=before.last_issue_at,
        unplanned_issues=before.unplanned_issues,
    )


def _succeeded(result: Result, status: Status) -> Status:
    target, now = result.target, result.ended_at
    counts = result.attempt.outcome is Outcome.REFRESHED or not target.renewable
    newer_demand = status.fresh_after != result.before.fresh_after
    return replace(
        status,
        digest=target.digest,
        last_success_at=now if counts else status.last_success_at,
        consecutive_failures=0,
        last_failure=None,
        fresh_after=status.fresh_after if newer_demand else None,
    )


def _failed(result: Result, status: Status, failure: Failure, rng: Random) -> Status:
    now = result.ended_at
    failed = replace(
        status,
        consecutive_failures=status.consecutive_failures + 1,
        last_failure=result.attempt.failure,
    )
    if result.target.renewable and _newly_refused(result):
        learnt = _learnt_life(result, result.held, _refusal(result), status.learnt_life)
        return replace(failed, fresh_after=now, next_attempt_at=now, learnt_life=learnt)
    delay = policy.retry_delay(result.target, failed, failure, now, rng)
    return replace(failed, next_attempt_at=now + delay)


# --- secrets -----------------------------------------------------------------------------------


def _with_secrets(result: Result, status: Status) -> Status:
    """Each fal secret with what became of it, and what was learnt of the source's value."""
    if result.held is None:
        return status
    held = result.held
    refs = result.target.secrets
    changed = _with_findings(
        result.proof,
        result.failure,
        replace(status, secrets=tuple(_secret(result, held, status.secret(ref)) for ref in refs)),
    )
    return changed if result.target.renewable else _with_source_value(result, held, changed)


def _with_recheck(result: Result, status: Status) -> Status:
    """What stands, with what the registry says of it; the attempt failed at something else."""
    recheck = result.recheck
    if recheck is None:
        return status
    held, refusal = recheck.held, recheck.refusal
    verdict = None if refusal is None else _REFUSALS.get(refusal.reason)
    secrets = tuple(
        _judged(held, secret, recheck.proof, verdict)
        if secret.fingerprint == held.fingerprint
        else secret
        for secret in status.secrets
    )
    learnt = _learnt_life(result, held, verdict, status.learnt_life)
    judged = replace(status, secrets=secrets, learnt_life=learnt)
    return _with_findings(recheck.proof, refusal, judged)


def _with_findings(proof: Proof | None, failure: Failure | None, status: Status) -> Status:
    """What the verification found besides its verdict."""
    if proof is None:
        layers = failure.layers if failure is not None and failure.layers else status.layers
        return replace(status, layers=layers)
    return replace(
        status,
        image_pullable=_pullable(proof, status.image_pullable),
        layers=proof.layers,
        pulls_remaining=proof.pulls_remaining,
        pulls_limit=proof.pulls_limit,
    )


def _with_source_value(result: Result, held: HeldCredential, status: Status) -> Status:
    """What became of a static source's present value."""
    refused = _refusal(result) is Verdict.UNAUTHORIZED
    read = replace(
        status, source_fingerprint=held.fingerprint, source_username=result.target.username
    )
    if result.proof is None and not refused:
        return replace(read, source_value=_unjudged(held, status))
    value = SourceValue.REJECTED if refused else SourceValue.OK
    known = result.failure.judged_at if isinstance(result.failure, StillRefused) else None
    return replace(read, source_value=value, source_judged_at=known or result.ended_at)


def _unjudged(held: HeldCredential, status: Status) -> SourceValue | None:
    """A verdict stands as long as the value does; without one it stands in fal, or is new."""
    judged = status.source_value in (SourceValue.OK, SourceValue.REJECTED)
    if judged and status.source_fingerprint == held.fingerprint:
        return status.source_value
    stands = any(secret.fingerprint == held.fingerprint for secret in status.secrets)
    return SourceValue.UNCHANGED if stands else None


def _secret(result: Result, held: HeldCredential, secret: SecretStatus) -> SecretStatus:
    if secret.ref in result.written:
        return _judged(held, _published(result, held, secret), result.proof, _refusal(result))
    if secret.ref in result.unwritten:
        failure = result.unwritten[secret.ref]
        secret = replace(
            _unsure(secret), last_failure=FailureRecord.of(failure, Stage.PUBLISH, result.ended_at)
        )
    if secret.fingerprint != held.fingerprint:
        return secret
    return _judged(held, secret, result.proof, _refusal(result))


def _unsure(secret: SecretStatus) -> SecretStatus:
    """A write of ours may stand or not, so what fal lists next tells nothing of others."""
    return replace(secret, created_time=None, created_time_before=None)


def _published(result: Result, held: HeldCredential, before: SecretStatus) -> SecretStatus:
    contested_until = before.contested_until
    if before.drifted:
        interval = policy.refresh_interval(result.target, before)
        contested_until = result.ended_at + interval
    return SecretStatus(
        ref=before.ref,
        fingerprint=held.fingerprint,
        issued_at=held.credential.issued_at,
        expires_at=_expiry(result.proof, held.credential.expires_at),
        refresh_at=held.refresh_at,
        published_at=result.ended_at,
        proved=result.proof is not None,
        created_time_before=before.created_time or before.created_time_before,
        created_time_moves=before.created_time_moves,
        contested_until=contested_until,
    )


def _judged(
    held: HeldCredential, secret: SecretStatus, proof: Proof | None, refusal: Verdict | None
) -> SecretStatus:
    """The verdict on a published credential. Failures of other stages never touch it."""
    if proof is not None:
        return replace(
            secret,
            verdict=Verdict.ACCEPTED,
            verified_at=proof.verified_at,
            expires_at=_expiry(proof, held.credential.expires_at),
        )
    return secret if refusal is None else replace(secret, verdict=refusal)


def _expiry(proof: Proof | None, told: datetime | None) -> datetime | None:
    """The end of life: as the verification found it, else as the source told it."""
    found = proof.expires_at if proof is not None else None
    return found or told


def _refusal(result: Result) -> Verdict | None:
    """How the registry refused the credential of this attempt, if it did."""
    record = result.attempt.failure
    if record is None or record.stage is not Stage.VERIFY:
        return None
    return _REFUSALS.get(record.reason)


def _newly_refused(result: Result) -> bool:
    """Whether the registry refused what stands in a secret, and had not done so before."""
    if _refusal(result) is None or result.held is None:
        return False
    return any(
        secret.fingerprint == result.held.fingerprint and secret.verdict not in _REFUSALS.values()
        for secret in result.before.secrets
    )


def _learnt_life(
    result: Result,
    held: HeldCredential | None,
    refusal: Verdict | None,
    known: timedelta | None,
) -> timedelta | None:
    """The age at which a registry ended a credential before its time, if it did."""
    if refusal is not Verdict.UNAUTHORIZED or held is None:
        return known
    credential, now = held.credential, result.ended_at
    if credential.expires_at is None or credential.expires_at <= now:
        return known
    return max(now - credential.issued_at, result.target.policy.guard_floor)


def _pullable(proof: Proof, before: bool | None) -> bool | None:
    if proof.pull is Pull.UNKNOWN:
        return before
    return None if proof.pull is None else proof.pull is Pull.OK
