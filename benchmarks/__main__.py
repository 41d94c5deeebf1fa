"""Measures, and prints one table with the goals. Misses are marked; the exit code is 0.

`python -m benchmarks soak` lets one process make 10,000 refreshes instead, which takes 2 minutes.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measures
from benchmarks.measures import TICK_SECONDS, Daemon, Script
from benchmarks.soak import MEMORY_GROWTH, SPARE, soak

_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table."""

    what: str
    measured: str
    goal: str = ""
    #: None where there is no goal, or nothing could be measured.
    met: bool | None = None


def main() -> None:
    print(f"{_machine()}\n")
    _print_table(list(_soak_rows() if sys.argv[1:] == ["soak"] else _rows()))


def _soak_rows() -> Iterator[Row]:
    first, last, seconds = soak(refreshes=10_000, seconds=150)
    what = f"after {last.refreshes} refreshes in one process, {seconds:.0f} s"
    yield Row(what, "", f"after {first.refreshes}")
    grown = last.beyond(first)
    before, after = first.resident_bytes / _MB, last.resident_bytes / _MB
    flat = "memory" not in grown
    yield Row("memory", f"{after:.1f} MB", f"{before:.1f} MB + {MEMORY_GROWTH:.0%}", flat)
    for name, spare in SPARE.items():
        before, after = getattr(first, name), getattr(last, name)
        yield Row(name, str(after), f"{before} + {spare}", name not in grown)


def _rows() -> Iterator[Row]:
    one = measures.daemon(targets=1, triggers=20, regions=1)
    ten = measures.daemon(targets=10, triggers=5, regions=10)
    usual = measures.daemon(targets=10, triggers=5, regions=1)
    yield from _against_script(one, measures.script(runs=3))
    yield _against_bare("back to back", ten, measures.bare(rounds=100, pause=0))
    yield _against_bare(
        f"one in {TICK_SECONDS:g} s", one, measures.bare(rounds=20, pause=TICK_SECONDS)
    )
    yield Row(
        f"memory of the daemon, 10 targets, {usual.refreshes} refreshes",
        f"{usual.resident_bytes / _MB:.0f} MB",
        "110 MB",
        usual.resident_bytes <= 110 * _MB,
    )
    yield Row("the same in 10 regions of AWS", f"{ten.resident_bytes / _MB:.0f} MB")
    seconds = measures.help_seconds(runs=5)
    yield Row("refresher --help", f"{seconds:.2f} s", "0.4 s", seconds < 0.4)
    yield Row("CPU of the daemon with nothing to do", f"{ten.idle:.1%} of one CPU")


def _against_script(daemon: Daemon, script: Script | None) -> Iterator[Row]:
    what = "CPU of a refresh, against the script"
    if script is None:
        yield Row(what, "not measured: needs `aws` and `fal` in PATH", "1/100")
        return
    times = script.cpu_seconds / daemon.cpu_seconds
    cpu = f"{daemon.cpu_seconds * 1000:.1f} ms : {script.cpu_seconds:.2f} s"
    yield Row(what, f"{cpu} = 1/{times:.0f}", "1/100", times >= 100)
    memory = f"{daemon.resident_bytes / _MB:.0f} MB : {script.peak_bytes / _MB:.0f} MB"
    ratio = daemon.resident_bytes / script.peak_bytes
    yield Row("memory of the daemon, against the script's peak", f"{memory} = {ratio:.1f}")


def _against_bare(how: str, daemon: Daemon, bare_seconds: float) -> Row:
    """Both at the same pace: a round that follows a pause finds every cache cold."""
    ratio = daemon.cpu_seconds / bare_seconds
    cpu = f"{daemon.cpu_seconds * 1000:.1f} ms : {bare_seconds * 1000:.1f} ms = {ratio:.1f}"
    return Row(f"CPU of a refresh, against the bare calls, {how}", cpu, "3", ratio <= 3)


def _print_table(rows: list[Row]) -> None:
    cells = [("", "measured", "goal, at most", "")]
    cells += [(row.what, row.measured, row.goal, _mark(row)) for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(3)]
    for line in cells:
        padded = [cell.ljust(width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([*padded, line[3]]).rstrip())


def _mark(row: Row) -> str:
    return {True: "met", False: "MISSED", None: ""}[row.met]


def _machine() -> str:
    return (
        f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs ({_cpu_model()}),"
        f" Python {platform.python_version()}"
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "unknown model"
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, "unknown model")


if __name__ == "__main__":
    main()
