"""Google Artifact Registry: a service-account key that a person replaces, or an access token."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from refresher.clock import Clock
from refresher.errors import (
    Failure,
    Layer,
    Unauthorized,
    Unavailable,
)
from refresher.model import Credential, ImageRef, Proof, RegistryRef, Verifier
from refresher.references import Reference
from refresher.sources.gar_key import ServiceAccountKey, parse_key
from refresher.sources.google import Google
from refresher.sources.google_errors import SignatureRefused
from refresher.sources.google_identity import GoogleIdentity
from refresher.steps import Steps

__all__ = ["GarKeySource", "GarKeyVerifier", "GarTokenSource", "Google", "GoogleIdentity"]

#: With this user name the password is an access token (Artifact Registry documentation).
TOKEN_USERNAME = "oauth2accesstoken"  # noqa: S105 - a user name
#: Google's services know a new key after at most 7 min, as users of Vault report.
SETTLING = timedelta(minutes=10)
_REFUSED = "Google refused the key's signature (Invalid JWT Signature)"
#: Certificates of keys without an end claim ten years, or the year 9999.
ENDLESS = timedelta(days=5 * 365)


class GarKeySource:
    """A service-account key, published as Artifact Registry takes it."""

    renewable = False
    quota: str | None = None

    def __init__(self, key: Reference, username: str, *, token_uris: tuple[str, ...] = ()) -> None:
        """`username`: `_json_key_base64` or `_json_key`; the published bytes follow it."""
        self.share_key = f"gar key {key} {username}"
        self._key = key
        self._username = username
        self._token_uris = token_uris

    def obtain(self, now: datetime) -> Credential:
        """The key as it stands now. Raises `Misconfigured` or `InvalidCredential`."""
        key = parse_key(self._key.read().reveal(), self._token_uris)
        return Credential(self._username, key.as_password(self._username), issued_at=now)


class GarTokenSource:
    """Short-lived access tokens, good for every registry that their account may read."""

    renewable = True
    quota: str | None = None

    def __init__(self, identity: GoogleIdentity, google: Google) -> None:
        self.share_key = f"gar token {identity}"
        self._identity = identity
        self._google = google

    def obtain(self, now: datetime) -> Credential:
        """A newly issued token. Raises a `Failure`."""
        token = self._google.token(self._identity)
        return Credential(TOKEN_USERNAME, token.value, issued_at=now, expires_at=token.expires_at)


# --- verification ------------------------------------------------------------------------------


class GarKeyVerifier:
    """Proves a service-account key: by its parts, at Google, and at the registry.

    The registry decides. What goes before tells why, and when the key will end. Thread-safe.
    """

    def __init__(self, registry: Verifier, google: Google, *, clock: Clock) -> None:
        self._registry = registry
        self._google = google
        self._clock = clock
        #: When the signature of a key, by its id, was first refused.
        self._refused_since: dict[str, datetime] = {}
        #: When a key ends, by its id, as the list told when it last answered.
        self._ends: dict[str, datetime | None] = {}

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        """That the registry accepted the key with the very bytes that fal will send.

        `expires_at` is the end of the key's certificate. Raises a `Failure`, with the layers
        as far as the verification came.
        """
        steps = Steps()
        with steps.step("key") as step:
            key = self._google.parse_key(credential.password.reveal())
            step.words = f"{key.client_email}, key {key.private_key_id}"
        certificate = self._exchange(key, steps)
        steps.add(certificate.layer)
        try:
            proof = self._registry.verify(registry, credential, image)
        except Failure as failure:
            failure.layers = (*steps.taken, *failure.layers)
            raise
        steps.add(*proof.layers)
        return replace(
            proof, expires_at=certificate.expires_at or proof.expires_at, layers=steps.taken
        )

    def _exchange(self, key: ServiceAccountKey, steps: Steps) -> Certificate:
        """Raises a `Failure`; for a key that is only perhaps dead it is `Unavailable`."""
        now = self._clock.now()
        try:
            with steps.step("exchange") as step:
                self._google.exchange(key)
                step.words = "Google gave a token for it"
        except SignatureRefused as refused:
            certificate = self._certificate(key, now)
            raise self._judged(refused, key, certificate, now) from None
        self._refused_since.pop(key.private_key_id, None)
        return self._certificate(key, now)

    def _judged(
        self, refused: SignatureRefused, key: ServiceAccountKey, found: Certificate, now: datetime
    ) -> Failure:
        """Whether a refused signature means that the key is dead: alone, it may be too new."""
        since = self._refused_since.setdefault(key.private_key_id, now)
        dead = found.why_dead or _why_settled(now - since)
        *before, exchange = refused.layers
        if dead is not None:
            return Unauthorized(
                f"{_REFUSED}, and {dead}; replace the key",
                layers=(*before, exchange, found.layer),
            )
        return Unavailable(
            f"{_REFUSED}: it was deleted, or is so new that Google does not know it yet; new keys"
            " take up to 7 min, and it is called dead after 10 min",
            layers=(*before, replace(exchange, ok=None), found.layer),
        )

    def _certificate(self, key: ServiceAccountKey, now: datetime) -> Certificate:
        try:
            end = self._google.certificate_end(key)
        except Failure as failure:
            known = self._ends.get(key.private_key_id)
            return Certificate(Layer("certificate", None, failure.message), known)
        certificate = judge_certificate(end, now)
        self._ends[key.private_key_id] = certificate.expires_at
        return certificate


@dataclass(frozen=True, slots=True)
class Certificate:
    """What Google's public list tells of a key."""

    layer: Layer
    #: When the key ends; None where it has no end, or nobody knows.
    expires_at: datetime | None = None
    #: Why the key is dead, if its signature is refused, too.
    why_dead: str | None = None


def judge_certificate(end: datetime | None, now: datetime) -> Certificate:
    """What it means that a key's certificate ends at `end`, or that the key is not listed.

    A key that is listed may be dead all the same, so this never proves one alive.
    """
    if end is None:
        words = "the key is not in Google's public list, so it was deleted"
        return Certificate(Layer("certificate", False, words), why_dead=words)
    if end <= now:
        words = f"the key expired at {end:%FT%TZ}"
        return Certificate(Layer("certificate", False, words), end, words)
    if end - now > ENDLESS:
        return Certificate(Layer("certificate", True, "listed, and has no end"))
    return Certificate(Layer("certificate", True, f"listed, and ends at {end:%FT%TZ}"), end)


def _why_settled(refused_for: timedelta) -> str | None:
    if refused_for <= SETTLING:
        return None
    return "has refused it for more than 10 min"
