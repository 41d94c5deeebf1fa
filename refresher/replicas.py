"""What several replicas make of one target's status, and the replica that is alone. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

from refresher.errors import Interrupted
from refresher.model import Attempt, SecretRef, SecretStatus, Status, Target

_NEVER = datetime.min.replace(tzinfo=UTC)


class Alone:
    """One process owns the state: everything is granted, and there is nobody to tell."""

    replica = None
    behind = False

    def look(self) -> None:
        """Nobody else does anything."""

    def claim(self, due: Collection[Status], _pressing: Collection[str]) -> Collection[str]:
        return [status.name for status in due]

    def assure(self, name: str) -> None:
        """Nobody takes a target over."""

    def intend(self, _attempt: Attempt, _fingerprint: str, *, pressing: bool) -> None:  # noqa: ARG002
        return None

    def rank(self, _name: str, _share_key: str) -> int:
        return 0

    def elsewhere(self, _status: Status | None) -> bool:
        return False


def config_digest(targets: Mapping[str, Target]) -> str:
    """Equal for replicas that keep the same targets in the same way."""
    kept = [
        (t.name, t.digest, t.enabled, t.policy, t.image, t.default_exposed, t.verify_always)
        for _, t in sorted(targets.items())
    ]
    return hashlib.sha256(repr(kept).encode()).hexdigest()[:12]


def intended(status: Status, attempt: str, fingerprint: str) -> Status:
    """A write to fal is announced. Raises `Interrupted` where another attempt is under way."""
    if status.attempt != attempt:
        raise Interrupted("another replica took the target over; nothing was written")
    return replace(status, generation=status.generation + 1, intent=fingerprint)


def contested(status: Status, refs: Collection[SecretRef], now: datetime) -> Status:
    """Two replicas wrote, and nobody can tell whose value stands: write again, at once.

    The generation rises, so that one which is writing just now does the same at its end.
    """
    secrets = tuple(_contested(s) if s.ref in refs else s for s in status.secrets)
    return replace(status, secrets=secrets, next_attempt_at=now, generation=status.generation + 1)


def _contested(secret: SecretStatus) -> SecretStatus:
    """Drifted, with nothing to be learnt from what fal lists next."""
    if secret.fingerprint is None:
        return secret
    return replace(
        secret, drifted=True, contested_until=None, created_time=None, created_time_before=None
    )


def merged(base: Status, ours: Status, theirs: Status, now: datetime) -> Status:
    """One status of two that went on from `base` without each other, as while the state is away.

    A field that one side changed is that side's; of one that both did, the later attempt's holds.
    Where both published, the newer credential is taken for what stands, and is written again.
    """
    if theirs == base:
        return ours
    if ours in (base, theirs):
        return theirs
    newer = ours if _tried(ours) > _tried(theirs) else theirs
    values = {
        field.name: _of_field(field.name, base, ours, theirs, newer) for field in fields(Status)
    }
    values["generation"] = max(ours.generation, theirs.generation)
    both = [
        ref for ref in (s.ref for s in newer.secrets) if _both_published(ref, base, ours, theirs)
    ]
    values["secrets"] = tuple(_of_secret(s.ref, base, ours, theirs) for s in newer.secrets)
    one = Status(**values)
    return contested(one, both, now) if both else one


def _tried(status: Status) -> datetime:
    return status.last_attempt_at or _NEVER


def _of_field(name: str, base: Status, ours: Status, theirs: Status, newer: Status) -> Any:
    before, mine, other = getattr(base, name), getattr(ours, name), getattr(theirs, name)
    if mine == before:
        return other
    if other == before:
        return mine
    if name == "next_attempt_at":
        return min(mine, other)
    return getattr(newer, name)


def _of_secret(ref: SecretRef, base: Status, ours: Status, theirs: Status) -> SecretStatus:
    before, mine, other = base.secret(ref), ours.secret(ref), theirs.secret(ref)
    if mine == before:
        return other
    if other == before:
        return mine
    if mine.fingerprint == other.fingerprint:
        return max(mine, other, key=lambda secret: secret.verified_at or _NEVER)
    if before.fingerprint in (mine.fingerprint, other.fingerprint):
        return mine if other.fingerprint == before.fingerprint else other
    return max(mine, other, key=lambda secret: secret.issued_at or _NEVER)


def _both_published(ref: SecretRef, base: Status, ours: Status, theirs: Status) -> bool:
    """Whether both sides wrote a value to the secret, and not the same."""
    marks = [status.secret(ref).fingerprint for status in (base, ours, theirs)]
    return len(set(marks)) == len(marks)
