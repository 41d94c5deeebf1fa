"""The use case: obtain, verify, publish, record."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random

from refresher import policy, record
from refresher.clock import Clock
from refresher.deadline import CALL_SECONDS
from refresher.errors import (
    Failure,
    FailureReason,
    Forbidden,
    Interrupted,
    InvalidResponse,
    StillRefused,
    Unauthorized,
)
from refresher.held import Held
from refresher.model import (
    Actor,
    Attempt,
    Credential,
    DueReason,
    FailureRecord,
    Hand,
    HeldCredential,
    Life,
    Observer,
    Outcome,
    Proof,
    Publisher,
    Replicas,
    SecretRef,
    SecretStatus,
    SourceValue,
    Stage,
    StageTime,
    Status,
    Store,
    Target,
    Verdict,
    check_publishable,
    fingerprint,
)
from refresher.record import Recheck
from refresher.replicas import Alone

#: Failures after which nobody can say whether the credential is good.
_NO_VERDICT = (FailureReason.UNAVAILABLE, FailureReason.TIMEOUT, FailureReason.THROTTLED)
_REFUSED = (Verdict.UNAUTHORIZED, Verdict.FORBIDDEN)

#: A write that took longer was made by a process that was stopped in between.
_LONGEST_WRITE = timedelta(seconds=CALL_SECONDS + 2)


@dataclass(slots=True)
class _Job:
    """One attempt while it runs."""

    target: Target
    attempt: Attempt
    #: The status before the attempt was opened.
    before: Status
    #: The credential in hand that serves it; None where one must be obtained.
    held: HeldCredential | None
    issued: bool = False
    proof: Proof | None = None
    #: What became of what stands, where the attempt failed at something else.
    recheck: Recheck | None = None
    written: list[SecretRef] = field(default_factory=list)
    unwritten: dict[SecretRef, Failure] = field(default_factory=dict)
    stages: list[StageTime] = field(default_factory=list)
    #: The stage that runs.
    stage: Stage = Stage.SOURCE
    #: Of the last write that other replicas were told of.
    generation: int | None = None
    #: A write took longer than any call may.
    late: bool = False


class Refresher:
    """Runs attempts. One object serves all workers and keeps nothing of a target itself."""

    def __init__(
        self,
        *,
        store: Store,
        held: Held,
        publishers: Mapping[str, Publisher],
        clock: Clock,
        rng: Random,
        stopping: threading.Event,
        observers: Sequence[Observer] = (),
        replicas: Replicas | None = None,
    ) -> None:
        """`replicas`: with whom the state is shared; None for nobody."""
        self._replicas = replicas or Alone()
        self._store = store
        self._held = held
        self._publishers = publishers
        self._clock = clock
        self._rng = rng
        self._stopping = stopping
        self._observers = observers

    def attempt(self, target: Target, reason: DueReason, actor: Actor, id: str) -> Attempt:
        """Run one attempt to its end and record it. A failure is in the answer, never raised."""
        try:
            job = self._open(target, reason, actor, id)
        except Interrupted as lost:  # to another replica, so there is nothing to record
            now = self._clock.now()
            return _unopened(_attempt(target, reason, actor, id, now), lost)
        try:
            outcome = self._run(job)
        except Failure as failure:
            return self._close(job, Outcome.FAILED, failure)
        except Exception as error:  # noqa: BLE001 - our own bug must fail one attempt, not the loop
            return self._close(job, Outcome.FAILED, _bug(error))
        return self._close(job, outcome)

    def _run(self, job: _Job) -> Outcome:
        """The whole product on one screen. Raises a `Failure`."""
        try:
            held = self._obtain(job)
            self._prove(job, held)
            writes = _writes(job, held, self._clock.now())
            if not writes:
                return Outcome.CHECKED
            self._publish(job, held, writes)
        except Failure as failure:
            self._recheck(job, failure)
            raise
        return Outcome.REFRESHED

    # --- stages --------------------------------------------------------------------------------

    def _obtain(self, job: _Job) -> HeldCredential:
        """The credential in hand, or a newly issued one."""
        if job.held is not None:
            return job.held
        with self._stage(job, Stage.SOURCE):
            self._replicas.assure(job.target.name)
            now = self._clock.now()
            credential = job.target.source.obtain(now)
            check_publishable(credential, now)
        mark = fingerprint(self._store.fingerprint_key, credential.password)
        job.held = HeldCredential(credential, mark, self._stale_at(job, credential))
        job.issued = True
        if job.target.renewable:
            self._held.put(job.target.source.share_key, job.held)
        return job.held

    def _stale_at(self, job: _Job, credential: Credential) -> datetime | None:
        """When to issue another; never for what only a person can replace."""
        if not job.target.renewable:
            return None
        learnt = job.before.learnt_life
        return policy.stale_at(credential, job.target.policy, learnt, self._rng)

    def _prove(self, job: _Job, held: HeldCredential) -> None:
        """Prove the credential, or find that it may go out unproved."""
        known = self._held.proof(held, job.target)
        if known is not None and _suffices(job, known, self._clock.now()):
            job.proof = known
            return
        try:
            with self._stage(job, Stage.VERIFY):
                self._refuse_what_was_refused(job, held)
                job.proof = job.target.verifier.verify(
                    job.target.registry, held.credential, job.target.image
                )
        except Failure as failure:
            if _may_go_unproved(job, held, failure, self._clock.now()):
                return
            raise self._judged(job, held, failure) from failure
        self._held.remember(held, job.target, job.proof)

    def _refuse_what_was_refused(self, job: _Job, held: HeldCredential) -> None:
        """Spare the registry a value that it refused under the same user name: it locks out."""
        target, trigger = job.target, job.before.trigger
        if target.renewable or (trigger is not None and trigger.retry_refused):
            return
        if trigger is not None and target.kind != "dockerhub":
            return
        now = self._clock.now()
        for status in self._store.statuses().values():
            until = refused_until(target, status, held)
            if until is not None and now < until:
                raise StillRefused(
                    f"{target.registry.host} refused this value before; it is tried again when it"
                    f" changes, at {until:%Y-%m-%dT%H:%MZ}, or with --retry-refused",
                    judged_at=until - target.policy.refused_wait,
                    retry_after=until - now,
                )

    def _judged(self, job: _Job, held: HeldCredential, failure: Failure) -> Failure:
        """The failure with what it means here: a new credential refused alike is `forbidden`."""
        if failure.reason is not FailureReason.UNAUTHORIZED:
            return failure
        self._held.refuse(held.fingerprint)
        refused = {s.fingerprint for s in job.before.secrets if s.verdict in _REFUSED}
        if not job.target.renewable or not refused - {held.fingerprint}:
            return failure
        return Forbidden(
            f"{job.target.registry.host} refused a newly issued credential like the one before,"
            f" so issuing more does not help: {failure.message}"
        )

    def _publish(self, job: _Job, held: HeldCredential, writes: Sequence[SecretRef]) -> None:
        """Write to each secret; the first failure is raised once all were tried."""
        credential = held.credential
        with self._stage(job, Stage.PUBLISH):
            for ref in writes:
                self._refuse_when_stopping()
                self._renew_proof(job, held)
                self._announce(job, held)
                began = self._clock.now()
                check_publishable(credential, began)
                publisher = self._publishers[ref.account]
                try:
                    publisher.publish(ref, credential.password, job.target.default_exposed)
                except Failure as failure:
                    job.unwritten[ref] = failure
                else:
                    job.written.append(ref)
                job.late = job.late or abs(self._clock.now() - began) > _LONGEST_WRITE
        if job.unwritten:
            raise next(iter(job.unwritten.values()))

    def _announce(self, job: _Job, held: HeldCredential) -> None:
        """Tell other replicas of a write before it is made."""
        where = policy.life(job.target, job.before, self._clock.now())
        pressing = where in (Life.URGENT, Life.EXPIRED)
        job.generation = self._replicas.intend(job.attempt, held.fingerprint, pressing=pressing)

    def _renew_proof(self, job: _Job, held: HeldCredential) -> None:
        """Prove again what was proved too long ago: the machine may have slept since."""
        if job.proof is None or _young(job.proof, job.target, self._clock.now()):
            return
        job.proof = None
        self._prove(job, held)
        job.stage = Stage.PUBLISH

    def _recheck(self, job: _Job, failure: Failure) -> None:
        """Prove what stands, when that is due: a failure of something else says nothing of it."""
        standing = self._held.hand(job.target, job.before).standing
        if standing is None or self._stopping.is_set():
            return
        if not _to_be_rechecked(job, standing, failure, self._clock.now()):
            return
        try:
            job.recheck = Recheck(standing, proof=self._proved_again(job, standing))
        except (Unauthorized, Forbidden) as refusal:
            job.recheck = Recheck(standing, refusal=refusal)
            if isinstance(refusal, Unauthorized):
                self._held.refuse(standing.fingerprint)
        except Failure:
            return  # nobody can tell, which `valid` shows when it lasts

    def _proved_again(self, job: _Job, standing: HeldCredential) -> Proof:
        known, target = self._held.proof(standing, job.target), job.target
        if known is not None and _young(known, target, self._clock.now()):
            return known
        with self._timed(job, Stage.VERIFY):
            proof = target.verifier.verify(target.registry, standing.credential, target.image)
        self._held.remember(standing, target, proof)
        return proof

    @contextmanager
    def _stage(self, job: _Job, stage: Stage) -> Iterator[None]:
        """Time a stage; none starts once we are stopping."""
        job.stage = stage
        self._refuse_when_stopping()
        with self._timed(job, stage):
            yield

    @contextmanager
    def _timed(self, job: _Job, stage: Stage) -> Iterator[None]:
        started = self._clock.monotonic()
        try:
            yield
        finally:
            job.stages.append(StageTime(stage, self._clock.monotonic() - started))

    def _refuse_when_stopping(self) -> None:
        if self._stopping.is_set():
            raise Interrupted("refresher was told to stop before the attempt had ended")

    # --- record --------------------------------------------------------------------------------

    def _open(self, target: Target, reason: DueReason, actor: Actor, id: str) -> _Job:
        now = self._clock.now()
        before = self._store.status(target.name) or record.adopted(target, None, now)
        hand = self._held.hand(target, before)
        held = policy.in_hand(target, before, hand, reason, now)
        stands = before.secret(target.secrets[0]).fingerprint
        attempt = replace(_attempt(target, reason, actor, id, now), fingerprint_before=stands)
        issues = target.renewable and held is None
        self._store.begin(
            attempt, lambda status: record.opened(target, status or before, attempt, issues)
        )
        return _Job(target, attempt, before, held)

    def _close(self, job: _Job, outcome: Outcome, failure: Failure | None = None) -> Attempt:
        now = self._clock.now()
        attempt = replace(
            job.attempt,
            ended_at=now,
            outcome=outcome,
            failure=None if failure is None else FailureRecord.of(failure, job.stage, now),
            stages=tuple(job.stages),
            fingerprint_after=_after(job),
            verified=job.proof is not None,
        )
        result = record.Result(
            target=job.target,
            before=job.before,
            attempt=attempt,
            held=job.held,
            issued=job.issued,
            proof=job.proof,
            recheck=job.recheck,
            written=tuple(job.written),
            unwritten=job.unwritten,
            failure=failure,
            replica=self._replicas.replica,
            generation=job.generation,
            late=job.late,
        )
        hand = Hand(standing=job.held, newest=job.held)
        status = self._store.finish(
            attempt, lambda status: record.closed(result, status or job.before, hand, self._rng)
        )
        for observer in self._observers:
            observer(job.target, status, attempt)
        return attempt


# --- decisions ---------------------------------------------------------------------------------


def _suffices(job: _Job, known: Proof, now: datetime) -> bool:
    """Whether a proof is young enough; for a check, one that another target made since ours."""
    if not _young(known, job.target, now):
        return False
    if job.attempt.reason is not DueReason.CHECK:
        return True
    ours = (job.before.secret(ref).verified_at for ref in job.target.secrets)
    return all(at is not None and at < known.verified_at for at in ours)


def _young(known: Proof, target: Target, now: datetime) -> bool:
    """A proof that lies ahead is of before the clock was set back."""
    return abs(now - known.verified_at) < target.policy.proof_for


def _to_be_rechecked(job: _Job, standing: HeldCredential, failure: Failure, now: datetime) -> bool:
    """Whether the check of what stands is due and the failed attempt did not come to it."""
    if standing.refused or standing == job.held:
        return False
    if job.stage is Stage.VERIFY and failure.reason in _NO_VERDICT:
        return False  # the registry cannot be asked now
    return policy.check_due(job.target, job.before, now)


def _writes(job: _Job, held: HeldCredential, now: datetime) -> list[SecretRef]:
    """The secrets that do not hold the credential; all where a person or a new config wants it."""
    before, target = job.before, job.target
    if before.trigger is not None or before.digest != target.digest:
        return list(target.secrets)
    return [ref for ref in target.secrets if _needs(before.secret(ref), held, now)]


def _needs(secret: SecretStatus, held: HeldCredential, now: datetime) -> bool:
    return secret.fingerprint != held.fingerprint or policy.to_be_reasserted(secret, now)


def _may_go_unproved(job: _Job, held: HeldCredential, failure: Failure, now: datetime) -> bool:
    """Whether what stands in fal is worse than a new credential that nobody could judge."""
    if failure.reason not in _NO_VERDICT or job.target.verify_always:
        return False
    if not job.target.renewable or held.refused:
        return False
    return all(_known_bad(job.before.secret(ref), held, now) for ref in job.target.secrets)


def _known_bad(secret: SecretStatus, held: HeldCredential, now: datetime) -> bool:
    """Whether we published the secret's value ourselves and it is expired or refused."""
    if secret.fingerprint is None or secret.fingerprint == held.fingerprint:
        return False
    expired = secret.expires_at is not None and secret.expires_at <= now
    return expired or secret.verdict is Verdict.UNAUTHORIZED


def refused_until(target: Target, status: Status, held: HeldCredential) -> datetime | None:
    """How long the verdict of any target on this user name and value is to be believed."""
    if status.source_value is not SourceValue.REJECTED or status.source_judged_at is None:
        return None
    if (status.source_username, status.source_fingerprint) != (target.username, held.fingerprint):
        return None
    return status.source_judged_at + target.policy.refused_wait


def _attempt(
    target: Target, reason: DueReason, actor: Actor, id: str, started_at: datetime
) -> Attempt:
    return Attempt(id=id, target=target.name, actor=actor, reason=reason, started_at=started_at)


def _unopened(attempt: Attempt, lost: Failure) -> Attempt:
    """An attempt that never began."""
    at = attempt.started_at
    failure = FailureRecord.of(lost, Stage.STATE, at)
    return replace(attempt, ended_at=at, outcome=Outcome.FAILED, failure=failure)


def _bug(error: Exception) -> Failure:
    """A fault of ours as a failure: where it is, without its words, which may hold a value."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "refresher"
    return InvalidResponse(
        f"an unexpected {type(error).__name__} at {where}; this is a bug in refresher, report it"
    )


def _after(job: _Job) -> str | None:
    """The fingerprint that stands in the first secret once the attempt has ended."""
    first = job.target.secrets[0]
    if job.held is not None and first in job.written:
        return job.held.fingerprint
    return job.attempt.fingerprint_before
