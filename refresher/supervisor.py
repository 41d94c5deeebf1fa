"""Tells systemd how the daemon is, where systemd asks for it; else it tells nobody.

The protocol is that of sd_notify(3) and sd_watchdog_enabled(3): datagrams of lines, to the socket
that a variable names.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Mapping

from refresher import logs

#: Of the time after which systemd takes a silent daemon for dead.
_WATCHDOG_SHARE = 1 / 3


class Supervisor:
    """Whoever set NOTIFY_SOCKET. A message that cannot be sent fails nothing."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._every = _watchdog_seconds(environ) * _WATCHDOG_SHARE
        self._ready = False
        self._alive_at = -math.inf
        #: Whether it was said that nobody can be told.
        self._complained = False

    def ready(self) -> None:
        """The daemon works. Told once."""
        if not self._ready:
            self._ready = True
            self._tell("READY=1")

    def alive(self, monotonic: float) -> None:
        """The loop turns. Told as often as a watchdog needs it, where there is one."""
        if self._every and monotonic - self._alive_at >= self._every:
            self._alive_at = monotonic
            self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """The daemon ends."""
        self._tell("STOPPING=1")

    def _tell(self, line: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(1.0)
                sender.sendto(line.encode(), self._address)
        except OSError as error:
            if not self._complained:
                self._complained = True
                logs.warning("supervisor.unreachable", message=f"NOTIFY_SOCKET: {error.strerror}")


def _address(name: str) -> str:
    """A path, or with a leading NUL a name without a file, which is written with an `@`."""
    return f"\0{name[1:]}" if name.startswith("@") else name


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    """0 where no watchdog is set, or where it is another process's."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(microseconds) / 1_000_000 if ours and microseconds.isdecimal() else 0.0
