"""Logging in to Docker Hub once, and asking for an image without pulling it."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from refresher.clock import ManualClock
from refresher.errors import (
    Failure,
    InvalidCredential,
    InvalidResponse,
    Misconfigured,
    Throttled,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from refresher.model import ImageRef, Proof, Pull, RegistryRef, SecretValue
from refresher.registry import HubVerifier, RegistryVerifier, parse_image
from refresher.registry.hub import Quota, may_pull, quota_of
from refresher.sandbox.dockerhub import HOST, DockerHubStandIn, Login
from refresher.sandbox.http import Fault, Request, Response
from refresher.sandbox.registry import digest_of, minimal_image
from tests.registry.conftest import at, credential

GOOD = "dckr_pat_good-0123456789"
OAT = "dckr_oat_good-0123456789"
LOGINS = {
    ("user", GOOD): Login.GOOD,
    ("org", OAT): Login.GOOD,
    ("user", "dckr_pat_old-0123456789"): Login.EXPIRED,
    ("org", "dckr_oat_old-0123456789"): Login.ORG_EXPIRED,
    ("user", "dckr_pat_off-0123456789"): Login.DISABLED,
    ("user", "the-password-of-somebody"): Login.SSO_REQUIRED,
}
IMAGES = {"user/app": ["v1"], "user/closed": ["v1"], "library/alpine": ["latest"]}


@pytest.fixture
def hub(clock: ManualClock) -> Iterator[DockerHubStandIn]:
    """Docker Hub, where one repository is closed to all."""
    with DockerHubStandIn(LOGINS, IMAGES, clock=clock) as hub:
        hub.forbid("user/closed")
        yield hub


@pytest.fixture
def checker(hub: DockerHubStandIn, verifier: RegistryVerifier) -> HubVerifier:
    """A verifier that logs in there."""
    return HubVerifier(verifier.wire, auth_url=hub.auth_url)


def _check(
    checker: HubVerifier,
    hub: DockerHubStandIn,
    image: str | None = None,
    secret: str = GOOD,
    username: str = "user",
) -> Proof:
    reference = None if image is None else parse_image(image, HOST)
    return checker.verify(at(hub, HOST), credential(secret, username), reference)


def _asked(hub: DockerHubStandIn) -> list[str]:
    return [f"{request.method} {request.path}" for request in hub.requests]


def _layers(proof: Proof | Failure) -> list[tuple[str, bool | None]]:
    return [(layer.name, layer.ok) for layer in proof.layers]


# What it costs


def test_a_login_is_one_request(hub: DockerHubStandIn, checker: HubVerifier) -> None:
    """No challenge, no scope."""
    proof = _check(checker, hub)
    assert (proof.pull, proof.pulls_limit) == (None, None)
    assert _layers(proof) == [("login", True)]
    assert _asked(hub) == ["GET /token"]
    assert hub.requests[0].params == {"service": ["registry.docker.io"]}


def test_an_image_costs_one_more_and_no_pull(hub: DockerHubStandIn, checker: HubVerifier) -> None:
    """HEAD, whose answer tells what is left of the pull limit."""
    proof = _check(checker, hub, "user/app:v1")
    assert (proof.pull, proof.pulls_remaining, proof.pulls_limit) == (Pull.OK, 200, 200)
    assert _layers(proof) == [("login", True), ("access", True), ("pull", True)]
    assert _asked(hub) == ["GET /token", "HEAD /v2/user/app/manifests/v1"]
    assert hub.requests[0].params["scope"] == ["repository:user/app:pull"]
    assert hub.pulls == 0


@pytest.mark.parametrize(
    "image", ["alpine", "docker.io/library/alpine:latest", "index.docker.io/alpine"]
)
def test_official_images_have_many_names(
    hub: DockerHubStandIn, checker: HubVerifier, image: str
) -> None:
    """All mean the same manifest."""
    assert _check(checker, hub, image).pull is Pull.OK
    assert hub.requests[1].path == "/v2/library/alpine/manifests/latest"


def test_an_image_may_be_named_by_its_digest(hub: DockerHubStandIn, checker: HubVerifier) -> None:
    """The scope knows no digest."""
    digest = digest_of(minimal_image().manifest)
    assert _check(checker, hub, f"user/app@{digest}").pull is Pull.OK
    assert hub.requests[0].params["scope"] == ["repository:user/app:pull"]


def test_an_organizations_token_goes_with_its_name(
    hub: DockerHubStandIn, checker: HubVerifier
) -> None:
    """As docs.docker.com/enterprise/security/access-tokens has it."""
    assert _check(checker, hub, secret=OAT, username="org").layers[0].ok is True


# Refused logins


@pytest.mark.parametrize(
    ("username", "secret", "said", "advice"),
    [
        ("user", "dckr_pat_none", "incorrect username or password", "deleted or deactivated"),
        ("user", "dckr_pat_off-0123456789", "incorrect username", "deleted or deactivated"),
        ("user", OAT, "incorrect username or password", "another user or organization"),
        ("user", "dckr_pat_old-0123456789", "personal access token is expired", "make a new token"),
        ("org", "dckr_oat_old-0123456789", "org access token is expired", "make a new token"),
        ("user", "the-password-of-somebody", "must log in with a Personal Access", "single sign"),
    ],
)
@pytest.mark.parametrize("image", [None, "user/app:v1"])
def test_a_refused_login_says_why_and_is_not_tried_again(
    *,
    hub: DockerHubStandIn,
    checker: HubVerifier,
    username: str,
    secret: str,
    said: str,
    advice: str,
    image: str | None,
) -> None:
    """One request; Docker Hub's words and plain ones; nothing of the secret."""
    with pytest.raises(Unauthorized) as failed:
        _check(checker, hub, image, secret, username)
    assert said in failed.value.message
    assert advice in failed.value.message
    assert secret not in failed.value.message
    assert _layers(failed.value) == [("login", False)]
    assert _asked(hub) == ["GET /token"]


def test_a_lockout_says_nothing_about_the_credential(
    hub: DockerHubStandIn, checker: HubVerifier
) -> None:
    """Somebody else's wrong logins caused it; it is left alone for an hour."""
    for _ in range(5):
        with pytest.raises(Unauthorized):
            _check(checker, hub, secret="dckr_pat_none")
    with pytest.raises(Throttled, match="tells nothing about the credential") as failed:
        _check(checker, hub, "user/app:v1")
    assert "something else logs in as this user" in failed.value.message
    assert failed.value.retry_after == timedelta(hours=1)
    assert _layers(failed.value) == [("login", None)]


def test_a_lockout_that_tells_its_end_is_believed(
    verifier: RegistryVerifier, clock: ManualClock
) -> None:
    """`X-Retry-After` is a Unix time."""
    with DockerHubStandIn(LOGINS, clock=clock, lockout_after=1, tells_when=True) as hub:
        checker = HubVerifier(verifier.wire, auth_url=hub.auth_url)
        with pytest.raises(Unauthorized):
            _check(checker, hub, secret="dckr_pat_none")
        clock.advance(timedelta(minutes=5))
        with pytest.raises(Throttled) as failed:
            _check(checker, hub)
    assert failed.value.retry_after == timedelta(minutes=10)


def test_a_429_without_a_word_is_taken_for_a_lockout(
    hub: DockerHubStandIn, checker: HubVerifier
) -> None:
    """Asking sooner could prolong one."""
    hub.fail(Response(429))
    with pytest.raises(Throttled) as failed:
        _check(checker, hub)
    assert failed.value.retry_after == timedelta(hours=1)


# A good login that may not pull


@pytest.mark.parametrize("image", ["user/closed:v1", "user/none:v1"])
def test_a_login_that_may_not_pull_is_told_by_its_token(
    hub: DockerHubStandIn, checker: HubVerifier, image: str
) -> None:
    """So the manifest, whose 401 could count against the user, is not asked for."""
    proof = _check(checker, hub, image)
    assert proof.pull is Pull.FORBIDDEN
    assert "the login is good, and it may not pull" in (proof.pull_message or "")
    assert _layers(proof) == [("login", True), ("access", False)]
    assert _asked(hub) == ["GET /token"]


def test_a_missing_tag_is_not_found(hub: DockerHubStandIn, checker: HubVerifier) -> None:
    """The token is for the repository; the tag is not there."""
    proof = _check(checker, hub, "user/app:v2")
    assert proof.pull is Pull.NOT_FOUND
    assert _layers(proof) == [("login", True), ("access", True), ("pull", False)]


def test_over_the_pull_limit_the_login_is_still_proved(
    hub: DockerHubStandIn, checker: HubVerifier
) -> None:
    """None left; whether the image could be pulled is unknown."""
    hub.pulls = 200
    proof = _check(checker, hub, "user/app:v1")
    assert (proof.pull, proof.pulls_remaining, proof.pulls_limit) == (Pull.UNKNOWN, 0, 200)
    assert _layers(proof) == [("login", True), ("access", True), ("pull", None)]


class Manifests(DockerHubStandIn):
    """Answers each manifest as a test says."""

    manifest = Response()

    def handle(self, request: Request) -> Response:
        return self.manifest if "/manifests/" in request.path else super().handle(request)


@pytest.mark.parametrize(
    ("answer", "pull", "remaining"),
    [
        pytest.param(Response(), Pull.OK, None, id="unlimited"),
        pytest.param(Response(429), Pull.UNKNOWN, 0, id="429 without headers"),
        pytest.param(Response(503), Pull.UNKNOWN, None, id="broken"),
        pytest.param(Response(401), Pull.FORBIDDEN, None, id="token granted and refused"),
        pytest.param(
            Response(401, b"", {"WWW-Authenticate": 'Bearer realm="https://10.0.0.1/token"'}),
            Pull.FORBIDDEN,
            None,
            id="a challenge is not followed",
        ),
        pytest.param(
            Response(307, b"", {"Location": "https://evil.example/"}), Pull.UNKNOWN, None, id="away"
        ),
    ],
)
def test_each_answer_for_a_manifest_leaves_the_login_proved(
    verifier: RegistryVerifier, answer: Response, pull: Pull, remaining: int | None
) -> None:
    """And is asked for once."""
    with Manifests(LOGINS, IMAGES) as hub:
        hub.manifest = answer
        proof = _check(HubVerifier(verifier.wire, auth_url=hub.auth_url), hub, "user/app:v1")
        assert len(hub.requests) == 2
    assert (proof.pull, proof.pulls_remaining) == (pull, remaining)


# A token service that leads astray


@pytest.mark.parametrize(
    ("trouble", "failure", "words"),
    [
        pytest.param(Fault.drip(0.05), TimedOut, "did not answer within", id="never ends"),
        pytest.param(Fault.hang_in_body(), TimedOut, "did not answer", id="hangs"),
        pytest.param(Fault.reset(), Unavailable, "broke the connection", id="reset"),
        pytest.param(
            Response(307, b"", {"Location": "/token"}),
            InvalidResponse,
            "redirects",
            id="redirect loop",
        ),
        pytest.param(
            Response(301, b"", {"Location": "https://evil.example/x?t=1"}),
            InvalidResponse,
            "redirects to evil.example, not followed",
            id="redirect elsewhere",
        ),
        pytest.param(
            Response(200, b'{"token": "' + b"a" * 10_000_000 + b'"}'),
            InvalidResponse,
            "more than 64 KiB",
            id="10 MB",
        ),
        pytest.param(Response(200, b"<html>"), InvalidResponse, "gave no token", id="not JSON"),
        pytest.param(Response.json({"token": ""}), InvalidResponse, "gave no token", id="empty"),
        pytest.param(Response(502, b"<html>"), Unavailable, "HTTP 502", id="bad gateway"),
    ],
)
def test_a_token_service_that_leads_astray_gets_one_call(
    hub: DockerHubStandIn,
    checker: HubVerifier,
    trouble: Fault | Response,
    failure: type[Failure],
    words: str,
) -> None:
    """One reason, nothing judged, nothing leaked."""
    hub.fail(trouble)
    with pytest.raises(failure, match=words) as failed:
        _check(checker, hub, "user/app:v1")
    assert _layers(failed.value) == [("login", None)]
    assert GOOD not in failed.value.message
    assert _asked(hub) == ["GET /token"]


@pytest.mark.parametrize(
    "auth_url",
    ["http://auth.example/token", "https://u:p@auth.example/token", "ftp://x", "nowhere"],
)
def test_an_address_that_may_not_have_the_credential_is_refused(
    hub: DockerHubStandIn, verifier: RegistryVerifier, auth_url: str
) -> None:
    """The configuration is wrong; nothing is sent."""
    with pytest.raises(Misconfigured, match=r"dockerhub\.auth_url|loopback only"):
        _check(HubVerifier(verifier.wire, auth_url=auth_url), hub)
    assert hub.requests == []


def test_a_user_name_with_a_colon_is_refused(hub: DockerHubStandIn, checker: HubVerifier) -> None:
    """Nothing is sent."""
    with pytest.raises(InvalidCredential, match="colon"):
        _check(checker, hub, username="us:er")
    assert hub.requests == []


def test_what_it_repeats_of_the_credential_is_not_shown(
    hub: DockerHubStandIn, checker: HubVerifier
) -> None:
    """Neither in the message nor in a layer."""
    hub.fail(Response.json({"details": f"no such token: {GOOD}"}, 401))
    with pytest.raises(Unauthorized, match=r"no such token: \*\*\*") as failed:
        _check(checker, hub)
    assert all(GOOD not in layer.words for layer in failed.value.layers)


# One user, one check at a time


class Slow(DockerHubStandIn):
    """Its token service waits until a test lets it answer, and counts who waits."""

    def __init__(self) -> None:
        super().__init__({("user", GOOD): Login.GOOD, ("org", OAT): Login.GOOD})
        self.asked = threading.Semaphore(0)
        self.let_go = threading.Event()

    def refused_login(self, username: str, password: str) -> Response | None:
        self.asked.release()
        self.let_go.wait(5)
        return super().refused_login(username, password)


@pytest.fixture
def slow() -> Iterator[Slow]:
    """Docker Hub that is slow to answer."""
    with Slow() as slow:
        yield slow
        slow.let_go.set()


def test_the_checks_of_a_user_come_one_after_another(
    slow: Slow, verifier: RegistryVerifier
) -> None:
    """A second one of the user waits; another user's does not."""
    checker = HubVerifier(verifier.wire, auth_url=slow.auth_url)
    proofs: list[Proof] = []

    def check(username: str, secret: str) -> None:
        proofs.append(_check(checker, slow, None, secret, username))

    users = [("user", GOOD), ("User", GOOD), ("org", OAT)]
    slow.logins["User", GOOD] = Login.GOOD
    threads = [threading.Thread(target=check, args=user) for user in users]
    for thread in threads:
        thread.start()
    assert slow.asked.acquire(timeout=2)
    assert slow.asked.acquire(timeout=2)
    assert not slow.asked.acquire(timeout=0.05)
    slow.let_go.set()
    for thread in threads:
        thread.join()
    assert len(proofs) == 3


def test_a_check_does_not_wait_for_ever(slow: Slow, verifier: RegistryVerifier) -> None:
    """For as long as one call may take; nothing is sent."""
    checker = HubVerifier(verifier.wire, auth_url=slow.auth_url)
    with checker._turn("user"), pytest.raises(TimedOut, match="another check of Docker Hub user"):
        _check(checker, slow)
    assert slow.requests == []


# What a token tells


def _jwt(claims: object) -> SecretValue:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return SecretValue(f"header.{payload}.signature")


@pytest.mark.parametrize(
    ("token", "granted"),
    [
        (_jwt({"access": [{"type": "repository", "name": "a/b", "actions": ["pull"]}]}), True),
        (_jwt({"access": [{"name": "a/b", "actions": ["*"]}]}), True),
        (_jwt({"access": [{"name": "a/c", "actions": ["pull"]}]}), False),
        (_jwt({"access": [{"name": "a/b", "actions": []}]}), False),
        (_jwt({"access": [{"name": "a/b"}, "a/b", None]}), False),
        (_jwt({"access": []}), False),
        (_jwt({"access": None}), False),
        (_jwt({"access": "all"}), None),
        (_jwt({"sub": "user"}), None),
        (_jwt(["access"]), None),
        (SecretValue("opaque"), None),
        (SecretValue("a.b.c"), None),
        (SecretValue("a.%%%.c"), None),
        (SecretValue("a.é.c"), None),
    ],
)
def test_a_token_tells_what_it_is_for_or_nothing(token: SecretValue, granted: bool | None) -> None:
    """An empty list grants nothing; no list says nothing."""
    assert may_pull(token, "a/b") is granted


def test_a_token_that_tells_nothing_is_tried(verifier: RegistryVerifier) -> None:
    """The manifest decides."""

    class Opaque(DockerHubStandIn):
        def handle(self, request: Request) -> Response:
            if request.path == "/token":
                return Response.json({"token": "opaque"})
            return Response()

    with Opaque(LOGINS, IMAGES) as hub:
        proof = _check(HubVerifier(verifier.wire, auth_url=hub.auth_url), hub, "user/app:v1")
    assert proof.pull is Pull.OK
    assert _layers(proof) == [("login", True), ("access", None), ("pull", True)]


@pytest.mark.parametrize(
    ("headers", "status", "quota"),
    [
        ({"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}, 200, (76, 100)),
        ({"ratelimit-limit": "100", "ratelimit-remaining": "0"}, 200, (0, 100)),
        ({}, 200, (None, None)),
        ({}, 429, (0, None)),
        ({"ratelimit-limit": "many", "ratelimit-remaining": "-1"}, 200, (None, None)),
        ({"ratelimit-limit": "9" * 5000}, 200, (None, None)),
    ],
)
def test_the_pull_limit_is_read_off_the_headers(
    headers: dict[str, str], status: int, quota: tuple[int | None, int | None]
) -> None:
    """Absent means unlimited; nonsense is nothing."""
    assert quota_of(httpx.Headers(headers), status) == Quota(*quota)


def test_its_registry_may_not_be_reached_over_plain_http(
    hub: DockerHubStandIn, checker: HubVerifier
) -> None:
    """Nothing is sent, not even to the token service."""
    registry = RegistryRef(HOST, "http://hub.example")
    with pytest.raises(Misconfigured, match="loopback only"):
        checker.verify(registry, credential(GOOD, "user"), ImageRef("user/app", "v1"))
    assert hub.requests == []
