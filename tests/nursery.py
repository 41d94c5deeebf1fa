"""Starts daemons that are meant to die: each is a fork of a process that has loaded everything.

`refresher run` takes a second to start, most of it for modules; a fork has them already. Told by
lines on standard input, it answers each with one: `start POINT` with a process id, `wait` with
how that process ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from refresher import config, logs
from refresher.daemon import Daemon, Options
from refresher.model import Attempt, Status, Target
from tests.peers import ROOT

#: The daemon kills itself once an attempt is recorded, before anything else hears of that.
RECORDED = "recorded"


class Nursery:
    """The process that forks, seen from the test. Use it as a context manager."""

    def __init__(self, config: Path, log: Path, environ: Mapping[str, str]) -> None:
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.nursery", str(config)],
                cwd=ROOT,
                env=dict(environ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
            )

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def start(self, point: str) -> int:
        """The process id of a new daemon."""
        return int(self._ask(f"start {point}"))

    def wait(self) -> int:
        """How that daemon ended: its exit status, or the negative number of a signal."""
        return int(self._ask("wait"))

    def _ask(self, question: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(question, file=self._process.stdin, flush=True)
        return self._process.stdout.readline()


def main(path: Path) -> None:
    """Until standard input ends."""
    pid = 0
    for line in sys.stdin:
        command, _, point = line.strip().partition(" ")
        if command == "start":
            pid = os.fork()
            if pid == 0:
                _live(path, point)
            _say(pid)
        else:
            _, status = os.waitpid(pid, 0)
            _say(os.waitstatus_to_exitcode(status))


def _say(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _live(path: Path, point: str) -> NoReturn:
    """What `refresher run` does."""
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    logs.configure("json", stream=sys.stderr)
    observers = [_die] if point == RECORDED else []
    daemon = Daemon(
        lambda: config.load(path, os.environ), Options(watched=lambda: [path]), observers=observers
    )
    with daemon.signals():
        daemon.run()
    sys.exit(0)


def _die(_target: Target, _status: Status, _attempt: Attempt) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
