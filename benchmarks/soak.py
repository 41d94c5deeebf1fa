"""Whether 10,000 refreshes in one process leave anything behind."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass

import psutil

from benchmarks.stand_ins import StandIns, running
from benchmarks.wide import daemon, require_alive

TARGETS = 50
FAL_ACCOUNTS = 10
#: From here on nothing may grow: a thousand attempts are kept in memory, and the allocator of C
#: has found its size after some more.
FIRST = 5_000

#: By how much what a process holds may be more than it was: its memory by that share; what comes
#: and goes at any moment, a thread for a call, a descriptor of a request for a page, by so many.
MEMORY_GROWTH = 0.05
SPARE = {"threads": 2, "descriptors": 3, "channels": 0}

#: Seconds between two triggers: at every tick all targets are due.
_TRIGGER_SECONDS = 0.4
#: Without a write for so long all is quiet.
_QUIET_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds on to."""

    refreshes: int
    resident_bytes: int
    threads: int
    #: Open file descriptors.
    descriptors: int
    #: Connections to fal, which is one for each channel.
    channels: int

    def beyond(self, first: Footprint) -> list[str]:
        """What grew since `first` by more than comes and goes; empty where all is flat."""
        memory = self.resident_bytes > first.resident_bytes * (1 + MEMORY_GROWTH)
        counts = (
            name
            for name, spare in SPARE.items()
            if getattr(self, name) > getattr(first, name) + spare
        )
        return [*(["memory"] if memory else []), *counts]


def soak(refreshes: int, seconds: float) -> tuple[Footprint, Footprint, float]:
    """What the daemon holds after the first 5,000 refreshes and after all, and the seconds.

    After `seconds` it is enough, however many there were.
    """
    started = time.monotonic()
    with running(1, 1) as stand_ins, daemon(stand_ins, TARGETS, FAL_ACCOUNTS) as process:
        until = started + seconds
        _refresh(process, stand_ins, min(FIRST, refreshes), until)
        first = _footprint(process, stand_ins)
        _refresh(process, stand_ins, refreshes, until)
        return first, _footprint(process, stand_ins), time.monotonic() - started


def _refresh(process: psutil.Popen, stand_ins: StandIns, count: int, until: float) -> None:
    """Ask for refreshes until there were so many; then wait until all is quiet."""
    while stand_ins.writes() < count and time.monotonic() < until:
        require_alive(process)
        process.send_signal(signal.SIGUSR1)
        time.sleep(_TRIGGER_SECONDS)
    written = -1
    while written < (written := stand_ins.writes()):
        time.sleep(_QUIET_SECONDS)
    require_alive(process)


def _footprint(process: psutil.Process, stand_ins: StandIns) -> Footprint:
    port = int(stand_ins.environ["FAL_GRPC_HOST"].rpartition(":")[2])
    connections = process.net_connections(kind="tcp")
    return Footprint(
        refreshes=stand_ins.writes(),
        resident_bytes=process.memory_info().rss,
        threads=process.num_threads(),
        descriptors=process.num_fds(),
        channels=len(
            [c for c in connections if c.status == "ESTABLISHED" and c.raddr.port == port]
        ),
    )
