"""Measures, and prints a table of each part with the goals. Misses are marked; the exit code is 0.

`python -m benchmarks PART…` measures these parts alone: `refresh` (one refresh against the cron
script and against the bare calls), `scale` (10 to 10,000 targets), `replicas` (1, 2 and 4 on one
PostgreSQL), `soak` (10,000 refreshes).
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from benchmarks import measures, replicas, scale
from benchmarks.fleet import PRINCIPALS
from benchmarks.measures import Cost, Script
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
    print(_machine())
    for part in sys.argv[1:] or _PARTS:
        print(flush=True)
        _print_table(list(_PARTS[part]()))


def _replicas_rows() -> Iterator[Row]:
    answer = f"peers answer in {replicas.ANSWER_SECONDS * 1000:.0f} ms"
    results = [replicas.measure(many) for many in replicas.REPLICAS]
    for result in results:
        share, last = result.seconds / results[0].seconds, result is results[-1]
        yield Row(
            f"{result.replicas} replicas, {replicas.WORKERS} workers each, {answer}",
            f"{result.seconds:.1f} s = {share:.0%}, {result.rate:.1f} refreshes/s",
            f"1/{replicas.GOAL} = {1 / replicas.GOAL:.0%}" if last else "",
            share <= 1 / replicas.GOAL if last else None,
        )
        yield Row(
            "for each refresh: claims in vain, statements, transactions",
            f"{result.each(result.conflicts):.2f}, {result.each(result.statements):.1f},"
            f" {result.each(result.transactions):.1f}",
        )


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


def _refresh_rows() -> Iterator[Row]:
    script = measures.script(runs=3)
    single, eight = measures.back_to_back(workers=1), measures.back_to_back(workers=8)
    yield from _against_script(eight, script)
    yield from _against_bare("1 thread", single, measures.bare(threads=1))
    yield from _against_bare("8 threads", eight, measures.bare(threads=8))
    usual = measures.daemon(targets=10, triggers=5, regions=1)
    memory = usual.resident_bytes
    what = f"memory, 10 targets of a region, {usual.refreshes} refreshes"
    yield Row(what, f"{memory / _MB:.0f} MB", "95 MB", memory <= 95 * _MB)
    if script is not None:
        peak = script.peak_bytes
        ratio = f"{memory / _MB:.0f} MB : {peak / _MB:.0f} MB = {memory / peak:.1f}"
        yield Row("the same, against the script's peak", ratio)
    seconds = measures.help_seconds(runs=5)
    yield Row("refresher --help", f"{seconds:.2f} s", "0.4 s", seconds < 0.4)


def _against_script(daemon: Cost, script: Script | None) -> Iterator[Row]:
    if script is None:
        yield Row("a refresh, against the script", "not measured: needs `aws` and `fal` in PATH")
        return
    times = script.cpu_seconds / daemon.cpu_seconds
    cpu = f"{daemon.cpu_seconds * 1000:.1f} ms : {script.cpu_seconds:.2f} s = 1/{times:.0f}"
    yield Row("CPU of a refresh, against the script", cpu, "1/300", times >= 300)
    wall = f"{daemon.seconds * 1000:.1f} ms : {script.seconds:.2f} s"
    yield Row(
        "time of a refresh, against the script", f"{wall} = 1/{script.seconds / daemon.seconds:.0f}"
    )


def _against_bare(how: str, daemon: Cost, bare: Cost) -> Iterator[Row]:
    ratio = daemon.cpu_seconds / bare.cpu_seconds
    cpu = f"{daemon.cpu_seconds * 1000:.1f} ms : {bare.cpu_seconds * 1000:.1f} ms = {ratio:.1f}"
    yield Row(f"CPU of a refresh, against the bare calls, {how}", cpu, "1.5", ratio <= 1.5)
    ratio = bare.seconds / daemon.seconds
    rates = f"{1 / daemon.seconds:.0f}/s : {1 / bare.seconds:.0f}/s = {ratio:.2f}"
    yield Row(f"throughput, against the bare calls, {how}", rates, "0.8 at least", ratio >= 0.8)


# --- many targets ------------------------------------------------------------------------------

_SIZES = (10, 100, 1_000, 10_000)


def _scale_rows() -> Iterator[Row]:
    measured = {}
    for targets in _SIZES:
        measured[targets] = found = scale.figures(targets, idle_seconds=60.0)
        yield from _of_size(found)
    most, fewer = measured[_SIZES[-1]], measured[_SIZES[-2]]
    growth = most.storm.cpu_seconds / fewer.storm.cpu_seconds
    yield Row("CPU of a pass, 10,000 to 1,000 targets", f"{growth:.1f}", "11", growth <= 11)
    yield from _lag_rows(scale.lags(_SIZES[-1], seconds=120.0))
    back = scale.outage(_SIZES[-1], seconds=60.0)
    yield Row("10,000 targets: all written once fal is back", _pass(back))


def _of_size(found: scale.Figures) -> Iterator[Row]:
    many = f"{found.targets:,} targets"
    begin, storm, few, all_ = found.begin, found.storm, found.targets == 10, found.targets == 10_000
    met = found.first_write <= 2 if few else None
    yield Row(
        f"{many}: start to first write", f"{found.first_write:.1f} s", "2 s" if few else "", met
    )
    yield Row(f"{many}: first pass", _pass(begin))
    yield Row(f"{many}: all due at once", _pass(storm))
    calls = storm.counts.issues
    goal = min(found.targets, PRINCIPALS)
    told = f"{calls}, {storm.counts.throttled} throttled"
    yield Row(
        f"{many}: AWS asked in a pass",
        told,
        str(goal),
        calls <= goal and not storm.counts.throttled,
    )
    memory, most = found.resident_bytes, {10: 95, 10_000: 160}.get(found.targets)
    met = None if most is None else memory <= most * _MB
    yield Row(
        f"{many}: memory", f"{memory / _MB:.0f} MB", "" if most is None else f"{most} MB", met
    )
    told = f"{found.idle:.1%} of one CPU, {found.proofs} proofs in 60 s"
    yield Row(
        f"{many}: nothing to do but proofs",
        told,
        "2 %" if all_ else "",
        found.idle <= 0.02 if all_ else None,
    )
    for path, answer in found.answers.items():
        told = f"{answer.seconds * 1000:.0f} ms, {answer.size / 1000:,.0f} kB"
        bound = all_ and path == "/metrics"
        yield Row(
            f"{many}: {path}", told, "1 s" if bound else "", answer.seconds <= 1 if bound else None
        )


def _pass(done: scale.Pass) -> str:
    writes = done.counts.writes
    each = done.cpu_seconds / writes * 1000
    return f"{done.seconds:.1f} s, {writes / done.seconds:.0f}/s, {each:.1f} ms of CPU each"


def _lag_rows(lags: Sequence[float]) -> Iterator[Row]:
    cuts = quantiles(lags, n=100)
    what = "10,000 targets: how late, while 60 become stale every second"
    told = f"p50 {cuts[49]:.2f} s, p99 {cuts[98]:.2f} s, max {max(lags):.2f} s"
    yield Row(what, told, "p99 1 s", cuts[98] <= 1)


_PARTS = {
    "refresh": _refresh_rows,
    "scale": _scale_rows,
    "replicas": _replicas_rows,
    "soak": _soak_rows,
}


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
