"""The status page and the files that it refers to."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from refresher import view, web
from refresher.api.problems import unknown_targets, unprocessable
from refresher.api.services import Services

#: Attempts that the plot of a target looks through: four days of a target that is checked often.
_ATTEMPTS = 500

_MEDIA_TYPES = {
    "style.css": "text/css",
    "page.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}


def _asset(name: str, _request: Request) -> Response:
    return Response(web.asset(name), media_type=_MEDIA_TYPES[name])


ASSETS = [Route(f"/{name}", partial(_asset, name)) for name in _MEDIA_TYPES]


class Pages:
    """The pages. They block, so Starlette runs each in a thread, as it does for a plain `def`."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def fleet(self, request: Request) -> Response:
        """All targets, or those that `?q=` and `?state=` ask for."""
        services, process = self._services, self._process()
        rows = view.with_status(services.targets(), services.store.statuses(), process.now)
        return HTMLResponse(web.fleet_page(rows, _wanted(request), process))

    def target(self, request: Request) -> Response:
        """One target; 404, as a page, where none has that name."""
        services, process = self._services, self._process()
        name, targets = request.path_params["name"], services.targets()
        if name not in targets:
            page = web.missing_page(unknown_targets([name], targets), process)
            return HTMLResponse(page, HTTPStatus.NOT_FOUND)
        status = services.store.status(name)
        statuses = {} if status is None else {name: status}
        ((target, present),) = view.with_status({name: targets[name]}, statuses, process.now)
        attempts = services.store.attempts(name, _ATTEMPTS)
        return HTMLResponse(web.target_page(target, present, attempts, process))

    def _process(self) -> web.Process:
        services, tick = self._services, self._services.health.last_tick
        return web.Process(
            now=services.clock.now(),
            ticked_at=None if tick is None else tick.at,
            stuck=services.health.stuck(services.clock.monotonic()),
            state_up=services.store.up,
            config_problem=services.config_problem(),
            writable=services.writable,
            replicas=view.replica_views(services.replicas(), services.store.statuses().values()),
        )


def _wanted(request: Request) -> web.Filter:
    state = request.query_params.get("state", "")
    if state and state not in web.STATES:
        raise unprocessable(f"?state= is none of {', '.join(web.STATES)}")
    return web.Filter(request.query_params.get("q", ""), state)
