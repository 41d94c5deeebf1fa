"""What the end of a gRPC call to fal means: a `Failure`, in words that give no secret away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grpc import StatusCode

from refresher.errors import (
    Failure,
    Forbidden,
    InvalidResponse,
    Misconfigured,
    NotFound,
    Throttled,
    TimedOut,
    TlsFailure,
    Unauthorized,
    Unavailable,
)
from refresher.model import SecretValue

#: After these the connection itself is under suspicion.
SUSPECT = frozenset({StatusCode.UNAVAILABLE, StatusCode.DEADLINE_EXCEEDED})

#: Characters of what fal said that are shown.
_SHOWN = 200
#: A secret is recognised by any run of so many of its characters.
_RECOGNISED = 12


@dataclass(frozen=True, slots=True)
class Operation:
    """One call, in the words of its failures."""

    #: Name of the RPC.
    method: str
    #: What it does and where, as in `writing NAME (main) at api.alpha.fal.ai`.
    doing: str
    environment: str
    #: What the key must be allowed to do, as fal names it.
    permission: str
    #: Where the key is kept.
    key: str
    #: Time it may take.
    seconds: float


@dataclass(frozen=True, slots=True)
class Status:
    """How a call ended: all that is kept of the library's error, which may hold more."""

    code: StatusCode
    #: As fal or the library said it, unfit to be shown as it is.
    details: str


@dataclass(frozen=True, slots=True)
class _Meaning:
    failure: type[Failure]
    #: What happened and what to do; `{key}` and the like stand for fields of the operation.
    words: str


_FAULT_OF_FAL = _Meaning(Unavailable, "fal had an error of its own")

_MEANINGS: Mapping[StatusCode, _Meaning] = {
    StatusCode.UNAUTHENTICATED: _Meaning(
        Unauthorized, "the key in {key} was refused; put a valid one there"
    ),
    StatusCode.PERMISSION_DENIED: _Meaning(
        Forbidden,
        "the key in {key} lacks {permission};"
        " create one with `fal keys create --permission {permission}`",
    ),
    StatusCode.NOT_FOUND: _Meaning(
        NotFound,
        "environment {environment} was not found;"
        " create it with `fal environments create {environment}`",
    ),
    StatusCode.INVALID_ARGUMENT: _Meaning(
        Misconfigured,
        "the request was refused as invalid; check the names of secret and environment",
    ),
    StatusCode.RESOURCE_EXHAUSTED: _Meaning(Throttled, "too many requests for this account"),
    StatusCode.DEADLINE_EXCEEDED: _Meaning(TimedOut, "no answer within {seconds:g} s"),
    StatusCode.UNAVAILABLE: _Meaning(Unavailable, "fal cannot be reached now"),
    StatusCode.ABORTED: _Meaning(Unavailable, "the call was aborted"),
    StatusCode.CANCELLED: _Meaning(Unavailable, "the call was cut"),
    StatusCode.INTERNAL: _FAULT_OF_FAL,
    StatusCode.UNKNOWN: _FAULT_OF_FAL,
}

_CERTIFICATE = _Meaning(
    TlsFailure,
    "its TLS certificate cannot be trusted; for an authority of your own,"
    " name its file in GRPC_DEFAULT_SSL_ROOTS_FILE_PATH or daemon.ca_bundle",
)
_METADATA = _Meaning(Misconfigured, "the key in {key} cannot be sent; put a valid one there")
_RESPONSE = _Meaning(InvalidResponse, "the answer cannot be read")

#: What grpcio itself says along with a status that looks transient and is not.
_TELLS: Mapping[str, _Meaning] = {
    "CERTIFICATE_VERIFY_FAILED": _CERTIFICATE,
    "Hostname Verification Check failed": _CERTIFICATE,
    "security handshaker": _CERTIFICATE,
    "Tls handshake failed": _CERTIFICATE,
    "Ssl handshake failed": _CERTIFICATE,
    "Illegal metadata": _METADATA,
    "Invalid metadata": _METADATA,
    "Exception deserializing response": _RESPONSE,
    "Received message larger than max": _RESPONSE,
}
_TELLING = frozenset({StatusCode.UNAVAILABLE, StatusCode.INTERNAL, StatusCode.RESOURCE_EXHAUSTED})


def failure_of(status: Status, operation: Operation, hidden: Sequence[SecretValue]) -> Failure:
    """The failure that a status means; its message shows nothing of `hidden`."""
    meaning = _meaning(status)
    words = meaning.words.format(
        key=operation.key,
        permission=operation.permission,
        environment=operation.environment,
        seconds=operation.seconds,
    )
    return meaning.failure(f"{operation.doing} failed: {words}{_said(status.details, hidden)}")


def _meaning(status: Status) -> _Meaning:
    if status.code in _TELLING:
        for text, meaning in _TELLS.items():
            if text in status.details:
                return meaning
    unexpected = _Meaning(InvalidResponse, f"the status {status.code.name} was not expected")
    return _MEANINGS.get(status.code, unexpected)


def _said(details: str, hidden: Sequence[SecretValue]) -> str:
    """What fal said, as the end of a message: one printable line."""
    if any(_gives_away(details, secret.reveal()) for secret in hidden):
        return " (fal's words are withheld: they hold a secret)"
    line = " ".join("".join(c if c.isprintable() else " " for c in details).split())
    return f" ({line[:_SHOWN]})" if line else ""


def _gives_away(text: str, secret: str) -> bool:
    """Whether the text holds the secret, or a run of it that is long enough to matter."""
    starts = range(max(1, len(secret) - _RECOGNISED + 1))
    return any(secret[start : start + _RECOGNISED] in text for start in starts)
