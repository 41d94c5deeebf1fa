"""What fal's list of secrets tells: what we shall overwrite, and what others did since we wrote.

A key that may not list suffices for everything else, so a list that fails is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime

from refresher.errors import Failure
from refresher.model import ListedSecret, Publisher, SecretRef, SecretStatus, Status, Target

#: Accounts and environments that are listed at the same time.
_AT_ONCE = 8

#: (account, environment) to its secrets by name; absent where fal did not tell.
Listing = Mapping[tuple[str, str], Mapping[str, ListedSecret]]


@dataclass(frozen=True, slots=True)
class Overwrite:
    """A secret that is there already and that we have never written."""

    target: str
    ref: SecretRef
    found: ListedSecret


def read(publishers: Mapping[str, Publisher], refs: Iterable[SecretRef]) -> Listing:
    """The lists of all accounts and environments that hold one of `refs`, side by side."""
    places = sorted({(ref.account, ref.environment) for ref in refs})
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="list") as pool:
        lists = pool.map(lambda place: _listed(publishers[place[0]], place[1]), places)
        found = dict(zip(places, lists, strict=True))
    return {place: secrets for place, secrets in found.items() if secrets is not None}


def _listed(publisher: Publisher, environment: str) -> Mapping[str, ListedSecret] | None:
    try:
        return {secret.name: secret for secret in publisher.listed(environment)}
    except Failure:
        return None


def unwritten(
    targets: Iterable[Target], statuses: Mapping[str, Status]
) -> Iterator[tuple[Target, SecretRef]]:
    """The secrets that no earlier run has written."""
    for target in targets:
        status = statuses.get(target.name)
        for ref in target.secrets:
            if target.enabled and (status is None or status.secret(ref).fingerprint is None):
                yield target, ref


def overwrites(
    publishers: Mapping[str, Publisher],
    targets: Iterable[Target],
    statuses: Mapping[str, Status],
) -> list[Overwrite]:
    """What stands in fal and will be overwritten by a first publish."""
    new = list(unwritten(targets, statuses))
    listing = read(publishers, [ref for _target, ref in new])
    found = ((target, ref, _find(listing, ref)) for target, ref in new)
    return [Overwrite(target.name, ref, there) for target, ref, there in found if there]


def _find(listing: Listing, ref: SecretRef) -> ListedSecret | None:
    return listing.get((ref.account, ref.environment), {}).get(ref.name)


# --- drift -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Look:
    """One look at all lists."""

    #: When it began.
    at: datetime
    listing: Listing
    #: Accounts whose fal is known to move `created_time` with a write.
    moving: Set[str]


def moving(statuses: Iterable[Status]) -> frozenset[str]:
    """The accounts whose fal gave two values of `created_time` for two writes of ours.

    Whether it does is documented nowhere, so it is learnt.
    """
    secrets = (secret for status in statuses for secret in status.secrets)
    return frozenset(secret.ref.account for secret in secrets if secret.created_time_moves)


def noted(status: Status, look: Look) -> Status:
    """The status with what a look tells of its secrets; one that drifted makes the target due."""
    if status.attempt is not None:
        return status  # which may be writing just now
    secrets = tuple(_noted(secret, look) for secret in status.secrets)
    dues = [_due_at(secret, look) for secret in news(status.secrets, secrets)]
    if status.consecutive_failures or not dues:
        return replace(status, secrets=secrets)  # a retry writes it, too
    return replace(status, secrets=secrets, next_attempt_at=min(status.next_attempt_at, *dues))


def news(before: Iterable[SecretStatus], after: Iterable[SecretStatus]) -> Iterator[SecretStatus]:
    """Of the secrets after a look, those that drifted in a way that was not known before it."""
    for old, new in zip(before, after, strict=True):
        known = old.drifted and old.vanished == new.vanished
        moved = old.created_time is not None and old.created_time != new.created_time
        if new.drifted and (moved or not known):
            yield new


def _due_at(secret: SecretStatus, look: Look) -> datetime:
    if secret.vanished or secret.contested_until is None:
        return look.at
    return max(look.at, secret.contested_until)


def _noted(secret: SecretStatus, look: Look) -> SecretStatus:
    listed = (secret.ref.account, secret.ref.environment) in look.listing
    if secret.fingerprint is None or not listed or _touched_since(secret, look.at):
        return secret
    found = _find(look.listing, secret.ref)
    if found is None:
        return replace(_learning_nothing(secret), drifted=True, vanished=True)
    if secret.vanished:  # it is back, and not through us
        return replace(secret, vanished=False, created_time=found.created_time)
    if secret.created_time is None:
        return _with_first(secret, found.created_time)
    return _compared(secret, found.created_time, trusted=secret.ref.account in look.moving)


def _touched_since(secret: SecretStatus, at: datetime) -> bool:
    """Whether a write of ours ended after the look began, so that it may or may not show it."""
    failure = secret.last_failure
    touches = (secret.published_at, None if failure is None else failure.at)
    return any(touch is not None and touch >= at for touch in touches)


def _learning_nothing(secret: SecretStatus) -> SecretStatus:
    """A secret that is made anew gets another `created_time` from any server."""
    return replace(secret, created_time=None, created_time_before=None)


def _with_first(secret: SecretStatus, shown: datetime | None) -> SecretStatus:
    """The first value after a write of ours, which teaches something beside the one before."""
    before = secret.created_time_before
    moves = secret.created_time_moves if None in (before, shown) else shown != before
    return replace(secret, created_time=shown, created_time_moves=moves)


def _compared(secret: SecretStatus, shown: datetime | None, *, trusted: bool) -> SecretStatus:
    """A value that changed without a write of ours is another's, where values can be trusted."""
    if shown in (secret.created_time, None):
        return secret
    return replace(secret, created_time=shown, drifted=secret.drifted or trusted)
