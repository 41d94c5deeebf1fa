"""What fal's list of secrets tells: what we shall overwrite, and what vanished since.

A key that may not list suffices for everything else, so a list that fails is no failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from refresher.errors import Failure
from refresher.model import ListedSecret, Publisher, SecretRef, Status, Target

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


def vanished(listing: Listing, status: Status) -> set[SecretRef]:
    """The secrets that we wrote and that fal does not list any more."""
    return {
        secret.ref
        for secret in status.secrets
        if secret.fingerprint is not None
        and (secret.ref.account, secret.ref.environment) in listing
        and _find(listing, secret.ref) is None
    }
