"""What one attempt proved counts for every target in which the same credential stands."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from functools import partial

from refresher import record
from refresher.held import Held
from refresher.model import Attempt, HeldCredential, Proof, Status, Store, Target

#: What targets have in common that one proof may serve: principal, registry and image.
_Group = tuple[str, str, str]


class Sharing:
    """An observer: it notes the proof of an attempt that ended for all others that it serves.

    So a credential is proved once an interval for each registry and image, however many targets
    it stands in, and none of them has an attempt of its own for that.
    """

    def __init__(
        self, *, store: Store, held: Held, targets: Callable[[], Mapping[str, Target]]
    ) -> None:
        self._store = store
        self._held = held
        self._targets = targets
        self._known: Mapping[str, Target] = {}
        self._groups: Mapping[_Group, list[str]] = {}

    def __call__(self, target: Target, status: Status, _attempt: Attempt) -> None:
        """An attempt ended."""
        standing = self._held.hand(target, status).standing
        proof = None if standing is None else self._held.proof(standing, target)
        if standing is None or proof is None:
            return
        targets = self._targets()
        others = {
            name: partial(self._proved, targets[name], standing, proof)
            for name in self._group(targets, target)
            if name != target.name and self._wants(targets[name], standing, proof)
        }
        if others:
            self._store.update_many(others)

    def _group(self, targets: Mapping[str, Target], target: Target) -> list[str]:
        if targets is not self._known:
            groups = defaultdict(list)
            for name, each in targets.items():
                groups[_group_of(each)].append(name)
            self._groups, self._known = groups, targets
        return self._groups.get(_group_of(target), [])

    def _wants(self, target: Target, standing: HeldCredential, proof: Proof) -> bool:
        status = self._store.status(target.name)
        return status is not None and any(
            record.tells_more(secret, standing, proof) for secret in status.secrets
        )

    def _proved(
        self, target: Target, standing: HeldCredential, proof: Proof, status: Status | None
    ) -> Status:
        known = status or record.adopted(target, None, proof.verified_at)
        return record.proved(target, known, standing, proof, self._held.hand(target, known))


def _group_of(target: Target) -> _Group:
    return (target.source.share_key, target.registry.url, str(target.image))
