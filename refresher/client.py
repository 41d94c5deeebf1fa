"""A client of our own API, for the commands that ask a running daemon."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self, TypedDict, cast, final
from urllib.parse import quote, urlsplit

import httpx

from refresher.config import is_loopback
from refresher.errors import DaemonError, DaemonRefused
from refresher.model import Actor, SecretValue
from refresher.view import AttemptView, ReplicaView, TargetView

#: Seconds within which the daemon answers what it has in memory.
ANSWER_SECONDS = 10.0

#: The longest that one request may wait for attempts to end.
LONGEST_WAIT = timedelta(hours=1)

_PROBLEM = "application/problem+json"


@final
class PendingView(TypedDict):
    """An attempt that was asked for and has not been made."""

    id: str
    target: str
    outcome: None


#: What the API says of an attempt that it was asked for.
Answer = AttemptView | PendingView


class Client:
    """One daemon's API. Every call raises `DaemonError`, or `DaemonRefused` where it said no."""

    def __init__(self, url: str, token: Callable[[], SecretValue | None]) -> None:
        """`token` is asked for at the first request that changes something."""
        self.url = url.rstrip("/")
        self._token = token
        # What is on this machine is not reached through a proxy.
        local = is_loopback(urlsplit(url).hostname or "")
        self._http = httpx.Client(timeout=ANSWER_SECONDS, trust_env=not local)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._http.close()

    def targets(self) -> list[TargetView]:
        """What stands and what comes next."""
        return cast("list[TargetView]", self._get("/api/v1/targets")["targets"])

    def replicas(self) -> list[ReplicaView]:
        """Who shares the state; none where nobody can, or where the daemon is too old to tell."""
        try:
            return cast("list[ReplicaView]", self._get("/api/v1/replicas")["replicas"])
        except DaemonRefused as refused:
            if refused.status != HTTPStatus.NOT_FOUND:
                raise
            return []

    def target(self, name: str) -> TargetView:
        """The same of one target."""
        return cast("TargetView", self._get(f"/api/v1/targets/{_segment(name)}"))

    def attempts(self, name: str, limit: int) -> list[AttemptView]:
        """The history of one target, newest first."""
        path = f"/api/v1/targets/{_segment(name)}/attempts?limit={limit}"
        return cast("list[AttemptView]", self._get(path)["attempts"])

    def refresh(
        self, names: Sequence[str] | None, wait: timedelta, *, retry_refused: bool = False
    ) -> list[Answer]:
        """Ask for one attempt at each target, None meaning all, and wait for them to end.

        `outcome` is None where `wait`, an hour at most, was too short.
        """
        seconds = min(wait, LONGEST_WAIT).total_seconds()
        body: dict[str, object] = {"retry_refused": retry_refused}
        if names is not None:
            body["targets"] = list(names)
        answer = self._post(f"/api/v1/refresh?wait={seconds:g}", body, seconds + ANSWER_SECONDS)
        return cast("list[Answer]", answer["attempts"])

    def pause(self, name: str) -> TargetView:
        """Stop keeping a target."""
        return cast("TargetView", self._post(f"/api/v1/targets/{_segment(name)}/pause", {}))

    def resume(self, name: str) -> TargetView:
        """Keep it again."""
        return cast("TargetView", self._post(f"/api/v1/targets/{_segment(name)}/resume", {}))

    def _get(self, path: str) -> dict[str, Any]:
        return self._answer(self._http.build_request("GET", f"{self.url}{path}"))

    def _post(
        self, path: str, body: dict[str, object], seconds: float = ANSWER_SECONDS
    ) -> dict[str, Any]:
        headers = {"X-Refresher-Actor": Actor.CLI.value}
        token = self._token()
        if token is not None:
            headers["Authorization"] = f"Bearer {token.reveal()}"
        return self._answer(
            self._http.build_request(
                "POST", f"{self.url}{path}", json=body, headers=headers, timeout=seconds
            )
        )

    def _answer(self, request: httpx.Request) -> dict[str, Any]:
        try:
            response = self._http.send(request)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            # Not chained: the error's object holds the request with its token.
            raise DaemonError(_nobody(self.url, error)) from None
        except httpx.HTTPError as error:
            raise DaemonError(
                f"the daemon at {self.url} did not answer ({type(error).__name__}); see its log"
            ) from None
        return _document(response, self.url)


def _document(response: httpx.Response, url: str) -> dict[str, Any]:
    try:
        document = response.json()
    except ValueError:
        raise DaemonError(_stranger(url)) from None
    if not isinstance(document, dict):
        raise DaemonError(_stranger(url))
    if response.is_success:
        return document
    if response.headers.get("content-type", "").partition(";")[0] != _PROBLEM:
        raise DaemonError(_stranger(url))
    raise DaemonRefused(str(document.get("detail") or document.get("title")), response.status_code)


def _nobody(url: str, error: httpx.TransportError) -> str:
    why = re.sub(r"^\[Errno -?\d+\] ", "", str(error))
    return (
        f"no daemon answers at {url} ({why});"
        " start `refresher run`, or say where it is with --url or REFRESHER_URL"
    )


def _stranger(url: str) -> str:
    return f"what answers at {url} is not refresher; say where it is with --url or REFRESHER_URL"


def _segment(name: str) -> str:
    return quote(name, safe="")
