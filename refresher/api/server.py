"""Serves the application from a thread."""

from __future__ import annotations

import errno
import socket
import threading
import time

import uvicorn
from starlette.applications import Starlette

from refresher.api.connection import MAX_HEAD_BYTES, Connection
from refresher.errors import RefresherError

_START_SECONDS = 10.0


class Server:
    """An HTTP server whose port is taken from the moment that it is made."""

    def __init__(
        self, app: Starlette, host: str, port: int, *, connection: type[Connection] = Connection
    ) -> None:
        """Listen on `host` and `port`; 0 is a free one. `connection` is kept with each client.

        Raises `RefresherError`.
        """
        self._app = app
        self._socket = _listening(host, port)
        self._port = int(self._socket.getsockname()[1])
        self._uvicorn = uvicorn.Server(
            uvicorn.Config(
                app,
                loop="asyncio",
                http=connection,
                h11_max_incomplete_event_size=MAX_HEAD_BYTES,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                timeout_keep_alive=30,
                timeout_graceful_shutdown=3,
            )
        )
        # A daemon thread: what hangs in it must not keep the process from ending.
        self._thread = threading.Thread(
            target=self._uvicorn.run,
            kwargs={"sockets": [self._socket]},
            name="http",
            daemon=True,
        )

    @property
    def port(self) -> int:
        """The port that was taken."""
        return self._port

    @property
    def alive(self) -> bool:
        """Whether it serves."""
        return self._uvicorn.started and self._thread.is_alive()

    def start(self) -> None:
        """Return once requests are answered. Raises `RefresherError` where they never will be."""
        self._thread.start()
        until = time.monotonic() + _START_SECONDS
        while not self._uvicorn.started:
            if not self._thread.is_alive() or time.monotonic() > until:
                raise RefresherError("the HTTP server did not start; its log says why")
            time.sleep(0.01)

    def stop(self, timeout: float) -> bool:
        """Take no more requests and end the running ones; whether that took under `timeout` s."""
        self._app.state.stopping = True
        self._uvicorn.should_exit = True
        if self._thread.ident is None:
            self._socket.close()
            return True
        self._thread.join(timeout)
        self._uvicorn.force_exit = True
        return not self._thread.is_alive()


def _listening(host: str, port: int) -> socket.socket:
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return _bound(host, port)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            advice = "is in use; stop what listens there or set daemon.listen to another port"
        else:
            advice = f"cannot be bound ({error.strerror}); set daemon.listen to another address"
        raise RefresherError(f"listen: {where} {advice}") from error


def _bound(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener
