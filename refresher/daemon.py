"""The daemon: builds everything from the config, starts, waits, stops within a deadline."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

from refresher import __version__, logs, notify
from refresher.api import Server, Services, build
from refresher.clock import Clock, SystemClock
from refresher.config import Config, is_loopback
from refresher.deadline import CALL_SECONDS
from refresher.engine import Engine
from refresher.errors import ConfigError
from refresher.metrics import Metrics
from refresher.model import Actor, Attempt, Observer, Status, Target
from refresher.notify import HEARTBEAT_SECONDS, Heartbeat, Notifier
from refresher.references import Stamp, stamp
from refresher.state import LEASE_SECONDS
from refresher.supervisor import Supervisor

#: Seconds that running attempts get to end their stage after SIGTERM; a stage takes 8 at most.
STOP_SECONDS = CALL_SECONDS + 1.0

#: Seconds between two looks at the files of the configuration. Those of a large project take
#: time to look at, so it is done less often there, but for a file to be seen within a minute.
WATCH_SECONDS = 5.0
_LONGEST_WATCH_SECONDS = 60.0
#: Seconds between two looks for each second that a look takes: half a percent of a core.
_PAUSE_A_SECOND = 200.0

#: Seconds of those that notices on their way get.
_PARTING_SECONDS = 1.0

_MINUTE = 60.0
_STATE_SECONDS = 5.0
#: Where others go on with the work meanwhile, and so the more should be known of it.
_SHARED_SECONDS = 1.0
_VALUE_SECONDS = 20.0
_LISTING_SECONDS = 15 * _MINUTE

#: Settings that are read once, at the start.
FIXED = (
    "daemon.listen",
    "daemon.state",
    "daemon.workers",
    "daemon.ca_bundle",
    "daemon.log_format",
    "daemon.fingerprint_key",
    "google.token_uris",
    "google.certs_url",
    "dockerhub.auth_url",
    "dockerhub.api_url",
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the configuration."""

    #: The files that are watched for changes, asked anew at each look.
    watched: Callable[[], Iterable[Path]] = tuple
    #: Publish nothing and remember nothing.
    dry_run: bool = False
    #: Seconds for which other replicas leave alone what this one is at.
    lease_seconds: float = LEASE_SECONDS


class Daemon:
    """Keeps the targets of one configuration. `run` blocks until `stop` or a signal."""

    def __init__(
        self,
        load: Callable[[], Config],
        options: Options,
        clock: Clock | None = None,
        *,
        observers: Sequence[Observer] = (),
    ) -> None:
        """`load` reads the configuration anew; `observers` hear of every finished attempt.

        Raises `ConfigError`, and `StateError` where another process owns the state.
        """
        self._load = load
        self._options = options
        self._clock = clock or SystemClock()
        config = self._read()
        self._config = self._begun_with = _without_targets(config)
        #: Of the last reload, where it was rejected.
        self._config_problem: str | None = None
        self._seen = self._stamps()
        self._watch_at = self._clock.monotonic() + WATCH_SECONDS
        # A signal handler may put into it at any moment, which an Event's lock would not bear.
        self._calls: SimpleQueue[signal.Signals] = SimpleQueue()
        self._engine = Engine(
            config,
            clock=self._clock,
            observers=[self._observe, *observers],
            dry_run=options.dry_run,
            lease_seconds=options.lease_seconds,
        )
        self._metrics = Metrics(
            store=self._engine.store,
            targets=lambda: self._engine.targets,
            health=self._engine.health,
            skews=self._engine.skews,
            clock=self._clock,
            version=__version__,
            shared=self._engine.shared,
        )
        self._metrics.config_read(self._clock.now(), successful=True)
        self._notifier = Notifier(
            store=self._engine.store,
            targets=lambda: self._engine.targets,
            references=lambda: () if options.dry_run else self._config.daemon.notify,
            clock=self._clock,
            count=self._metrics.notified,
            ca_bundle=self._config.daemon.ca_bundle,
        )
        self._heartbeat = Heartbeat(
            reference=lambda: None if options.dry_run else self._config.daemon.heartbeat_url,
            troubles=self._troubles,
            count=self._metrics.notified,
            ca_bundle=self._config.daemon.ca_bundle,
        )
        self._supervisor = Supervisor(os.environ)
        self._address = self._config.daemon.address
        self._server = Server(build(self._services()), *self._address)

    @property
    def url(self) -> str:
        """Where the status page is."""
        host = self._address[0]
        return f"http://{f'[{host}]' if ':' in host else host}:{self._server.port}"

    def run(self) -> None:
        """Keep the targets until told to stop; every attempt is then recorded whole."""
        engine = self._engine
        try:
            self._server.start()
            logs.event("daemon.started", version=__version__, url=self.url, **self._numbers())
            self._warn()
            engine.take_up()
            engine.scheduler.start()
            shared = engine.shared is not None
            seconds = _SHARED_SECONDS if shared else _STATE_SECONDS
            engine.scheduler.every(seconds, engine.watch_state)
            if shared:
                engine.scheduler.every(self._options.lease_seconds / 12, engine.watch_replicas)
            engine.scheduler.every(_MINUTE, lambda: engine.tidy(self._config))
            engine.scheduler.every(_MINUTE, self._notifier.look)
            engine.scheduler.every(HEARTBEAT_SECONDS, self._heartbeat.beat)
            engine.scheduler.every(_VALUE_SECONDS, engine.watch_values)
            engine.scheduler.every(_VALUE_SECONDS, engine.watch_files)
            engine.scheduler.every(_LISTING_SECONDS, engine.find_drift)
            while self._turn():
                pass
        finally:
            self._end()

    def stop(self) -> None:
        """Ask `run` to return. Safe from any thread."""
        self._calls.put(signal.SIGTERM)

    def reload(self) -> None:
        """Read the configuration anew; a bad one changes nothing."""
        try:
            config = self._read()
            self._engine.use(config)
            self._engine.announce_config()
        except ConfigError as error:
            self._metrics.config_read(self._clock.now(), successful=False)
            self._config_problem = error.problems[0]
            for problem in error.problems:
                logs.error("config.rejected", message=problem)
            return
        self._metrics.config_read(self._clock.now(), successful=True)
        self._config_problem = None
        self._config = _without_targets(config)
        logs.event("config.reloaded", **self._numbers())
        self._warn()
        restart = [key for key in FIXED if _value(config, key) != _value(self._begun_with, key)]
        if restart:
            logs.warning("config.restart_needed", keys=restart)

    def watch(self) -> None:
        """Read the configuration anew where one of its files changed; looks every 5 s at most."""
        begun = self._clock.monotonic()
        if begun < self._watch_at:
            return
        before, self._seen = self._seen, self._stamps()
        ended = self._clock.monotonic()
        pause = max(WATCH_SECONDS, (ended - begun) * _PAUSE_A_SECOND)
        self._watch_at = ended + min(pause, _LONGEST_WATCH_SECONDS)
        if before == self._seen:
            return
        self.reload()
        # What a changed file names is watched from now on, and is no change by itself.
        after = self._stamps()
        self._seen = {path: self._seen.get(path, stamp) for path, stamp in after.items()}

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Heed SIGTERM and SIGINT (stop), SIGHUP (reload) and SIGUSR1 (refresh all)."""
        kinds = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        before = {kind: signal.signal(kind, self._heed) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _heed(self, kind: int, _frame: FrameType | None) -> None:
        self._calls.put(signal.Signals(kind))

    def _turn(self) -> bool:
        """What the waiting thread looks after once a second; False when it is told to stop."""
        try:
            call = self._calls.get(timeout=1.0)
        except Empty:
            call = None
        if call in (signal.SIGTERM, signal.SIGINT):
            return False
        self._engine.scheduler.mind_the_clock()
        self._report()
        if call is signal.SIGUSR1:
            self._engine.control.refresh(list(self._engine.targets), Actor.SIGNAL)
        if call is signal.SIGHUP:
            self.reload()
        self.watch()
        return True

    def _report(self) -> None:
        """What the probes would say, to whoever supervises this process."""
        now = self._clock.monotonic()
        if self._not_ready() is None:
            self._supervisor.ready()
        if self._engine.health.stuck(now) is None:
            self._supervisor.alive(now)

    def _stamps(self) -> Mapping[Path, Stamp | None]:
        return {path: stamp(path) for path in dict.fromkeys(self._options.watched())}

    def _read(self) -> Config:
        config = self._load()
        notify.require(config)
        return config

    def _end(self) -> None:
        self._supervisor.stopping()
        self._engine.stopping.set()
        until = self._clock.monotonic() + STOP_SECONDS
        self._notifier.close(_PARTING_SECONDS)
        ended = self._engine.close(until - self._clock.monotonic())
        self._server.stop(1.0)
        logs.event("daemon.stopped", clean=ended)

    def _observe(self, target: Target, status: Status, attempt: Attempt) -> None:
        self._metrics.observe(target, status, attempt)
        self._notifier.observe(target, status, attempt)

    def _services(self) -> Services:
        engine = self._engine
        return Services(
            store=engine.store,
            targets=lambda: engine.targets,
            control=engine.control,
            metrics=self._metrics,
            health=engine.health,
            clock=self._clock,
            ready=self._not_ready,
            replicas=lambda: () if engine.shared is None else engine.shared.there(),
            config_problem=lambda: self._config_problem,
            token=lambda: self._config.daemon.api_token,
            loopback=self._loopback,
        )

    @property
    def _loopback(self) -> bool:
        """Whether it listens for this machine alone, which no reload changes."""
        return is_loopback(self._address[0])

    def _warn(self) -> None:
        """Of what works and is most likely not meant so."""
        for line in notify.warnings(self._config, os.environ):
            logs.warning("config.doubtful", message=line)
        if self._config.daemon.api_token is None and not self._loopback:
            logs.warning(
                "api.read_only",
                url=self.url,
                message="whoever reaches it may read, and nobody may ask; set daemon.api_token",
            )

    def _troubles(self) -> list[str]:
        """Why all is not well, a line each: for the heartbeat."""
        engine = self._engine
        stuck = engine.health.stuck(self._clock.monotonic())
        found = notify.troubles(engine.targets, engine.store.statuses(), self._clock.now())
        return found if stuck is None else [f"refresher: {stuck}", *found]

    def _not_ready(self) -> str | None:
        """The config is loaded and the state tried before anything is served."""
        return None if self._engine.health.last_tick else "the first tick has not ended yet"

    def _numbers(self) -> dict[str, int]:
        return {"targets": len(self._engine.targets)}


def _without_targets(config: Config) -> Config:
    """What is needed once the targets were built: ten thousand sections take 40 MB."""
    return config.model_copy(update={"targets": {}})


def _value(config: Config, path: str) -> object:
    return attrgetter(path)(config)
