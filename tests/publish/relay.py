"""A TCP relay on loopback whose connections can die without a word."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Self


class Relay:
    """Passes bytes on to `host:port`, from a free port or this; `accepted` counts connections."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        host, far = upstream.rsplit(":", 1)
        self.accepted = 0
        self._upstream = (host, int(far))
        self._listener = socket.create_server(("127.0.0.1", port))
        self._sockets: list[socket.socket] = [self._listener]
        self._frozen: set[socket.socket] = set()
        self._away = False
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def host(self) -> str:
        """`host:port` of this side."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def freeze(self) -> None:
        """Swallow whatever comes over the present connections, and leave them open."""
        self._frozen = set(self._sockets)

    def cut(self) -> None:
        """End the present connections, and each new one at once."""
        self._away = True
        for each in self._sockets[1:]:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Pass bytes on again, over new connections."""
        self._away = False

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.accepted += 1
                if self._away:
                    near.close()
                    continue
                far = socket.create_connection(self._upstream)
                self._sockets += [near, far]
                self._start(near, far)
                self._start(far, near)

    def _start(self, source: socket.socket, sink: socket.socket) -> None:
        thread = threading.Thread(target=self._pass, args=(source, sink))
        self._threads.append(thread)
        thread.start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if source not in self._frozen:
                    sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)
