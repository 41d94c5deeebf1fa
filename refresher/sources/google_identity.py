"""Who we are at Google: a key, what the environment offers, and whom those may impersonate."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from google.auth import (
    aws,
    external_account,
    identity_pool,
    impersonated_credentials,
    pluggable,
)
from google.auth.credentials import Credentials
from google.oauth2 import credentials as user
from google.oauth2 import service_account

from refresher.errors import Misconfigured
from refresher.references import Reference
from refresher.sources.gar_key import ServiceAccountKey, parse_key
from refresher.sources.google_errors import VENDOR_ERRORS, NoToken
from refresher.sources.google_wire import Talk, metadata_host

#: What an account may do is decided by its roles; this scope takes nothing away.
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleIdentity:
    """Who we are at Google. With nothing set it is the application default."""

    #: Service-account key.
    key: Reference | None = None
    #: Service accounts to impersonate, each by the one before; the token is of the last.
    impersonate: tuple[str, ...] = ()
    #: Life of an impersonated token; above 1 h only where the organisation allows it.
    lifetime: timedelta = timedelta(hours=1)

    def __str__(self) -> str:
        """What is set, references by name: equal for settings that mean the same principal."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return " ".join(f"{name}={value}" for name, value, default in values if value != default)


def credentials_of(
    identity: GoogleIdentity, token_uris: tuple[str, ...], iam_url: str
) -> Credentials:
    """google-auth's object for the identity, a new one each time, so that it holds no token.

    Raises `Misconfigured` or `InvalidCredential`.
    """
    if identity.key is None:
        start = _application_default(token_uris)
    else:
        start = of_key(parse_key(identity.key.read().reveal(), token_uris))
    return _impersonating(start, identity, iam_url) if identity.impersonate else start


def of_key(key: ServiceAccountKey) -> Credentials:
    """google-auth's object for a key."""
    credentials: Credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        key.info(), scopes=[SCOPE]
    )
    return credentials


def is_impersonated(credentials: Credentials) -> bool:
    """Whether its token comes from the IAM API."""
    if isinstance(credentials, external_account.Credentials):
        return credentials.service_account_email is not None
    return isinstance(credentials, impersonated_credentials.Credentials)


def _impersonating(start: Credentials, identity: GoogleIdentity, iam_url: str) -> Credentials:
    """IAM REST reference, projects.serviceAccounts.generateAccessToken."""
    *delegates, principal = identity.impersonate
    account = quote(principal, safe="@")
    return impersonated_credentials.Credentials(  # type: ignore[no-untyped-call]
        start,
        target_principal=principal,
        target_scopes=[SCOPE],
        delegates=[f"projects/-/serviceAccounts/{delegate}" for delegate in delegates],
        lifetime=int(identity.lifetime.total_seconds()),
        iam_endpoint_override=f"{iam_url}/projects/-/serviceAccounts/{account}:generateAccessToken",
    )


# --- the application default -------------------------------------------------------------------


def _application_default(token_uris: tuple[str, ...]) -> Credentials:
    """What `google.auth.default` would find, which itself needs another HTTP library."""
    path = _default_file()
    if path is None:
        return MetadataCredentials()  # type: ignore[no-untyped-call]
    document = Reference(file=path).read().reveal()
    try:
        info = json.loads(document)
        if info["type"] == "service_account":
            return of_key(parse_key(document, token_uris))
        credentials: Credentials = _FILES[info["type"]](info)
        return credentials
    except VENDOR_ERRORS:
        # Not chained: the error's object holds the document.
        raise Misconfigured(
            f"{path} is no credential file of Google's that can be used; check its type and fields"
        ) from None


def _default_file() -> Path | None:
    """The file of the application default, in google-auth's order; None where there is none."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
    if named:
        return Path(named)
    folder = os.environ.get("CLOUDSDK_CONFIG") or Path.home() / ".config" / "gcloud"
    path = Path(folder) / "application_default_credentials.json"
    return path if path.is_file() else None


def _federated(info: Mapping[str, Any]) -> Any:
    """Workload identity federation (AIP-4117)."""
    source = info["credential_source"]
    if "executable" in source:
        kind: Any = pluggable.Credentials
    elif "environment_id" in source:
        kind = aws.Credentials
    else:
        kind = identity_pool.Credentials
    token_file = source.get("file")
    if token_file is not None and not Path(token_file).is_file():
        raise Misconfigured(f"{token_file}, which credential_source names, is not there")
    return kind.from_info(info, scopes=[SCOPE])


#: From the type of an application default file to what reads it.
_FILES: Mapping[str, Callable[[Any], Any]] = {
    "external_account": _federated,
    "authorized_user": user.Credentials.from_authorized_user_info,
    "impersonated_service_account": lambda info: (
        impersonated_credentials.Credentials.from_impersonated_service_account_info(  # type: ignore[no-untyped-call]
            info, scopes=[SCOPE]
        )
    ),
}


class MetadataCredentials(Credentials):
    """The account of the machine that we run on, as its metadata server hands it out.

    Compute Engine documentation, "Authenticate workloads using service accounts"; that of
    google-auth needs another HTTP library.
    """

    def refresh(self, request: Talk) -> None:
        """Put a token into this object. Raises `NoToken`, or another of `VENDOR_ERRORS`."""
        url = f"http://{metadata_host()}/computeMetadata/v1/instance/service-accounts/default/token"
        try:
            answer = request(f"{url}?scopes={quote(SCOPE)}", headers={"Metadata-Flavor": "Google"})
        except NoToken as error:
            failure = error.failure
            raise NoToken(
                type(failure)(
                    f"{failure.message}; elsewhere than at Google set key or"
                    " GOOGLE_APPLICATION_CREDENTIALS",
                    retry_after=failure.retry_after,
                )
            ) from None
        told = json.loads(answer.data)
        self.token = told["access_token"]
        self.expiry = _naive_now() + timedelta(seconds=told["expires_in"])


def _naive_now() -> datetime:
    """As google-auth keeps its times."""
    return datetime.now(UTC).replace(tzinfo=None)
