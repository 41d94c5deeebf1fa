"""What botocore and AWS say when a call fails, as failures that say what to do."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    LoginError,
    MetadataRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    ReadTimeoutError,
    SSLError,
    SSOError,
    TokenRetrievalError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError
from botocore.parsers import ResponseParserError

from refresher.clock import retry_after
from refresher.errors import (
    ClockSkewed,
    Failure,
    Forbidden,
    InvalidResponse,
    Misconfigured,
    Throttled,
    TimedOut,
    TlsFailure,
    Unauthorized,
    Unavailable,
)

#: What botocore raises. Of the built-in ones, OSError is a token file that it could not read;
#: the others come out of its parsers, which take the shape of an answer on trust.
VENDOR_ERRORS = (
    ClientError,
    BotoCoreError,
    ResponseParserError,
    OSError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    RuntimeError,
)


@dataclass(frozen=True, slots=True)
class Step:
    """One call to AWS, as messages name it."""

    #: Service and region, which is also the name that the clock skew is kept under.
    peer: str
    #: What to do when AWS denies it.
    remedy: str


def translated(error: Exception, step: Step, skew: timedelta, now: datetime) -> Failure:
    """The failure that `error` stands for; `skew` is AWS's clock less ours, which read `now`.

    Raise it `from None`: botocore's errors hold the answer, and some the request.
    """
    if isinstance(error, ClientError):
        return _refused(error, step, skew, now)
    for kind, errors, advice in _TROUBLES:
        if isinstance(error, errors):
            return kind(f"{step.peer}: {advice}")
    if isinstance(error, BotoCoreError):  # what is left is about settings, found before a call
        return Misconfigured(f"{step.peer}: {_scrubbed(str(error))}")
    if isinstance(error, OSError):
        return Misconfigured(f"{step.peer}: cannot read {error.filename}: {error.strerror}")
    return InvalidResponse(f"{step.peer}: an answer that is not of the documented shape")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """A failure, the codes that mean it, and what to do."""

    kind: type[Failure]
    #: Codes of "Common Errors" in the ECR and STS API references. The query protocol of STS leaves
    #: out the word Exception, and botocore makes a code of the status where a body has none.
    codes: str
    #: `{told}` is AWS's own message, `{remedy}` that of the step.
    advice: str


_REFUSALS = (
    _Refusal(
        Forbidden,
        "AccessDeniedException AccessDenied UnauthorizedOperation 403",
        "{told}; {remedy}",
    ),
    _Refusal(
        Unauthorized,
        "ExpiredTokenException ExpiredToken",
        "AWS session expired; sign in again, or renew session_token or the web identity token",
    ),
    _Refusal(
        Unauthorized,
        "UnrecognizedClientException InvalidClientTokenId InvalidAccessKeyId",
        "AWS knows no such access key or session token; replace it if it was deleted,"
        " deactivated, or belongs to another partition",
    ),
    _Refusal(
        Unauthorized,
        "InvalidSignatureException SignatureDoesNotMatch",
        "the secret access key does not belong to the access key id; replace both",
    ),
    _Refusal(
        Unauthorized,
        "IncompleteSignature IncompleteSignatureException"
        " MissingAuthenticationToken MissingAuthenticationTokenException",
        "the signature did not arrive whole; check the access key and what a proxy changes",
    ),
    _Refusal(
        Unauthorized,
        "InvalidIdentityToken InvalidIdentityTokenException IDPRejectedClaim",
        "{told}; check web_identity_token_file and the identity provider in IAM",
    ),
    _Refusal(
        Throttled,
        "Throttling ThrottlingException ThrottledException RequestThrottled"
        " RequestThrottledException RequestLimitExceeded LimitExceededException"
        " TooManyRequestsException SlowDown 429",
        "too many calls in this account and region",
    ),
    _Refusal(
        Unavailable,
        "IDPCommunicationError IDPCommunicationErrorException",
        "AWS could not reach the identity provider",
    ),
    _Refusal(
        Misconfigured,
        "ValidationError ValidationException InvalidParameterException InvalidParameterValue"
        " OptInRequired RegionDisabledException UnsupportedCommandException",
        "{told}; check `aws` of this target",
    ),
)
_BY_CODE = {code: (r.kind, r.advice) for r in _REFUSALS for code in r.codes.split()}

_CLOCK_CODES = frozenset({"RequestExpired", "RequestTimeTooSkewed"})
_CLOCK_WORDS = re.compile("signature (expired|not yet current)", re.IGNORECASE)
_DEAD_TOKEN = re.compile("security token .*(invalid|expired)", re.IGNORECASE)


def _refused(error: ClientError, step: Step, skew: timedelta, now: datetime) -> Failure:
    told, answer = error.response.get("Error", {}), error.response.get("ResponseMetadata", {})
    code, message = str(told.get("Code", "")), str(told.get("Message", ""))
    status = answer.get("HTTPStatusCode", 0)
    what = f"{step.peer}: {error.operation_name} refused ({code or status})"
    if code in _CLOCK_CODES or _CLOCK_WORDS.search(message):
        return ClockSkewed(
            f"{what}: our clock is {-skew.total_seconds():+.0f} s off that of AWS;"
            " synchronise it with NTP"
        )
    kind, advice = _judged(code, message, status)
    return kind(
        f"{what}: {advice.format(told=_scrubbed(message), remedy=step.remedy)}",
        retry_after=retry_after(answer.get("HTTPHeaders", {}), now),
    )


def _judged(code: str, message: str, status: int) -> tuple[type[Failure], str]:
    if _DEAD_TOKEN.search(message):  # whatever the code, this is no lack of permission
        return _BY_CODE["ExpiredToken" if "expired" in message else "InvalidClientTokenId"]
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status >= 500:
        return Unavailable, f"AWS is in trouble (HTTP {status})"
    if str(status) in _BY_CODE:
        return _BY_CODE[str(status)]
    return InvalidResponse, f"not a refusal of AWS's documentation (HTTP {status}); check the proxy"


def _scrubbed(message: str) -> str:
    """AWS's message without what may be a credential, a value of ours or a whole page."""
    if message.lstrip().startswith(("<", "{")):  # botocore takes a body it cannot parse for one
        return "no reason given"
    message = re.sub(r"Value '.*?' at", "Value '…' at", message, flags=re.DOTALL)
    words = (
        "…" if re.fullmatch(r"[A-Za-z0-9+/=_.-]{40,}", word) else word for word in message.split()
    )
    return " ".join(words)[:300] or "no reason given"


#: Failure, the errors of botocore that it stands for, what to do.
_TROUBLES: tuple[tuple[type[Failure], tuple[type[Exception], ...], str], ...] = (
    (TlsFailure, (SSLError,), "no trusted TLS connection; check AWS_CA_BUNDLE and the proxy"),
    (TimedOut, (ConnectTimeoutError, ReadTimeoutError), "no answer in time"),
    (
        Unavailable,
        (BotoConnectionError, HTTPClientError, IncompleteReadError),
        "no whole answer; check network, DNS, proxy and AWS_ENDPOINT_URL*",
    ),
    (
        Misconfigured,
        (NoCredentialsError, PartialCredentialsError),
        "missing or incomplete; set a profile, a role or both halves of an access key",
    ),
    (
        Misconfigured,
        (TokenRetrievalError, SSOError, LoginError),
        "the sign-in has ended; a person must run `aws sso login` or `aws login`",
    ),
    (
        Unavailable,
        (CredentialRetrievalError, MetadataRetrievalError),
        "the provider gave none; check the metadata service or credential_process",
    ),
    (InvalidResponse, (ResponseParserError,), "an answer that cannot be parsed"),
)
