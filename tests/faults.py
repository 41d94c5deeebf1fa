"""Addresses at which something is wrong: of an HTTP service, of fal, and of PostgreSQL."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Self

import grpc

from refresher.sandbox.aws import AwsStandIn
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.fal import SERVICE, FalStandIn
from refresher.sandbox.http import (
    Fault,
    Request,
    Response,
    StandIn,
    closed_port,
    full_port,
    over_tls,
)

#: A name that nobody has (RFC 6761 section 6.4).
NOBODY = "peer.invalid"

#: What a throttling peer asks for.
ASKED = timedelta(seconds=30)


@dataclass(frozen=True)
class Place:
    """Where a peer is reached."""

    host: str
    tls: bool = False
    #: Whom to trust there; None for the public authorities.
    ca_file: Path | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"


@dataclass(frozen=True)
class BadCertificates:
    """What a server may show, each with an authority that is trusted."""

    wrong_tls_name: Certificates
    expired_certificate: Certificates
    #: Both authorities.
    bundle: Path

    @classmethod
    def made(cls, directory: Path) -> BadCertificates:
        now = datetime.now(UTC)
        name = authority(directory / "name", now, names=["elsewhere.invalid"])
        expired = authority(directory / "expired", now, life=-timedelta(hours=1))
        bundle = directory / "bundle.pem"
        bundle.write_bytes(name.ca_file.read_bytes() + expired.ca_file.read_bytes())
        return cls(name, expired, bundle)


@contextmanager
def nobody_at(fault: str) -> Iterator[Place]:
    """Where no connection is made, whatever protocol it was to be for."""
    if fault == "dns_failure":
        yield Place(NOBODY, tls=True)
        return
    with {"refused": closed_port, "hang_at_connect": full_port}[fault]() as port:
        yield Place(f"127.0.0.1:{port}")


NOBODY_THERE = ("refused", "hang_at_connect", "dns_failure")

# --- HTTP --------------------------------------------------------------------------------------


class Anything(StandIn):
    """A service that says yes to whatever it is asked."""

    def handle(self, request: Request) -> Response:
        return Response.json({})


def waits() -> Mapping[str, Mapping[str, str]]:
    """The ways to ask for a wait, as headers of a 429."""
    until = datetime.now(UTC) + ASKED
    return {
        "429": {},
        "429_seconds": {"Retry-After": str(int(ASKED.total_seconds()))},
        "429_date": {"Retry-After": format_datetime(until, usegmt=True)},
        "429_unix": {"X-Retry-After": str(int(until.timestamp()))},
    }


def http_troubles() -> Mapping[str, Fault | Response]:
    """What a service does instead of answering."""
    return {
        "reset": Fault.reset(),
        "hang_at_headers": Fault.hang(),
        "hang_in_body": Fault.hang_in_body(),
        "slow_drip": Fault.drip(0.05),
        "5xx": Response(503),
        **{fault: Response(429, b"", headers) for fault, headers in waits().items()},
        "garbage": Fault.garbage(),
        "truncated": Fault.truncated(),
        "enormous": Fault.enormous(),
    }


@contextmanager
def http_in(fault: str, bad: BadCertificates) -> Iterator[Place]:
    """A web service in trouble."""
    if fault in NOBODY_THERE:
        with nobody_at(fault) as place:
            yield place
        return
    shown: Certificates | None = getattr(bad, fault, None)
    with Anything(certificates=shown) as service:
        if shown is None:
            service.fail(http_troubles()[fault])
        yield Place(f"127.0.0.1:{service.port}", shown is not None, shown and shown.ca_file)


@contextmanager
def aws_in(fault: str, bad: BadCertificates) -> Iterator[Place]:
    """AWS in trouble, which says in its own words that it is asked too much."""
    if not fault.startswith("429"):
        with http_in(fault, bad) as place:
            yield place
        return
    with AwsStandIn() as aws:
        aws.error("ThrottlingException", 429, "Rate exceeded", headers=waits()[fault])
        yield Place(f"127.0.0.1:{aws.port}")


# --- TCP ---------------------------------------------------------------------------------------


class TcpStandIn:
    """Takes connections, and after the first bytes of each does what a fault says."""

    def __init__(self, fault: Fault) -> None:
        self._fault = fault
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def place(self) -> Place:
        return Place(f"127.0.0.1:{self._listener.getsockname()[1]}")

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            if connection.recv(65536):
                self._fault.act(connection, self._closing)


def saying(said: bytes, then: Fault) -> Fault:
    """Say this first."""

    def act(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(said)
        then.act(connection, closing)

    return Fault(act)


def dripping(chunk: bytes, pause: float = 0.05) -> Fault:
    """Say this over and over."""

    def act(connection: socket.socket, closing: threading.Event) -> None:
        while not closing.wait(pause):
            connection.sendall(chunk)

    return Fault(act)


#: Say nothing more and close.
BYE = Fault(lambda _connection, _closing: None)

# --- fal: gRPC over HTTP/2 ---------------------------------------------------------------------


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


#: `:status: 200` and `content-type: application/grpc` (RFC 7541, indices 8 and 31).
_HEADERS = b"\x88\x0f\x10\x10application/grpc"


def _answer_of(size: int) -> bytes:
    """Settings, headers, and the beginning of a message of that size (gRPC over HTTP/2)."""
    message = b"\x00" + struct.pack(">I", size) + b"\x0a"
    return _frame(4, 0, 0, b"") + _frame(1, 4, 1, _HEADERS) + _frame(0, 0, 1, message)


_FAL_WIRE: Mapping[str, Fault] = {
    "reset": Fault.reset(),
    "hang_in_body": saying(_answer_of(1000), Fault.hang()),
    "slow_drip": saying(_answer_of(100_000), dripping(_frame(0, 0, 1, b" "))),
    "garbage": Fault.garbage(),
    "truncated": saying(_answer_of(1000), BYE),
}
_FAL_ANSWERS: Mapping[str, Callable[[FalStandIn], None]] = {
    "hang_at_headers": lambda fal: fal.hang(),
    "5xx": lambda fal: fal.fail(grpc.StatusCode.INTERNAL),
    "429": lambda fal: fal.fail(grpc.StatusCode.RESOURCE_EXHAUSTED),
}


@contextmanager
def _enormous_fal() -> Iterator[Place]:
    """A gRPC server that answers with 64 MiB."""
    answer = grpc.unary_unary_rpc_method_handler(lambda _request, _context: bytes(64 << 20))
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"SetSecret": answer}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield Place(f"127.0.0.1:{port}")
    server.stop(None).wait()


@contextmanager
def fal_in(fault: str, bad: BadCertificates) -> Iterator[Place]:
    """fal's control plane in trouble."""
    if fault in NOBODY_THERE:
        with nobody_at(fault) as place:
            yield place
        return
    if fault == "enormous":
        with _enormous_fal() as place:
            yield place
        return
    if fault in _FAL_WIRE:
        with TcpStandIn(_FAL_WIRE[fault]) as tcp:
            yield tcp.place
        return
    shown: Certificates | None = getattr(bad, fault, None)
    with FalStandIn(shown) as fal:
        if shown is None:
            _FAL_ANSWERS[fault](fal)
        yield Place(fal.host, shown is not None, shown and shown.ca_file)


# --- PostgreSQL --------------------------------------------------------------------------------


def _message(kind: bytes, body: bytes, claimed: int | None = None) -> bytes:
    """PostgreSQL documentation, "Message Formats"; `claimed` is a false length."""
    return kind + struct.pack(">I", 4 + len(body) if claimed is None else claimed) + body


def _after_startup(then: Fault) -> Fault:
    """No TLS; then the startup message is read."""

    def act(connection: socket.socket, closing: threading.Event) -> None:
        connection.sendall(b"N")
        connection.recv(65536)
        then.act(connection, closing)

    return Fault(act)


def _over_tls(certificates: Certificates) -> Fault:
    """Shake hands with a certificate, which no client should like."""

    def act(connection: socket.socket, _closing: threading.Event) -> None:
        connection.sendall(b"S")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate_file, certificates.key_file)
        with over_tls(context, connection, now=True) as wrapped:
            wrapped.recv(1)

    return Fault(act)


_TRUSTED = _message(b"R", struct.pack(">I", 0))
_STARTING = _message(b"E", b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0")

_POSTGRES: Mapping[str, Fault] = {
    "reset": Fault.reset(),
    "hang_at_headers": Fault.hang(),
    "hang_in_body": _after_startup(saying(_TRUSTED, Fault.hang())),
    "slow_drip": _after_startup(saying(_TRUSTED, dripping(_message(b"S", b"a\0b\0")))),
    "5xx": _after_startup(saying(_STARTING, BYE)),
    "garbage": _after_startup(Fault.garbage()),
    "truncated": _after_startup(saying(_TRUSTED[:6], BYE)),
    "enormous": _after_startup(saying(_message(b"E", b" " * 65536, 2**30), dripping(b" " * 65536))),
}


@contextmanager
def postgres_in(fault: str, bad: BadCertificates) -> Iterator[Place]:
    """A database server in trouble."""
    if fault in NOBODY_THERE:
        with nobody_at(fault) as place:
            yield place
        return
    shown: Certificates | None = getattr(bad, fault, None)
    with TcpStandIn(_over_tls(shown) if shown else _POSTGRES[fault]) as tcp:
        yield Place(tcp.place.host, shown is not None, shown and shown.ca_file)
