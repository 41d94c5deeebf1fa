"""What is known of one target, in the order in which it is asked for. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from refresher import policy, view
from refresher.model import Life, SecretStatus, SourceValue, Status, Target
from refresher.web.words import span


@dataclass(frozen=True, slots=True)
class Fact:
    """A label, and either words or a moment."""

    label: str
    text: str = ""
    at: datetime | None = None


_SOURCE_VALUES = {
    SourceValue.OK: "accepted by the registry",
    SourceValue.REJECTED: "refused by the registry; it is not tried again until it changes",
    SourceValue.UNCHANGED: "the one that stands in fal; not judged since it was read",
    SourceValue.CHANGED: "changed; waits for its attempt",
}

_VALID = {True: "yes", False: "no", None: "not known"}
_PULLABLE = {True: "can be pulled", False: "cannot be pulled", None: "not tried yet"}


def facts(target: Target, status: Status, now: datetime) -> Iterator[Fact]:
    """The facts of a target; a time that is not known is left out."""
    yield Fact("Source", f"{target.kind}, {'renewable' if target.renewable else 'static'}")
    yield Fact("Registry", target.registry.host)
    if target.username:
        yield Fact("User name", target.username)
    if target.image is not None:
        yield Fact("Image", f"{target.image}, {_PULLABLE[status.image_pullable]}")
    yield Fact("Life", policy.life(target, status, now))
    yield Fact("Accepted", valid_word(policy.valid(target, status, now)))
    yield from _known(_times(target, status))
    yield from _oddities(status)


def _times(target: Target, status: Status) -> Iterator[Fact]:
    proofs = [status.secret(ref).verified_at for ref in target.secrets]
    yield Fact("Issued", at=view.issued_at(target, status))
    yield Fact("Refreshed from", at=view.refresh_at(target, status))
    yield Fact("Ends", at=view.expires_at(target, status))
    yield Fact("Verified", at=min((at for at in proofs if at is not None), default=None))
    yield Fact("Last success", at=status.last_success_at)
    yield Fact("Last attempt", at=status.last_attempt_at)
    yield Fact("Next attempt", at=view.next_attempt_at(target, status))


def _known(facts: Iterator[Fact]) -> Iterator[Fact]:
    return (fact for fact in facts if fact.at is not None)


def _oddities(status: Status) -> Iterator[Fact]:
    if status.holder is not None:
        yield Fact("Held by", status.holder)
    if status.consecutive_failures:
        yield Fact("Failures in a row", f"{status.consecutive_failures:,}")
    if status.source_value is not None:
        yield Fact("Value of the source", _SOURCE_VALUES[status.source_value])
    if status.pulls_remaining is not None:
        limit = "" if status.pulls_limit is None else f" of {status.pulls_limit:,}"
        yield Fact("Pulls left", f"{status.pulls_remaining:,}{limit}")
    if status.learnt_life is not None:
        yield Fact("Learnt life", f"{span(status.learnt_life)}: refused before its time")


def valid_word(valid: bool | None) -> str:
    """Whether the registry accepts a credential, in a word."""
    return _VALID[valid]


def secret_state(target: Target, status: Status, secret: SecretStatus, now: datetime) -> str:
    """Where one fal secret stands, in a word."""
    if secret.drifted:
        return "drifted"
    if secret.fingerprint is None:
        return "never written"
    life = policy.secret_life(target, secret, status, now)
    refused = life is not Life.EXPIRED and policy.secret_valid(target, secret, now) is False
    return "refused" if refused else life
