"""A deadline for a database server that takes a question and never answers.

`connect_timeout` ends with the connection and `statement_timeout` is the server's own, so neither
helps against a server, or a pooler in front of it, that hangs.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakSet

from sqlalchemy import Engine, event

from refresher.deadline import CallThreads
from refresher.errors import StateError, TimedOut

#: Seconds for one question; a second more than a connect may take, whose error says more. Workers
#: wait for it once, and not while the database is known to be away.
SERVER_SECONDS = 4.0

T = TypeVar("T")


class ServerDeadline:
    """Ends the calls of one engine after so many seconds each.

    One that is late is cut off and the engine is lost: a call left behind that went on with a
    new connection would write what is old over what is newer. Begin with a new engine then.
    """

    def __init__(self, engine: Engine, seconds: float) -> None:
        self.lost = False
        self._seconds = seconds
        self._threads = CallThreads()
        self._connections: WeakSet[Any] = WeakSet()
        # First of all listeners, since SQLAlchemy's own asks the server things.
        event.listen(engine, "connect", self._connected, insert=True)

    def within(self, what: str, call: Callable[[], T]) -> T:
        """What `call` returns. Raises `StateError`, naming `what`, or whatever `call` raises."""
        try:
            return self._threads.within(self._seconds, what, call)
        except TimedOut as error:
            self.lost = True
            for connection in list(self._connections):
                _cut(connection)
            raise StateError(f"{error.message}; check that it is reachable and whole") from None

    def close(self) -> None:
        self._threads.close()

    def _connected(self, connection: Any, _record: object) -> None:
        self._connections.add(connection)
        if self.lost:
            _cut(connection)


def _cut(connection: Any) -> None:
    """End a connection of psycopg's that another thread waits for."""
    from psycopg import Error  # noqa: PLC0415 - an extra, and here it is installed

    with (
        suppress(OSError, Error),  # closed already
        socket.socket(fileno=os.dup(connection.fileno())) as wire,
    ):
        wire.shutdown(socket.SHUT_RDWR)
