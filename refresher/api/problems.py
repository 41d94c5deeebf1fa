"""Errors as problem documents (RFC 9457)."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

MEDIA_TYPE = "application/problem+json"

#: What every answer carries. The page needs its own style, script and icon, and asks nobody else.
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def problem(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    extensions: Mapping[str, object] | None = None,
) -> Response:
    """A problem document, `extensions` being members of its own (RFC 9457 section 3.2)."""
    title = HTTPStatus(status).phrase
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return JSONResponse({**body, **(extensions or {})}, status, headers, media_type=MEDIA_TYPE)


def unprocessable(detail: str) -> HTTPException:
    """The request is well formed, and something in it makes no sense."""
    return HTTPException(HTTPStatus.UNPROCESSABLE_ENTITY, detail)


def unknown_targets(names: Sequence[str], known: Iterable[str]) -> str:
    """That these are no targets, with the nearest one that is."""
    near = difflib.get_close_matches(names[0], known, n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no target is named {', '.join(names)}{hint}"


async def refused(request: Request, error: Exception) -> Response:
    """The answer to a request that some handler, or the router, refused."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class alone
    return problem(error.status_code, _detail(request, error), headers=error.headers)


def _detail(request: Request, error: HTTPException) -> str:
    """The router's own refusals say no more than their title."""
    if error.detail != HTTPStatus(error.status_code).phrase:
        return error.detail
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.method} is not allowed here; use {(error.headers or {}).get('Allow')}"
    return f"there is nothing at {request.url.path}; GET /openapi.json lists what there is"


async def disconnected(_request: Request, _error: Exception) -> Response:
    """The peer hung up in the middle of its request; nobody reads this."""
    return Response(status_code=HTTPStatus.BAD_REQUEST)


async def crashed(_request: Request, _error: Exception) -> Response:
    """A bug of ours, which the server logs with its traceback; the answer holds none of it."""
    detail = "an unexpected error, which is a bug in refresher; its log says where"
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail, headers=SECURITY_HEADERS)
