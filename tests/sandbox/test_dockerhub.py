"""The stand-in answers as Docker Hub does."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx
import jwt
import pytest

from refresher.clock import ManualClock
from refresher.sandbox.dockerhub import LOCKOUT, DockerHubStandIn, Login
from tests.conftest import NOON
from tests.oci import skopeo_inspect

LOGINS = {
    ("user", "good"): Login.GOOD,
    ("org", "oat"): Login.GOOD,
    ("user", "old"): Login.EXPIRED,
    ("org", "old"): Login.ORG_EXPIRED,
    ("user", "off"): Login.DISABLED,
    ("user", "password"): Login.SSO_REQUIRED,
}
IMAGES = {"user/app": ["v1"]}
SCOPE = "repository:user/app:pull"


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    """An HTTP client that is closed with the test."""
    with httpx.Client() as client:
        yield client


@pytest.fixture
def hub(clock: ManualClock) -> Iterator[DockerHubStandIn]:
    """Docker Hub with three pulls, and a lock-out after two failed logins."""
    with DockerHubStandIn(LOGINS, IMAGES, clock=clock, pull_limit=3, lockout_after=2) as hub:
        yield hub


def _log_in(
    hub: DockerHubStandIn, client: httpx.Client, username: str, secret: str
) -> httpx.Response:
    return client.get(hub.auth_url, params={"scope": SCOPE}, auth=(username, secret))


def _manifest(
    hub: DockerHubStandIn, client: httpx.Client, token: str, method: str
) -> httpx.Response:
    return client.request(
        method,
        f"{hub.url}/v2/user/app/manifests/v1",
        headers={"Authorization": f"Bearer {token}"},
    )


@pytest.mark.parametrize(
    ("username", "secret", "details"),
    [
        ("user", "other", "incorrect username or password"),
        ("nobody", "good", "incorrect username or password"),
        ("user", "off", "incorrect username or password"),
        ("user", "old", "personal access token is expired"),
        ("org", "old", "org access token is expired"),
        ("user", "password", "your account must log in with a Personal Access Token (PAT)"),
    ],
)
def test_each_bad_login_has_its_words(
    hub: DockerHubStandIn, client: httpx.Client, username: str, secret: str, details: str
) -> None:
    """As its users report them."""
    answer = _log_in(hub, client, username, secret)
    assert answer.status_code == 401
    assert answer.json()["details"].startswith(details)


@pytest.mark.parametrize(("username", "secret"), [("user", "good"), ("org", "oat")])
def test_a_good_login_gets_a_token_for_five_minutes(
    hub: DockerHubStandIn, client: httpx.Client, username: str, secret: str
) -> None:
    """It says for what it is."""
    answer = _log_in(hub, client, username, secret).json()
    claims = jwt.decode(answer["token"], options={"verify_signature": False})
    assert answer["expires_in"] == 300
    assert claims["access"] == [{"type": "repository", "name": "user/app", "actions": ["pull"]}]


def test_a_token_for_a_repository_one_may_not_see_grants_nothing(
    hub: DockerHubStandIn, client: httpx.Client
) -> None:
    """And is given all the same (docker/hub-feedback #1771)."""
    hub.forbid("user/app")
    token = _log_in(hub, client, "user", "good").json()["token"]
    assert jwt.decode(token, options={"verify_signature": False})["access"] == []
    assert _manifest(hub, client, token, "HEAD").status_code == 401


def test_only_a_get_counts_as_a_pull(hub: DockerHubStandIn, client: httpx.Client) -> None:
    """The headers tell the limit and what is left; over it every answer is 429."""
    token = _log_in(hub, client, "user", "good").json()["token"]
    seen = [
        (answer.status_code, answer.headers["ratelimit-remaining"])
        for method in ("HEAD", "HEAD", "GET", "GET", "GET", "GET", "HEAD")
        for answer in [_manifest(hub, client, token, method)]
    ]
    left = [3, 3, 2, 1, 0, 0, 0]
    assert [remaining for _, remaining in seen] == [f"{n};w=21600" for n in left]
    assert [status for status, _ in seen] == [200] * 5 + [429] * 2
    assert hub.pulls == 3


def test_a_plan_without_a_limit_has_no_headers(client: httpx.Client) -> None:
    """As for paid plans."""
    with DockerHubStandIn(LOGINS, IMAGES, pull_limit=None) as hub:
        token = _log_in(hub, client, "user", "good").json()["token"]
        answer = _manifest(hub, client, token, "GET")
    assert answer.status_code == 200
    assert "ratelimit-limit" not in answer.headers


def test_too_many_failed_logins_lock_the_user_out(
    hub: DockerHubStandIn, client: httpx.Client, clock: ManualClock
) -> None:
    """Also with the right secret, until its time is over; other users are let in."""
    for _ in range(2):
        assert _log_in(hub, client, "user", "other").status_code == 401
    locked = _log_in(hub, client, "user", "good")
    assert (locked.status_code, "X-Retry-After" in locked.headers) == (429, False)
    assert "too many failed login attempts" in locked.json()["details"]
    assert _log_in(hub, client, "org", "oat").status_code == 200
    clock.advance(LOCKOUT)
    assert _log_in(hub, client, "user", "good").status_code == 200


def test_a_good_login_forgives_earlier_ones(hub: DockerHubStandIn, client: httpx.Client) -> None:
    """Only failures in a row count."""
    statuses = [
        _log_in(hub, client, "user", secret).status_code
        for secret in ("other", "good", "other", "good")
    ]
    assert statuses == [401, 200, 401, 200]


def test_a_lockout_may_tell_when_it_ends(client: httpx.Client, clock: ManualClock) -> None:
    """As a Unix time."""
    with DockerHubStandIn(LOGINS, clock=clock, lockout_after=1, tells_when=True) as hub:
        _log_in(hub, client, "user", "other")
        clock.advance(timedelta(minutes=1))
        told = _log_in(hub, client, "user", "good").headers["X-Retry-After"]
    assert int(told) == int((NOON + LOCKOUT).timestamp())


def test_skopeo_takes_it_for_a_registry(tmp_path: Path) -> None:
    """A real client gets a token and fetches the image, and is refused with an expired one."""
    with DockerHubStandIn(LOGINS, IMAGES) as hub:
        host = f"127.0.0.1:{hub.port}"
        good = skopeo_inspect(tmp_path, host, "user/app:v1", "user", "good")
        assert good.returncode == 0, good.stderr
        assert skopeo_inspect(tmp_path, host, "user/app:v1", "user", "old").returncode == 1
