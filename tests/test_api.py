"""The HTTP API over a real server on loopback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from prometheus_client.parser import text_string_to_metric_families
from starlette.applications import Starlette

from refresher.api import Server, is_loopback
from refresher.clock import ManualClock
from refresher.errors import RefresherError, Unavailable
from refresher.health import ATTEMPT_LIMIT, TICK_LIMIT, Health, Tick
from refresher.model import Actor, DueReason, Status, Verdict
from refresher.references import Reference
from tests.conftest import NOON
from tests.peers import free_port
from tests.serving import JSON, WORKERS, Daemon, Stage, staged, wait_for

REFRESH = "/api/v1/targets/ecr/refresh"


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """A real server for the tests of this module."""
    with staged() as stage:
        yield stage


@pytest.fixture
def daemon(clock: ManualClock, stage: Stage) -> Iterator[Daemon]:
    """A daemon with one target, `ecr`."""
    daemon = Daemon(clock, stage)
    yield daemon
    daemon.close()


@pytest.fixture
def client(daemon: Daemon) -> httpx.Client:
    """A client of a server on loopback without a token."""
    return daemon.serve()


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    """The answer is a problem document of that status that says something in one line."""
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == "about:blank"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert "\n" not in document["detail"]
    return document


# --- what stands -------------------------------------------------------------------------------


def test_targets_are_listed_in_the_order_of_the_configuration(
    daemon: Daemon, client: httpx.Client
) -> None:
    """Also those that no tick has seen yet."""
    daemon.targets = {"b": daemon.bench.target("b"), "a": daemon.bench.target("a")}
    daemon.bench.attempt(daemon.targets["a"])
    listed = client.get("/api/v1/targets").json()["targets"]

    assert [(target["name"], target["state"]) for target in listed] == [
        ("b", "unknown"),
        ("a", "fresh"),
    ]


def test_one_target_is_the_same_as_in_the_list(daemon: Daemon, client: httpx.Client) -> None:
    """One view of a target, wherever it is shown."""
    daemon.bench.attempt(daemon.targets["ecr"])
    listed = client.get("/api/v1/targets").json()["targets"]
    assert client.get("/api/v1/targets/ecr").json() == listed[0]
    assert listed[0]["expires_at"] == "2026-11-24T00:00:00Z"


def test_the_history_is_newest_first_and_limited(daemon: Daemon, client: httpx.Client) -> None:
    """`limit` is how many attempts to show."""
    for _ in range(3):
        daemon.bench.attempt(daemon.targets["ecr"], DueReason.CHECK)
        daemon.clock.advance(timedelta(minutes=1))
    attempts = client.get("/api/v1/targets/ecr/attempts?limit=2").json()["attempts"]

    assert [attempt["id"] for attempt in attempts] == ["3", "2"]
    assert attempts[0]["outcome"] == "checked"


@pytest.mark.parametrize("actor", Actor)
def test_the_history_tells_who_asked_and_what_it_changed(
    daemon: Daemon, client: httpx.Client, actor: Actor
) -> None:
    """Actor, due reason, stages with durations, outcome, fingerprint before and after."""
    bench, target = daemon.bench, daemon.targets["ecr"]
    first = bench.attempt(target)
    bench.clock.advance(timedelta(hours=4))
    second = bench.refresher.attempt(target, DueReason.STALE, actor, "second")
    bench.issuer.failure = Unavailable("ecr.test answered 503")
    bench.clock.advance(timedelta(hours=4))
    bench.refresher.attempt(target, DueReason.STALE, actor, "third")
    shown = client.get("/api/v1/targets/ecr/attempts").json()["attempts"]

    marks = [(each["fingerprint_before"], each["fingerprint_after"]) for each in shown]
    assert first.fingerprint_after != second.fingerprint_after
    assert marks == [
        (second.fingerprint_after, second.fingerprint_after),
        (first.fingerprint_after, second.fingerprint_after),
        (None, first.fingerprint_after),
    ]
    assert [each["outcome"] for each in shown] == ["failed", "refreshed", "refreshed"]
    assert [each["reason"] for each in shown] == ["stale", "stale", "missing"]
    assert [each["actor"] for each in shown] == [actor, actor, "schedule"]
    stages = [[stage["stage"] for stage in each["stages"]] for each in shown]
    assert stages == [["source", "verify"], *[["source", "verify", "publish"]] * 2]
    assert (shown[0]["failure"]["stage"], shown[0]["failure"]["reason"]) == (
        "source",
        "unavailable",
    )


def test_the_history_outlives_its_target(daemon: Daemon, client: httpx.Client) -> None:
    """A target that is no longer configured keeps its attempts; one that never was has none."""
    daemon.bench.attempt(daemon.targets["ecr"])
    daemon.targets = {}

    assert len(client.get("/api/v1/targets/ecr/attempts").json()["attempts"]) == 1
    assert_problem(client.get("/api/v1/targets/other/attempts"), 404)
    assert_problem(client.get("/api/v1/targets/ecr"), 404)


def test_metrics_of_these_names_are_served_alone(daemon: Daemon, client: httpx.Client) -> None:
    answer = client.get("/metrics", params={"name[]": ["refresher_state_up", "no_such"]})
    assert answer.text.splitlines()[-1] == "refresher_state_up 1.0"
    assert len(answer.text.splitlines()) == 3


def test_metrics_are_served_in_the_text_format(daemon: Daemon, client: httpx.Client) -> None:
    """Whatever a scraper would rather have, it can read this."""
    answer = client.get("/metrics", headers={"Accept": "application/openmetrics-text;q=0.9,*/*"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert "refresher_target_info" in names


# --- probes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("silent", "busy", "status"),
    [
        (0.0, 0, 200),
        (TICK_LIMIT, 0, 200),
        (TICK_LIMIT + 1, 0, 503),
        (0.0, WORKERS, 503),
        (0.0, WORKERS - 1, 200),
    ],
)
def test_livez_fails_where_a_restart_would_help(
    daemon: Daemon, client: httpx.Client, silent: float, busy: int, status: int
) -> None:
    """No tick for a minute, or every worker in one attempt for over five."""
    for worker in range(busy):
        daemon.health.began(str(worker), daemon.clock.monotonic())
    if busy:
        daemon.clock.advance(timedelta(seconds=ATTEMPT_LIMIT + 1))
        daemon.health.tick(Tick(NOON, 0.0), daemon.clock.monotonic())
    daemon.clock.advance(timedelta(seconds=silent))

    assert client.get("/livez").status_code == status


def test_livez_does_not_mind_a_step_of_the_wall_clock(daemon: Daemon, client: httpx.Client) -> None:
    """NTP or a suspend is no reason to restart."""
    daemon.clock.jump(timedelta(days=1))
    assert client.get("/livez").json() == {"status": "ok"}


def test_readyz_waits_for_the_start(daemon: Daemon, client: httpx.Client) -> None:
    """Not ready, with the reason in words, until the daemon says so and has ticked."""
    daemon.starting = "the state has not been tried yet"
    document = assert_problem(client.get("/readyz"), 503)
    assert document["detail"] == daemon.starting

    daemon.starting = None
    daemon.health = Health(WORKERS, daemon.clock.monotonic())
    unticked = daemon.serve()
    assert "tick" in assert_problem(unticked.get("/readyz"), 503)["detail"]
    daemon.health.tick(Tick(NOON, 0.0), daemon.clock.monotonic())
    assert unticked.get("/readyz").status_code == 200


def test_readyz_shows_each_target_with_its_reason(daemon: Daemon, client: httpx.Client) -> None:
    """A failing target is no reason to take a pod out of service, and it is not hidden."""
    daemon.bench.issuer.failure = Unavailable("ecr.test answered 503")
    daemon.bench.attempt(daemon.targets["ecr"])
    answer = client.get("/readyz")

    assert answer.status_code == 200
    assert answer.json()["targets"] == [
        {"name": "ecr", "state": "unknown", "valid": None, "reason": "unavailable"}
    ]


@pytest.mark.parametrize(
    ("trouble", "enabled", "strict", "status"),
    [
        ("none", True, "1", 200),
        ("expired", True, "1", 503),
        ("expired", True, "true", 503),
        ("expired", True, "0", 200),
        ("expired", False, "1", 200),
        ("refused", True, "1", 503),
    ],
)
def test_readyz_is_strict_on_demand(
    *, daemon: Daemon, client: httpx.Client, trouble: str, enabled: bool, strict: str, status: int
) -> None:
    """With `strict`, an expired or refused target fails it, unless it is parked."""
    daemon.targets = {"ecr": daemon.bench.target(enabled=enabled)}
    daemon.bench.attempt(daemon.targets["ecr"])
    if trouble == "expired":
        daemon.clock.advance(timedelta(hours=13))
    if trouble == "refused":
        daemon.bench.judge.refused.add("token-1")
        daemon.clock.advance(timedelta(minutes=15))
        daemon.bench.attempt(daemon.targets["ecr"], DueReason.CHECK)
        assert daemon.bench.status(daemon.targets["ecr"]).secrets[0].verdict is Verdict.UNAUTHORIZED
    answer = client.get(f"/readyz?strict={strict}")

    assert answer.status_code == status
    assert [target["name"] for target in answer.json()["targets"]] == ["ecr"]


# --- asking ------------------------------------------------------------------------------------


def test_a_refresh_is_accepted_with_the_id_of_its_attempt(
    daemon: Daemon, client: httpx.Client
) -> None:
    """202 at once; the attempt that the tick makes has that id."""
    answer = client.post(REFRESH, headers=JSON)
    trigger = daemon.bench.status(daemon.targets["ecr"]).trigger
    assert trigger is not None

    assert answer.status_code == 202
    assert answer.json() == {"id": trigger.id, "target": "ecr", "outcome": None}
    assert trigger.actor is Actor.HTTP
    assert not trigger.retry_refused


def test_a_wish_that_still_waits_is_joined(client: httpx.Client) -> None:
    """Asking twice makes one attempt."""
    first, second = (client.post(REFRESH, headers=JSON).json() for _ in range(2))
    assert first == second


def test_waiting_answers_with_the_attempt(daemon: Daemon, client: httpx.Client) -> None:
    """200 and the whole attempt, as soon as it has ended."""
    worker = daemon.answer_wishes()
    answer = client.post(f"{REFRESH}?wait=10", headers=JSON)
    worker.join()

    assert answer.status_code == 200
    attempt = answer.json()
    assert (attempt["outcome"], attempt["reason"], attempt["actor"]) == (
        "refreshed",
        "forced",
        "http",
    )
    assert client.get("/api/v1/targets/ecr/attempts").json()["attempts"] == [attempt]


def test_waiting_ends_in_time(client: httpx.Client) -> None:
    """202 where the attempt has not ended by then."""
    started = time.monotonic()
    answer = client.post(f"{REFRESH}?wait=0.2", headers=JSON)
    assert answer.status_code == 202
    assert 0.2 <= time.monotonic() - started < 5


def test_waiting_blocks_nobody_else(daemon: Daemon, client: httpx.Client) -> None:
    """The API answers others while one waits."""
    waiting = threading.Thread(
        target=client.post, args=(f"{REFRESH}?wait=10",), kwargs={"headers": JSON}
    )
    waiting.start()
    with httpx.Client(base_url=client.base_url) as other:
        wait_for(lambda: daemon.bench.store.status("ecr") is not None)
        assert other.get("/livez").status_code == 200
        assert waiting.is_alive()
    daemon.answer_wishes().join()
    waiting.join()


def test_refreshing_all_leaves_out_what_is_parked(daemon: Daemon, client: httpx.Client) -> None:
    """One trigger for every enabled target."""
    daemon.targets = {
        "a": daemon.bench.target("a"),
        "b": daemon.bench.target("b", enabled=False),
        "c": daemon.bench.target("c"),
    }
    answer = client.post("/api/v1/refresh", headers=JSON)

    assert answer.status_code == 202
    assert [attempt["target"] for attempt in answer.json()["attempts"]] == ["a", "c"]


def test_some_targets_are_refreshed_by_name(daemon: Daemon, client: httpx.Client) -> None:
    """In the body, with whether a refused value may be tried again; 200 once all have ended."""
    daemon.targets = {name: daemon.bench.target(name) for name in ("a", "b")}
    worker = daemon.answer_wishes()
    body = {"targets": ["b"], "retry_refused": True}
    headers = {"X-Refresher-Actor": "cli"}
    answer = client.post("/api/v1/refresh?wait=10", json=body, headers=headers)
    worker.join()

    assert answer.status_code == 200
    assert [(a["target"], a["actor"]) for a in answer.json()["attempts"]] == [("b", "cli")]
    assert daemon.bench.store.status("a") is None


@pytest.mark.parametrize(
    ("query", "body"), [("?retry_refused=1", None), ("", {"retry_refused": True})]
)
def test_a_refused_value_is_tried_again_on_demand(
    daemon: Daemon, client: httpx.Client, query: str, body: object
) -> None:
    """In the query or in the body."""
    client.post(REFRESH + query, content=json.dumps(body) if body else b"", headers=JSON)
    trigger = daemon.bench.status(daemon.targets["ecr"]).trigger
    assert trigger is not None
    assert trigger.retry_refused


def test_a_target_is_paused_and_resumed(client: httpx.Client) -> None:
    """Both answer with the target as it stands."""
    paused = client.post("/api/v1/targets/ecr/pause", headers=JSON).json()
    assert (paused["paused"], paused["next_attempt_at"]) == (True, None)
    resumed = client.post("/api/v1/targets/ecr/resume", headers=JSON).json()
    assert (resumed["paused"], resumed["next_attempt_at"]) == (False, "2026-11-23T12:00:00Z")


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/nothing", None, 404, "/nothing"),
        ("GET", "/api/v1/targets/", None, 404, "/api/v1/targets/"),
        ("GET", "/api/v1/targets/ecs", None, 404, "did you mean ecr?"),
        ("POST", "/api/v1/targets/ecs/refresh", None, 404, "ecs"),
        ("POST", "/api/v1/targets/parked/refresh", None, 409, "enabled = false"),
        ("POST", "/api/v1/refresh", '{"targets": ["parked"]}', 409, "parked"),
        ("POST", "/metrics", None, 405, "POST is not allowed here; use "),
        ("GET", REFRESH, None, 405, "use POST"),
        ("POST", REFRESH, "{", 422, "not JSON"),
        ("POST", REFRESH, "[" * 60_000, 422, "not JSON"),
        ("POST", REFRESH, b"\xff", 422, "not JSON"),
        ("POST", REFRESH, b"\r\n", 422, "not JSON"),
        ("POST", REFRESH, "[]", 422, "not a JSON object"),
        ("POST", REFRESH, '{"retry_refused": "yes"}', 422, "retry_refused"),
        ("POST", REFRESH, '{"force": true}', 422, "known: retry_refused"),
        ("POST", "/api/v1/targets/ecr/pause", '{"for": "1h"}', 422, "known: none"),
        ("POST", "/api/v1/refresh", '{"targets": "ecr"}', 422, "list of names"),
        ("POST", "/api/v1/refresh", '{"targets": [1]}', 422, "list of names"),
        ("POST", "/api/v1/refresh", '{"targets": []}', 422, "leave it out"),
        ("POST", "/api/v1/refresh", '{"targets": ["ecr", "nope"]}', 422, "nope"),
        ("POST", f"{REFRESH}?wait=soon", None, 422, "wait"),
        ("POST", f"{REFRESH}?wait=-1", None, 422, "wait"),
        ("POST", f"{REFRESH}?wait=nan", None, 422, "wait"),
        ("POST", f"{REFRESH}?wait=99999", None, 422, "wait"),
        ("POST", f"{REFRESH}?retry_refused=maybe", None, 422, "retry_refused"),
        ("GET", "/readyz?strict=maybe", None, 422, "strict"),
        ("GET", "/readyz?strict=TRUE", None, 422, "strict"),
        ("GET", "/api/v1/targets/ecr/attempts?limit=0", None, 422, "limit"),
        ("GET", "/api/v1/targets/ecr/attempts?limit=1001", None, 422, "limit"),
        ("GET", "/api/v1/targets/ecr/attempts?limit=x", None, 422, "limit"),
    ],
)
def test_a_bad_request_is_refused_with_what_is_wrong(
    *,
    daemon: Daemon,
    client: httpx.Client,
    method: str,
    path: str,
    body: str | bytes | None,
    status: int,
    words: str,
) -> None:
    """A problem document, and nothing was asked for."""
    daemon.targets["parked"] = daemon.bench.target("parked", enabled=False)
    answer = client.request(method, path, content=body, headers=JSON)

    assert words in assert_problem(answer, status)["detail"]
    assert daemon.bench.store.statuses() == {}


def test_a_refused_method_says_which_are_allowed(client: httpx.Client) -> None:
    """RFC 9110 section 15.5.6 demands `Allow`."""
    assert client.get(REFRESH).headers["allow"] == "POST"


def test_a_body_has_a_limit(client: httpx.Client) -> None:
    """More than 64 KiB is not read, whether the length is told or not."""
    large = b" " * (64 * 1024 + 1)
    assert_problem(client.post(REFRESH, content=large, headers=JSON), 413)
    assert_problem(client.post(REFRESH, content=iter([large, b"{}"]), headers=JSON), 413)


@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonp"],
)
def test_a_form_of_another_page_is_refused_by_its_type(
    client: httpx.Client, media_type: str
) -> None:
    """Only JSON, which a browser never sends elsewhere without asking first."""
    headers = {"Content-Type": media_type} if media_type else {}
    assert_problem(client.post(REFRESH, headers=headers), 415)


@pytest.mark.parametrize("media_type", ["application/json; charset=utf-8", "Application/JSON"])
def test_json_is_recognised_as_written(client: httpx.Client, media_type: str) -> None:
    """Case and parameters do not matter (RFC 9110 section 8.3.1)."""
    assert client.post(REFRESH, headers={"Content-Type": media_type}).status_code == 202


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 202),
        ({"Sec-Fetch-Site": "same-origin"}, 202),
        ({"Sec-Fetch-Site": "none"}, 202),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": "http://evil.test"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://refresher.test"}, 403),
        ({"Origin": "http://localhost:9478", "Host": "localhost:9478"}, 202),
        ({"Origin": "http://localhost:9479", "Host": "localhost:9478"}, 403),
    ],
)
def test_a_page_of_another_origin_is_refused(
    client: httpx.Client, headers: dict[str, str], status: int
) -> None:
    """By what the browser says; who is no browser says nothing."""
    answer = client.post(REFRESH, headers={**JSON, **headers})
    assert answer.status_code == status
    if status == 403:
        assert_problem(answer, 403)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:9478", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:9478", 200),
        ("evil.test", 421),
        ("evil.test:9478", 421),
        ("localhost.evil.test", 421),
        ("10.0.0.1", 421),
        ("[::1", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_rebound_to_loopback_is_refused(
    client: httpx.Client, host: str, status: int
) -> None:
    """DNS rebinding: the page's own name is still the `Host`."""
    answer = client.get("/api/v1/targets", headers={"Host": host})
    assert answer.status_code == status
    if status == 421:
        assert_problem(answer, 421)


def test_a_probe_without_a_host_is_answered(client: httpx.Client) -> None:
    """HTTP/1.0 needs none, and a browser always sends one."""
    address = (client.base_url.host, client.base_url.port)
    with closing(socket.create_connection(address)) as peer:  # type: ignore[arg-type]
        peer.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert peer.recv(1024).startswith(b"HTTP/1.1 200 ")


def test_beyond_loopback_any_host_may_be_named(daemon: Daemon) -> None:
    """A pod is scraped by its address or by a service's name."""
    client = daemon.serve(daemon.build(loopback=False))
    assert client.get("/metrics", headers={"Host": "refresher.prod.svc"}).status_code == 200


def test_beyond_loopback_without_a_token_it_is_read_only(daemon: Daemon) -> None:
    """Reading is open; a POST is refused with what to set."""
    client = daemon.serve(daemon.build(loopback=False))
    assert client.get("/api/v1/targets").status_code == 200
    document = assert_problem(client.post(REFRESH, headers=JSON), 403)
    assert "daemon.api_token" in document["detail"]


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    ("authorization", "status", "challenge"),
    [
        ("Bearer right", 202, None),
        ("bearer  right", 202, None),
        (None, 401, 'Bearer realm="refresher"'),
        ("Basic cmlnaHQ6", 401, 'Bearer realm="refresher"'),
        ("Bearer", 401, 'Bearer realm="refresher", error="invalid_token"'),
        ("Bearer wrong", 401, 'Bearer realm="refresher", error="invalid_token"'),
        ("Bearer rightt", 401, 'Bearer realm="refresher", error="invalid_token"'),
    ],
)
def test_a_token_is_asked_for_where_one_is_set(
    *,
    daemon: Daemon,
    tmp_path: Path,
    loopback: bool,
    authorization: str | None,
    status: int,
    challenge: str | None,
) -> None:
    """Wherever it listens; reading needs none."""
    token = tmp_path / "token"
    token.write_text("right\n")
    client = daemon.serve(daemon.build(api_token=Reference(file=token), loopback=loopback))
    headers = {**JSON, **({"Authorization": authorization} if authorization else {})}
    answer = client.post(REFRESH, headers=headers)

    assert answer.status_code == status
    assert answer.headers.get("www-authenticate") == challenge
    assert client.get("/api/v1/targets").status_code == 200


def test_a_token_is_read_anew(daemon: Daemon, tmp_path: Path) -> None:
    """A rotated token counts at once, and one that cannot be read lets nobody in."""
    token = tmp_path / "token"
    token.write_text("old")
    client = daemon.serve(daemon.build(api_token=Reference(file=token)))
    old, new, empty = (
        {**JSON, "Authorization": f"Bearer {token}".strip()} for token in ("old", "new", "")
    )
    assert client.post(REFRESH, headers=old).status_code == 202

    token.write_text("new")
    assert_problem(client.post(REFRESH, headers=old), 401)
    assert client.post(REFRESH, headers=new).status_code == 202
    token.write_text("")
    assert_problem(client.post(REFRESH, headers=empty), 503)
    token.unlink()
    document = assert_problem(client.post(REFRESH, headers=new), 503)
    assert str(tmp_path) not in document["detail"]


def test_every_answer_carries_the_security_headers(client: httpx.Client) -> None:
    """Also a refusal: not cached, not sniffed, not framed."""
    for path in ("/", "/style.css", "/api/v1/targets", "/metrics", "/nothing"):
        headers = client.get(path).headers
        assert headers["cache-control"] == "no-store"
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers


class _Broken:
    """A store with a bug."""

    up = True

    def statuses(self) -> dict[str, Status]:
        raise ZeroDivisionError("hunter2")


def test_a_bug_is_answered_without_its_words(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    """The server logs where it is; the answer is a problem document like any other."""
    client = daemon.serve(daemon.build(store=_Broken()))  # type: ignore[arg-type]
    answer = client.get("/api/v1/targets")

    assert "hunter2" not in assert_problem(answer, 500)["detail"]
    assert answer.headers["cache-control"] == "no-store"
    wait_for(lambda: "ZeroDivisionError" in caplog.text)


def test_a_peer_that_hangs_up_is_no_bug(
    daemon: Daemon, client: httpx.Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Half a request leaves no traceback, and the server goes on."""
    address = (client.base_url.host, client.base_url.port)
    head = f"POST {REFRESH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with closing(socket.create_connection(address)) as peer:  # type: ignore[arg-type]
        peer.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        time.sleep(0.1)
    assert client.get("/livez").status_code == 200
    assert "Traceback" not in caplog.text
    assert daemon.bench.store.statuses() == {}


# --- the description ----------------------------------------------------------------------------


def test_the_description_is_valid_openapi(client: httpx.Client) -> None:
    """By an independent validator."""
    validate(client.get("/openapi.json").json())


def test_the_description_names_every_path(client: httpx.Client) -> None:
    """What the design promises is described, method by method."""
    paths = client.get("/openapi.json").json()["paths"]
    described = {
        (method.upper(), path) for path in paths for method in paths[path] if method != "parameters"
    }
    assert described == {
        ("GET", "/"),
        ("GET", "/targets/{name}"),
        ("GET", "/livez"),
        ("GET", "/readyz"),
        ("GET", "/metrics"),
        ("GET", "/openapi.json"),
        ("GET", "/api/v1/replicas"),
        ("GET", "/api/v1/targets"),
        ("GET", "/api/v1/targets/{name}"),
        ("GET", "/api/v1/targets/{name}/attempts"),
        ("POST", "/api/v1/targets/{name}/refresh"),
        ("POST", "/api/v1/refresh"),
        ("POST", "/api/v1/targets/{name}/pause"),
        ("POST", "/api/v1/targets/{name}/resume"),
    }


Prepare = Callable[[Daemon], None]


def _published(daemon: Daemon) -> None:
    daemon.bench.attempt(daemon.targets["ecr"])


def _failed(daemon: Daemon) -> None:
    daemon.bench.vault.failures["main"] = Unavailable("fal.test answered UNAVAILABLE")
    daemon.bench.attempt(daemon.targets["ecr"])


def _fresh(_daemon: Daemon) -> None:
    return


@pytest.mark.parametrize("prepare", [_fresh, _published, _failed])
@pytest.mark.parametrize(
    ("method", "path", "described"),
    [
        ("get", "/livez", "/livez"),
        ("get", "/readyz", "/readyz"),
        ("get", "/api/v1/targets", "/api/v1/targets"),
        ("get", "/api/v1/targets/ecr", "/api/v1/targets/{name}"),
        ("get", "/api/v1/targets/ecr/attempts", "/api/v1/targets/{name}/attempts"),
        ("post", REFRESH, "/api/v1/targets/{name}/refresh"),
        ("post", "/api/v1/refresh", "/api/v1/refresh"),
        ("post", "/api/v1/targets/ecr/pause", "/api/v1/targets/{name}/pause"),
    ],
)
def test_answers_are_as_described(
    *,
    daemon: Daemon,
    client: httpx.Client,
    prepare: Prepare,
    method: str,
    path: str,
    described: str,
) -> None:
    """Each answer fits its schema, times included, and holds nothing that is not described."""
    prepare(daemon)
    document = client.get("/openapi.json").json()
    answer = client.request(method, path, headers=JSON)
    response = document["paths"][described][method]["responses"][str(answer.status_code)]
    schema = {**_closed(response["content"]["application/json"]["schema"]), **_closed(document)}

    Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        answer.json()
    )


def _closed(node: Any) -> Any:
    """The same schemas with no room for what they do not name."""
    if isinstance(node, list):
        return [_closed(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {key: _closed(value) for key, value in node.items()}
    return {**closed, "additionalProperties": False} if "properties" in node else closed


# --- the server --------------------------------------------------------------------------------


@pytest.fixture
def app(daemon: Daemon) -> Starlette:
    """An application that no server has taken up."""
    return daemon.build()


def test_a_port_that_is_taken_is_a_clear_error(app: Starlette) -> None:
    """Before anything else starts: what, where, and what to do."""
    first = Server(app, "127.0.0.1", 0)
    message = rf"listen: 127\.0\.0\.1:{first.port} is in use; .*daemon\.listen"
    with pytest.raises(RefresherError, match=message):
        Server(app, "127.0.0.1", first.port)
    first.stop(1)


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_that_is_not_ours_is_a_clear_error(app: Starlette, host: str) -> None:
    """The reason in the system's words, and what to set."""
    with pytest.raises(RefresherError, match=rf"listen: {host}:\d+ cannot be bound \(.+\);"):
        Server(app, host, free_port())


def test_a_server_that_stopped_frees_its_port(app: Starlette) -> None:
    """The next one may have it at once."""
    server = Server(app, "127.0.0.1", 0)
    assert not server.alive
    server.start()
    assert server.alive
    assert server.stop(5)
    assert not server.alive
    Server(app, "127.0.0.1", server.port).stop(1)


def test_it_listens_on_ipv6(app: Starlette) -> None:
    """`[::1]:9478` in the configuration."""
    try:
        server = Server(app, "::1", 0)
    except RefresherError:
        pytest.skip("this machine has no IPv6 loopback")
    server.start()
    try:
        assert httpx.get(f"http://[::1]:{server.port}/livez").status_code == 200
    finally:
        server.stop(5)


def test_stopping_keeps_nobody_waiting(app: Starlette, daemon: Daemon) -> None:
    """Who waits for an attempt is told at once that it has not ended."""
    server = Server(app, "127.0.0.1", 0)
    server.start()
    answers: list[int] = []
    url = f"http://127.0.0.1:{server.port}{REFRESH}?wait=60"
    waiting = threading.Thread(
        target=lambda: answers.append(httpx.post(url, headers=JSON, timeout=30).status_code)
    )
    waiting.start()
    wait_for(lambda: daemon.bench.store.status("ecr") is not None)
    started = time.monotonic()

    assert server.stop(5)
    assert time.monotonic() - started < 3
    waiting.join()
    assert answers == [202]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("refresher.test", False),
        ("", False),
    ],
)
def test_loopback_is_this_machine_alone(host: str, expected: bool) -> None:
    """What listens elsewhere is reached by others."""
    assert is_loopback(host) is expected
