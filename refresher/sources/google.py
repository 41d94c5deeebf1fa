"""Access tokens of Google's, and what Google publishes of a key."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self
from urllib.parse import quote

from cryptography import x509
from google.auth.credentials import Credentials

from refresher.clock import Clock, Skews
from refresher.deadline import CALL_SECONDS
from refresher.errors import InvalidCredential, InvalidResponse, NotFound
from refresher.model import SecretValue
from refresher.sources.gar_key import ServiceAccountKey, parse_key
from refresher.sources.google_identity import (
    GoogleIdentity,
    credentials_of,
    is_impersonated,
    of_key,
)
from refresher.sources.google_wire import GoogleWire, Talk

CERTS_URL = "https://www.googleapis.com/service_accounts/v1/metadata/x509"
IAM_URL = "https://iamcredentials.googleapis.com/v1"
#: The longest that an organisation can allow is 12 hours (generateAccessToken, `lifetime`).
LONGEST_LIFE = timedelta(hours=13)
#: A difference of clocks up to this is network delay and the whole seconds of `Date`.
NEGLIGIBLE_SKEW = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """An access token."""

    value: SecretValue
    #: The end of its life on our clock.
    expires_at: datetime


class Google:
    """Google's services as they are reached from here: one object for a process.

    Thread-safe. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        skews: Skews,
        token_uris: tuple[str, ...] = (),
        certs_url: str = CERTS_URL,
        iam_url: str = IAM_URL,
        ca_bundle: Path | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`token_uris`: token services that a key may name besides Google's own.

        Raises `Misconfigured` for a bundle or an environment's proxy that cannot be used.
        """
        self._clock = clock
        self._token_uris = token_uris
        self._certs_url = certs_url.rstrip("/")
        self._iam_url = iam_url.rstrip("/")
        self._wire = GoogleWire(
            clock=clock, skews=skews, ca_bundle=ca_bundle, call_seconds=call_seconds
        )

    def parse_key(self, text: str) -> ServiceAccountKey:
        """The key in `text`, if it names a token service that it may. As `gar_key.parse_key`."""
        return parse_key(text, self._token_uris)

    def exchange(self, key: ServiceAccountKey) -> None:
        """Return once Google gave a token for the key (RFC 7523), which is dropped.

        Raises a `Failure`.
        """
        credentials = of_key(key)
        self._refresh(credentials)
        _token(credentials)

    def token(self, identity: GoogleIdentity) -> AccessToken:
        """A newly issued token of the identity. Raises a `Failure`."""
        credentials = credentials_of(identity, self._token_uris, self._iam_url)
        skew = self._refresh(credentials)
        return AccessToken(_token(credentials), _expiry(credentials, skew, self._clock.now()))

    def certificate_end(self, key: ServiceAccountKey) -> datetime | None:
        """When Google's certificate of the key ends; None where Google lists no such key.

        The list is public (IAM REST reference, projects.serviceAccounts.keys). Raises a
        `Failure` where it cannot be read.
        """
        url = f"{self._certs_url}/{quote(key.client_email, safe='')}"
        what = "Google's list of certificates"
        try:
            answer = self._wire.talk(what, lambda talk: talk(url))
        except NotFound:  # no such account
            return None
        return _certificate_end(answer.data, key.private_key_id, what)

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _refresh(self, credentials: Credentials) -> timedelta:
        """Have a token put into `credentials`; the issuer's clock less ours."""

        def refresh(talk: Talk) -> timedelta:
            # Not `before_request`, which calls further services.
            credentials.refresh(talk)  # type: ignore[no-untyped-call]
            return talk.skew

        return self._wire.talk(_ISSUER, refresh)


# --- tokens ------------------------------------------------------------------------------------


_ISSUER = "Google's token service"


def _token(credentials: Credentials) -> SecretValue:
    token = credentials.token
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise InvalidCredential(f"{_ISSUER} gave an answer without an access token")
    return SecretValue(token)


def _expiry(credentials: Credentials, skew: timedelta, now: datetime) -> datetime:
    """The end of the token's life on our clock.

    google-auth counts `expires_in` from our clock; only impersonation tells a time of Google's.
    """
    told = credentials.expiry
    if not isinstance(told, datetime):
        raise InvalidCredential(f"{_ISSUER} gave a token without an end, so its life is unknown")
    expires_at = told.replace(tzinfo=UTC)
    if is_impersonated(credentials) and abs(skew) > NEGLIGIBLE_SKEW:
        expires_at -= skew
    if not timedelta(0) < expires_at - now <= LONGEST_LIFE:
        raise InvalidCredential(
            f"{_ISSUER} gave a token that claims to live to {expires_at:%FT%TZ}; none is longer"
            " than 12 hours or has ended already"
        )
    return expires_at


def _certificate_end(body: bytes, key_id: str, what: str) -> datetime | None:
    """From the JSON object of key ids and certificates in PEM."""
    try:
        listed = json.loads(body)
        pem = listed.get(key_id)
        if pem is None:
            return None
        return x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
    except (ValueError, AttributeError, RecursionError):
        raise InvalidResponse(f"{what} is not as documented") from None
