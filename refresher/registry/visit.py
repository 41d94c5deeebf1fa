"""One credential at one registry: what is asked in its name, and what the answers say."""

from __future__ import annotations

import base64
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime

import httpx

from refresher.clock import retry_after
from refresher.errors import (
    Failure,
    Forbidden,
    InvalidCredential,
    InvalidResponse,
    NotFound,
    Unauthorized,
)
from refresher.model import Credential, ImageRef, Proof, Pull, RegistryRef, SecretValue
from refresher.registry.addresses import check_url
from refresher.registry.answers import Answer, failure_of
from refresher.registry.names import kind_of
from refresher.registry.wire import Call, Reply, Wire
from refresher.registry.words import Scrubber, document_of, said
from refresher.steps import Steps

_PULLS: Mapping[type[Failure], Pull] = {Forbidden: Pull.FORBIDDEN, NotFound: Pull.NOT_FOUND}


class Visit(ABC):
    """One verification. A subclass says how to log in, and how to ask for an image."""

    def __init__(self, wire: Wire, registry: RegistryRef, credential: Credential) -> None:
        """Raises `Misconfigured` or `InvalidCredential` where nothing may be sent."""
        self._wire = wire
        self.host = registry.host
        self.base = check_url(registry)
        self.kind = kind_of(registry.host)
        self.basic = _basic(credential)
        self.steps = Steps()
        self._scrubber = Scrubber(credential.username, credential.password)

    @abstractmethod
    def log_in(self, image: ImageRef | None) -> datetime:
        """When the login was accepted. Raises a `Failure`."""

    @abstractmethod
    def pull(self, image: ImageRef) -> None:
        """Ask for the image, once logged in. Raises a `Failure`."""

    def prove(self, image: ImageRef | None) -> Proof:
        """That the login was accepted, and what became of the image.

        Raises a `Failure`; of those of the pull only `Unauthorized`, which shows that the
        credential is dead after all.
        """
        at = self.log_in(image)
        if image is None:
            return Proof(verified_at=at, layers=self.steps.taken)
        try:
            self.pull(image)
        except Unauthorized:
            raise
        except Failure as failure:
            pull = _PULLS.get(type(failure), Pull.UNKNOWN)
            return Proof(at, pull, pull_message=failure.message, layers=self.steps.taken)
        return Proof(at, Pull.OK, layers=self.steps.taken)

    # --- what is asked -------------------------------------------------------------------------

    def ask(
        self, path: str, authorization: str | None, what: str = "", method: str = "GET"
    ) -> Reply:
        """The registry's answer."""
        url = self.base.copy_with(path=self.base.path.rstrip("/") + path)
        where = f"{self.host}, {what}" if what else self.host
        return self._wire.ask(Call(method, url, self.host, where, authorization))

    def ask_manifest(self, image: ImageRef, authorization: str, method: str = "GET") -> Reply:
        """The registry's answer to who wants to pull the image."""
        path = f"/v2/{image.repository}/manifests/{image.reference}"
        return self.ask(path, authorization, f"image {image}", method)

    def ask_token(self, url: httpx.URL, image: ImageRef | None = None) -> Reply:
        """The token service's answer to the login, for the scope of the image where one is given
        (distribution specification, token authentication)."""
        peer = self.host if url.netloc == self.base.netloc else url.netloc.decode("ascii")
        if image is not None:
            url = url.copy_add_param("scope", f"repository:{image.repository}:pull")
        return self._wire.ask(Call("GET", url, peer, f"token service {peer}", self.basic))

    # --- what the answers say ------------------------------------------------------------------

    def accept(
        self, reply: Reply, *, at_token_endpoint: bool = False, with_proved_token: bool = False
    ) -> None:
        """Return if the credential was accepted. Raises a `Failure`."""
        failure = self.failure(
            reply, at_token_endpoint=at_token_endpoint, with_proved_token=with_proved_token
        )
        if failure is not None:
            raise failure

    def failure(
        self, reply: Reply, *, at_token_endpoint: bool = False, with_proved_token: bool = False
    ) -> Failure | None:
        """The failure that an answer is, in words; None where it is none."""
        if reply.status == 200:
            return None  # the common case needs none of the rest
        answer = Answer(
            status=reply.status,
            kind=self.kind,
            at_token_endpoint=at_token_endpoint,
            with_proved_token=with_proved_token,
            challenge_error=reply.challenge_error,
            message=said(reply.body, reply.headers.get("Content-Type", "")),
            location=reply.location,
            retry_after=retry_after(reply.headers, reply.at),
        )
        return failure_of(answer, reply.where, self._scrubber)

    def check_whole(self, reply: Reply) -> None:
        """Raises `InvalidResponse` where the answer to a login was too long to be one."""
        if reply.cut:
            raise InvalidResponse(f"{reply.where} sent more than 64 KiB; is that a registry?")

    def token_of(self, reply: Reply) -> SecretValue:
        """The token in an answer; `access_token` is OAuth's name for it.

        Raises `InvalidResponse`. From here on it is taken out of what the registry says.
        """
        self.check_whole(reply)
        document = document_of(reply.body)
        token = document.get("token") or document.get("access_token")
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise InvalidResponse(f"{reply.where} accepted the login and gave no token")
        value = SecretValue(token)
        self._scrubber = self._scrubber.also(value)
        return value


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
