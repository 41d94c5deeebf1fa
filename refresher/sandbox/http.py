"""A loopback HTTP server that can be told to fail in each way that a network has."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

from refresher.sandbox.certificates import Certificates


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the stand-in saw it."""

    method: str
    #: Path without the query, still percent-encoded.
    path: str
    #: Query string as it came, without the question mark.
    query: str
    headers: Message
    body: bytes

    @property
    def params(self) -> dict[str, list[str]]:
        """The decoded query."""
        return parse_qs(self.query, keep_blank_values=True)


@dataclass(frozen=True, slots=True)
class Response:
    """What the stand-in answers."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(
        cls,
        document: object,
        status: int = 200,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """A JSON answer."""
        return cls(
            status, json.dumps(document).encode(), {"Content-Type": content_type, **(headers or {})}
        )


@dataclass(frozen=True, slots=True)
class Fault:
    """A way to fail on the wire. The names of the class methods are the ways."""

    #: What happens instead of the answer; it receives the socket.
    act: Callable[[socket.socket, threading.Event], None]

    @classmethod
    def hang(cls) -> Fault:
        """Take the request and never answer."""
        return cls(lambda _connection, closing: _wait(closing))

    @classmethod
    def hang_in_body(cls) -> Fault:
        """Send headers and half of the body, then nothing."""
        return cls(_half_then_hang)

    @classmethod
    def truncated(cls) -> Fault:
        """Send headers and half of the body, then close."""
        return cls(lambda connection, _closing: _send(connection, _HALF))

    @classmethod
    def drip(cls, pause: float = 0.2) -> Fault:
        """Send an answer that never ends, one byte at a time."""
        return cls(lambda connection, closing: _drip(connection, closing, pause))

    @classmethod
    def reset(cls) -> Fault:
        """Take the request and reset the connection."""
        return cls(lambda connection, _closing: _reset(connection))

    @classmethod
    def garbage(cls) -> Fault:
        """Answer with something that is not HTTP."""
        return cls(
            lambda connection, _closing: _send(connection, b"\x00\x01 not HTTP \xff\r\n\r\n")
        )

    @classmethod
    def enormous(cls, size: int = 64 * 1024 * 1024) -> Fault:
        """Send a valid answer with a body of `size` bytes."""
        return cls(lambda connection, _closing: _enormous(connection, size))


_HALF = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


def _wait(closing: threading.Event) -> None:
    closing.wait(60)


def _send(connection: socket.socket, data: bytes) -> None:
    with suppress(OSError):  # the client may have gone, which is its right
        connection.sendall(data)


def _half_then_hang(connection: socket.socket, closing: threading.Event) -> None:
    _send(connection, _HALF)
    _wait(closing)


def _drip(connection: socket.socket, closing: threading.Event, pause: float) -> None:
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while not closing.wait(pause):
            connection.sendall(b" ")


def _reset(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def _enormous(connection: socket.socket, size: int) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    chunk = b" " * 65536
    with suppress(OSError):
        connection.sendall(head.encode())
        for _ in range(size // len(chunk)):
            connection.sendall(chunk)


class StandIn:
    """A loopback HTTP server: a subclass says in `handle` what the real one would answer.

    It speaks HTTPS where certificates are given. Use it as a context manager. `fail` puts a fault
    or a fixed answer in the way of `handle` until `mend`; `requests` keeps what came in.
    """

    def __init__(self, port: int = 0, certificates: Certificates | None = None) -> None:
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._trouble: Iterator[Fault | Response] | None = None
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", port), _handler(self))
        self._scheme = "http" if certificates is None else "https"
        if certificates is not None:
            self._server.tls = _tls(certificates)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name=type(self).__name__, daemon=True
        )

    def handle(self, request: Request) -> Response:
        """The answer to one request. Called on many threads at once."""
        raise NotImplementedError

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """Base URL without a trailing slash."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def fail(self, trouble: Fault | Response, times: int | None = None) -> None:
        """Answer with `trouble` the next `times` times, or until `mend`."""
        with self._lock:
            self._trouble = iter([trouble] * times) if times else _for_ever(trouble)

    def mend(self) -> None:
        """Answer as usual again."""
        with self._lock:
            self._trouble = None

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Close the listening socket; requests under way are let go."""
        self._closing.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def answer(self, request: Request) -> Fault | Response:
        """Record the request, and answer it or fail as told."""
        with self._lock:
            self.requests.append(request)
            trouble = next(self._trouble, None) if self._trouble is not None else None
        return trouble if trouble is not None else self.handle(request)

    @property
    def closing(self) -> threading.Event:
        return self._closing


def _tls(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.certificate_file, certificates.key_file)
    return context


def over_tls(context: ssl.SSLContext, connection: socket.socket, *, now: bool) -> ssl.SSLSocket:
    """The server's end of a connection, after the handshake if that is to be made `now`.

    Raises `OSError` where the client is gone, with the connection closed: asked first, since
    `wrap_socket` of Python 3.11 would lose the socket of such a one.
    """
    try:
        connection.getpeername()
    except OSError:
        connection.close()
        raise
    return context.wrap_socket(connection, server_side=True, do_handshake_on_connect=now)


def _for_ever(trouble: Fault | Response) -> Iterator[Fault | Response]:
    while True:
        yield trouble


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    tls: ssl.SSLContext | None = None

    def get_request(self) -> tuple[socket.socket, object]:
        """Hands are shaken on the thread of the connection, so that none keeps others waiting."""
        connection, address = super().get_request()
        if self.tls is None:
            return connection, address
        return over_tls(self.tls, connection, now=False), address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no error of the stand-in."""


def _handler(stand_in: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True
        server_version = "sandbox"
        sys_version = ""

        def log_message(self, format: str, *args: object) -> None:
            """Requests are kept in `StandIn.requests` instead."""

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("Content-Length") or 0)
            request = Request(
                self.command, parts.path, parts.query, self.headers, self.rfile.read(length)
            )
            answer = stand_in.answer(request)
            if isinstance(answer, Fault):
                self.close_connection = True
                answer.act(self.connection, stand_in.closing)
                return
            self.send_response_only(answer.status)
            # A stand-in with a clock of its own sends its own `Date`.
            for name, value in {"Date": self.date_time_string(), **answer.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        do_GET = do_POST = do_HEAD = do_PUT = do_DELETE = _serve  # noqa: N815 - http.server's names

    return Handler


# --- nobody there ------------------------------------------------------------------------------


@contextmanager
def closed_port() -> Iterator[int]:
    """A loopback port that refuses connections, and that nobody else can take meanwhile."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@contextmanager
def full_port() -> Iterator[int]:
    """A loopback port at which no connect ends: its queue is full, so the SYN goes unanswered."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(_MORE_THAN_QUEUED):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


#: Linux takes one connection more than the backlog says (listen(2) of Linux, `sk_acceptq_is_full`).
_MORE_THAN_QUEUED = 4
