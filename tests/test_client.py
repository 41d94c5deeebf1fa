"""The client of our own API, against whatever may answer at an address."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta

import pytest

from refresher.client import Client
from refresher.errors import DaemonError, DaemonRefused
from refresher.model import SecretValue
from refresher.sandbox.http import Fault, Request, Response, StandIn
from tests.peers import free_port

MINUTE = timedelta(minutes=1)


class Peer(StandIn):
    """Answers everything with the same."""

    answer_with = Response.json({"targets": [], "attempts": []})

    def handle(self, request: Request) -> Response:
        return self.answer_with


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Something that listens."""
    with Peer() as listening:
        yield listening


@pytest.fixture
def client(peer: Peer) -> Iterator[Client]:
    """A client with a token."""
    with Client(f"{peer.url}/", lambda: SecretValue("sesame")) as made:
        yield made


def problem(status: int, detail: str) -> Response:
    document = {"title": "No", "status": status, "detail": detail}
    return Response.json(document, status, "application/problem+json; charset=utf-8")


def test_a_refresh_says_who_asks_and_for_what(peer: Peer, client: Client) -> None:
    """Token, actor and a body of JSON are what the API wants of a POST."""
    client.refresh(["a", "b"], MINUTE, retry_refused=True)
    (request,) = peer.requests
    assert (request.method, request.path, request.query) == ("POST", "/api/v1/refresh", "wait=60")
    assert request.headers["Authorization"] == "Bearer sesame"
    assert request.headers["X-Refresher-Actor"] == "cli"
    assert request.headers["Content-Type"] == "application/json"
    assert json.loads(request.body) == {"targets": ["a", "b"], "retry_refused": True}


def test_all_is_one_trigger_that_names_none(peer: Peer, client: Client) -> None:
    """The daemon knows what all is; and it waits an hour at most."""
    client.refresh(None, timedelta(hours=2))
    (request,) = peer.requests
    assert json.loads(request.body) == {"retry_refused": False}
    assert request.query == "wait=3600"


def test_reading_shows_no_token(peer: Peer, client: Client) -> None:
    """Nobody asks for it."""
    client.targets()
    client.attempts("ecr", 5)
    assert [request.path for request in peer.requests] == [
        "/api/v1/targets",
        "/api/v1/targets/ecr/attempts",
    ]
    assert all("Authorization" not in request.headers for request in peer.requests)


def test_a_name_stays_within_its_path(peer: Peer, client: Client) -> None:
    """Whatever a person types as a target leads to no other address."""
    client.target("../../livez?x#y")
    assert peer.requests[0].path == "/api/v1/targets/..%2F..%2Flivez%3Fx%23y"


def test_a_refusal_is_told_in_the_daemons_words(peer: Peer, client: Client) -> None:
    """With the status, which decides the exit code."""
    peer.answer_with = problem(404, "no target is named erc; did you mean ecr?")
    with pytest.raises(DaemonRefused, match="no target is named erc; did you mean ecr") as refused:
        client.target("erc")
    assert refused.value.status == 404


@pytest.mark.parametrize(
    "answer",
    [
        Response(404, b"<h1>Not Found</h1>", {"Content-Type": "text/html"}),
        Response(200, b"<h1>It works!</h1>", {"Content-Type": "text/html"}),
        Response.json({"message": "forbidden"}, 403),
        Response.json(["a list"]),
        Response(302, b"", {"Location": "http://127.0.0.1:9/"}),
    ],
    ids=["404", "page", "other API", "list", "redirect"],
)
def test_somebody_else_is_not_taken_for_the_daemon(
    peer: Peer, client: Client, answer: Response
) -> None:
    """Another program on the port is no daemon; and the token follows no redirect."""
    peer.answer_with = answer
    with pytest.raises(DaemonError, match="is not refresher; say where it is") as told:
        client.pause("ecr")
    assert not isinstance(told.value, DaemonRefused)
    assert len(peer.requests) == 1


def test_nobody_there_says_what_to_do() -> None:
    """Start one, or say where it is."""
    with (
        Client(f"http://127.0.0.1:{free_port()}", lambda: None) as client,
        pytest.raises(DaemonError, match=r"no daemon answers at .*start `refresher run`, or say"),
    ):
        client.targets()


def test_a_connection_that_is_cut_is_an_absent_daemon(peer: Peer, client: Client) -> None:
    """It may just be stopping."""
    peer.fail(Fault.reset())
    with pytest.raises(DaemonError, match="did not answer") as cut:
        client.refresh(["ecr"], MINUTE)
    assert cut.value.__cause__ is None  # the cause would hold the request with its token
    assert cut.value.__suppress_context__


def test_loopback_is_not_reached_through_a_proxy(
    peer: Peer, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A company's proxy knows nothing of this machine."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    with Client(peer.url, lambda: None) as behind_proxy:
        assert behind_proxy.targets() == []
