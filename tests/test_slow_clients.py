"""Clients that are slow, silent or far too many, over real sockets."""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from refresher.api import Server
from refresher.api.connection import MAX_HEAD_BYTES, Connection
from refresher.api.problems import SECURITY_HEADERS
from refresher.clock import ManualClock
from tests.serving import JSON, Daemon, Stage, wait_for

#: More than are let in.
MANY = Connection.most + 88

HOST = b"Host: localhost\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST
POST = (
    b"POST /api/v1/refresh HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\n"
    b"Content-Length: 9\r\n\r\n{"
)


class Hasty(Connection):
    """One that gives its clients little time."""

    patience = 0.8
    most = 4


@contextmanager
def serving(connection: type[Connection]) -> Iterator[Stage]:
    """A server of its own, since its limits are."""
    stage = Stage()
    server = Server(stage, "127.0.0.1", 0, connection=connection)  # type: ignore[arg-type]
    server.start()
    stage.state.port = server.port
    try:
        yield stage
    finally:
        assert server.stop(5)


@pytest.fixture(scope="module")
def usual() -> Iterator[Stage]:
    """A server as it is shipped."""
    with serving(Connection) as stage:
        yield stage


@pytest.fixture(scope="module")
def hasty() -> Iterator[Stage]:
    """A server that loses patience soon, and has room for four."""
    with serving(Hasty) as stage:
        yield stage


@pytest.fixture
def daemon(clock: ManualClock, hasty: Stage) -> Iterator[Daemon]:
    """A daemon behind the hasty server."""
    daemon = Daemon(clock, hasty)
    daemon.serve()
    yield daemon
    daemon.close()


def connected(stage: Stage, begin: bytes = b"") -> socket.socket:
    """A client that has sent this much."""
    peer = socket.create_connection(("127.0.0.1", stage.state.port))
    peer.settimeout(5)
    peer.sendall(begin)
    return peer


def ended(peer: socket.socket) -> float:
    """Seconds until the server closes the connection."""
    began = time.monotonic()
    with suppress(ConnectionError):
        while peer.recv(65536):
            pass
    return time.monotonic() - began


# --- far too many ------------------------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    """Both ends of all these connections are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 2 * MANY + 200
    if soft < enough:
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="silent"),
        pytest.param(GET, id="half a head"),
        pytest.param(POST, id="half a body"),
        pytest.param(GET + b"\r\n", id="idle after an answer"),
    ],
)
def test_hundreds_of_slow_clients_lock_nobody_out(
    many_files: None, clock: ManualClock, usual: Stage, begin: bytes
) -> None:
    """Probe and scrape are answered within a second: who waits longest makes room."""
    daemon = Daemon(clock, usual)
    with ExitStack() as stack:
        stack.callback(daemon.close)
        client = daemon.serve()
        first, *_ = (stack.enter_context(connected(usual, begin)) for _ in range(MANY))
        assert ended(first) < Connection.patience / 2
        for path in ("/livez", "/metrics"):
            answers = [client.get(path) for _ in range(3)]
            assert {answer.status_code for answer in answers} == {200}
            # Of three, since the machine may be busy with other tests.
            assert min(answer.elapsed for answer in answers) < timedelta(seconds=1)


def test_whoever_waits_longest_makes_room(daemon: Daemon, hasty: Stage) -> None:
    """The first of five, where there is room for four."""
    with ExitStack() as stack:
        first, second, *_ = (stack.enter_context(connected(hasty)) for _ in range(5))
        assert ended(first) < Hasty.patience / 2
        assert ended(second) > Hasty.patience / 2


def test_an_attempt_that_is_waited_for_makes_no_room(daemon: Daemon, hasty: Stage) -> None:
    """Where every connection is one of ours to answer, the newcomer has to go."""
    url = f"{daemon.url}/api/v1/targets/ecr/refresh?wait=2"
    answers: list[int] = []
    waiting = [
        threading.Thread(target=lambda: answers.append(httpx.post(url, headers=JSON).status_code))
        for _ in range(Hasty.most)
    ]
    for thread in waiting:
        thread.start()
    wait_for(lambda: daemon.bench.store.status("ecr") is not None)
    time.sleep(0.5)  # until the last of them has asked, too
    with closing(connected(hasty, GET + b"\r\n")) as newcomer:
        assert ended(newcomer) < 1
    for thread in waiting:
        thread.join()
    assert answers == [202] * Hasty.most


# --- too slow ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "begin",
    [
        pytest.param(b"", id="silent"),
        pytest.param(GET, id="head"),
        pytest.param(POST, id="body"),
        pytest.param(GET + b"\r\n" + GET, id="second head"),
        pytest.param(POST.replace(b"/json", b"/xml"), id="body of a refused request"),
    ],
)
def test_a_request_must_come_in_time(daemon: Daemon, hasty: Stage, begin: bytes) -> None:
    """Also one of which a byte comes now and then."""

    def drip() -> None:
        while not over.wait(Hasty.patience / 5):
            try:
                peer.sendall(b"x")
            except OSError:
                return

    over = threading.Event()
    with closing(connected(hasty, begin)) as peer:
        dripping = threading.Thread(target=drip)
        dripping.start()
        took = ended(peer)
        over.set()
        dripping.join()
    assert Hasty.patience / 2 < took < Hasty.patience * 4
    assert daemon.bench.store.statuses() == {}


async def _large(_scope: Scope, _receive: Receive, send: Send) -> None:
    """An answer that no socket buffers whole."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": bytes(32 * 1024 * 1024)})


@pytest.mark.parametrize("more", [b"", b"Connection: close\r\n"])
def test_an_answer_must_be_read_in_time(hasty: Stage, more: bytes) -> None:
    """Whether or not the connection is to be kept; what is left of it is dropped."""
    hasty.app = _large  # type: ignore[assignment]
    with closing(connected(hasty, GET + more + b"\r\n")) as peer:
        time.sleep(Hasty.patience * 2)
        read = 0
        with suppress(ConnectionError):
            while chunk := peer.recv(65536):
                read += len(chunk)
    assert read < 32 * 1024 * 1024


def test_a_slow_answer_is_waited_for(daemon: Daemon) -> None:
    """The client's time does not run while it waits for ours."""
    url = f"{daemon.url}/api/v1/targets/ecr/refresh?wait={Hasty.patience * 2}"
    assert httpx.post(url, headers=JSON).status_code == 202


def test_a_pause_between_two_requests_is_no_slowness(daemon: Daemon, hasty: Stage) -> None:
    """A scraper keeps its connection for the next scrape."""
    with closing(connected(hasty, GET + b"\r\n")) as peer:
        wait_for(lambda: b'{"status":"ok"}' in peer.recv(65536))
        time.sleep(Hasty.patience * 1.5)
        peer.sendall(GET + b"\r\n")
        wait_for(lambda: b'{"status":"ok"}' in peer.recv(65536))


# --- no HTTP at all ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\r\n\r\n", 400, "not HTTP", id="TLS"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", 400, "not HTTP", id="no host"),
        pytest.param(GET + HOST + b"\r\n", 400, "not HTTP", id="two hosts"),
        pytest.param(GET + b"A: " + b"x" * MAX_HEAD_BYTES, 431, "exceed 16 KiB", id="long head"),
        pytest.param(b"GET /" + b"x" * MAX_HEAD_BYTES, 431, "exceed 16 KiB", id="long path"),
        pytest.param(
            POST.replace(b"Content-Length: 9", b"Transfer-Encoding: gzip"),
            501,
            "transfer encoding",
            id="transfer encoding",
        ),
        pytest.param(
            GET + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "not HTTP", id="smuggled"
        ),
    ],
)
def test_what_is_not_http_is_refused_as_any_other_mistake(
    *, daemon: Daemon, hasty: Stage, sent: bytes, status: int, words: str
) -> None:
    """A problem document with the security headers, and then the connection ends."""
    with closing(connected(hasty, sent)) as peer:
        answer = _read(peer)
    head, _, body = answer.partition("\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert words in body
    assert "content-type: application/problem+json" in head.lower()
    for name, value in {**SECURITY_HEADERS, "Connection": "close"}.items():
        assert f"{name}: {value}".lower() in head.lower()


def _read(peer: socket.socket) -> str:
    answer = b""
    while chunk := peer.recv(65536):
        answer += chunk
    return answer.decode()


def test_a_second_request_that_is_not_http_is_refused_too(daemon: Daemon, hasty: Stage) -> None:
    """What went before on the connection does not matter."""
    with closing(connected(hasty, GET + b"\r\n")) as peer:
        wait_for(lambda: b'{"status":"ok"}' in peer.recv(65536))
        peer.sendall(b"\x00\r\n\r\n")
        assert _read(peer).startswith("HTTP/1.1 400 ")


def test_nonsense_after_an_early_answer_gets_no_other(
    daemon: Daemon, hasty: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """One request, one answer; and nothing crashes."""
    with closing(connected(hasty, GET + b"Transfer-Encoding: chunked\r\n\r\n")) as peer:
        wait_for(lambda: b'{"status":"ok"}' in peer.recv(65536))
        peer.sendall(b"zz\r\n")
        with suppress(ConnectionError):
            assert peer.recv(65536) == b""
    assert "Traceback" not in caplog.text
