"""Is a target due and why, when next, how long to back off. Pure: `now` is an argument."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from random import Random

from refresher.errors import Failure, FailureReason
from refresher.model import (
    Condition,
    Credential,
    DueReason,
    Hand,
    HeldCredential,
    Life,
    Policy,
    SecretRef,
    SecretStatus,
    SourceValue,
    Status,
    Target,
    Verdict,
)

#: Spacing of two issues while no life is known: longer than any guard, short enough to recover.
_UNKNOWN_LIFE_SPACING = timedelta(minutes=5)

#: Growth of the retry delay stops here; 5 s · 2^6 is past every cap.
_MAX_DOUBLINGS = 6

#: Targets that resume at once after a restart before they are spread, per second.
_RESUME_RATE = 1.0

#: Failures in a row that a beginning may have, some three minutes: a network that comes up late.
_BEGINNING_FAILURES = 10

# A reason that asks for nothing newer than what is in hand, whatever its age.
_REUSING = frozenset({DueReason.CHECK, DueReason.RETRY, DueReason.DRIFTED})


# --- life --------------------------------------------------------------------------------------


def ends_at(secret: SecretStatus, learnt_life: timedelta | None) -> datetime | None:
    """When the published credential ends: as told, or earlier as learnt. None if unknown."""
    if learnt_life is None or secret.issued_at is None:
        return secret.expires_at
    learnt = secret.issued_at + learnt_life
    return learnt if secret.expires_at is None else min(learnt, secret.expires_at)


def stale_at(
    credential: Credential, policy: Policy, learnt_life: timedelta | None, rng: Random
) -> datetime | None:
    """When a newly issued credential becomes stale. Draws the jitter: call it once for each."""
    if credential.expires_at is None:
        return None
    life = credential.expires_at - credential.issued_at
    span = life * policy.refresh_fraction
    if learnt_life is not None:
        span = min(span, learnt_life / 2)
    return credential.issued_at + span * (1 - rng.random() * policy.jitter)


def secret_life(target: Target, secret: SecretStatus, status: Status, now: datetime) -> Life:
    """Where one fal secret stands in its life."""
    if secret.fingerprint is None:
        return Life.UNKNOWN
    end = ends_at(secret, status.learnt_life)
    if end is None:
        return Life.UNKNOWN if target.renewable else Life.FRESH
    if end <= now:
        return Life.EXPIRED
    if now >= urgent_at(target, secret, end):
        return Life.URGENT
    if target.renewable and secret.refresh_at is not None and secret.refresh_at <= now:
        return Life.STALE
    return Life.FRESH


def urgent_at(target: Target, secret: SecretStatus, end: datetime) -> datetime:
    """When a credential that ends at `end` becomes urgent."""
    if not target.renewable or secret.issued_at is None:
        return end - target.policy.urgent_static
    return end - (end - secret.issued_at) * target.policy.urgent_fraction


_WORST_FIRST = (Life.EXPIRED, Life.URGENT, Life.UNKNOWN, Life.STALE, Life.FRESH)


def life(target: Target, status: Status, now: datetime) -> Life:
    """Where a target stands: the worst over its secrets."""
    lives = {secret_life(target, status.secret(ref), status, now) for ref in target.secrets}
    return next(candidate for candidate in _WORST_FIRST if candidate in lives)


def verify_interval(target: Target) -> timedelta:
    """How often the published credential is proved again."""
    policy = target.policy
    return policy.reverify_interval if target.renewable else policy.check_interval


def secret_valid(target: Target, secret: SecretStatus, now: datetime) -> bool | None:
    """Whether what we published works; None when nobody could judge it for two intervals."""
    if secret.fingerprint is None:
        return None
    if secret.expires_at is not None and secret.expires_at <= now:
        return False
    if secret.verdict is Verdict.UNAUTHORIZED:
        return False
    if secret.verified_at is None or now - secret.verified_at > 2 * verify_interval(target):
        return None
    return True


def valid(target: Target, status: Status, now: datetime) -> bool | None:
    """The worst over the target's secrets: false before unknown before true."""
    verdicts = {secret_valid(target, status.secret(ref), now) for ref in target.secrets}
    if False in verdicts:
        return False
    return None if None in verdicts else True


# --- due ---------------------------------------------------------------------------------------


def due(target: Target, status: Status, hand: Hand, now: datetime) -> DueReason | None:
    """Why the target is due at `now`, or None."""
    if not target.enabled or (hand.behind and status.digest != target.digest):
        return None
    if status.trigger is not None:
        return DueReason.FORCED
    if status.paused or resting(status, now):
        return None
    if status.consecutive_failures and not _demanded_since(status):
        return DueReason.RETRY
    return next((reason for reason, holds in _CHAIN if holds(target, status, hand, now)), None)


def resting(status: Status, now: datetime) -> bool:
    """Whether the target is left alone until its `next_attempt_at`.

    Not where the wall clock was set back since: what was booked then is too far ahead.
    """
    return now < status.next_attempt_at and not _set_back(status, now)


def _set_back(status: Status, now: datetime) -> bool:
    return status.last_attempt_at is not None and now < status.last_attempt_at


def _demanded_since(status: Status) -> bool:
    """Whether something newer was asked for since the last attempt, so this is no mere retry."""
    if status.fresh_after is None or status.last_attempt_at is None:
        return False
    return status.last_attempt_at <= status.fresh_after


def _missing(target: Target, status: Status, _hand: Hand, _now: datetime) -> bool:
    return any(status.secret(ref).fingerprint is None for ref in target.secrets)


def _config_changed(target: Target, status: Status, _hand: Hand, _now: datetime) -> bool:
    return status.digest != target.digest


def _expired(target: Target, status: Status, _hand: Hand, now: datetime) -> bool:
    return target.renewable and life(target, status, now) is Life.EXPIRED


def _rejected(target: Target, status: Status, hand: Hand, _now: datetime) -> bool:
    if not target.renewable:
        return False
    if hand.standing is not None and hand.standing.refused:
        return True
    refusals = (Verdict.UNAUTHORIZED, Verdict.FORBIDDEN)
    return any(status.secret(ref).verdict in refusals for ref in target.secrets)


def _urgent(target: Target, status: Status, _hand: Hand, now: datetime) -> bool:
    return target.renewable and life(target, status, now) is Life.URGENT


def _stale(target: Target, status: Status, _hand: Hand, now: datetime) -> bool:
    return target.renewable and past_refresh(target, status, now)


def _drifted(target: Target, status: Status, hand: Hand, now: datetime) -> bool:
    return not hand.elsewhere and any(
        to_be_reasserted(status.secret(ref), now) for ref in target.secrets
    )


def _value_changed(target: Target, status: Status, _hand: Hand, _now: datetime) -> bool:
    return not target.renewable and status.source_value is SourceValue.CHANGED


def _unanswered(target: Target, status: Status, _hand: Hand, _now: datetime) -> bool:
    """Something newer was asked for, and the attempt that was to bring it was interrupted."""
    if status.fresh_after is None:
        return False
    issues = (status.secret(ref).issued_at for ref in target.secrets)
    return any(issued_at is None or issued_at < status.fresh_after for issued_at in issues)


def _unheld(target: Target, status: Status, hand: Hand, now: datetime) -> bool:
    if not target.renewable or hand.standing is not None or hand.elsewhere:
        return False
    return unheld_at(target, status) <= now or _set_back(status, now)


def _check(target: Target, status: Status, hand: Hand, now: datetime) -> bool:
    if target.renewable and hand.standing is None:
        return False
    return check_due(target, status, now)


_CHAIN: tuple[tuple[DueReason, Callable[[Target, Status, Hand, datetime], bool]], ...] = (
    (DueReason.MISSING, _missing),
    (DueReason.CONFIG_CHANGED, _config_changed),
    (DueReason.REJECTED, _rejected),
    (DueReason.EXPIRED, _expired),
    (DueReason.URGENT, _urgent),
    (DueReason.STALE, _stale),
    (DueReason.DRIFTED, _drifted),
    (DueReason.VALUE_CHANGED, _value_changed),
    (DueReason.RETRY, _unanswered),
    (DueReason.UNHELD, _unheld),
    (DueReason.CHECK, _check),
)


def past_refresh(target: Target, status: Status, now: datetime) -> bool:
    """Whether any published credential of the target is past its `refresh_at`."""
    marks = (status.secret(ref).refresh_at for ref in target.secrets)
    return any(mark is not None and mark <= now for mark in marks)


def check_at(target: Target, status: Status) -> datetime:
    """When the published credential is to be proved again."""
    proofs = [status.secret(ref).verified_at for ref in target.secrets]
    known = [proof for proof in proofs if proof is not None]
    if len(known) < len(proofs) or not known:
        return status.next_attempt_at
    return min(known) + verify_interval(target)


def check_due(target: Target, status: Status, now: datetime) -> bool:
    """Whether it is time for that."""
    return check_at(target, status) <= now or _set_back(status, now)


def unheld_at(target: Target, status: Status) -> datetime:
    """When a published credential that no live process holds becomes due."""
    if status.last_success_at is None:
        return status.next_attempt_at
    return status.last_success_at + target.policy.unheld_after


def in_hand(
    target: Target, status: Status, hand: Hand, reason: DueReason, now: datetime
) -> HeldCredential | None:
    """The held credential that serves an attempt for `reason`; None where one must be issued."""
    if reason is DueReason.CHECK:
        return hand.standing
    candidates = (hand.standing, hand.newest)
    return next((c for c in candidates if c and _serves(target, status, c, reason, now)), None)


def _serves(
    target: Target, status: Status, held: HeldCredential, reason: DueReason, now: datetime
) -> bool:
    issued_at = held.credential.issued_at
    if held.refused or (held.refresh_at is not None and held.refresh_at <= now):
        return False
    if status.fresh_after is not None and issued_at < status.fresh_after:
        return False
    if any(_newer(status.secret(ref), issued_at) for ref in target.secrets):
        return False
    return reason in _REUSING or abs(now - issued_at) < target.policy.share_for


def _newer(secret: SecretStatus, issued_at: datetime) -> bool:
    return secret.issued_at is not None and secret.issued_at > issued_at


# --- drift -------------------------------------------------------------------------------------


def to_be_reasserted(secret: SecretStatus, now: datetime) -> bool:
    """Whether to write again what someone else wrote or deleted; the former once an interval."""
    if not secret.drifted:
        return False
    return secret.vanished or secret.contested_until is None or secret.contested_until <= now


def refresh_interval(target: Target, secret: SecretStatus) -> timedelta:
    """From the issue of what stands to its refresh; of what only a person renews, its checks'."""
    if secret.issued_at is None or secret.refresh_at is None:
        return verify_interval(target)
    return secret.refresh_at - secret.issued_at


# --- when next ---------------------------------------------------------------------------------


def next_look(target: Target, status: Status, hand: Hand) -> datetime:
    """When the tick looks at a target again after an attempt that succeeded."""
    secrets = [status.secret(ref) for ref in target.secrets]
    looks = [secret.refresh_at for secret in secrets]
    looks += [secret.contested_until for secret in secrets if secret.drifted]
    if target.renewable and hand.standing is None and not hand.elsewhere:
        looks.append(unheld_at(target, status))
    else:
        looks.append(check_at(target, status))
    return min(look for look in looks if look is not None)


def resume_at(target: Target, status: Status, now: datetime, place: float, many: int) -> datetime:
    """When a target is looked at after a restart, when nothing is held.

    `place` in [0, 1) is its place among `many` such targets: they are spread, so that a restart
    is no storm, and the urgent ones are not.
    """
    if life(target, status, now) in (Life.EXPIRED, Life.URGENT):
        return now
    spread = min(target.policy.unheld_spread, timedelta(seconds=many / _RESUME_RATE))
    at = max(now, unheld_at(target, status)) + spread * place
    marks = [status.secret(ref).refresh_at for ref in target.secrets]
    return max(now, min([at, *(mark for mark in marks if mark is not None)]))


def retry_delay(
    target: Target, status: Status, failure: Failure, now: datetime, rng: Random
) -> timedelta:
    """How long to wait after a failed attempt; `status` counts this failure already.

    Between half of the cap and all of it, so that many targets at the cap do not move as one.
    What a peer asked for is a least: it is stretched, never cut (RFC 9110 section 10.2.3).
    """
    asked = _asked(target, status, failure)
    if asked is not None:
        asked = min(max(asked, target.policy.guard_floor), target.policy.refused_wait)
        return asked * (1 + rng.random() / 4)
    cap = max(_retry_cap(target, status, failure, now), target.policy.guard_floor)
    return cap * (1 - rng.random() / 2)


def _asked(target: Target, status: Status, failure: Failure) -> timedelta | None:
    """What the peer asked for, or what a refused value asks for: a lock-out is to be avoided."""
    if failure.retry_after is not None:
        return failure.retry_after
    if not target.renewable and status.source_value is SourceValue.REJECTED:
        return target.policy.refused_wait
    return None


_FOR_A_PERSON = (FailureReason.CONFIG, FailureReason.FORBIDDEN, FailureReason.UNAUTHORIZED)


def _retry_cap(target: Target, status: Status, failure: Failure, now: datetime) -> timedelta:
    policy = target.policy
    if failure.reason in _FOR_A_PERSON:
        pressing = life(target, status, now) in (Life.URGENT, Life.EXPIRED)
        return policy.retry_cap_urgent if pressing else policy.retry_permanent
    doublings = min(max(status.consecutive_failures - 1, 0), _MAX_DOUBLINGS)
    growing = policy.retry_first * (1 << doublings)
    left = life_left(target, status, now)
    if left is None or left <= timedelta():
        return min(growing, policy.retry_cap_urgent)
    return min(growing, policy.retry_cap, left / 8)


def life_left(target: Target, status: Status, now: datetime) -> timedelta | None:
    """Until the first of the target's credentials ends; None where any end is unknown."""
    ends = [ends_at(status.secret(ref), status.learnt_life) for ref in target.secrets]
    known = [end for end in ends if end is not None]
    return min(known) - now if len(known) == len(ends) and known else None


# --- what people are told ----------------------------------------------------------------------


def condition(target: Target, status: Status, now: datetime) -> Condition | None:
    """How the target stands; None while nobody can tell."""
    where, works = life(target, status, now), valid(target, status, now)
    if where is Life.EXPIRED or works is False:
        return Condition.BAD
    if where is Life.URGENT:
        return Condition.BAD if status.consecutive_failures else Condition.URGENT
    if _cannot_begin(target, status):
        return Condition.BAD
    return None if works is None else Condition.GOOD


def _cannot_begin(target: Target, status: Status) -> bool:
    """Whether a secret was never published, and that is not about to pass by itself."""
    if status.last_failure is None or not unpublished(target, status):
        return False
    for_a_person = status.last_failure.reason in _FOR_A_PERSON
    return status.consecutive_failures >= (1 if for_a_person else _BEGINNING_FAILURES)


def unpublished(target: Target, status: Status) -> list[SecretRef]:
    """The secrets of the target that we have never written."""
    return [ref for ref in target.secrets if status.secret(ref).fingerprint is None]


def warning(target: Target, status: Status, now: datetime) -> timedelta | None:
    """The expiry warning that a static credential has reached, if it was not given yet."""
    reached = warned(target, status, now)
    if reached is None or (status.warned is not None and reached >= status.warned):
        return None
    return reached


def warned(target: Target, status: Status, now: datetime) -> timedelta | None:
    """The expiry warning that stands at `now`: one that no longer does may be given again."""
    if target.renewable:
        return None
    left = life_left(target, status, now)
    if left is None:
        return status.warned
    return min((ahead for ahead in target.policy.expiry_warnings if left <= ahead), default=None)


# --- loop guard --------------------------------------------------------------------------------


def issue_allowed_at(target: Target, status: Status, now: datetime) -> datetime:
    """The earliest time of the next issue; `forced` is not bound by it.

    A last issue that lies ahead was booked before the clock was set back, and says nothing.
    """
    if status.last_issue_at is None or status.last_issue_at > now:
        return now
    return status.last_issue_at + issue_spacing(target.policy, status)


def issue_spacing(policy: Policy, status: Status) -> timedelta:
    """Shortest time between two issues: it doubles with each one that was not planned."""
    if status.last_issue_life is None:
        base, longest = policy.guard_ceiling, _UNKNOWN_LIFE_SPACING
    else:
        base = status.last_issue_life * policy.guard_fraction
        base = min(max(base, policy.guard_floor), policy.guard_ceiling)
        longest = status.last_issue_life * policy.refresh_fraction
    doublings = min(status.unplanned_issues, 32)
    return max(base, min(base * (1 << doublings), longest))


def count_unplanned(target: Target, status: Status, now: datetime) -> int:
    """`unplanned_issues` once an issue is made at `now`: a planned one resets it.

    An issue is planned when what stands is past its `refresh_at`, or when a refresh interval
    went by without one.
    """
    if status.last_issue_at is None or past_refresh(target, status, now):
        return 0
    if status.last_issue_life is not None:
        interval = status.last_issue_life * target.policy.refresh_fraction
        if now - status.last_issue_at >= interval:
            return 0
    return status.unplanned_issues + 1
