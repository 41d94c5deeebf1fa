"""What an answer says of the credential: pure, a ladder for each status."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

from refresher.errors import (
    Failure,
    Forbidden,
    InvalidResponse,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
)
from refresher.registry.names import Kind
from refresher.registry.words import Scrubber

#: Docker Hub tells no time when it locks a user out; its staff name 15 minutes to an hour.
LOCKOUT = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a registry or its token service said, as far as it decides."""

    status: int
    kind: Kind = Kind.OTHER
    #: The token service said it, not the registry.
    at_token_endpoint: bool = False
    #: To a request with a token whose login the token service had proved.
    with_proved_token: bool = False
    #: `error` of the challenge that came with it (RFC 6750 section 3.1), or empty.
    challenge_error: str = ""
    #: The server's own words, not scrubbed.
    message: str = ""
    #: Host that a redirect names.
    location: str = ""
    #: How long it asked us to stay away.
    retry_after: timedelta | None = None


_PLAIN: Mapping[int, type[Failure]] = {404: NotFound, 429: Throttled}
#: A 403 that says no more comes from a wall before the service, as GitLab's ban of an address
#: after failed logins does, and judges no credential.
_WALL = frozenset({"", "forbidden"})
_DEAD = re.compile(r"\bexpired\b|\bsecurity token\b.*\binvalid\b", re.IGNORECASE | re.DOTALL)


def classify(answer: Answer) -> type[Failure] | None:
    """Which failure the answer is; None where the credential was accepted.

    Only `Unauthorized` says that the credential is dead: a 429, a 5xx and anything odd tell
    nothing about it. The habits are reported of ECR in awslabs/soci-snapshotter,
    of ECR Public in aws/containers-roadmap #2835, of GHCR in openai/tart #277, of Quay in
    quay/quay #2155; the rest is the distribution specification.
    """
    if answer.status == 200:
        return None
    if answer.status == 400 and answer.kind is Kind.ECR_PUBLIC and not answer.with_proved_token:
        return Unauthorized  # its answer to a bad or expired bearer, without a challenge
    if answer.status == 401:
        return _classify_401(answer)
    if answer.status == 403:
        return _classify_403(answer)
    if answer.status in _PLAIN:
        return _PLAIN[answer.status]
    return Unavailable if answer.status >= 500 else InvalidResponse


def _classify_401(answer: Answer) -> type[Failure]:
    if answer.challenge_error == "insufficient_scope":
        return Forbidden
    if not answer.with_proved_token:
        return Unauthorized
    if answer.challenge_error == "invalid_token":
        return InvalidResponse  # it issued this token a moment ago
    return Forbidden  # Docker Hub and Quay: a login that may not see the repository


def _classify_403(answer: Answer) -> type[Failure]:
    if _DEAD.search(answer.message):
        return Unauthorized  # ECR: no challenge, the reason stands in the body only
    if answer.with_proved_token or not answer.at_token_endpoint:
        return Forbidden
    if "repositor" in answer.message.lower():
        return Forbidden
    if answer.message.strip().lower() in _WALL:
        return InvalidResponse
    return Unauthorized  # GHCR: a wrong login is "denied"


_SAYINGS: Mapping[type[Failure], str] = {
    Unauthorized: "refused the credential",
    Forbidden: "knows the credential and denies it access",
    NotFound: "has nothing there, or hides it from this credential",
    Throttled: "asks to be left alone for a while, which tells nothing about the credential",
    Unavailable: "is out of order",
    InvalidResponse: "gave an answer that no registry should",
}


def failure_of(answer: Answer, where: str, scrubber: Scrubber) -> Failure | None:
    """The failure that the answer is, in words; None where the credential was accepted.

    `where` names in the message who answered; nothing that `scrubber` knows appears in it.
    """
    failure = classify(answer)
    if failure is None:
        return None
    saying = _SAYINGS[failure]
    if 300 <= answer.status < 400:
        saying = f"redirects to {scrubber.clean(answer.location) or 'elsewhere'}, not followed"
    words = scrubber.clean(answer.message)
    message = f"{where} {saying} (HTTP {answer.status})"
    return failure(f"{message}: {words}" if words else message, retry_after=_wait(answer))


def _wait(answer: Answer) -> timedelta | None:
    if answer.retry_after is None and "too many failed login" in answer.message.lower():
        return LOCKOUT
    return answer.retry_after
