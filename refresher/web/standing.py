"""One word and one colour for a target: what a person sees first. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum

from refresher import policy
from refresher.model import Life, SecretStatus, Status, Target


class Group(StrEnum):
    """What the summary counts."""

    TROUBLE = "trouble"
    UNKNOWN = "unknown"
    FINE = "fine"
    PARKED = "parked"


class Standing(StrEnum):
    """Where a target stands, the worst first."""

    EXPIRED = "expired"
    #: The registry does not accept what we published.
    REFUSED = "refused"
    URGENT = "urgent"
    #: What stands is good, and the last attempt failed.
    FAILING = "failing"
    #: Somebody else wrote or deleted the secret.
    DRIFTED = "drifted"
    #: Published without a proof, or the image cannot be pulled.
    UNPROVED = "unproved"
    #: Nothing published yet, or nobody could judge it for long.
    UNKNOWN = "unknown"
    STALE = "stale"
    FRESH = "fresh"
    PAUSED = "paused"
    DISABLED = "disabled"

    @property
    def group(self) -> Group:
        return _GROUPS[self]

    @property
    def tone(self) -> str:
        """The name of its colour and of its sign."""
        if self.group is not Group.TROUBLE:
            return self.group
        return "bad" if self in _BAD else "warn"

    @property
    def rank(self) -> int:
        """Its place among all, the worst being 0."""
        return _RANKS[self]


_BAD = frozenset({Standing.EXPIRED, Standing.REFUSED})
_RANKS = {standing: rank for rank, standing in enumerate(Standing)}
_GROUPS = {
    **dict.fromkeys(Standing, Group.TROUBLE),
    Standing.UNKNOWN: Group.UNKNOWN,
    Standing.STALE: Group.FINE,
    Standing.FRESH: Group.FINE,
    Standing.PAUSED: Group.PARKED,
    Standing.DISABLED: Group.PARKED,
}


def standing(target: Target, status: Status, now: datetime) -> Standing:
    """The one word for a target: the first that holds."""
    if not target.enabled:
        return Standing.DISABLED
    life, valid = policy.life(target, status, now), policy.valid(target, status, now)
    secrets = [status.secret(ref) for ref in target.secrets]
    ladder = (
        (Standing.EXPIRED, life is Life.EXPIRED),
        (Standing.REFUSED, valid is False),
        (Standing.PAUSED, status.paused),
        (Standing.URGENT, life is Life.URGENT),
        (Standing.FAILING, status.consecutive_failures > 0),
        (Standing.DRIFTED, any(secret.drifted for secret in secrets)),
        (Standing.UNKNOWN, life is Life.UNKNOWN or valid is None),
        (Standing.UNPROVED, _unproved(status, secrets)),
        (Standing.STALE, life is Life.STALE),
    )
    return next((standing for standing, holds in ladder if holds), Standing.FRESH)


def _unproved(status: Status, secrets: Iterable[SecretStatus]) -> bool:
    return status.image_pullable is False or any(s.verified_at is None for s in secrets)


def notes(target: Target, status: Status, now: datetime) -> Iterator[str]:
    """What the one word leaves out, a few words each."""
    secrets = [status.secret(ref) for ref in target.secrets]
    published = [secret for secret in secrets if secret.fingerprint is not None]
    if target.enabled and status.paused:
        yield "paused by a person"
    if not published:
        yield "nothing published yet"
    if _to_be_replaced(target, status, now):
        yield "only a person can replace it"
    if status.consecutive_failures > 1:
        yield f"{status.consecutive_failures:,} failures in a row"
    if any(secret.drifted for secret in secrets):
        yield "written by somebody else"
    if any(secret.verified_at is None for secret in published):
        yield "published unproved"
    if status.image_pullable is False:
        yield "image cannot be pulled"


def _to_be_replaced(target: Target, status: Status, now: datetime) -> bool:
    """Whether the end of a static credential is so near that it is announced."""
    left = policy.life_left(target, status, now)
    announced = max(target.policy.expiry_warnings, default=timedelta())
    return not target.renewable and left is not None and left <= announced
