"""One process that keeps many targets, against the peers of a platform team."""

from __future__ import annotations

import json
import signal
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass

import httpx
import psutil

from benchmarks.fleet import Counts, Fleet, running
from benchmarks.measures import command, cpu_seconds

#: As many as hide what peers take to answer.
WORKERS = 32

#: Proofs are due all the time: as many are made as one process makes at most.
_ALWAYS_CHECKING = {"reverify_interval": "60s"}
#: Between 1.8 and 3.6 minutes after the issue: in life it is 3.6 to 4 hours, and as there all that
#: share a credential become stale at once.
_ALWAYS_REFRESHING = {"refresh_fraction": 0.01, "jitter": 0.5}

_PATIENCE = 900.0
#: Seconds in which attempts are recorded after their writes.
_SETTLE_SECONDS = 2.0

ANSWERS = ("/metrics", "/", "/api/v1/targets", "/readyz", "/livez")


@dataclass(frozen=True, slots=True)
class Pass:
    """Every target refreshed once."""

    seconds: float
    cpu_seconds: float
    counts: Counts


@dataclass(frozen=True, slots=True)
class Answer:
    """What one address takes."""

    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What so many targets cost."""

    targets: int
    #: From the start of the process to the first value in fal.
    first_write: float
    #: From there until fal had all.
    begin: Pass
    #: Another pass, for which all are due at once.
    storm: Pass
    resident_bytes: int
    #: CPU seconds a second, with as many proofs as one process makes at most, and their number.
    idle: float
    proofs: int
    answers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class Daemon:
    """The daemon that is measured, and its peers."""

    process: psutil.Popen
    fleet: Fleet

    @property
    def url(self) -> str:
        """Where it listens, as its log tells."""
        lines = (self.fleet.directory / "log").read_text().splitlines()
        return next(str(json.loads(line)["url"]) for line in lines if '"daemon.started"' in line)

    def wait_for(self, writes: int) -> None:
        """Return once fal has so many."""
        until = time.monotonic() + _PATIENCE
        while (counts := self.fleet.counts()).writes < writes:
            if self.process.poll() is not None:
                raise RuntimeError((self.fleet.directory / "log").read_text()[-1000:])
            if time.monotonic() > until:
                raise TimeoutError(f"{counts} in {_PATIENCE:g} s")
            time.sleep(0.02)

    def refresh_all(self, targets: int) -> Pass:
        """Have all targets refreshed by one trigger."""
        before, cpu, started = self.fleet.counts(), cpu_seconds(self.process), time.monotonic()
        self.process.send_signal(signal.SIGUSR1)
        self.wait_for(before.writes + targets)
        return Pass(
            time.monotonic() - started,
            cpu_seconds(self.process) - cpu,
            _since(before, self.fleet.counts()),
        )

    def lag(self) -> float:
        """Seconds that the most overdue target was late at the last tick."""
        name = "refresher_scheduler_lag_seconds"
        text = _get(f"{self.url}/metrics?name[]={name}").text
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])


def figures(targets: int, idle_seconds: float) -> Figures:
    """Start, storm and rest of one process."""
    started = time.monotonic()
    with _daemon(targets, _ALWAYS_CHECKING) as daemon:
        daemon.wait_for(1)
        first, cpu = time.monotonic(), cpu_seconds(daemon.process)
        daemon.wait_for(targets)
        begin = Pass(
            time.monotonic() - first,
            cpu_seconds(daemon.process) - cpu,
            daemon.fleet.counts(),
        )
        time.sleep(_SETTLE_SECONDS)
        storm = daemon.refresh_all(targets)
        time.sleep(60.0)  # until the first proofs are due again
        resident = daemon.process.memory_info().rss
        before, cpu = daemon.fleet.counts(), cpu_seconds(daemon.process)
        time.sleep(idle_seconds)
        idle = (cpu_seconds(daemon.process) - cpu) / idle_seconds
        proofs = _since(before, daemon.fleet.counts()).visits
        answers = {path: _timed(f"{daemon.url}{path}") for path in ANSWERS}
        return Figures(targets, first - started, begin, storm, resident, idle, proofs, answers)


def lags(targets: int, seconds: float) -> list[float]:
    """How late the most overdue target was, a look every half second, while targets are refreshed
    all the time and a scraper comes every 15 s."""
    found = []
    with _daemon(targets, _ALWAYS_REFRESHING) as daemon:
        daemon.wait_for(targets)
        url = daemon.url
        daemon.wait_for(targets + 1)  # the first that became stale
        until = time.monotonic() + seconds
        while (now := time.monotonic()) < until:
            found.append(daemon.lag())
            if len(found) % 30 == 0:
                _get(f"{url}/metrics")
            time.sleep(max(0.0, now + 0.5 - time.monotonic()))
    return found


def outage(targets: int, seconds: float) -> Pass:
    """What it takes to write all once fal, unavailable from the start, is back."""
    with _daemon(targets, {}, fal_up=False) as daemon:
        time.sleep(seconds)
        before, cpu, back = daemon.fleet.counts(), cpu_seconds(daemon.process), time.monotonic()
        daemon.fleet.fal(up=True)
        daemon.wait_for(targets)
        return Pass(
            time.monotonic() - back,
            cpu_seconds(daemon.process) - cpu,
            _since(before, daemon.fleet.counts()),
        )


@contextmanager
def _daemon(
    targets: int, policy: Mapping[str, str | float], *, fal_up: bool = True
) -> Iterator[Daemon]:
    """`refresher run` and its peers, ended with the block."""
    with running(targets, policy, WORKERS) as fleet:
        fleet.fal(up=fal_up)
        environ = fleet.environ | {"PATH": "/usr/bin:/bin"}
        with (fleet.directory / "log").open("wb") as log:
            process = psutil.Popen(
                [*command(fleet.config), "run"], env=environ, stdout=log, stderr=log
            )
        try:
            yield Daemon(process, fleet)
        finally:
            if process.is_running():
                process.terminate()
            process.wait()


def _since(before: Counts, after: Counts) -> Counts:
    return Counts(*(b - a for a, b in zip(astuple(before), astuple(after), strict=True)))


def _timed(url: str) -> Answer:
    """The median of five."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        size = len(_get(url).content)
        taken.append(time.perf_counter() - started)
    return Answer(statistics.median(taken), size)


def _get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=60, trust_env=False).raise_for_status()
