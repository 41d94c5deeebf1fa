"""Who may do what over HTTP, and what every answer carries, whatever it is."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from refresher import config
from refresher.api.problems import SECURITY_HEADERS
from refresher.clock import ManualClock
from refresher.config import Config
from refresher.daemon import Daemon as RealDaemon
from refresher.daemon import Options
from refresher.references import Reference
from tests.serving import JSON, Daemon, Stage, staged

REFRESH = "/api/v1/targets/ecr/refresh"
TOKEN = "canary-token"


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


# --- the token ---------------------------------------------------------------------------------


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (f"?token={TOKEN}", {}),
        (f"?access_token={TOKEN}", {}),
        (f"?api_token={TOKEN}&wait=0", {}),
        ("", {"Cookie": f"token={TOKEN}; access_token={TOKEN}"}),
        ("", {"X-Api-Key": TOKEN, "X-Auth-Token": TOKEN, "Token": TOKEN}),
        ("", {"Proxy-Authorization": f"Bearer {TOKEN}"}),
        ("", {"Authorization": TOKEN}),
        ("", {"Authorization": f"Token {TOKEN}"}),
        ("", {"Authorization": f"Bearer {TOKEN}, Bearer {TOKEN}"}),
        ("", {"Authorization": f"Bearer {TOKEN[:-1]}"}),
        ("", {"Authorization": f"Bearer {TOKEN}\xff"}),
    ],
)
def test_a_token_is_taken_from_its_header_alone(
    *, daemon: Daemon, tmp_path: Path, loopback: bool, query: str, headers: dict[str, str]
) -> None:
    """One in a URL would stand in histories and logs, and a browser sends a cookie by itself."""
    file = tmp_path / "token"
    file.write_text(TOKEN)
    client = daemon.serve(daemon.build(api_token=Reference(file=file), loopback=loopback))
    raw = {name: value.encode("latin-1") for name, value in headers.items()}
    answer = client.post(REFRESH + query, headers={**JSON, **raw})
    assert answer.status_code == 401
    assert TOKEN not in answer.text
    assert daemon.bench.store.statuses() == {}


# --- what every answer carries -----------------------------------------------------------------

REQUESTS = {
    "page": ("GET", "/", {}, 200),
    "page of a target": ("GET", "/targets/ecr", {}, 200),
    "page of none": ("GET", "/targets/none", {}, 404),
    "style": ("GET", "/style.css", {}, 200),
    "script": ("GET", "/page.js", {}, 200),
    "head": ("HEAD", "/", {}, 200),
    "metrics": ("GET", "/metrics", {}, 200),
    "probe": ("GET", "/livez", {}, 200),
    "accepted": ("POST", REFRESH, JSON, 202),
    "nothing there": ("GET", "/%00%ff/../x", {}, 404),
    "method": ("DELETE", "/api/v1/targets/ecr", {}, 405),
    "options": ("OPTIONS", REFRESH, {"Origin": "http://evil.invalid"}, 405),
    "media type": ("POST", REFRESH, {}, 415),
    "foreign": ("POST", REFRESH, {**JSON, "Origin": "http://evil.invalid"}, 403),
    "rebound": ("GET", "/", {"Host": "evil.invalid"}, 421),
    "nonsense": ("GET", "/readyz?strict=maybe", {}, 422),
}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"), REQUESTS.values(), ids=REQUESTS.keys()
)
def test_every_answer_is_as_strict(
    daemon: Daemon, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Not cached, sniffed, framed or shared; of errors as of the rest."""
    answer = daemon.serve().request(method, path, headers=headers)
    assert answer.status_code == status
    assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert not [name for name in answer.headers if name.startswith("access-control-")]
    assert "set-cookie" not in answer.headers


def test_the_policy_leaves_nothing_to_whoever_gets_markup_in() -> None:
    """Own files alone, no plug-in, no frame, no form to elsewhere, no other base."""
    policy = dict(
        part.strip().split(" ", 1)
        for part in SECURITY_HEADERS["Content-Security-Policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert set(policy.values()) == {"'none'", "'self'"}


class _Markup(HTMLParser):
    """Collects what the policy forbids, and what the page asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.inline += [name for name in given if name == "style" or name.startswith("on")]
        if tag == "style" or (tag == "script" and "src" not in given):
            self.inline.append(tag)
        self.asked += [given[name] or "" for name in ("src", "href", "action") if name in given]


@pytest.mark.parametrize("path", ["/", "/targets/ecr", "/targets/none", "/?q=<script>x</script>"])
def test_pages_need_nothing_that_the_policy_forbids(daemon: Daemon, path: str) -> None:
    """No script, style or handler inside, nothing from elsewhere, and what is typed stays text."""
    page = daemon.serve().get(path).text
    markup = _Markup()
    markup.feed(page)
    assert markup.inline == []
    assert markup.asked
    assert not [url for url in markup.asked if re.match(r"//|[a-z]+:", url)]
    assert "<script>x" not in page


# --- beyond loopback ---------------------------------------------------------------------------

#: This machine, written so that it does not count as loopback.
BEYOND = "127.1:0"

MINIMAL = """
[daemon]
listen = "{listen}"
state = "sqlite://"
{token}
[targets.a]
source = "oci"
registry = "127.0.0.1:9"
username = "user"
password = {{ env = "OCI_PASSWORD" }}
secret = "A"
enabled = false
"""


def minimal(listen: str, token: str = "") -> Config:
    return config.parse(MINIMAL.format(listen=listen, token=token), "test", os.environ)


@pytest.fixture
def environ(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the configuration refers to."""
    monkeypatch.setenv("FAL_KEY", "id:secret")
    monkeypatch.setenv("OCI_PASSWORD", "password")
    monkeypatch.setenv("API_TOKEN", TOKEN)


@pytest.mark.parametrize(
    ("listen", "token", "warned"),
    [
        (BEYOND, "", True),
        (BEYOND, 'api_token = { env = "API_TOKEN" }', False),
        ("127.0.0.1:0", "", False),
    ],
)
def test_a_daemon_that_is_read_only_says_so(
    environ: None, listen: str, token: str, warned: bool
) -> None:
    """At its start: who listens beyond loopback without a token is warned."""
    with capture_logs() as lines:
        daemon = RealDaemon(lambda: minimal(listen, token), Options())
        daemon.stop()
        daemon.run()
    said = [line for line in lines if line["event"] == "api.read_only"]
    assert [line["log_level"] for line in said] == ["warning"] * warned
    assert all("daemon.api_token" in line["message"] for line in said)


def test_a_token_counts_from_the_reload_that_brings_it(environ: None) -> None:
    """And until the one that takes it away: nothing of it waits for a restart."""
    configs = [minimal(BEYOND, token) for token in ("", 'api_token = { env = "API_TOKEN" }', "")]
    loads = iter(configs)
    daemon = RealDaemon(lambda: next(loads), Options())
    running = threading.Thread(target=daemon.run)
    running.start()

    def status(**headers: str) -> int:
        url = f"{daemon.url}/api/v1/targets/a/pause"
        return httpx.post(url, headers={**JSON, **headers}).status_code

    try:
        assert status(Authorization=f"Bearer {TOKEN}") == 403
        daemon.reload()
        assert status() == 401
        assert status(Authorization=f"Bearer {TOKEN}") == 200
        daemon.reload()
        assert status(Authorization=f"Bearer {TOKEN}") == 403
    finally:
        daemon.stop()
        running.join()
