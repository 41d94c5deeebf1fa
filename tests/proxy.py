"""A proxy on loopback: the only way out of a test, and a list of who wanted to go there."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.client import parse_headers
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Self


class Proxy:
    """Tunnels to names that it knows; any other name, and plain HTTP, is refused with 502."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        """`ports`: name to the loopback port behind it."""
        #: What was asked for: method and target of each request line.
        self.asked: list[str] = []
        #: `Proxy-Authorization` of each.
        self.logins: list[str | None] = []
        self.ports = ports
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def host(self) -> str:
        """`host:port` of the proxy."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False


def _handler(proxy: Proxy) -> type[StreamRequestHandler]:
    class Handler(StreamRequestHandler):
        rbufsize = 0  # what comes after the head belongs to the tunnel

        def handle(self) -> None:
            method, target, _ = self.rfile.readline(65537).decode().split(" ", 2)
            proxy.asked.append(f"{method} {target}")
            proxy.logins.append(parse_headers(self.rfile)["Proxy-Authorization"])
            port = proxy.ports.get(target.rpartition(":")[0]) if method == "CONNECT" else None
            if port is None:
                self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            with socket.create_connection(("127.0.0.1", port)) as far:
                self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                back = threading.Thread(target=_pass, args=(far, self.connection), daemon=True)
                back.start()
                _pass(self.connection, far)
                back.join()

    return Handler


def _pass(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
