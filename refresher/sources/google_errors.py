"""What Google says when it gives no token, as failures that say what to do."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from google.auth.exceptions import GoogleAuthError, TransportError

from refresher.errors import (
    ClockSkewed,
    Failure,
    Forbidden,
    InvalidResponse,
    Misconfigured,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
)

#: What google-auth raises. Of the built-in ones, OSError is a token file that it could not read;
#: the others come out of its parsers, which take the shape of an answer on trust.
VENDOR_ERRORS = (
    GoogleAuthError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
)


class SignatureRefused(Unauthorized):
    """Google knows no key that made the signature: deleted, expired, or so new that it will."""


class NoToken(TransportError):
    """Carries a failure through google-auth, which would try some of them again."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)  # type: ignore[no-untyped-call]
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer other than 200, as far as it decides."""

    #: Host that gave it.
    peer: str
    status: int
    body: bytes
    #: The peer's clock less ours.
    skew: timedelta = timedelta(0)
    #: How long it asked us to stay away.
    retry_after: timedelta | None = None


@dataclass(frozen=True, slots=True)
class _Meaning:
    """A failure, the codes or words that mean it, and what to do."""

    kind: type[Failure]
    #: Matched against the whole code, or searched for in the description.
    pattern: str
    advice: str


#: Of `invalid_grant`, whose description alone tells what is wrong. Google documents none of them;
#: as reported in google-github-actions/setup-gcloud #76, googleapis/google-cloud-dotnet #8539,
#: hashicorp/vault-plugin-secrets-gcp #260, googleapis/google-cloud-php #3622,
#: googleapis/google-api-ruby-client #720, googleapis/google-auth-library-python #301.
_GRANTS = (
    _Meaning(
        SignatureRefused,
        r"invalid jwt signature",
        "the key was deleted, has expired, or is so new that Google does not know it yet",
    ),
    _Meaning(
        Unauthorized,
        r"account not found",
        "the service account was deleted or disabled; restore it, or replace the key",
    ),
    _Meaning(
        Unauthorized,
        r"robot is disabled|account .*disabled",
        "the service account is disabled; enable it, or replace the key",
    ),
    _Meaning(
        ClockSkewed,
        r"short-lived token|reasonable timeframe",
        "our clock is {ahead:+.0f} s off Google's; synchronise it with NTP",
    ),
    _Meaning(Unavailable, r"no valid verifier", "Google could not check it; it often can later"),
)

#: Of RFC 6749 section 5.2, "Using OAuth 2.0 for Server to Server Applications" (error codes), and
#: google.rpc.Code, in which the IAM API speaks.
_CODES = (
    _Meaning(Unauthorized, "invalid_grant", "renew or replace the credential"),
    _Meaning(
        Unauthorized,
        "disabled_client|deleted_client|invalid_client",
        "the service account's client is disabled or gone; enable it, or replace the key",
    ),
    _Meaning(
        Forbidden, "admin_policy_enforced", "the organisation's policy forbids it; ask its admin"
    ),
    _Meaning(
        Forbidden,
        "unauthorized_client|access_denied|invalid_scope|org_internal",
        "the account may not have a token for this; grant it access to the scope cloud-platform",
    ),
    _Meaning(
        Forbidden,
        "PERMISSION_DENIED",
        "grant roles/iam.serviceAccountTokenCreator on the account that is impersonated, and"
        " enable the IAM Service Account Credentials API",
    ),
    _Meaning(Unauthorized, "UNAUTHENTICATED", "renew the credential that impersonates"),
    _Meaning(NotFound, "NOT_FOUND", "no such service account; check impersonate"),
    _Meaning(Throttled, "RESOURCE_EXHAUSTED|rate_limit_exceeded", "too many calls"),
    _Meaning(
        Unavailable,
        "internal_failure|server_error|temporarily_unavailable|UNAVAILABLE|INTERNAL",
        "Google is in trouble",
    ),
    _Meaning(
        Misconfigured,
        "invalid_request|invalid_target|unsupported_grant_type|INVALID_ARGUMENT"
        "|FAILED_PRECONDITION",
        "check the identity and lifetime of this target",
    ),
)


def refused(refusal: Refusal) -> Failure:
    """The failure that the answer is. Only `Unauthorized` says that the credential is dead."""
    code, told = _said(refusal.body)
    words = f" ({code}: {told})" if told else f" ({code})" if code else ""
    kind, advice = _meaning(code, told, refusal.status)
    ahead = -refusal.skew.total_seconds()
    return kind(
        f"{refusal.peer}: {advice.format(ahead=ahead)}{words}", retry_after=refusal.retry_after
    )


def _meaning(code: str, told: str, status: int) -> tuple[type[Failure], str]:
    if status == 429:
        return Throttled, "too many calls"
    if status >= 500:
        return Unavailable, f"Google is in trouble (HTTP {status})"
    # Whatever the code: some of these come with another one than invalid_grant.
    for meaning in _GRANTS:
        if re.search(meaning.pattern, told, re.IGNORECASE):
            return meaning.kind, meaning.advice
    for meaning in _CODES:
        if re.fullmatch(meaning.pattern, code):
            return meaning.kind, meaning.advice
    if status == 404:
        return NotFound, "nothing there (HTTP 404)"
    return InvalidResponse, f"not a refusal of Google's documentation (HTTP {status}); a proxy?"


def _said(body: bytes) -> tuple[str, str]:
    """Code and description, scrubbed; empty where the body holds none.

    `{"error": CODE, "error_description": …}` (RFC 6749 section 5.2), and of the IAM API
    `{"error": {"status": CODE, "message": …}}` (google.rpc.Status as JSON).
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        return _words(error, "status"), _words(error, "message")
    if isinstance(error, str):
        return scrubbed(error), _words(document, "error_description")
    return "", ""


def _words(document: Mapping[str, object], name: str) -> str:
    value = document.get(name)
    return scrubbed(value) if isinstance(value, str) else ""


def scrubbed(text: str) -> str:
    """One printable line of at most 200 characters without what may be a key or a token."""
    line = " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())
    return re.sub(r"-----BEGIN.*|[\w+/=-]{32,}", "…", line, flags=re.ASCII)[:200]


def translated(error: BaseException, what: str) -> Failure:
    """The failure that an error out of google-auth stands for; `what` was being done.

    Raise it `from None`: google-auth's errors hold the answer, which may hold a token.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NoToken):
            return cause.failure
        cause = cause.__cause__ or cause.__context__
    return InvalidResponse(f"{what}: an answer or a token file that is not as documented")
