"""Log in to a registry, and ask for an image: the proof of a credential."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Self

import httpx

from refresher.clock import Clock, Skews
from refresher.deadline import CALL_SECONDS
from refresher.errors import (
    Failure,
    Forbidden,
    InvalidCredential,
    InvalidResponse,
    NotFound,
    Throttled,
    Unauthorized,
    Unavailable,
)
from refresher.model import Credential, ImageRef, Proof, Pull, RegistryRef, SecretValue
from refresher.registry.addresses import check_realm, check_url
from refresher.registry.answers import Answer, failure_of, retry_after
from refresher.registry.challenges import Challenge
from refresher.registry.names import Kind, kind_of
from refresher.registry.wire import Call, Reply, Wire
from refresher.registry.words import Scrubber, document_of, said


@dataclass(frozen=True, slots=True)
class _Login:
    #: The header that the registry takes.
    authorization: str = field(repr=False)
    #: When the login was accepted.
    at: datetime
    #: Whether it is a token, which the token service gave for the login.
    token: bool = False
    #: Why the token service would not give one for the image.
    refusal: Failure | None = None


class RegistryVerifier:
    """Proves a credential by logging in to its registry and, for an image, asking for that.

    Thread-safe. Close it, or use it as a context manager.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        skews: Skews,
        ca_bundle: Path | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`ca_bundle`: PEM file instead of the public authorities; `call_seconds`: the total
        deadline of one HTTP call, name resolution included.

        Raises `Misconfigured` for a bundle or an environment's proxy that cannot be used.
        """
        self._wire = Wire(clock, skews, ca_bundle, call_seconds)

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        """That the registry accepted the login, and whether `image` can be pulled.

        Raises a `Failure` where the login was refused or could not be judged.
        """
        visit = _Visit(self._wire, registry, credential)
        login = visit.log_in(image)
        if image is None:
            return Proof(verified_at=login.at)
        trouble = login.refusal or visit.pull(image, login)
        if trouble is None:
            return Proof(verified_at=login.at, pull=Pull.OK)
        pull = _PULLS.get(type(trouble), Pull.UNKNOWN)
        return Proof(verified_at=login.at, pull=pull, pull_message=trouble.message)

    def close(self) -> None:
        self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_PULLS: Mapping[type[Failure], Pull] = {Forbidden: Pull.FORBIDDEN, NotFound: Pull.NOT_FOUND}

#: Answers of a token service that may be about the scope and not about the login.
_PERHAPS_THE_SCOPE = frozenset({400, 403, 404})


class _Visit:
    """One credential at one registry."""

    def __init__(self, wire: Wire, registry: RegistryRef, credential: Credential) -> None:
        self._wire = wire
        self._host = registry.host
        self._base = check_url(registry)
        self._kind = kind_of(registry.host)
        self._basic = _basic(credential)
        self._scrubber = Scrubber(credential.username, credential.password)

    def log_in(self, image: ImageRef | None) -> _Login:
        """The accepted login. Raises a `Failure`.

        ECR always takes Basic, so its challenge is not asked for.
        """
        if self._kind is Kind.ECR:
            return self._log_in_with_basic()
        challenge = self._challenge()
        if challenge.scheme == "basic":
            return self._log_in_with_basic()
        return self._log_in_with_token(challenge, image)

    def pull(self, image: ImageRef, login: _Login) -> Failure | None:
        """Why the image cannot be pulled; None where it can.

        Raises `Unauthorized` where the answer shows that the credential is dead after all. GET,
        since ECR tells its two kinds of 403 apart in the body only; HEAD at Docker Hub, where a
        GET counts as a pull.
        """
        method = "HEAD" if self._kind is Kind.DOCKER_HUB else "GET"
        path = f"/v2/{image.repository}/manifests/{image.reference}"
        try:
            reply = self._ask(path, login.authorization, f"image {image}", method)
        except Failure as failure:
            return failure
        refusal = self._failure(reply, with_proved_token=login.token)
        if isinstance(refusal, Unauthorized):
            raise refusal
        return refusal

    def _log_in_with_basic(self) -> _Login:
        reply = self._ask("/v2/", self._basic)
        self._accept(reply, self._failure(reply))
        return _Login(self._basic, reply.at)

    def _challenge(self) -> Challenge:
        """How the registry wants to be logged in to: by token if it can, as Docker prefers."""
        reply = self._ask("/v2/", None)
        if reply.status != 401:
            raise self._unchallenged(reply)
        by_scheme = {challenge.scheme: challenge for challenge in reversed(reply.challenges())}
        challenge = by_scheme.get("bearer") or by_scheme.get("basic")
        if challenge is None:
            raise InvalidResponse(f"{reply.where} asks for a login without Basic or Bearer")
        return challenge

    def _unchallenged(self, reply: Reply) -> Failure:
        if reply.status == 200:
            return InvalidResponse(
                f"{reply.where} asks for no login, so no credential can be proved there"
            )
        failure = self._failure(reply)
        if isinstance(failure, Throttled | Unavailable | InvalidResponse):
            return failure
        # Nothing was sent, so nothing was judged.
        return InvalidResponse(
            f"{reply.where} answered HTTP {reply.status} before any login; is that a registry?"
        )

    def _log_in_with_token(self, challenge: Challenge, image: ImageRef | None) -> _Login:
        """The login as the token service judges it.

        It, not the registry: with an anonymous token `/v2/` answers 200. A token for less than
        was asked is no error (distribution specification, token authentication), so the scope
        of the image comes along at once; where it may be the trouble, the login is asked alone.
        """
        url = self._token_url(challenge)
        reply = self._ask_token(url, image)
        refusal = None
        if image is not None and reply.status in _PERHAPS_THE_SCOPE:
            refusal = self._failure(replace(reply, where=f"{reply.where}, image {image}"))
            reply = self._ask_token(url, None)
        self._accept(reply, self._failure(reply, at_token_endpoint=True))
        login = _Login(self._bearer(reply), reply.at, token=True, refusal=refusal)
        return self._prove_token(login) if self._kind is Kind.ECR_PUBLIC else login

    def _prove_token(self, login: _Login) -> _Login:
        """ECR Public judges a token where it is used."""
        reply = self._ask("/v2/", login.authorization)
        self._accept(reply, self._failure(reply))
        return replace(login, at=reply.at)

    def _token_url(self, challenge: Challenge) -> httpx.URL:
        url = check_realm(challenge.parameters.get("realm", ""), self._base)
        asked = {name: challenge.parameters.get(name) for name in ("service", "scope")}
        return url.copy_merge_params({name: value for name, value in asked.items() if value})

    def _ask_token(self, url: httpx.URL, image: ImageRef | None) -> Reply:
        if image is not None:
            url = url.copy_add_param("scope", f"repository:{image.repository}:pull")
        peer = self._host if url.netloc == self._base.netloc else url.netloc.decode("ascii")
        return self._wire.ask(Call("GET", url, peer, f"token service {peer}", self._basic))

    def _bearer(self, reply: Reply) -> str:
        """The header for the token in the answer; `access_token` is OAuth's name for it."""
        document = document_of(reply.body)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise InvalidResponse(f"{reply.where} accepted the login and gave no token")
        self._scrubber = self._scrubber.also(SecretValue(token))
        return f"Bearer {token}"

    def _ask(
        self, path: str, authorization: str | None, what: str = "", method: str = "GET"
    ) -> Reply:
        url = self._base.copy_with(path=self._base.path.rstrip("/") + path)
        where = f"{self._host}, {what}" if what else self._host
        return self._wire.ask(Call(method, url, self._host, where, authorization))

    def _accept(self, reply: Reply, failure: Failure | None) -> None:
        if failure is not None:
            raise failure
        if reply.cut:
            raise InvalidResponse(f"{reply.where} sent more than 64 KiB; is that a registry?")

    def _failure(
        self, reply: Reply, *, at_token_endpoint: bool = False, with_proved_token: bool = False
    ) -> Failure | None:
        """The failure that an answer is, in words; None where it is none."""
        if reply.status == 200:
            return None  # the common case needs none of the rest
        answer = Answer(
            status=reply.status,
            kind=self._kind,
            at_token_endpoint=at_token_endpoint,
            with_proved_token=with_proved_token,
            challenge_error=reply.challenge_error,
            message=said(reply.body, reply.headers.get("Content-Type", "")),
            location=reply.location,
            retry_after=retry_after(reply.headers, reply.at),
        )
        return failure_of(answer, reply.where, self._scrubber)


def _basic(credential: Credential) -> str:
    """The header of RFC 7617, in UTF-8; the user name ends at the first colon."""
    username = credential.username
    if not username or ":" in username:
        raise InvalidCredential(
            "the user name is empty or holds a colon, which HTTP Basic cannot carry"
        )
    pair = f"{username}:{credential.password.reveal()}"
    try:
        return f"Basic {base64.b64encode(pair.encode()).decode('ascii')}"
    except UnicodeEncodeError:
        # Not chained: the error's object holds the password.
        raise InvalidCredential("the user name or password is not valid Unicode") from None
