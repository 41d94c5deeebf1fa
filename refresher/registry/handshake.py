"""Log in to a registry, and ask for an image: the proof of a credential."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Self

import httpx

from refresher.clock import Clock, Skews
from refresher.deadline import CALL_SECONDS
from refresher.errors import Failure, InvalidResponse, Throttled, Unavailable
from refresher.model import Credential, ImageRef, Proof, RegistryRef
from refresher.registry.addresses import check_realm
from refresher.registry.challenges import Challenge
from refresher.registry.names import Kind
from refresher.registry.visit import Visit
from refresher.registry.wire import Reply, Wire


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
        #: Other verifiers may call through it, until this one is closed.
        self.wire = Wire(clock, skews, ca_bundle, call_seconds)

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        """That the registry accepted the login, and whether `image` can be pulled.

        The layers are `challenge`, `login` and `pull`, as far as they were taken; ECR's challenge
        is known. Raises a `Failure` where the login was refused or could not be judged.
        """
        return _Handshake(self.wire, registry, credential).prove(image)

    def close(self) -> None:
        self.wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Handshake(Visit):
    """A login with what the registry asks for: Basic, or a token for it."""

    #: The header that the registry takes, once logged in.
    _authorization = ""
    #: Where tokens come from; None where Basic does.
    _token_url: httpx.URL | None = None

    def log_in(self, _image: ImageRef | None) -> datetime:
        """Raises a `Failure`. ECR always takes Basic, so its challenge is not asked for."""
        if self.kind is not Kind.ECR:
            with self.steps.step("challenge") as step:
                challenge = self._challenge()
                if challenge.scheme == "bearer":
                    self._token_url = self._token_url_of(challenge)
                step.words = _told(challenge, self._token_url)
        with self.steps.step("login") as step:
            reply = self._with_basic() if self._token_url is None else self._with_token()
            step.words = f"{reply.where} accepted the login"
        return reply.at

    def pull(self, image: ImageRef) -> None:
        """GET, since ECR tells its two kinds of 403 apart in the body only; HEAD at Docker Hub,
        where a GET counts as a pull."""
        method = "HEAD" if self.kind is Kind.DOCKER_HUB else "GET"
        tokens = self._token_url is not None
        with self.steps.step("pull") as step:
            if self._token_url is not None:
                reply = self.ask_token(self._token_url, image)
                self.accept(reply, with_proved_token=True)
                self._authorization = f"Bearer {self.token_of(reply).reveal()}"
            reply = self.ask_manifest(image, self._authorization, method)
            self.accept(reply, with_proved_token=tokens)
            step.words = f"{reply.where} is there"

    # --- the ways to log in --------------------------------------------------------------------

    def _challenge(self) -> Challenge:
        """How the registry wants to be logged in to: by token if it can, as Docker prefers."""
        reply = self.ask("/v2/", None)
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
        failure = self.failure(reply)
        if isinstance(failure, Throttled | Unavailable | InvalidResponse):
            return failure
        # Nothing was sent, so nothing was judged.
        return InvalidResponse(
            f"{reply.where} answered HTTP {reply.status} before any login; is that a registry?"
        )

    def _token_url_of(self, challenge: Challenge) -> httpx.URL:
        url = check_realm(challenge.parameters.get("realm", ""), self.base)
        asked = {name: challenge.parameters.get(name) for name in ("service", "scope")}
        return url.copy_merge_params({name: value for name, value in asked.items() if value})

    def _with_basic(self) -> Reply:
        self._authorization = self.basic
        return self._at_registry()

    def _with_token(self) -> Reply:
        """The login as the token service judges it.

        It, not the registry: with an anonymous token `/v2/` answers 200. And without the scope of
        an image, as `docker login` does it: Harbor gives a wrong login that comes with a scope an
        anonymous token (goharbor/harbor src/core/service/token/creator.go). ECR Public judges a
        token where it is used.
        """
        assert self._token_url is not None  # noqa: S101 - the caller has looked
        reply = self.ask_token(self._token_url)
        self.accept(reply, at_token_endpoint=True)
        self._authorization = f"Bearer {self.token_of(reply).reveal()}"
        return self._at_registry() if self.kind is Kind.ECR_PUBLIC else reply

    def _at_registry(self) -> Reply:
        reply = self.ask("/v2/", self._authorization)
        self.accept(reply)
        self.check_whole(reply)
        return reply


def _told(challenge: Challenge, token_url: httpx.URL | None) -> str:
    if token_url is None:
        return challenge.scheme.capitalize()
    return f"Bearer, token service {token_url.netloc.decode('ascii')}"
