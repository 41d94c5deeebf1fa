"""The API is as its own description has it, whatever is sent: no crash, no other answer."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case

from refresher.api import openapi
from refresher.clock import ManualClock
from refresher.model import DueReason
from refresher.references import Reference
from tests.conftest import NOON
from tests.serving import Daemon, staged

TARGETS = ("ecr", "parked")


def described() -> dict[str, Any]:
    """The description, with the names of the targets that there are."""
    document = openapi.document()
    paths = document["paths"]
    for path in (path for path in paths if "{name}" in path):
        known = {"anyOf": [{"enum": list(TARGETS)}, {"type": "string"}]}
        paths[path]["parameters"] = [{**paths[path]["parameters"][0], "schema": known}]
    body = paths["/api/v1/refresh"]["post"]["requestBody"]["content"]["application/json"]
    body["schema"]["properties"]["targets"]["items"] = {"enum": ["ecr"]}
    return document


SCHEMA = schemathesis.openapi.from_dict(described())


class _Worker(threading.Thread):
    """Makes every attempt that is asked for, so that no request waits long."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self._daemon = daemon
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(0.002):
            for name, wish in list(self._daemon._wishes()):
                target = self._daemon.targets[name]
                self._daemon.bench.refresher.attempt(target, DueReason.FORCED, wish.actor, wish.id)


@pytest.fixture(scope="module", params=["open", "token"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A daemon with an enabled target and a parked one; with a token, no POST comes through."""
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text("unguessable")
    with staged() as stage:
        daemon = Daemon(ManualClock(NOON), stage)
        daemon.targets["parked"] = daemon.bench.target("parked", enabled=False)
        reference = Reference(file=token) if request.param == "token" else None
        daemon.serve(daemon.build(api_token=reference))
        worker = _Worker(daemon)
        worker.start()
        yield daemon.url
        worker.over.set()
        worker.join()
        daemon.close()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    """One connection for all requests."""
    with requests.Session() as session:
        session.trust_env = False
        yield session


@SCHEMA.parametrize()
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_api_is_as_described(case: Case, url: str, session: requests.Session) -> None:
    """Every answer is described and has its form; what is not allowed is refused, and as such."""
    case.call_and_validate(base_url=url, session=session)


# --- below the description ---------------------------------------------------------------------

_LINES = st.sampled_from(
    [
        b"GET / HTTP/1.1", b"POST /api/v1/refresh HTTP/1.1", b"CONNECT a:1 HTTP/1.1",
        b"OPTIONS * HTTP/1.1", b"GET http://localhost/ HTTP/1.1", b"GET //%2e%2e/%ff HTTP/1.1",
        b"HEAD /livez HTTP/1.0", b"PRI * HTTP/2.0", b"get / http/1.1", b"GET /",
    ]
)  # fmt: skip
_FIELDS = st.sampled_from(
    [
        b"Host: localhost", b"Host: [", b"Host: localhost:99999", b"Content-Type: application/json",
        b"Content-Length: 2", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", b"Expect: 100-continue",
        b"Connection: close", b"Connection: Upgrade", b"Upgrade: websocket", b"Upgrade: h2c",
        b"Origin: null", b"Origin: http://[", b"Sec-Fetch-Site: same-origin", b" folded: x",
        b"Authorization: Bearer \xff", b"Authorization:", b"X: \x00", b": empty", b"no colon",
    ]
)  # fmt: skip
_BODIES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"{}", b"2\r\n{}\r\n0\r\n\r\n", b"-1\r\n", b"[" * 3000, b'{"a":1e999}']),
)


class _Crashes(logging.Handler):
    """Keeps what the server logs of its own faults."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


@pytest.fixture(scope="module")
def crashes() -> Iterator[list[str]]:
    """What uvicorn and asyncio log as errors."""
    handler = _Crashes()
    names = ("uvicorn.error", "asyncio")
    for name in names:
        logging.getLogger(name).addHandler(handler)
    yield handler.found
    for name in names:
        logging.getLogger(name).removeHandler(handler)


@settings(max_examples=200, deadline=None)
@given(line=_LINES, fields=st.lists(_FIELDS, max_size=5), body=_BODIES, twice=st.booleans())
def test_no_bytes_crash_the_server(
    *, url: str, crashes: list[str], line: bytes, fields: list[bytes], body: bytes, twice: bool
) -> None:
    """It answers or hangs up, and says nothing of a fault of its own."""
    sent = b"\r\n".join([line, *fields, b"", body])
    with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 0.03) as peer:
        answer = b""
        with suppress(ConnectionError, TimeoutError):
            peer.sendall(sent * (1 + twice))
            while chunk := peer.recv(65536):
                answer += chunk
    assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert not answer.startswith((b"HTTP/1.1 500", b"HTTP/1.1 503"))
    assert crashes == []
