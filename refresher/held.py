"""The credentials that this process holds in memory, and where they were proved."""

from __future__ import annotations

import threading
from collections.abc import Set
from dataclasses import replace

from refresher.model import Hand, HeldCredential, Proof, Replicas, Status, Target
from refresher.replicas import Alone


class Held:
    """Shared by all workers. A credential stays while a secret holds it or it is the newest."""

    def __init__(self, replicas: Replicas | None = None) -> None:
        """`replicas`: with whom the state is shared; None for nobody."""
        self._replicas = replicas or Alone()
        self._lock = threading.Lock()
        self._by_fingerprint: dict[str, HeldCredential] = {}
        self._newest: dict[str, str] = {}
        self._proofs: dict[tuple[str, str, str], Proof] = {}

    def put(self, share_key: str, held: HeldCredential) -> None:
        """Keep a credential as the newest of its share key."""
        with self._lock:
            self._by_fingerprint[held.fingerprint] = held
            self._newest[share_key] = held.fingerprint

    def hand(self, target: Target, status: Status | None) -> Hand:
        """What is held for one target."""
        with self._lock:
            newest = self._by_fingerprint.get(self._newest.get(target.source.share_key, ""))
            standing = self._by_fingerprint.get(_standing(target, status))
        others = self._replicas
        return Hand(standing, newest, others.elsewhere(status), others.behind)

    def refuse(self, fingerprint: str) -> None:
        """A registry refused this credential: it serves no target any more."""
        with self._lock:
            held = self._by_fingerprint.get(fingerprint)
            if held is not None:
                self._by_fingerprint[fingerprint] = replace(held, refused=True)

    def remember(self, held: HeldCredential, target: Target, proof: Proof) -> None:
        """A registry accepted this credential."""
        with self._lock:
            self._proofs[proof_key(held, target)] = proof

    def proof(self, held: HeldCredential, target: Target) -> Proof | None:
        """The last proof of this credential against the target's registry and image."""
        with self._lock:
            return self._proofs.get(proof_key(held, target))

    def keep_only(self, in_use: Set[str]) -> None:
        """Drop what stands in no secret and is not the newest of its share key."""
        with self._lock:
            wanted = in_use | set(self._newest.values())
            for fingerprint in self._by_fingerprint.keys() - wanted:
                del self._by_fingerprint[fingerprint]
            for key in [key for key in self._proofs if key[0] not in wanted]:
                del self._proofs[key]


def _standing(target: Target, status: Status | None) -> str:
    """The one fingerprint that stands in all secrets of the target, or nothing."""
    if status is None:
        return ""
    fingerprints = {status.secret(ref).fingerprint for ref in target.secrets}
    return fingerprints.pop() or "" if len(fingerprints) == 1 else ""


def proof_key(held: HeldCredential, target: Target) -> tuple[str, str, str]:
    """What a proof is about: equal for targets that one proof serves."""
    return (held.fingerprint, target.registry.url, str(target.image))
