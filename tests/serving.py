"""Serves the application of a test, whose attempts the test makes by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
from starlette.applications import Starlette
from starlette.datastructures import State
from starlette.types import Receive, Scope, Send

from refresher.api import Server, Services, build
from refresher.clock import ManualClock, Skews
from refresher.control import Control
from refresher.health import Health, Tick
from refresher.metrics import Metrics
from refresher.model import DueReason, Store, Trigger
from refresher.references import Reference
from tests.conftest import NOON
from tests.script import Bench

JSON = {"Content-Type": "application/json"}
WORKERS = 2


def wait_for(condition: Callable[[], bool]) -> None:
    """Return once the condition holds, which takes a moment."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


class Stage:
    """What the one server of these tests serves: the application of the test that runs."""

    def __init__(self) -> None:
        self.state = State()
        self.app: Starlette | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self.app is not None
        await self.app(scope, receive, send)


@contextmanager
def staged() -> Iterator[Stage]:
    """A real server, which takes a fifth of a second to stop: one for all tests of a module."""
    stage = Stage()
    server = Server(stage, "127.0.0.1", 0)  # type: ignore[arg-type]
    server.start()
    stage.state.port = server.port
    try:
        yield stage
    finally:
        server.stop(5)


class Daemon:
    """The API of a process whose attempts a test makes by hand."""

    def __init__(self, clock: ManualClock, stage: Stage) -> None:
        self._stage = stage
        self.bench = Bench(clock)
        self.clock = clock
        self.health = Health(WORKERS, clock.monotonic())
        self.health.tick(Tick(NOON, 0.0), clock.monotonic())
        self.targets = {"ecr": self.bench.target()}
        self.starting: str | None = None
        self.config_problem: str | None = None
        self._open = ExitStack()
        self._open.callback(self.bench.store.close)

    def build(
        self,
        *,
        api_token: Reference | None = None,
        loopback: bool = True,
        store: Store | None = None,
    ) -> Starlette:
        """The application of this daemon."""
        store = store or self.bench.store
        return build(
            Services(
                store=store,
                targets=lambda: self.targets,
                control=Control(store, lambda: self.targets, self.clock),
                metrics=self.metrics(),
                health=self.health,
                clock=self.clock,
                ready=lambda: self.starting,
                token=lambda: api_token,
                loopback=loopback,
                config_problem=lambda: self.config_problem,
            )
        )

    @property
    def url(self) -> str:
        """Where it is served."""
        return f"http://127.0.0.1:{self._stage.state.port}"

    def serve(self, app: Starlette | None = None) -> httpx.Client:
        """A client of a server of this application, which ends with the daemon."""
        self._stage.app = app or self.build()
        return self._open.enter_context(httpx.Client(base_url=self.url, timeout=10))

    def metrics(self) -> Metrics:
        return Metrics(
            store=self.bench.store,
            targets=lambda: self.targets,
            health=self.health,
            skews=Skews(),
            clock=self.clock,
            version="1.2.3",
        )

    def answer_wishes(self) -> threading.Thread:
        """A worker that makes the next attempt which somebody asks for."""
        worker = threading.Thread(target=self._answer_next_wish)
        worker.start()
        return worker

    def _answer_next_wish(self) -> None:
        wait_for(lambda: any(self._wishes()))
        name, wish = next(self._wishes())
        self.bench.refresher.attempt(self.targets[name], DueReason.FORCED, wish.actor, wish.id)

    def _wishes(self) -> Iterator[tuple[str, Trigger]]:
        for name, status in self.bench.store.statuses().items():
            if status.trigger is not None:
                yield name, status.trigger

    def close(self) -> None:
        self._open.close()
