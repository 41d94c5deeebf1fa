"""Each measurement: programs as a user runs them, against the same stand-ins."""

from __future__ import annotations

import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks import wide
from benchmarks.stand_ins import StandIns, running

#: What only our development tools bring; other libraries load it where they find it.
_NOT_OURS = ("rich", "pygments", "greenlet")
_DAEMON = (
    f"import sys; sys.modules.update(dict.fromkeys({_NOT_OURS!r}));"
    " from refresher.cli import main; sys.exit(main())"
)

#: The daemon looks for due targets at this interval, so no trigger is answered sooner.
TICK_SECONDS = 0.5
#: Seconds in which the daemon must have answered a trigger.
_PATIENCE = 30.0
_IDLE_SECONDS = 5.0
#: In which an attempt is recorded after its write; a trigger before that would ask for the same.
_RECORD_SECONDS = 0.1


#: Targets of the daemon that is compared with the bare calls: so many that a tick is nothing.
_MANY, _FAL_ACCOUNTS, _ROUNDS = 300, 60, 4


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one refresh."""

    cpu_seconds: float
    #: By the clock on the wall, back to back.
    seconds: float


@dataclass(frozen=True, slots=True)
class Script:
    """One run of the script."""

    cpu_seconds: float
    seconds: float
    #: Of its largest process.
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Daemon:
    """The running daemon, after so many refreshes."""

    refreshes: int
    #: Of one refresh, over what the daemon costs when there is nothing to do.
    cpu_seconds: float
    #: CPU seconds a second with nothing to do.
    idle: float
    resident_bytes: int


def script(runs: int) -> Script | None:
    """The median run of the script that a user would write; None without its two programs."""
    aws, fal = shutil.which("aws"), shutil.which("fal") or _fal_beside_us()
    if aws is None or fal is None:
        return None
    line = f'"{fal}" secrets set AWS_ECR_PASSWORD="$("{aws}" ecr get-login-password)"'
    with running(1, 1) as stand_ins:
        done = [_run_script(line, stand_ins) for _ in range(runs)]
    return Script(
        statistics.median(run.cpu_seconds for run in done),
        statistics.median(run.seconds for run in done),
        max(run.peak_bytes for run in done),
    )


def bare(threads: int) -> Cost:
    """The bare calls, back to back on so many threads."""
    with running(1, 1) as stand_ins:
        command = ["-m", "benchmarks.bare", stand_ins.registry_url, "800", str(threads)]
        cpu, seconds = _python(command, stand_ins.environ).split()
    return Cost(float(cpu), float(seconds))


def back_to_back(workers: int) -> Cost:
    """The daemon with so many workers, whose targets share nothing and are all due at once."""
    with (
        running(1, 1) as stand_ins,
        wide.daemon(stand_ins, _MANY, _FAL_ACCOUNTS, workers) as process,
    ):
        time.sleep(1.0)
        cpu, spent = cpu_seconds(process), 0.0
        for _ in range(_ROUNDS):
            written, started = stand_ins.writes(), time.monotonic()
            process.send_signal(signal.SIGUSR1)
            wide.wait_for(process, stand_ins, written + _MANY)
            spent += time.monotonic() - started
            time.sleep(_RECORD_SECONDS)
        made = _ROUNDS * _MANY
        return Cost((cpu_seconds(process) - cpu) / made, spent / made)


def daemon(targets: int, triggers: int, regions: int) -> Daemon:
    """The daemon, with all of its targets refreshed at each trigger."""
    with running(targets, regions) as stand_ins, _started(stand_ins) as process:
        idle = _idle(process)
        started, before = time.monotonic(), cpu_seconds(process)
        for _ in range(triggers):
            written = stand_ins.writes()
            process.send_signal(signal.SIGUSR1)
            _wait_for_writes(stand_ins, written + targets)
            time.sleep(_RECORD_SECONDS)
        seconds, cpu = time.monotonic() - started, cpu_seconds(process) - before
        refreshes = targets * triggers
        return Daemon(
            refreshes=refreshes,
            cpu_seconds=(cpu - idle * seconds) / refreshes,
            idle=idle,
            resident_bytes=process.memory_info().rss,
        )


def help_seconds(runs: int) -> float:
    """Seconds that `refresher --help` takes, the median."""
    return statistics.median(_timed_help() for _ in range(runs))


def _timed_help() -> float:
    started = time.perf_counter()
    _python(["-m", "refresher", "--help"], dict(os.environ))
    return time.perf_counter() - started


def _python(arguments: Sequence[str], environ: dict[str, str]) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environ, check=True, text=True, capture_output=True).stdout


# --- the script --------------------------------------------------------------------------------


def _fal_beside_us() -> str | None:
    """The command line of fal in the environment that `make` gives it."""
    found = Path(__file__).resolve().parent.parent / ".venv-fal" / "bin" / "fal"
    return str(found) if found.exists() else None


def _run_script(line: str, stand_ins: StandIns) -> Script:
    nobody = "127.0.0.1:9"  # what is not a stand-in is not reached
    environ = {
        **stand_ins.environ,
        "FAL_CONFIG_PATH": str(stand_ins.directory / "fal.toml"),
        "FAL_REST_HOST": nobody,
        "FAL_RUN_HOST": nobody,
        "https_proxy": f"http://{nobody}",
        "GRPC_VERBOSITY": "NONE",
    }
    before, started = stand_ins.writes(), time.monotonic()
    process = subprocess.Popen(["sh", "-c", line], env=environ, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # with all of the shell's children
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or stand_ins.writes() != before + 1:
        raise RuntimeError(f"the script did not write its secret; exit {process.returncode}")
    seconds = time.monotonic() - started
    return Script(usage.ru_utime + usage.ru_stime, seconds, usage.ru_maxrss * 1024)


# --- the daemon --------------------------------------------------------------------------------


def command(config: Path) -> list[str]:
    """`refresher` as a user has it: without what our development tools bring."""
    return [sys.executable, "-c", _DAEMON, "--config", str(config)]


@contextmanager
def _started(stand_ins: StandIns) -> Iterator[psutil.Popen]:
    """The daemon with each target published once, ended with the block."""
    process = psutil.Popen(
        [*command(stand_ins.config), "run"], env=stand_ins.environ, stdout=subprocess.DEVNULL
    )
    try:
        _wait_for_writes(stand_ins, stand_ins.targets)
        time.sleep(1.0)  # start-up ends, the first attempts are recorded
        yield process
    finally:
        process.terminate()
        process.wait()


def _wait_for_writes(stand_ins: StandIns, count: int) -> None:
    """Return once so many values were written since the stand-ins started."""
    until = time.monotonic() + _PATIENCE
    while stand_ins.writes() < count:
        if time.monotonic() > until:
            raise TimeoutError(f"the daemon did not write its secrets in {_PATIENCE:g} s")
        time.sleep(0.01)


def _idle(process: psutil.Popen) -> float:
    before = cpu_seconds(process)
    time.sleep(_IDLE_SECONDS)
    return (cpu_seconds(process) - before) / _IDLE_SECONDS


def cpu_seconds(process: psutil.Popen) -> float:
    """CPU seconds that a process has used, by the kernel's account."""
    times = process.cpu_times()
    return float(times.user + times.system)
