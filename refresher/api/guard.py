"""Who may ask for what: everyone may read, and what changes something is guarded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from refresher.api.problems import SECURITY_HEADERS, problem
from refresher.api.services import Services
from refresher.errors import Misconfigured
from refresher.model import SecretValue
from refresher.references import Reference

#: Some thousand names of targets fit; no list at all means every target.
MAX_BODY_BYTES = 64 * 1024


def is_loopback(host: str) -> bool:
    """Whether a host, a name or an address without a port, is this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


class Edge:
    """Outermost: security headers on every answer, and no host but this one on loopback.

    A page of another origin whose name was made to resolve to 127.0.0.1 (DNS rebinding) still
    sends its own name as `Host`.
    """

    def __init__(self, app: ASGIApp, loopback: bool) -> None:
        self._app = app
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app if self._is_ours(Headers(scope=scope)) else _misdirected()
        await app(scope, receive, send_guarded)

    def _is_ours(self, headers: Headers) -> bool:
        host = headers.get("host")
        return not self._loopback or host is None or is_loopback(_host_name(host))


def _misdirected() -> ASGIApp:
    detail = "this listens on loopback alone: ask for it as localhost, 127.0.0.1 or [::1]"
    return problem(HTTPStatus.MISDIRECTED_REQUEST, detail)


def _host_name(host: str) -> str:
    """The host of a `Host` header, without its port or brackets; "" where it is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class Guard:
    """Admits what changes something: same origin, a token, JSON, and not too much of it."""

    services: Services

    async def admit(self, request: Request) -> dict[str, Any]:
        """The JSON object in the request's body, empty where there is no body.

        Raises `HTTPException`: 401, 403, 413, 415, 422, and 503 where the token cannot be read.
        """
        _refuse_foreign_origin(request.headers)
        await self._authorize(request.headers)
        _refuse_other_media(request.headers)
        return _object(await _body(request))

    async def _authorize(self, headers: Headers) -> None:
        if not self.services.writable:
            raise HTTPException(
                HTTPStatus.FORBIDDEN,
                "read-only: refresher listens beyond loopback without a token;"
                " set daemon.api_token",
            )
        reference = self.services.token()
        if reference is None:
            return
        token = await run_in_threadpool(_read, reference)
        given = _bearer(headers.get("authorization", ""))
        if given is None:
            raise _unauthorized("this needs `Authorization: Bearer` with daemon.api_token")
        if given != token:
            raise _unauthorized("the token is not daemon.api_token", ', error="invalid_token"')


def _refuse_foreign_origin(headers: Headers) -> None:
    """Browsers say where a request comes from; whoever says nothing is none.

    `Sec-Fetch-Site` is set by the browser alone and decides (W3C Fetch Metadata); `Origin`
    (RFC 6454 section 7) does where it is absent, as over plain HTTP.
    """
    site = headers.get("sec-fetch-site")
    origin = headers.get("origin")
    if site is not None:
        foreign = site not in ("same-origin", "none")
    else:
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
    if foreign:
        raise HTTPException(HTTPStatus.FORBIDDEN, "a page of another origin may not ask for this")


def _read(reference: Reference) -> SecretValue:
    try:
        token = reference.read()
    except Misconfigured as error:
        raise _no_token() from error
    if not token.reveal():
        raise _no_token()
    return token


def _no_token() -> HTTPException:
    return HTTPException(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "daemon.api_token cannot be read, so nobody is let in; mend what it refers to",
    )


def _bearer(authorization: str) -> SecretValue | None:
    """The token of RFC 6750 section 2.1; None where the header holds something else."""
    scheme, _, token = authorization.partition(" ")
    return SecretValue(token.strip()) if scheme.lower() == "bearer" else None


def _unauthorized(detail: str, error: str = "") -> HTTPException:
    """RFC 6750 section 3: the challenge names the error only where a token was given."""
    challenge = {"WWW-Authenticate": f'Bearer realm="refresher"{error}'}
    return HTTPException(HTTPStatus.UNAUTHORIZED, detail, challenge)


def _refuse_other_media(headers: Headers) -> None:
    """A form of another origin cannot send JSON without asking first (CORS)."""
    media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise HTTPException(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "this needs `Content-Type: application/json`"
        )


async def _body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise HTTPException(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is larger than 64 KiB"
            )
    return body


def _object(body: bytes) -> dict[str, Any]:
    if not body:
        return {}
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        # Not chained: the error's object holds the body.
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not JSON") from None
    if not isinstance(document, dict):
        raise HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, "the body is not a JSON object")
    return document
