"""Docker Hub: one login a check, since a few wrong ones lock the user out everywhere.

What is known of its answers: docs.docker.com/docker-hub/usage/pulls, and docker/hub-feedback
#1771 (a token for less than was asked), #2201, #2217, #642 and #814 (lock-outs).
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime

import httpx

from refresher.errors import Failure, Forbidden, Throttled, TimedOut, Unauthorized
from refresher.model import Credential, ImageRef, Proof, RegistryRef, SecretValue
from refresher.registry.addresses import check_endpoint
from refresher.registry.answers import LOCKOUT
from refresher.registry.visit import Visit
from refresher.registry.wire import Wire
from refresher.registry.words import document_of

AUTH_URL = "https://auth.docker.io/token"
#: The name under which the token service knows the registry.
SERVICE = "registry.docker.io"


class HubVerifier:
    """Proves a Docker Hub login with one token request, and an image with one HEAD.

    The token service is the one of the configuration, whatever a challenge says. Thread-safe;
    share one in a process, so that the checks of a user come one after another.
    """

    def __init__(self, wire: Wire, *, auth_url: str = AUTH_URL) -> None:
        self._wire = wire
        self._auth_url = auth_url
        self._locks: dict[str, threading.Lock] = {}
        self._locks_lock = threading.Lock()

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        """That Docker Hub accepted the login, whether `image` can be pulled, and with `image` how
        many pulls are left.

        The layers are `login`, `access` and `pull`, as far as they were taken. Raises a
        `Failure`; of those a `Throttled` of an hour or as long as was told is a lock-out.
        """
        visit = _HubVisit(self._wire, registry, credential, self._auth_url)
        with self._turn(credential.username):
            return visit.prove(image)

    @contextmanager
    def _turn(self, username: str) -> Iterator[None]:
        """One check of a user at a time. Raises `TimedOut` where another takes too long."""
        with self._locks_lock:
            lock = self._locks.setdefault(username.lower(), threading.Lock())
        if not lock.acquire(timeout=self._wire.call_seconds):
            raise TimedOut(
                f"another check of Docker Hub user {username} did not end within"
                f" {self._wire.call_seconds:g} s"
            )
        try:
            yield
        finally:
            lock.release()


@dataclass(frozen=True, slots=True)
class Quota:
    """Pulls that Docker Hub allows in a window; None where it told none, as for paid plans."""

    remaining: int | None = None
    limit: int | None = None


class _HubVisit(Visit):
    """A login for which the scope of the image is asked at once, and never asked again."""

    def __init__(
        self, wire: Wire, registry: RegistryRef, credential: Credential, auth_url: str
    ) -> None:
        super().__init__(wire, registry, credential)
        url = check_endpoint(auth_url, "Docker Hub's token service", "dockerhub.auth_url")
        self._token_url = url.copy_set_param("service", SERVICE)
        self._token = SecretValue("")
        self._quota = Quota()

    def prove(self, image: ImageRef | None) -> Proof:
        proof = super().prove(image)
        return replace(proof, pulls_remaining=self._quota.remaining, pulls_limit=self._quota.limit)

    def log_in(self, image: ImageRef | None) -> datetime:
        with self.steps.step("login") as step:
            reply = self.ask_token(self._token_url, image)
            failure = self.failure(reply, at_token_endpoint=True)
            if failure is not None:
                raise _advised(failure)
            self._token = self.token_of(reply)
            step.words = f"{reply.where} accepted the login"
        return reply.at

    def pull(self, image: ImageRef) -> None:
        """HEAD, since a GET counts as a pull; not even that where the token is not for it."""
        with self.steps.step("access") as step:
            step.ok = may_pull(self._token, image.repository)
            step.words = _ACCESS[step.ok]
            if step.ok is False:
                raise Forbidden(f"{image.repository}: {step.words}")
        with self.steps.step("pull") as step:
            reply = self.ask_manifest(image, f"Bearer {self._token.reveal()}", "HEAD")
            self._quota = quota_of(reply.headers, reply.status)
            self.accept(reply, with_proved_token=True)
            step.words = f"{reply.where} is there"


_ACCESS = {
    True: "the login's token is for pulling it",
    False: "the login is good, and it may not pull this repository; give the token the"
    " permission to read it, or the user access to the repository",
    None: "the login's token does not tell what it is for",
}


# --- words for what it says --------------------------------------------------------------------

#: What to do, by what the token service says of a login.
_ADVICE = (
    ("too many failed login", "something else logs in as this user with an old password; stop it"),
    ("token is expired", "make a new token; an expired one cannot be revived"),
    (
        "must log in with a personal access token",
        "single sign-on is enforced, so make a personal access token instead of the password",
    ),
    (
        "incorrect username or password",
        "the token was deleted or deactivated, or belongs to another user or organization",
    ),
)


def _advised(failure: Failure) -> Failure:
    """The failure of a login with what to do about it."""
    if isinstance(failure, Throttled):
        # A lock-out says when it ends only now and then, and asking sooner would prolong it.
        wait = failure.retry_after or LOCKOUT
        return Throttled(_with_advice(failure.message), retry_after=wait)
    if isinstance(failure, Unauthorized):
        return Unauthorized(_with_advice(failure.message))
    return failure


def _with_advice(message: str) -> str:
    said = message.lower()
    advice = next((advice for words, advice in _ADVICE if words in said), None)
    return f"{message}; {advice}" if advice else message


# --- what it tells besides ---------------------------------------------------------------------


def may_pull(token: SecretValue, repository: str) -> bool | None:
    """Whether the token was given for a pull of `repository`; None where it does not tell.

    `access` of its payload lists what was granted (distribution specification, "Token
    Authentication Implementation"). The signature is the registry's business.
    """
    claims = document_of(_payload(token.reveal()))
    if "access" not in claims:
        return None
    access = claims["access"] or []
    if not isinstance(access, list):
        return None
    return any(_grants_pull(entry, repository) for entry in access)


def _payload(jwt: str) -> bytes:
    """The middle part of a JWT (RFC 7519 section 3), or nothing where it is none."""
    _, _, rest = jwt.partition(".")
    part = rest.partition(".")[0]
    try:
        return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
    except ValueError:
        return b""


def _grants_pull(entry: object, repository: str) -> bool:
    if not isinstance(entry, dict) or entry.get("name") != repository:
        return False
    actions = entry.get("actions")
    return isinstance(actions, list) and ("pull" in actions or "*" in actions)


def quota_of(headers: httpx.Headers, status: int) -> Quota:
    """`ratelimit-limit: 100;w=21600` and `ratelimit-remaining`, as Docker Hub sends them."""
    remaining = _count(headers.get("ratelimit-remaining", ""))
    if remaining is None and status == 429:
        remaining = 0
    return Quota(remaining, _count(headers.get("ratelimit-limit", "")))


def _count(header: str) -> int | None:
    match = re.fullmatch(r"\s*(\d{1,9})\s*(?:;.*)?", header, re.ASCII)
    return int(match[1]) if match else None
