"""The pages as the server answers them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib import resources

import httpx
import pytest

from refresher.clock import ManualClock
from refresher.errors import Layer, Unauthorized, Unavailable
from refresher.health import Health
from refresher.model import DueReason, Status
from tests.serving import JSON, Daemon, Stage, staged

INJECTION = "<script>alert(1)</script> & <img src=x onerror=alert(2)> \"' more"


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


def text(page: str) -> str:
    """What a page says, without its markup."""
    return " ".join(re.sub(r"<[^>]*>", " ", page).split())


@pytest.mark.parametrize("path", ["/", "/targets/ecr"])
def test_what_a_peer_says_is_escaped(daemon: Daemon, client: httpx.Client, path: str) -> None:
    """It cannot become part of the page."""
    daemon.bench.issuer.failure = Unavailable(INJECTION, layers=(Layer("login", False, INJECTION),))
    daemon.bench.attempt(daemon.targets["ecr"])
    answer = client.get(path)

    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &lt;img" in answer.text
    assert "<img" not in answer.text
    assert answer.text.count("<script") == 1


def test_what_a_person_looks_for_is_escaped(client: httpx.Client) -> None:
    """The field of the filter shows it again."""
    answer = client.get("/", params={"q": '"><script>'})
    assert 'value="&#34;&gt;&lt;script&gt;"' in answer.text


@pytest.mark.parametrize("path", ["/", "/targets/ecr", "/targets/nothing"])
def test_a_page_works_under_its_own_policy(daemon: Daemon, client: httpx.Client, path: str) -> None:
    """No inline style or script, and nothing from elsewhere."""
    daemon.bench.attempt(daemon.targets["ecr"])
    answer = client.get(path)
    assert not re.search(r"<style|\son\w+=|\sstyle=|javascript:", answer.text)
    assert re.findall(r"<script[^>]*>[^<]*", answer.text) == ['<script src="/page.js" defer>']
    assert all(
        link[0] in "/#" for link in re.findall(r'(?:href|src|action)="([^"]*)"', answer.text)
    )
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; style-src 'self'; script-src 'self'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("style.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_what_a_page_refers_to_is_package_data(
    client: httpx.Client, name: str, media_type: str
) -> None:
    """Served as it lies there, with its type."""
    answer = client.get(f"/{name}")
    assert answer.headers["content-type"] == media_type
    assert answer.content == resources.files("refresher.web").joinpath("static", name).read_bytes()


def test_no_credential_is_on_any_page(daemon: Daemon, client: httpx.Client) -> None:
    """Fingerprints only."""
    daemon.bench.attempt(daemon.targets["ecr"])
    assert daemon.bench.standing() == "token-1"
    for path in ("/", "/targets/ecr"):
        assert "token-1" not in client.get(path).text


def test_a_target_is_shown_with_what_comes_next(daemon: Daemon, client: httpx.Client) -> None:
    """The word, the life that is left, the next look and the next refresh."""
    daemon.bench.attempt(daemon.targets["ecr"])
    page = text(client.get("/").text)
    assert "The target is fine" in page
    assert "ecr ecr registry.test fresh" in page
    assert "12 h left until 24 Nov, 00:00" in page
    assert "check in 15 min 12:15" in page
    assert "refresh in 3 h" in page


def test_a_failure_is_shown_with_what_to_do(daemon: Daemon, client: httpx.Client) -> None:
    """In words, on both pages."""
    daemon.bench.issuer.failure = Unauthorized("sts refused the key; renew aws.access_key_id")
    daemon.bench.attempt(daemon.targets["ecr"])
    for path in ("/", "/targets/ecr"):
        page = text(client.get(path).text)
        assert "Getting a credential: unauthorized now sts refused the key" in page
        assert "To do: renew aws.access_key_id" in page


def test_the_page_of_a_target_holds_all_that_is_known(daemon: Daemon, client: httpx.Client) -> None:
    """Facts, each secret, the steps of the last verification, the plot and the attempts."""
    daemon.targets = {"ecr": daemon.bench.target(environments=("main", "staging"), username="AWS")}
    target = daemon.targets["ecr"]
    daemon.bench.attempt(target)
    daemon.clock.advance(timedelta(hours=1))
    daemon.bench.judge.failure = Unavailable("no route", layers=(Layer("login", None, "no route"),))
    daemon.bench.attempt(target, DueReason.CHECK)
    page = client.get("/targets/ecr").text

    assert page.count('<tr id="attempt-') == 2
    assert "Remaining life over the last 1 h: 1 refresh, 1 failed attempt, lowest 11 h" in page
    for words in (
        "User name AWS",
        "Issued 1 h ago 12:00",
        "main AWS_ECR_PASSWORD fresh",
        "staging AWS_ECR_PASSWORD fresh",
        "login not judged no route",
        "refreshed 1 h ago 12:00 missing schedule source",
        daemon.bench.status(target).secrets[0].fingerprint or "",
    ):
        assert words in text(page)


def test_a_page_of_no_target_names_the_nearest(client: httpx.Client) -> None:
    """404, and readable."""
    answer = client.get("/targets/ec")
    assert answer.status_code == 404
    assert "no target is named ec; did you mean ecr?" in text(answer.text)


@pytest.mark.parametrize(
    ("change", "words"),
    [("pause", "paused paused by a person"), ("disable", "disabled nothing published yet")],
)
def test_what_is_parked_looks_so(
    daemon: Daemon, client: httpx.Client, change: str, words: str
) -> None:
    """A target that nobody keeps does not look like one that is kept."""
    if change == "pause":
        daemon.bench.attempt(daemon.targets["ecr"])
        client.post("/api/v1/targets/ecr/pause", headers=JSON)
    else:
        daemon.targets = {"ecr": daemon.bench.target(enabled=False)}
    assert words in text(client.get("/").text)


@dataclass(frozen=True)
class Known:
    """The little of a store that the page of all targets asks for."""

    known: Mapping[str, Status]
    up: bool = True

    def statuses(self) -> Mapping[str, Status]:
        return self.known


def test_a_state_that_is_away_is_told(daemon: Daemon) -> None:
    """What no row would show."""
    client = daemon.serve(daemon.build(store=Known({}, up=False)))  # type: ignore[arg-type]
    page = text(client.get("/").text)
    assert "The state cannot be written." in page
    assert "state in memory only" in page


def test_what_is_wrong_with_the_process_is_told(daemon: Daemon, client: httpx.Client) -> None:
    """A loop that stopped and a configuration that was not taken up."""
    calm = text(client.get("/").text)
    daemon.config_problem = "targets.ecr.registry: unknown key"
    daemon.clock.advance(timedelta(minutes=2))
    page = text(client.get("/").text)

    assert "scheduler tick now" in calm
    assert "scheduler tick 2 min ago" in page
    for words in ("The daemon is stuck: no tick has ended for 120 s", daemon.config_problem):
        assert words in page
        assert words not in calm


def test_a_daemon_that_just_started_says_so(daemon: Daemon) -> None:
    """No tick yet is no trouble."""
    daemon.health = Health(2, daemon.clock.monotonic())
    assert "no scheduler tick yet" in text(daemon.serve().get("/").text)


def test_nothing_configured_says_what_to_do(daemon: Daemon, client: httpx.Client) -> None:
    """A first page is no empty page."""
    daemon.targets = {}
    assert "refresher discover" in text(client.get("/").text)


def test_beyond_loopback_without_a_token_nothing_can_be_asked(daemon: Daemon) -> None:
    """The page is read-only and says why."""
    page = daemon.serve(daemon.build(loopback=False)).get("/").text
    assert "Read-only" in page
    assert "data-refresh" not in page


def test_a_filter_is_part_of_the_address(daemon: Daemon, client: httpx.Client) -> None:
    """So that it can be kept and sent; one that makes no sense is refused."""
    daemon.targets = {name: daemon.bench.target(name) for name in ("one", "two")}
    daemon.bench.attempt(daemon.targets["one"])
    page = client.get("/?state=fresh&q=on").text

    assert 'id="target-one"' in page
    assert 'id="target-two"' not in page
    assert "<option selected>fresh</option>" in page
    assert "No target is like that" in client.get("/?q=three").text
    assert client.get("/?state=happy").status_code == 422


def test_ten_thousand_targets_make_a_small_page(daemon: Daemon) -> None:
    """The worst are shown and the rest counted."""
    target = daemon.bench.target()
    daemon.bench.attempt(target)
    status = daemon.bench.status(target)
    names = [f"t{i:05}" for i in range(10_000)]
    daemon.targets = {name: replace(target, name=name) for name in names}
    store = Known({name: replace(status, name=name) for name in names})
    client = daemon.serve(daemon.build(store=store))  # type: ignore[arg-type]
    answer = client.get("/")

    assert answer.text.count('id="target-') == 200
    assert "All 10,000 targets fine" in answer.text
    assert "The 200 nearest to trouble of 10,000 are shown" in answer.text
    assert len(answer.content) < 500_000
    assert 'id="target-t09999"' in client.get("/?q=t09999").text
