"""What there is to ask for, and its answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from itertools import islice
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from refresher import policy, view
from refresher.api import openapi, problems
from refresher.api.guard import Edge, Guard
from refresher.api.pages import ASSETS, Pages
from refresher.api.problems import problem, unknown_targets, unprocessable
from refresher.api.services import Services
from refresher.errors import FailureReason
from refresher.model import Actor, Attempt, Life, Status, Target

#: Seconds that `?wait=` may ask for.
LONGEST_WAIT = 3600.0
#: Seconds between two looks at whether an attempt has ended.
_WAIT_STEP = 0.1
#: Attempts that one answer holds.
MOST_ATTEMPTS = 1000
_DEFAULT_ATTEMPTS = 100

_FLAGS = {"1": True, "true": True, "0": False, "false": False}


def build(services: Services) -> Starlette:
    """The application; nothing runs before a server takes it up."""
    api, pages = _Api(services), Pages(services)
    app = Starlette(
        routes=[
            Route("/", pages.fleet),
            Route("/targets/{name}", pages.target),
            *ASSETS,
            Route("/livez", api.livez),
            Route("/readyz", api.readyz),
            Route("/metrics", api.metrics),
            Route("/openapi.json", _openapi),
            Route("/api/v1/replicas", api.replicas),
            Route("/api/v1/targets", api.targets),
            Route("/api/v1/targets/{name}", api.target),
            Route("/api/v1/targets/{name}/attempts", api.attempts),
            Route("/api/v1/targets/{name}/refresh", api.refresh_one, methods=["POST"]),
            Route("/api/v1/targets/{name}/pause", api.pause, methods=["POST"]),
            Route("/api/v1/targets/{name}/resume", api.resume, methods=["POST"]),
            Route("/api/v1/refresh", api.refresh_many, methods=["POST"]),
        ],
        middleware=[Middleware(Edge, loopback=services.loopback)],
        exception_handlers={
            HTTPException: problems.refused,
            ClientDisconnect: problems.disconnected,
            Exception: problems.crashed,
        },
    )
    app.router.redirect_slashes = False
    #: Set by the server when it stops, so that nobody is kept waiting.
    app.state.stopping = False
    return app


def _openapi(_request: Request) -> Response:
    return JSONResponse(openapi.document())


class _Api:
    """The endpoints. What may block runs in a thread: Starlette does so for a plain `def`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._guard = Guard(services)

    # --- reading -------------------------------------------------------------------------------

    async def livez(self, _request: Request) -> Response:
        stuck = self._services.health.stuck(self._services.clock.monotonic())
        if stuck is not None:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, stuck)
        return JSONResponse({"status": "ok"})

    def readyz(self, request: Request) -> Response:
        now = self._services.clock.now()
        briefs = [_Brief.of(target, status, now) for target, status in self._rows(now)]
        body = {"targets": [brief.shown for brief in briefs]}
        reason = self._unready(briefs, strict=_flag(request, "strict"))
        if reason is not None:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, reason, extensions=body)
        return JSONResponse({"status": "ok", **body})

    def metrics(self, request: Request) -> Response:
        """With `?name[]=` those families alone, as other exporters have it."""
        names = frozenset(request.query_params.getlist("name[]"))
        body, content_type = self._services.metrics.expose(names)
        return StreamingResponse(body, headers={"Content-Type": content_type})

    def targets(self, _request: Request) -> Response:
        now = self._services.clock.now()
        shown = (view.target_view(target, status, now) for target, status in self._rows(now))
        return StreamingResponse(_listing("targets", shown), media_type="application/json")

    def replicas(self, _request: Request) -> Response:
        services = self._services
        statuses = services.store.statuses().values()
        return JSONResponse({"replicas": view.replica_views(services.replicas(), statuses)})

    def target(self, request: Request) -> Response:
        target = self._target(request)
        return self._shown(target, self._services.store.status(target.name))

    def attempts(self, request: Request) -> Response:
        """The history, which outlives its target."""
        name = request.path_params["name"]
        attempts = self._services.store.attempts(name, _limit(request))
        if not attempts:
            self._target(request)
        return JSONResponse({"attempts": [view.attempt_view(attempt) for attempt in attempts]})

    # --- asking --------------------------------------------------------------------------------

    async def refresh_one(self, request: Request) -> Response:
        body = await self._guard.admit(request)
        _refuse_unknown(body, {"retry_refused"})
        target = self._target(request)
        if not target.enabled:
            raise HTTPException(HTTPStatus.CONFLICT, _parked([target.name]))
        ended, (answer,) = await self._refresh([target.name], request, body)
        return JSONResponse(answer, _status_code(ended))

    async def refresh_many(self, request: Request) -> Response:
        body = await self._guard.admit(request)
        _refuse_unknown(body, {"retry_refused", "targets"})
        ended, answers = await self._refresh(self._named(body), request, body)
        return JSONResponse({"attempts": answers}, _status_code(ended))

    async def pause(self, request: Request) -> Response:
        return await self._change(request, self._services.control.pause)

    async def resume(self, request: Request) -> Response:
        return await self._change(request, self._services.control.resume)

    async def _change(self, request: Request, change: Callable[[str], Status]) -> Response:
        _refuse_unknown(await self._guard.admit(request), set())
        target = self._target(request)
        return self._shown(target, await run_in_threadpool(change, target.name))

    async def _refresh(
        self, names: list[str], request: Request, body: Mapping[str, Any]
    ) -> tuple[bool, list[Mapping[str, object]]]:
        """Ask for the attempts and wait as long as asked to: whether all ended, and each."""
        wait, retry_refused = _wait(request), _retry_refused(request, body)
        actor = _actor(request)
        wishes = await run_in_threadpool(
            lambda: self._services.control.refresh(names, actor, retry_refused=retry_refused)
        )
        if wait:
            await self._until_answered(wishes, request, wait)
        return await run_in_threadpool(self._answers, wishes)

    def _answers(self, wishes: Mapping[str, str]) -> tuple[bool, list[Mapping[str, object]]]:
        store, statuses = self._services.store, self._services.store.statuses()
        ended = {
            name: None if _waits(statuses.get(name), wish) else store.attempt(wish)
            for name, wish in wishes.items()
        }
        answers = [_answer(name, wishes[name], attempt) for name, attempt in ended.items()]
        return None not in ended.values(), answers

    async def _until_answered(
        self, wishes: Mapping[str, str], request: Request, seconds: float
    ) -> None:
        """Return once no wish waits any more, at the latest after so many seconds."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._waiting(wishes) and loop.time() < until:
            if request.app.state.stopping or await request.is_disconnected():
                return
            await asyncio.sleep(_WAIT_STEP)

    def _waiting(self, wishes: Mapping[str, str]) -> bool:
        """A wish stays in its target's status, which is in memory, until its attempt ends."""
        statuses = self._services.store.statuses()
        return any(_waits(statuses.get(name), wish) for name, wish in wishes.items())

    # --- helpers -------------------------------------------------------------------------------

    def _rows(self, now: datetime) -> list[tuple[Target, Status]]:
        return view.with_status(self._services.targets(), self._services.store.statuses(), now)

    def _shown(self, target: Target, status: Status | None) -> Response:
        now = self._services.clock.now()
        statuses = {} if status is None else {target.name: status}
        ((_, present),) = view.with_status({target.name: target}, statuses, now)
        return JSONResponse(view.target_view(target, present, now))

    def _target(self, request: Request) -> Target:
        targets = self._services.targets()
        target = targets.get(request.path_params["name"])
        if target is None:
            detail = unknown_targets([request.path_params["name"]], targets)
            raise HTTPException(HTTPStatus.NOT_FOUND, detail)
        return target

    def _named(self, body: Mapping[str, Any]) -> list[str]:
        """The targets that the body names; without any, all that are enabled."""
        targets = self._services.targets()
        if "targets" not in body:
            return [name for name, target in targets.items() if target.enabled]
        names = body["targets"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise unprocessable("`targets` is not a list of names")
        if not names:
            raise unprocessable("`targets` is empty; leave it out to mean all")
        unknown = [name for name in names if name not in targets]
        if unknown:
            raise unprocessable(unknown_targets(unknown, targets))
        parked = [name for name in names if not targets[name].enabled]
        if parked:
            raise HTTPException(HTTPStatus.CONFLICT, _parked(parked))
        return names

    def _unready(self, briefs: Iterable[_Brief], *, strict: bool) -> str | None:
        reason = self._services.ready()
        if reason is not None:
            return reason
        if self._services.health.last_tick is None:
            return "the first tick has not ended yet"
        bad = [brief.target.name for brief in briefs if brief.target.enabled and not brief.good]
        return f"expired or refused: {', '.join(bad)}" if strict and bad else None


# --- answers -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Brief:
    """What readiness says of one target."""

    target: Target
    state: Life
    valid: bool | None
    reason: FailureReason | None

    @classmethod
    def of(cls, target: Target, status: Status, now: datetime) -> _Brief:
        failure = status.last_failure
        return cls(
            target,
            policy.life(target, status, now),
            policy.valid(target, status, now),
            None if failure is None else failure.reason,
        )

    @property
    def shown(self) -> dict[str, object]:
        return {
            "name": self.target.name,
            "state": self.state,
            "valid": self.valid,
            "reason": self.reason,
        }

    @property
    def good(self) -> bool:
        """A credential counts as expired, too, past the life that it was found to have."""
        return self.state is not Life.EXPIRED and self.valid is not False


def _listing(name: str, items: Iterable[object]) -> Iterator[str]:
    """A JSON object that holds one list, a hundred items at a time: of ten thousand targets the
    whole would take 60 MB."""
    left, before = iter(items), f'{{"{name}":['
    while batch := list(islice(left, 100)):
        yield before + ",".join(
            json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in batch
        )
        before = ","
    yield "]}" if before == "," else f"{before}]}}"


def _answer(name: str, id: str, attempt: Attempt | None) -> Mapping[str, object]:
    """The attempt; until it has ended, its id."""
    if attempt is None:
        return {"id": id, "target": name, "outcome": None}
    return view.attempt_view(attempt)


def _waits(status: Status | None, wish: str) -> bool:
    return status is not None and status.trigger is not None and status.trigger.id == wish


def _status_code(ended: bool) -> int:
    return HTTPStatus.OK if ended else HTTPStatus.ACCEPTED


# --- requests ----------------------------------------------------------------------------------


def _parked(names: Sequence[str]) -> str:
    return f"parked by `enabled = false` in the configuration: {', '.join(names)}"


def _refuse_unknown(body: Mapping[str, Any], known: set[str]) -> None:
    unknown = sorted(body.keys() - known)
    if unknown:
        allowed = ", ".join(sorted(known)) or "none"
        raise unprocessable(f"unknown members: {', '.join(unknown)}; known: {allowed}")


def _flag(request: Request, name: str) -> bool:
    given = request.query_params.get(name, "false")
    if given not in _FLAGS:
        raise unprocessable(f"?{name}= is neither 1 nor 0")
    return _FLAGS[given]


def _retry_refused(request: Request, body: Mapping[str, Any]) -> bool:
    given = body.get("retry_refused", False)
    if not isinstance(given, bool):
        raise unprocessable("`retry_refused` is neither true nor false")
    return _flag(request, "retry_refused") or given


def _wait(request: Request) -> float:
    try:
        seconds = float(request.query_params.get("wait", "0"))
    except ValueError:
        seconds = -1
    if not 0 <= seconds <= LONGEST_WAIT:
        raise unprocessable(f"?wait= is not a number of seconds from 0 to {LONGEST_WAIT:g}")
    return seconds


def _limit(request: Request) -> int:
    given = request.query_params.get("limit", str(_DEFAULT_ATTEMPTS))
    limit = int(given) if given.isascii() and given.isdigit() and len(given) <= 4 else 0
    if not 1 <= limit <= MOST_ATTEMPTS:
        raise unprocessable(f"?limit= is not a number from 1 to {MOST_ATTEMPTS}")
    return limit


def _actor(request: Request) -> Actor:
    """Our own command line says that it asks; it is a note in the history, not a right."""
    if request.headers.get("x-refresher-actor") == Actor.CLI:
        return Actor.CLI
    return Actor.HTTP
