"""What API, page, metrics and `status` show of targets and attempts. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, TypedDict

from refresher import policy, record
from refresher.errors import FailureReason
from refresher.model import (
    Actor,
    Attempt,
    DueReason,
    FailureRecord,
    Life,
    Outcome,
    Replica,
    SecretStatus,
    SourceValue,
    Stage,
    Status,
    Target,
)

#: RFC 3339 in UTC with whole seconds, as `date`, `jq` and kubectl read and write it.
Time = Annotated[str, "date-time"]


class FailureView(TypedDict):
    """A failure: when, at which stage, why, and in words."""

    at: Time
    stage: Stage
    reason: FailureReason
    message: str


class LayerView(TypedDict):
    """One step of the last verification; `ok` is null where it could not be judged."""

    name: str
    ok: bool | None
    words: str


class SecretView(TypedDict):
    """One fal secret of a target."""

    account: str
    environment: str
    name: str
    published_at: Time | None
    issued_at: Time | None
    expires_at: Time | None
    fingerprint: str | None
    valid: bool | None
    #: Whether someone else wrote or deleted it since.
    drifted: bool
    last_failure: FailureView | None


class TargetView(TypedDict):
    """One target; its own fields are the worst over its secrets, null while unknown."""

    name: str
    source: str
    renewable: bool
    registry: str
    enabled: bool
    paused: bool
    state: Life
    valid: bool | None
    proved: bool | None
    image_pullable: bool | None
    issued_at: Time | None
    expires_at: Time | None
    refresh_at: Time | None
    verified_at: Time | None
    next_attempt_at: Time | None
    last_success_at: Time | None
    last_attempt_at: Time | None
    consecutive_failures: int
    last_failure: FailureView | None
    source_value: str | None
    #: Days of the last expiry warning that was reached.
    expiry_warning_days: int | None
    pulls_remaining: int | None
    pulls_limit: int | None
    layers: list[LayerView]
    #: The replica that holds in memory what stands; null where the state is not shared.
    holder: str | None
    secrets: list[SecretView]


class ReplicaView(TypedDict):
    """A process that shares the state; `config` is equal where they keep the same targets alike."""

    id: str
    host: str
    pid: int
    release: str
    config: str
    started_at: Time
    #: Whether its last heartbeat was in time.
    alive: bool
    #: How many targets it holds the credential of.
    holds: int


class StageView(TypedDict):
    """How long one stage took."""

    stage: Stage
    seconds: float


class AttemptView(TypedDict):
    """One attempt; `outcome` is null while it runs."""

    id: str
    target: str
    actor: Actor
    reason: DueReason
    started_at: Time
    ended_at: Time | None
    outcome: Outcome | None
    failure: FailureView | None
    stages: list[StageView]
    fingerprint_before: str | None
    fingerprint_after: str | None
    verified: bool


def timestamp(at: datetime) -> Time:
    """RFC 3339 in UTC; a part of a second is cut off, so that no end is shown too late."""
    return f"{at.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='seconds')}Z"


def with_status(
    targets: Mapping[str, Target], statuses: Mapping[str, Status], now: datetime
) -> list[tuple[Target, Status]]:
    """Every configured target with its status, a blank one before its first tick."""
    return [
        (target, statuses.get(name) or record.adopted(target, None, now))
        for name, target in targets.items()
    ]


def target_view(target: Target, status: Status, now: datetime) -> TargetView:
    """What stands for a target and what comes next, as `GET /api/v1/targets` answers it."""
    secrets = [status.secret(ref) for ref in target.secrets]
    return {
        "name": target.name,
        "source": target.kind,
        "renewable": target.renewable,
        "registry": target.registry.host,
        "enabled": target.enabled,
        "paused": status.paused,
        "state": policy.life(target, status, now),
        "valid": policy.valid(target, status, now),
        "proved": _worst(_proved(secret) for secret in secrets),
        "image_pullable": status.image_pullable,
        "issued_at": _time(issued_at(target, status)),
        "expires_at": _time(expires_at(target, status)),
        "refresh_at": _time(refresh_at(target, status)),
        "verified_at": _time(_earliest(secret.verified_at for secret in secrets)),
        "next_attempt_at": _time(next_attempt_at(target, status)),
        "last_success_at": _time(status.last_success_at),
        "last_attempt_at": _time(status.last_attempt_at),
        "consecutive_failures": status.consecutive_failures,
        "last_failure": _failure_view(status.last_failure),
        "source_value": _source_value(status),
        "expiry_warning_days": None if status.warned is None else status.warned.days,
        "pulls_remaining": status.pulls_remaining,
        "pulls_limit": status.pulls_limit,
        "layers": [{"name": x.name, "ok": x.ok, "words": x.words} for x in status.layers],
        "holder": status.holder,
        "secrets": [_secret_view(target, status, secret, now) for secret in secrets],
    }


def replica_views(replicas: Iterable[Replica], statuses: Iterable[Status]) -> list[ReplicaView]:
    """Who shares the state, as `GET /api/v1/replicas` answers it."""
    holds = Counter(status.holder for status in statuses)
    return [
        {
            "id": each.id,
            "host": each.host,
            "pid": each.pid,
            "release": each.release,
            "config": each.config,
            "started_at": timestamp(each.started_at),
            "alive": each.alive,
            "holds": holds[each.id],
        }
        for each in replicas
    ]


def _source_value(status: Status) -> str | None:
    """What is known of the source's value; nothing yet while a change waits for its attempt."""
    if status.source_value is SourceValue.CHANGED:
        return None
    return status.source_value


def attempt_view(attempt: Attempt) -> AttemptView:
    """One attempt, as the history shows it."""
    return {
        "id": attempt.id,
        "target": attempt.target,
        "actor": attempt.actor,
        "reason": attempt.reason,
        "started_at": timestamp(attempt.started_at),
        "ended_at": _time(attempt.ended_at),
        "outcome": attempt.outcome,
        "failure": _failure_view(attempt.failure),
        "stages": [{"stage": stage.stage, "seconds": stage.seconds} for stage in attempt.stages],
        "fingerprint_before": attempt.fingerprint_before,
        "fingerprint_after": attempt.fingerprint_after,
        "verified": attempt.verified,
    }


def issued_at(target: Target, status: Status) -> datetime | None:
    """When the oldest of the target's published credentials was issued."""
    return _earliest(status.secret(ref).issued_at for ref in target.secrets)


def refresh_at(target: Target, status: Status) -> datetime | None:
    """When the first of the target's published credentials becomes stale."""
    return _earliest(status.secret(ref).refresh_at for ref in target.secrets)


def expires_at(target: Target, status: Status) -> datetime | None:
    """When the first of the target's published credentials ends, as told or as learnt."""
    return _earliest(secret_expires_at(status.secret(ref), status) for ref in target.secrets)


def secret_expires_at(secret: SecretStatus, status: Status) -> datetime | None:
    """When what stands in one secret ends, as told or as learnt."""
    return policy.ends_at(secret, status.learnt_life)


def next_attempt_at(target: Target, status: Status) -> datetime | None:
    """When the target is looked at again; None while it is parked."""
    if not target.enabled:
        return None
    if status.trigger is not None:
        return status.trigger.at
    return None if status.paused else status.next_attempt_at


def _secret_view(target: Target, status: Status, secret: SecretStatus, now: datetime) -> SecretView:
    return {
        "account": secret.ref.account,
        "environment": secret.ref.environment,
        "name": secret.ref.name,
        "published_at": _time(secret.published_at),
        "issued_at": _time(secret.issued_at),
        "expires_at": _time(secret_expires_at(secret, status)),
        "fingerprint": secret.fingerprint,
        "valid": policy.secret_valid(target, secret, now),
        "drifted": secret.drifted,
        "last_failure": _failure_view(secret.last_failure),
    }


def _failure_view(failure: FailureRecord | None) -> FailureView | None:
    if failure is None:
        return None
    return {
        "at": timestamp(failure.at),
        "stage": failure.stage,
        "reason": failure.reason,
        "message": failure.message,
    }


def _time(at: datetime | None) -> Time | None:
    return None if at is None else timestamp(at)


def _earliest(times: Iterable[datetime | None]) -> datetime | None:
    return min((time for time in times if time is not None), default=None)


def _proved(secret: SecretStatus) -> bool | None:
    """Whether the registry ever accepted what stands there, before it was written or since."""
    if secret.fingerprint is None:
        return None
    return secret.proved or secret.verified_at is not None


def _worst(answers: Iterable[bool | None]) -> bool | None:
    given = set(answers)
    if False in given:
        return False
    return None if None in given else True
