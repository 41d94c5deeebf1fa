"""The tree of failures. Each knows its reason and whether waiting can help.

RefresherError              anything that a person reads: one line, what, where, what to do
├── ConfigError             the configuration cannot be used; holds every problem found
├── StateError              the state cannot be opened or has another owner
├── DaemonError             no daemon answered
│   └── DaemonRefused       it answered, and refused
└── Failure                 one stage of one attempt failed
    ├── Unauthorized        wrong, expired or revoked
    ├── Forbidden           the credential is good and lacks the permission
    ├── NotFound
    ├── Throttled
    ├── Unavailable         5xx, network, DNS
    ├── TimedOut
    ├── TlsFailure
    ├── ClockSkewed
    ├── InvalidResponse
    ├── InvalidCredential   unparsable, empty, already expired
    ├── Misconfigured
    └── Interrupted         we were told to stop
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar


class FailureReason(StrEnum):
    """Why a stage failed: the vocabulary of metrics, log, API and page."""

    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    THROTTLED = "throttled"
    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    TLS = "tls"
    CLOCK_SKEW = "clock_skew"
    INVALID_RESPONSE = "invalid_response"
    INVALID_CREDENTIAL = "invalid_credential"
    CONFIG = "config"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Layer:
    """One step of a verification: what it was, whether it held, and the peer's own words."""

    #: Such as `key`, `exchange`, `certificate`, `login`, `pull`.
    name: str
    #: None where it could not be judged.
    ok: bool | None
    #: One scrubbed line.
    words: str = ""


class RefresherError(Exception):
    """Anything that a person reads. The message is one line: what, where, what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))

    @property
    def message(self) -> str:
        return str(self.args[0])


class ConfigError(RefresherError):
    """The configuration cannot be used. `problems` holds every one found, a line each."""

    def __init__(self, *problems: str) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class StateError(RefresherError):
    """The state cannot be opened, or another process owns it."""


class DaemonError(RefresherError):
    """No daemon answered at the address."""


class DaemonRefused(DaemonError):
    """The daemon answered, and refused the request."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        #: HTTP status of the answer.
        self.status = status


class Failure(RefresherError):
    """One stage of one attempt failed. Never carries a response body or a credential."""

    reason: ClassVar[FailureReason]
    #: Whether the same call may succeed later with nothing changed by a person.
    waiting_helps: ClassVar[bool] = True

    def __init__(
        self,
        message: str,
        *,
        retry_after: timedelta | None = None,
        layers: tuple[Layer, ...] = (),
    ) -> None:
        super().__init__(message)
        #: How long the peer asked us to stay away, if it did.
        self.retry_after = retry_after
        #: How far a verification came.
        self.layers = layers


class Unauthorized(Failure):
    reason = FailureReason.UNAUTHORIZED
    waiting_helps = False


class StillRefused(Unauthorized):
    """The registry refused this very value before, so it was not asked again."""

    def __init__(self, message: str, *, judged_at: datetime, retry_after: timedelta) -> None:
        super().__init__(message, retry_after=retry_after)
        self.judged_at = judged_at


class Forbidden(Failure):
    reason = FailureReason.FORBIDDEN
    waiting_helps = False


class NotFound(Failure):
    reason = FailureReason.NOT_FOUND
    waiting_helps = False


class Throttled(Failure):
    reason = FailureReason.THROTTLED


class Unavailable(Failure):
    reason = FailureReason.UNAVAILABLE


class TimedOut(Failure):
    reason = FailureReason.TIMEOUT


class TlsFailure(Failure):
    reason = FailureReason.TLS
    waiting_helps = False


class ClockSkewed(Failure):
    reason = FailureReason.CLOCK_SKEW


class InvalidResponse(Failure):
    reason = FailureReason.INVALID_RESPONSE


class InvalidCredential(Failure):
    reason = FailureReason.INVALID_CREDENTIAL


class Misconfigured(Failure):
    reason = FailureReason.CONFIG
    waiting_helps = False


class Interrupted(Failure):
    reason = FailureReason.INTERRUPTED
