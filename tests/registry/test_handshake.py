"""Logging in, and asking for an image."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from refresher.clock import ManualClock, Skews
from refresher.errors import (
    Failure,
    Forbidden,
    InvalidCredential,
    InvalidResponse,
    Misconfigured,
    Throttled,
    TimedOut,
    Unauthorized,
    Unavailable,
)
from refresher.model import ImageRef, Pull, RegistryRef
from refresher.registry import RegistryVerifier, parse_image
from refresher.sandbox.http import Fault, Request, Response, StandIn
from refresher.sandbox.registry import FLAVOURS, BearerRegistryStandIn, RegistryStandIn
from tests.conftest import NOON
from tests.registry.conftest import ECR_HOST, at, credential, judge_of

PASSWORDS = {"good": "good", "old": "expired", "gone": "revoked"}


@pytest.fixture
def ecr() -> Iterator[RegistryStandIn]:
    """A registry in the manner of ECR with one image."""
    with RegistryStandIn(ECR_HOST, judge_of(PASSWORDS), {"team/app": ["v1"]}) as registry:
        yield registry


def _paths(stand_in: StandIn) -> list[str]:
    return [f"{request.method} {request.path}" for request in stand_in.requests]


# ECR


def test_ecr_is_asked_once_and_with_the_credential(
    ecr: RegistryStandIn, verifier: RegistryVerifier
) -> None:
    """Its challenge is known, so the login proof costs one call."""
    proof = verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
    assert (proof.verified_at, proof.pull) == (NOON, None)
    assert _paths(ecr) == ["GET /v2/"]


@pytest.mark.parametrize(
    ("password", "words"),
    [
        ("other", "HTTP 401): Not Authorized"),
        ("old", "HTTP 403): Your authorization token has expired. Reauthenticate and try again."),
        ("gone", "HTTP 403): The security token included in the request is invalid"),
    ],
)
def test_a_dead_ecr_password_is_unauthorized(
    ecr: RegistryStandIn, verifier: RegistryVerifier, password: str, words: str
) -> None:
    """Wrong, expired and revoked, each with the registry's own words."""
    with pytest.raises(Unauthorized) as failed:
        verifier.verify(at(ecr, ECR_HOST), credential(password), None)
    assert words in failed.value.message


@pytest.mark.parametrize(
    ("image", "pull", "words"),
    [
        ("team/app:v1", Pull.OK, None),
        ("team/app:v2", Pull.NOT_FOUND, "Requested image not found"),
        ("team/other:v1", Pull.NOT_FOUND, "does not exist"),
        ("team/closed:v1", Pull.FORBIDDEN, "not authorized to perform: ecr:BatchGetImage"),
    ],
)
def test_the_pull_proof_is_told_apart_from_the_login(
    ecr: RegistryStandIn, verifier: RegistryVerifier, image: str, pull: Pull, words: str | None
) -> None:
    """A missing pull proof is in the answer, not an error."""
    ecr.forbid("team/closed")
    reference = parse_image(image, ECR_HOST)
    proof = verifier.verify(at(ecr, ECR_HOST), credential("good"), reference)
    assert proof.pull is pull
    assert (proof.pull_message is None) if words is None else (words in (proof.pull_message or ""))


def test_a_credential_that_dies_between_login_and_pull_is_unauthorized(
    verifier: RegistryVerifier,
) -> None:
    """The manifest's answer shows it, so there is no proof."""
    verdicts = iter(["good", "expired"])
    with (
        RegistryStandIn(ECR_HOST, lambda _: next(verdicts), {"app": ["v1"]}) as registry,
        pytest.raises(Unauthorized, match="expired"),
    ):
        verifier.verify(at(registry, ECR_HOST), credential("any"), ImageRef("app", "v1"))


def test_a_failing_pull_leaves_the_login_proved(verifier: RegistryVerifier) -> None:
    """Throttled at the manifest only: nothing is known of the pull."""

    class ThrottledPulls(RegistryStandIn):
        def handle(self, request: Request) -> Response:
            return Response(429) if "/manifests/" in request.path else super().handle(request)

    with ThrottledPulls(ECR_HOST, judge_of(PASSWORDS)) as registry:
        proof = verifier.verify(
            at(registry, ECR_HOST), credential("good"), ImageRef("team/app", "v1")
        )
    assert proof.pull is Pull.UNKNOWN
    assert "HTTP 429" in (proof.pull_message or "")


# Basic and Bearer elsewhere


def test_another_basic_registry_is_asked_for_its_challenge_first(
    verifier: RegistryVerifier,
) -> None:
    """A credential goes only to a registry that asks for one."""
    with RegistryStandIn("registry.example", judge_of(PASSWORDS)) as registry:
        verifier.verify(at(registry, "registry.example"), credential("good"), None)
        sent = ["Authorization" in request.headers for request in registry.requests]
    assert sent == [False, True]


HOSTS = {"hub-like": "registry-1.docker.io", "ghcr": "ghcr.io", "quay": "quay.io"}
#: What each of them says of a wrong login (facts of the registries' users).
WRONG_WORDS = {
    "generic": "HTTP 401): authentication required",
    "ghcr": "HTTP 403): denied",
    "gar": "HTTP 401): authentication failed",
    "hub-like": "HTTP 401): incorrect username or password",
    "quay": "HTTP 401): Could not find robot with username",
    "acr": "HTTP 401): Invalid clientid or client secret",
    "gitlab": "HTTP 401): HTTP Basic: Access denied",
    "harbor": "HTTP 401): Unauthorized",
}


@pytest.fixture(params=list(FLAVOURS))
def bearer(request: pytest.FixtureRequest) -> Iterator[BearerRegistryStandIn]:
    """A registry with a token service, of each flavour."""
    host = HOSTS.get(request.param, "registry.example")
    with BearerRegistryStandIn(
        host, {"user": "pä:ss"}, {"team/app": ["v1"]}, flavour=request.param
    ) as registry:
        yield registry


def _verify(
    verifier: RegistryVerifier, registry: BearerRegistryStandIn, password: str, image: str | None
) -> Pull | None:
    reference = None if image is None else parse_image(image, registry.host)
    return verifier.verify(
        at(registry, registry.host), credential(password, "user"), reference
    ).pull


def test_a_good_login_at_a_token_service_pulls(
    bearer: BearerRegistryStandIn, verifier: RegistryVerifier
) -> None:
    """The login comes alone, then the scope; Docker Hub's manifests are not fetched with GET."""
    assert _verify(verifier, bearer, "pä:ss", "team/app:v1") is Pull.OK
    method = "HEAD" if bearer.flavour.name == "hub-like" else "GET"
    assert _paths(bearer) == [
        "GET /v2/",
        f"GET {bearer.flavour.token_path}",
        f"GET {bearer.flavour.token_path}",
        f"{method} /v2/team/app/manifests/v1",
    ]
    assert "scope" not in bearer.requests[1].params
    assert bearer.requests[2].params["scope"] == ["repository:team/app:pull"]


@pytest.mark.parametrize("image", [None, "team/app:v1"])
def test_a_wrong_login_is_judged_at_the_token_service(
    bearer: BearerRegistryStandIn, verifier: RegistryVerifier, image: str | None
) -> None:
    """With its own words. An anonymous token would pass on /v2/, so that is not asked; nor is the
    scope, for which Harbor would give one."""
    with pytest.raises(Unauthorized, match="token service") as failed:
        _verify(verifier, bearer, "wrong", image)
    assert WRONG_WORDS[bearer.flavour.name] in failed.value.message
    assert [(layer.name, layer.ok) for layer in failed.value.layers] == [
        ("challenge", True),
        ("login", False),
    ]
    assert failed.value.layers[-1].words == failed.value.message


def test_a_login_without_an_image_is_one_token(
    bearer: BearerRegistryStandIn, verifier: RegistryVerifier
) -> None:
    """No scope, no manifest."""
    assert _verify(verifier, bearer, "pä:ss", None) is None
    assert _paths(bearer) == ["GET /v2/", f"GET {bearer.flavour.token_path}"]
    assert "scope" not in bearer.requests[1].params


def test_a_login_that_may_not_pull_is_proved_and_forbidden(
    bearer: BearerRegistryStandIn, verifier: RegistryVerifier
) -> None:
    """Whether the registry says 401 or 403 to the token."""
    bearer.forbid("team/app")
    assert _verify(verifier, bearer, "pä:ss", "team/app:v1") is Pull.FORBIDDEN


def test_a_missing_image_is_not_found_or_hidden(
    bearer: BearerRegistryStandIn, verifier: RegistryVerifier
) -> None:
    """Registries that hide what a login may not see answer as for no permission."""
    expected = Pull.FORBIDDEN if bearer.flavour.hides else Pull.NOT_FOUND
    assert _verify(verifier, bearer, "pä:ss", "team/none:v1") is expected


class Scripted(StandIn):
    """Answers by path; the answers of `tokens` come in order, the last one again and again."""

    def __init__(self, challenge: str = "", **answers: Response) -> None:
        super().__init__()
        self.challenge = challenge
        self.answers = answers
        self.tokens: list[Response] = []

    def handle(self, request: Request) -> Response:
        if request.path == "/token":
            return self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
        if "/manifests/" in request.path:
            return self.answers["manifest"]
        if "Authorization" in request.headers and "login" in self.answers:
            return self.answers["login"]
        challenge = self.challenge.replace("URL", self.url)
        return Response(401, b"", {"WWW-Authenticate": challenge})


TOKEN = Response.json({"token": "t0ken-0123456789"})
BEARER = 'Bearer realm="URL/token",service="s"'


@pytest.mark.parametrize("image", [None, ImageRef("team/app", "v1")])
def test_a_403_about_the_repository_is_no_wrong_login(
    verifier: RegistryVerifier, image: ImageRef | None
) -> None:
    """The login alone has proved it by then."""
    with Scripted(BEARER) as registry:
        denied = {"errors": [{"message": "requested access to the resource is denied"}]}
        registry.tokens = [TOKEN, Response.json(denied, 403)]
        proof = verifier.verify(at(registry, "ghcr.io"), credential("p"), image)
    assert proof.pull is (Pull.FORBIDDEN if image else None)


@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [
        (Response.json({}), InvalidResponse, "gave no token"),
        (Response.json({"token": 5}), InvalidResponse, "gave no token"),
        (Response.json({"token": "a b\r\nX: y"}), InvalidResponse, "gave no token"),
        (Response(200, b"<html>"), InvalidResponse, "gave no token"),
        (Response(200, b"[" * 60000), InvalidResponse, "gave no token"),
        (Response(200, b" " * 10_000_000), InvalidResponse, "more than 64 KiB"),
        (Response(302, b"", {"Location": "https://evil.example/?t=1"}), InvalidResponse, "evil"),
        (Response(503), Unavailable, "HTTP 503"),
        (Response(429, b"", {"Retry-After": "60"}), Throttled, "nothing about the credential"),
        (Response.json({"details": "personal access token is expired"}, 401), Unauthorized, "is"),
    ],
)
def test_each_answer_of_a_token_service_has_its_reason(
    verifier: RegistryVerifier, answer: Response, failure: type[Failure], words: str
) -> None:
    """None of them is taken for a login."""
    with Scripted(BEARER) as registry:
        registry.tokens = [answer]
        with pytest.raises(failure, match=words):
            verifier.verify(at(registry, "registry.example"), credential("p"), None)


def test_the_challenges_scope_and_service_come_along(verifier: RegistryVerifier) -> None:
    """ECR Public wants the scope that it names, and a realm may hold a query of its own."""
    challenge = 'Bearer realm="URL/token?a=b",service="public.ecr.aws",scope="aws"'
    with Scripted(challenge, login=Response.json({}), manifest=Response.json({})) as registry:
        registry.tokens = [Response.json({"access_token": "opaque"})]
        proof = verifier.verify(
            at(registry, "public.ecr.aws"), credential("p"), ImageRef("team/app", "v1")
        )
        asked = [r.params for r in registry.requests if r.path == "/token"]
    login = {"a": ["b"], "service": ["public.ecr.aws"], "scope": ["aws"]}
    assert proof.pull is Pull.OK
    assert asked == [login, {**login, "scope": ["aws", "repository:team/app:pull"]}]


def test_ecr_public_judges_a_token_where_it_is_used(verifier: RegistryVerifier) -> None:
    """400 on /v2/ is its answer to an expired one."""
    with Scripted(BEARER, login=Response(400)) as registry:
        registry.tokens = [TOKEN]
        with pytest.raises(Unauthorized, match="HTTP 400"):
            verifier.verify(at(registry, "public.ecr.aws"), credential("p"), None)


def test_bearer_is_preferred_to_basic(verifier: RegistryVerifier) -> None:
    """A registry that offers both is logged in to by token, as Docker does it."""
    with Scripted(f'Basic realm="x", {BEARER}') as registry:
        registry.tokens = [TOKEN]
        verifier.verify(at(registry, "registry.example"), credential("p"), None)
        assert _paths(registry) == ["GET /v2/", "GET /token"]


@pytest.mark.parametrize(
    "challenge",
    [
        'Bearer realm="https://10.1.2.3/token"',
        'Bearer realm="http://auth.example/token"',
        'Bearer realm="https://u:p@auth.example/token"',
        "Bearer",
        'Negotiate, Digest realm="x"',
        "",
    ],
)
def test_a_challenge_that_leads_astray_gets_no_credential(
    verifier: RegistryVerifier, challenge: str
) -> None:
    """The registry answered, and not as one should."""
    with Scripted(challenge) as registry:
        with pytest.raises(InvalidResponse):
            verifier.verify(at(registry, "registry.example"), credential("p"), None)
        assert len(registry.requests) == 1


# Answers before any login


@pytest.mark.parametrize(
    ("answer", "failure", "words"),
    [
        (Response.json({}), InvalidResponse, "asks for no login"),
        (Response(404), InvalidResponse, "is that a registry"),
        (Response(403, b"has expired", {"Content-Type": "text/plain"}), InvalidResponse, "403"),
        (Response(301, b"", {"Location": "https://new.example/v2/"}), InvalidResponse, "new.exa"),
        (Response(308, b"", {"Location": "https://xn--/"}), InvalidResponse, "elsewhere"),
        (Response(307), InvalidResponse, "redirects to elsewhere"),
        (Response(429, b"", {"Retry-After": "30"}), Throttled, "nothing about the credential"),
        (Response(502), Unavailable, "HTTP 502"),
    ],
)
def test_an_answer_before_any_login_judges_nothing(
    ecr: RegistryStandIn,
    verifier: RegistryVerifier,
    answer: Response,
    failure: type[Failure],
    words: str,
) -> None:
    """No credential was sent, so none is proved and none is refused."""
    ecr.fail(answer)
    with pytest.raises(failure, match=words):
        verifier.verify(at(ecr, "registry.example"), credential("good"), None)
    assert all("Authorization" not in request.headers for request in ecr.requests)


def test_the_wait_that_a_registry_asks_for_comes_along(
    ecr: RegistryStandIn, verifier: RegistryVerifier
) -> None:
    """The policy needs it."""
    ecr.fail(Response(429, b"", {"Retry-After": "30"}))
    with pytest.raises(Throttled) as failed:
        verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
    assert failed.value.retry_after == timedelta(seconds=30)


# Layers


@pytest.mark.parametrize(
    ("image", "layers"),
    [
        (None, [("challenge", True), ("login", True)]),
        ("team/app:v1", [("challenge", True), ("login", True), ("pull", True)]),
        ("team/closed:v1", [("challenge", True), ("login", True), ("pull", False)]),
    ],
)
def test_a_proof_names_its_layers(
    bearer: BearerRegistryStandIn,
    verifier: RegistryVerifier,
    image: str | None,
    layers: list[tuple[str, bool]],
) -> None:
    """Each with words; those of a pull that failed are the proof's own."""
    bearer.forbid("team/closed")
    reference = None if image is None else parse_image(image, bearer.host)
    proof = verifier.verify(at(bearer, bearer.host), credential("pä:ss", "user"), reference)
    assert [(layer.name, layer.ok) for layer in proof.layers] == layers
    assert all(layer.words for layer in proof.layers)
    assert proof.pull_message is None or proof.pull_message == proof.layers[-1].words


def test_a_layer_that_nobody_could_judge_is_unknown(
    ecr: RegistryStandIn, verifier: RegistryVerifier
) -> None:
    """A registry that is out of order says nothing of the login."""
    ecr.fail(Response(503))
    with pytest.raises(Unavailable) as failed:
        verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
    assert [(layer.name, layer.ok) for layer in failed.value.layers] == [("login", None)]


# A token service that leads astray


class Astray(BearerRegistryStandIn):
    """Its token service does what a test says."""

    def __init__(self, trouble: Fault | Response) -> None:
        super().__init__("registry.example", {})
        self.trouble = trouble

    def answer(self, request: Request) -> Fault | Response:
        answer = super().answer(request)
        return self.trouble if request.path == self.flavour.token_path else answer


SECRET = "a-long-password-of-somebody"


@pytest.mark.parametrize(
    ("trouble", "failure", "words"),
    [
        pytest.param(Fault.drip(0.05), TimedOut, "did not answer within", id="never ends"),
        pytest.param(Fault.hang(), TimedOut, "did not answer", id="never answers"),
        pytest.param(
            Response(307, b"", {"Location": "/token?again"}),
            InvalidResponse,
            "redirects",
            id="loop",
        ),
        pytest.param(
            Response(200, b'{"token": "' + b"a" * 10_000_000 + b'"}'),
            InvalidResponse,
            "more than 64 KiB",
            id="10 MB",
        ),
        pytest.param(Response(200, b"<html>"), InvalidResponse, "gave no token", id="not JSON"),
    ],
)
def test_a_token_service_that_leads_astray_gets_one_call(
    verifier: RegistryVerifier, trouble: Fault | Response, failure: type[Failure], words: str
) -> None:
    """One reason, no second try, nothing leaked."""
    with Astray(trouble) as registry:
        with pytest.raises(failure, match=words) as failed:
            verifier.verify(at(registry, registry.host), credential(SECRET), ImageRef("a", "b"))
        assert _paths(registry) == ["GET /v2/", "GET /token"]
    assert SECRET not in failed.value.message


# What is not sent, not kept and not said


@pytest.mark.parametrize("username", ["", "a:b"])
def test_a_user_name_that_basic_cannot_carry_is_refused(
    ecr: RegistryStandIn, verifier: RegistryVerifier, username: str
) -> None:
    """Nothing is sent."""
    with pytest.raises(InvalidCredential):
        verifier.verify(at(ecr, ECR_HOST), credential("good", username), None)
    assert ecr.requests == []


def test_plain_http_beyond_loopback_is_refused(verifier: RegistryVerifier) -> None:
    """The configuration is wrong; nothing is sent."""
    with pytest.raises(Misconfigured, match="loopback only"):
        verifier.verify(RegistryRef("h", "http://h.example"), credential("good"), None)


def test_what_a_registry_repeats_of_the_credential_is_not_shown(
    ecr: RegistryStandIn, verifier: RegistryVerifier
) -> None:
    """Neither the password nor the header it travels in."""
    password = "a-long-password-of-somebody"
    header = "QVdTOmEtbG9uZy1wYXNzd29yZC1vZi1zb21lYm9keQ=="
    ecr.fail(Response.json({"message": f"bad: {password}, Basic {header}"}, 401))
    with pytest.raises(Unauthorized) as failed:
        verifier.verify(at(ecr, ECR_HOST), credential(password), None)
    assert failed.value.message.endswith("(HTTP 401): bad: ***, Basic ***==")
    assert failed.value.__cause__ is None


def test_what_a_registry_repeats_of_a_token_is_not_shown(verifier: RegistryVerifier) -> None:
    """A bearer token is a credential, too."""
    echo = Response.json({"message": "no access for t0ken-0123456789"}, 403)
    with Scripted(BEARER, manifest=echo) as registry:
        registry.tokens = [TOKEN]
        proof = verifier.verify(
            at(registry, "registry.example"), credential("p"), ImageRef("app", "v1")
        )
    assert (proof.pull_message or "").endswith("no access for ***")


def test_a_cookie_is_not_kept(ecr: RegistryStandIn, verifier: RegistryVerifier) -> None:
    """A session of an earlier login would let a wrong password pass."""
    ecr.fail(Response.json({}, headers={"Set-Cookie": "sid=1; Path=/"}), times=1)
    verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
    verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
    assert all("Cookie" not in request.headers for request in ecr.requests)


def test_the_environment_adds_no_credential_and_no_proxy_on_loopback(
    ecr: RegistryStandIn,
    clock: ManualClock,
    skews: Skews,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A netrc is not read, and plain HTTP does not go through a proxy."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login AWS password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    with RegistryVerifier(clock=clock, skews=skews) as verifier:
        verifier.verify(at(ecr, "registry.example"), credential("good"), None)
    assert ecr.requests[0].headers["Authorization"] is None


def test_the_registrys_clock_is_noted(
    ecr: RegistryStandIn, verifier: RegistryVerifier, skews: Skews
) -> None:
    """Under the name that a person knows it by."""
    ecr.fail(Response(401, b"", {"Date": "Mon, 23 Nov 2026 12:01:30 GMT"}))
    with pytest.raises(Unauthorized):
        verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
    assert set(skews.seconds()) == {ECR_HOST}


def test_many_threads_share_one_verifier(ecr: RegistryStandIn, verifier: RegistryVerifier) -> None:
    """Good and bad passwords at once; none gets another's answer."""
    wrong: list[str] = []

    def check(password: str) -> None:
        try:
            verifier.verify(at(ecr, ECR_HOST), credential(password), None)
        except Unauthorized:
            accepted = False
        else:
            accepted = True
        if accepted is not (password == "good"):
            wrong.append(password)

    threads = [threading.Thread(target=check, args=(word,)) for word in ["good", "old"] * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_forbidden_at_login_is_forbidden(ecr: RegistryStandIn, verifier: RegistryVerifier) -> None:
    """A credential that is good for nothing there is not called dead."""
    ecr.fail(Response.json({"errors": [{"code": "DENIED", "message": "not for you"}]}, 403))
    with pytest.raises(Forbidden, match="not for you"):
        verifier.verify(at(ecr, ECR_HOST), credential("good"), None)
