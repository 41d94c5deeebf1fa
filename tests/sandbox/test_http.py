"""The ways to fail that come before a request: no connection, and no trust."""

from __future__ import annotations

import socket
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import urlopen

import pytest

from refresher.sandbox.certificates import authority
from refresher.sandbox.http import Request, Response, StandIn, closed_port, full_port


class Echo(StandIn):
    """Answers with the path."""

    def handle(self, request: Request) -> Response:
        return Response(200, request.path.encode())


def test_a_closed_port_refuses_and_is_nobody_elses() -> None:
    """It cannot be given to another server meanwhile."""
    with closed_port() as port:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), 5)
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", port))


def test_a_full_port_lets_nobody_in() -> None:
    """Neither refused nor accepted, however many ask."""
    with full_port() as port:
        for _ in range(3):
            began = time.monotonic()
            with pytest.raises(TimeoutError):
                socket.create_connection(("127.0.0.1", port), 0.1)
            assert time.monotonic() - began >= 0.1


def test_a_stand_in_with_certificates_speaks_https(tmp_path: Path) -> None:
    """Also while somebody holds a connection on which no handshake begins."""
    certificates = authority(tmp_path, datetime.now(UTC))
    trusting = ssl.create_default_context(cafile=certificates.ca_file)
    with Echo(certificates=certificates) as service:
        with (
            socket.create_connection(("127.0.0.1", service.port)),
            urlopen(f"{service.url}/a", timeout=5, context=trusting) as answer,
        ):
            assert answer.read() == b"/a"
        assert service.url.startswith("https://")
        assert [request.path for request in service.requests] == ["/a"]
