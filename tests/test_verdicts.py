"""Each way in which a credential is good, bad or cannot be judged, and what a person then reads.

One pass of `once` over all cases and a daemon that is asked for its `status`, both real processes
with the sandbox's stand-ins around them. A case with `spoil` was good first and is passed again.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import httpx
import pytest

from refresher.cli import main
from refresher.sandbox.dockerhub import DockerHubStandIn, Login
from refresher.sandbox.google import GarStandIn, GoogleStandIn
from refresher.sandbox.http import Fault, Request, Response, StandIn
from refresher.sandbox.registry import (
    BearerRegistryStandIn,
    basic_login,
    digest_of,
    error,
    minimal_image,
)
from refresher.sandbox.world import GAR_HOST, OCI_HOST, toml_table
from tests.awsenv import OffsetClock
from tests.world import World

Keys = dict[str, object]
DIGEST = digest_of(minimal_image().manifest)
IMAGES = {"org/app": ["1"], "org/private": ["1"]}
ODD_HOST = "registry.example.com"

#: Answers of a token service that are none.
ENORMOUS = Fault.enormous(10 * 1024 * 1024)
ENDLESS = Fault.drip()
NOT_JSON = Response(200, b"<html>sign in</html>", {"Content-Type": "text/html"})
#: Fails for as long as nobody mends it, not again and again while the test looks.
POLICY = {"retry_first": "10m", "retry_cap": "10m", "retry_cap_urgent": "10m"}


# --- stand-ins ---------------------------------------------------------------------------------


class Hub(DockerHubStandIn):
    """Docker Hub with odd answers for some users."""

    def __init__(self) -> None:
        super().__init__({}, IMAGES)
        self.odd: dict[str, Fault | Response] = {}
        self.forbid("org/private")

    def answer(self, request: Request) -> Fault | Response:
        login = basic_login(request)
        if login is not None and login[0] in self.odd:
            return self.odd[login[0]]
        return super().answer(request)

    def logins_of(self, username: str) -> int:
        """How often the user tried to log in."""
        logins = (basic_login(request) for request in self.requests)
        return sum(login is not None and login[0] == username for login in logins)


class OddTokens(BearerRegistryStandIn):
    """A registry whose token service has one answer for all."""

    def __init__(self, odd: Fault | Response) -> None:
        super().__init__(ODD_HOST, {}, IMAGES)
        self.odd = odd

    def answer(self, request: Request) -> Fault | Response:
        return self.odd if request.path == self.flavour.token_path else super().answer(request)


class Redirecting(StandIn):
    """Sends whoever comes round in a circle."""

    def handle(self, request: Request) -> Response:
        return Response(302, headers={"Location": f"{self.url}{request.path}"})


class Place:
    """The peers of all cases, and the values that may show up nowhere."""

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.world = world
        self.start = stack.enter_context
        self.hub = self.start(Hub())
        self.google = self.start(GoogleStandIn())
        self.late_google = self.start(GoogleStandIn(clock=OffsetClock(timedelta(hours=2))))
        self.gar = self.start(GarStandIn(self.google.judge, IMAGES))
        self.gar.forbid("org/private")
        self.ghcr = self.start(BearerRegistryStandIn(OCI_HOST, {}, IMAGES, "ghcr"))
        self.ghcr.forbid("org/private")
        #: Token services that keys may name besides `google`.
        self.token_uris = [self.google.token_uri, self.late_google.token_uri]
        self.traces: set[str] = set()

    def keep(self, name: str, value: str) -> dict[str, str]:
        """Where the credential of a case is kept: a reference to it."""
        variable = f"VALUE_{name.upper().replace('-', '_')}"
        self.world.extra[variable] = value
        self.traces |= {line for line in value.splitlines() if len(line) >= 16}
        self.traces |= {base64.b64encode(value.encode()).decode()[:64]}
        self.traces |= {base64.b64encode(f"{name}:{value}".encode()).decode()[-40:]}
        return {"env": variable}

    def value(self, name: str) -> str:
        """The credential of a case."""
        return str(self.world.extra[f"VALUE_{name.upper().replace('-', '_')}"])

    def token(self, name: str) -> dict[str, str]:
        return self.keep(name, f"canary-{secrets.token_urlsafe(20)}")


# --- kinds of targets --------------------------------------------------------------------------

Make = Callable[[Place, str], Keys]


def hub(
    login: Login | None = Login.GOOD,
    *,
    image: str | None = None,
    odd: Fault | Response | None = None,
    locked: bool = False,
    **more: object,
) -> Make:
    """A Docker Hub user of the case's name; None for one that does not exist."""

    def make(place: Place, name: str) -> Keys:
        password = place.token(name)
        if login is not None:
            place.hub.logins[name, place.value(name)] = login
        if odd is not None:
            place.hub.odd[name] = odd
        for _ in range(5 if locked else 0):
            place.hub.refused_login(name, "of somebody else")
        peers = {"source": "dockerhub", "registry_url": place.hub.url}
        return {**peers, "username": name, "password": password, **_image(image), **more}

    return make


def oci(
    *,
    known: bool = True,
    image: str | None = None,
    text: str | None = None,
    **more: object,
) -> Make:
    """A user of the registry in the manner of GHCR, called like the case."""

    def make(place: Place, name: str) -> Keys:
        password = place.token(name) if text is None else place.keep(name, text)
        if known:
            place.ghcr.accounts[name] = place.value(name)
        peers = {"source": "oci", "registry": OCI_HOST, "registry_url": place.ghcr.url}
        return {**peers, "username": name, "password": password, **_image(image), **more}

    return make


def odd_registry(start: Callable[[Place, str], StandIn]) -> Make:
    """A user of a registry of the case's own."""

    def make(place: Place, name: str) -> Keys:
        password = place.token(name)
        peers = {"source": "oci", "registry": ODD_HOST, "registry_url": start(place, name).url}
        return {**peers, "username": name, "password": password}

    return make


def tokens(odd: Fault | Response) -> Make:
    return odd_registry(lambda place, _name: place.start(OddTokens(odd)))


def realm(address: str) -> Make:
    """A registry that sends to a token service elsewhere."""

    def start(place: Place, _name: str) -> StandIn:
        registry = place.start(BearerRegistryStandIn(ODD_HOST, {}, IMAGES))
        registry.realm = address.replace("OTHER", f"127.0.0.1:{place.hub.port}")
        return registry

    return odd_registry(start)


def repeating(place: Place, name: str) -> StandIn:
    """A registry whose token service repeats the credential in what it says."""
    words = f"no user with {place.value(name)} here"
    return place.start(OddTokens(error(401, "UNAUTHORIZED", words)))


Key = dict[str, str]


def gar(
    arrange: Callable[[Place, Key], object] = lambda _place, _key: None,
    *,
    image: str | None = None,
    text: Callable[[Key], str] = json.dumps,
    **more: object,
) -> Make:
    """A key of an account that is called like the case; `text`: what is in its file."""

    def make(place: Place, name: str) -> Keys:
        email = f"{name}@sandbox.iam.gserviceaccount.com"
        place.google.add_account(email)
        key = place.google.add_key(email)
        arrange(place, key)
        place.traces |= set(key["private_key"].splitlines()[2:6])
        peers = {"source": "gar", "registry": GAR_HOST, "registry_url": place.gar.url}
        return {**peers, "key": place.keep(name, text(key)), **_image(image), **more}

    return make


def _image(image: str | None) -> Keys:
    return {} if image is None else {"image": image}


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _deleted(place: Place, key: Key) -> None:
    place.google.delete_key(key["client_email"], key["private_key_id"])


def _expired(place: Place, key: Key) -> None:
    end = datetime.now(UTC) - timedelta(days=1)
    place.google.expire_key(key["client_email"], key["private_key_id"], end)


def _new(place: Place, key: Key) -> None:
    """Another key of the account, which Google's token service does not know yet."""
    place.google.propagation = timedelta(minutes=7)
    key.update(place.google.add_key(key["client_email"]))
    place.google.propagation = timedelta(0)


def _at_late_google(place: Place, key: Key) -> None:
    """Our clock is two hours behind that Google's."""
    place.late_google.add_account(key["client_email"])
    key.update(place.late_google.add_key(key["client_email"]))


def _service(trouble: Fault | Response) -> Callable[[Place, Key], None]:
    """A token service in trouble."""

    def arrange(place: Place, key: Key) -> None:
        google = place.start(GoogleStandIn())
        google.fail(trouble)
        place.token_uris.append(google.token_uri)
        key["token_uri"] = google.token_uri

    return arrange


# --- cases -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """One credential, and what is to be seen of it."""

    name: str
    make: Make
    #: In the failure's message, else in what the last layer said.
    words: str
    #: `stage/reason` of the failure; None where there is none.
    failure: str | None = None
    valid: bool | None = None
    source_value: str | None = None
    image_pullable: bool | None = None
    #: Makes bad what was published before.
    spoil: Callable[[Place, str], object] | None = field(default=None, repr=False)

    @property
    def secret(self) -> str:
        return self.name.upper().replace("-", "_")

    @property
    def published(self) -> bool:
        return self.failure is None or self.spoil is not None


def good(name: str, make: Make, words: str, *, pullable: bool | None = None) -> Case:
    """The login is good, so it is published."""
    return Case(name, make, words, None, True, "ok", pullable)


def bad(name: str, make: Make, failure: str, words: str) -> Case:
    """It never was published."""
    value = "rejected" if failure == "verify/unauthorized" else None
    return Case(name, make, words, failure, None, value)


def spoilt(
    name: str, make: Make, spoil: Callable[[Place, str], object], failure: str, words: str
) -> Case:
    """It was good and published; only a refusal says that it is not valid any more."""
    refused = failure == "verify/unauthorized"
    value = "rejected" if refused else "ok"
    return Case(name, make, words, failure, not refused, value, spoil=spoil)


def _set_login(login: Login) -> Callable[[Place, str], None]:
    def spoil(place: Place, name: str) -> None:
        place.hub.logins[name, place.value(name)] = login

    return spoil


def _lock(place: Place, name: str) -> None:
    for _ in range(5):
        place.hub.refused_login(name, "of somebody else")


def _email(name: str) -> str:
    return f"{name}@sandbox.iam.gserviceaccount.com"


def _delete_key(place: Place, name: str) -> None:
    _deleted(place, json.loads(place.value(name)))


REFUSED, UNCLEAR = "verify/unauthorized", "verify/invalid_response"
MALFORMED, ELSEWHERE = "source/invalid_credential", "source/config"

DOCKER_HUB = [
    good("hub-good", hub(), "accepted the login"),
    good("hub-good-image", hub(image="org/app:1"), "image org/app:1 is there", pullable=True),
    good("hub-no-access", hub(image="org/private:1"), "may not pull this", pullable=False),
    good("hub-no-image", hub(image="org/none:1"), "may not pull this", pullable=False),
    bad("hub-wrong", hub(None), REFUSED, "incorrect username or password; the token was deleted"),
    bad("hub-disabled", hub(Login.DISABLED), REFUSED, "was deleted or deactivated"),
    bad("hub-expired", hub(Login.EXPIRED), REFUSED, "token is expired; make a new token"),
    bad("hub-org-expired", hub(Login.ORG_EXPIRED), REFUSED, "org access token is expired; make"),
    bad("hub-sso", hub(Login.SSO_REQUIRED), REFUSED, "make a personal access token instead"),
    bad("hub-locked", hub(locked=True), "verify/throttled", "something else logs in as this user"),
    bad("hub-enormous", hub(odd=ENORMOUS), UNCLEAR, "sent more than 64 KiB"),
    bad("hub-not-json", hub(odd=NOT_JSON), UNCLEAR, "accepted the login and gave no token"),
    bad("hub-endless", hub(odd=ENDLESS), "verify/timeout", "did not answer within 8 s"),
    bad("hub-past", hub(expires_on=date(2026, 1, 1)), MALFORMED, "2026-01-01, as expires_on says"),
    spoilt("hub-expires", hub(), _set_login(Login.EXPIRED), REFUSED, "make a new token"),
    spoilt("hub-becomes-sso", hub(), _set_login(Login.SSO_REQUIRED), REFUSED, "single sign-on"),
    spoilt("hub-gets-locked", hub(), _lock, "verify/throttled", "too many failed login"),
]

GAR = [
    good("gar-good", gar(), "accepted the login"),
    good("gar-good-json", gar(username="_json_key"), "accepted the login"),
    good("gar-good-image", gar(image="org/app:1"), "image org/app:1 is there", pullable=True),
    good("gar-no-access", gar(image="org/private:1"), "downloadArtifacts", pullable=False),
    bad("gar-deleted", gar(_deleted), REFUSED, "not in Google's public list, so it was deleted"),
    bad("gar-expired", gar(_expired), REFUSED, "the key expired at 20"),
    bad(
        "gar-disabled",
        gar(lambda place, key: place.google.disable_account(key["client_email"])),
        REFUSED,
        "the service account is disabled; enable it",
    ),
    bad(
        "gar-account-gone",
        gar(lambda place, key: place.google.delete_account(key["client_email"])),
        REFUSED,
        "the service account was deleted or disabled; restore it, or replace the key",
    ),
    bad(
        "gar-skew",
        gar(_at_late_google),
        "verify/clock_skew",
        "off Google's; synchronise it with NTP",
    ),
    bad("gar-new", gar(_new), "verify/unavailable", "so new that Google does not know it yet"),
    bad("gar-enormous", gar(_service(ENORMOUS)), UNCLEAR, " sent more than 256 KiB; is that"),
    bad("gar-not-json", gar(_service(NOT_JSON)), UNCLEAR, "not as documented"),
    bad("gar-endless", gar(_service(ENDLESS)), "verify/timeout", "did not answer within 8 s"),
    bad(
        "gar-redirect",
        gar(_service(Response(302, headers={"Location": "/token"}))),
        UNCLEAR,
        "HTTP 302",
    ),
    bad(
        "gar-user-credential",
        gar(text=lambda key: json.dumps({**key, "type": "authorized_user"})),
        MALFORMED,
        "is a user's credential; create a key of a service account",
    ),
    bad("gar-pem", gar(text=lambda key: key["private_key"]), MALFORMED, "is a bare PEM"),
    bad("gar-truncated", gar(text=lambda key: json.dumps(key)[:-40]), MALFORMED, "is it cut off?"),
    bad(
        "gar-truncated-base64",
        gar(text=lambda key: _packed(json.dumps(key))[:-41]),
        MALFORMED,
        "does not parse",
    ),
    bad(
        "gar-universe",
        gar(text=lambda key: json.dumps({**key, "universe_domain": "example.org"})),
        ELSEWHERE,
        "universe_domain is not googleapis.com",
    ),
    bad(
        "gar-token-uri",
        gar(text=lambda key: json.dumps({**key, "token_uri": "https://evil.example/token"})),
        ELSEWHERE,
        "token_uri is not Google's, nothing was sent there",
    ),
    bad(
        "gar-base64-of-a-pem",
        gar(text=lambda key: _packed(key["private_key"])),
        MALFORMED,
        "is a bare PEM",
    ),
    bad(
        "gar-base64-of-something",
        gar(text=lambda _key: _packed("something else, with a canary in it")),
        MALFORMED,
        "is base64 of something that is not JSON",
    ),
    spoilt("gar-gets-deleted", gar(), _delete_key, REFUSED, "so it was deleted; replace the key"),
    spoilt(
        "gar-gets-disabled",
        gar(),
        lambda place, name: place.google.disable_account(_email(name)),
        REFUSED,
        "the service account is disabled",
    ),
]

OCI = [
    good("oci-good", oci(), "accepted the login"),
    good("oci-good-image", oci(image="org/app:1"), "image org/app:1 is there", pullable=True),
    good("oci-digest", oci(image=f"org/app@{DIGEST}"), "is there", pullable=True),
    good("oci-no-access", oci(image="org/private:1"), "does not match scopes", pullable=False),
    good("oci-no-image", oci(image="org/none:1"), "has nothing there", pullable=False),
    good("oci-no-tag", oci(image="org/app:none"), "has nothing there", pullable=False),
    bad("oci-wrong", oci(known=False), REFUSED, "refused the credential (HTTP 403): denied"),
    bad("oci-wrong-and-repeated", odd_registry(repeating), REFUSED, "no user with *** here"),
    bad("oci-newline", oci(text="canary-first-line\nsecond"), MALFORMED, "more than one line"),
    bad("oci-past", oci(expires_on=date(2026, 1, 1)), MALFORMED, "that day has come"),
    bad("oci-realm-elsewhere", realm("http://OTHER/token"), REFUSED, "token service 127.0.0.1:"),
    bad(
        "oci-realm-plain",
        realm("http://tokens.example.com/token"),
        UNCLEAR,
        "'tokens.example.com', which is not reached over HTTPS; nothing was sent to it",
    ),
    bad(
        "oci-realm-private",
        realm("https://169.254.169.254/token"),
        UNCLEAR,
        "'169.254.169.254', which is a private address; nothing was sent to it",
    ),
    bad(
        "oci-redirect",
        odd_registry(lambda place, _name: place.start(Redirecting())),
        UNCLEAR,
        "redirects to 127.0.0.1, not followed",
    ),
    bad(
        "oci-token-redirect",
        tokens(Response(302, headers={"Location": "/token"})),
        UNCLEAR,
        "not followed (HTTP 302)",
    ),
    bad("oci-enormous", tokens(ENORMOUS), UNCLEAR, "sent more than 64 KiB"),
    bad("oci-not-json", tokens(NOT_JSON), UNCLEAR, "accepted the login and gave no token"),
    bad("oci-endless", tokens(ENDLESS), "verify/timeout", "did not answer within 8 s"),
    spoilt(
        "oci-gets-revoked",
        oci(),
        lambda place, name: place.ghcr.accounts.pop(name),
        REFUSED,
        "refused the credential",
    ),
]

CASES = [*DOCKER_HUB, *GAR, *OCI]


# --- what was seen -----------------------------------------------------------------------------


@dataclass
class Seen:
    """What the commands showed, and what the world looked like afterwards."""

    place: Place
    #: The last attempt of `once`, by target.
    attempts: dict[str, Any] = field(default_factory=dict)
    #: Of `status`.
    targets: dict[str, Any] = field(default_factory=dict)
    #: Everything that anybody could read.
    readable: list[str] = field(default_factory=list)

    def once(self, *names: str) -> None:
        done = self.place.world.cli("once", *names, "--output", "json", seconds=60)
        self.readable += [done.stdout, done.stderr]
        assert done.returncode == 1, done.stderr
        self.attempts |= {a["target"]: a for a in json.loads(done.stdout)["attempts"]}

    def status(self) -> None:
        world = self.place.world
        with world.daemon() as running:
            done = world.cli("status", "--output", "json")
            pages = [httpx.get(f"{world.url}{path}").text for path in ("/", "/metrics")]
            tables = [world.cli("status").stdout, world.cli("history").stdout]
        files = [running.log, *world.directory.glob("refresher.db*")]
        self.readable += [done.stdout, done.stderr, *pages, *tables]
        self.readable += [file.read_bytes().decode("latin-1") for file in files]
        self.targets = {target["name"]: target for target in json.loads(done.stdout)["targets"]}


@pytest.fixture(scope="module")
def seen() -> Iterator[Seen]:
    """Both commands over all cases."""
    with World() as world, ExitStack() as stack:
        place = Place(world, stack)
        configure(place, {case.name: target(place, case) for case in CASES})
        seen = Seen(place)
        seen.once()
        spoilt = {case.name: case.spoil for case in CASES if case.spoil}
        for name, spoil in spoilt.items():
            assert seen.attempts[name]["outcome"] == "refreshed"
            spoil(place, name)
        seen.once(*spoilt)
        seen.status()
        yield seen


def target(place: Place, case: Case) -> Keys:
    return {**case.make(place, case.name), "secret": case.secret}


def configure(place: Place, targets: Mapping[str, Keys]) -> None:
    """Write the configuration of these targets."""
    world = place.world
    tables = {
        "google": {"token_uris": place.token_uris, "certs_url": place.google.certs_url},
        "dockerhub": {"auth_url": place.hub.auth_url},
        **{f"targets.{name}": keys for name, keys in targets.items()},
    }
    text = world.config_toml(listen=f"127.0.0.1:{world.port}", policy=POLICY)
    text = text.replace("[daemon]", "[daemon]\nworkers = 64")
    more = "\n".join(toml_table(name, keys) for name, keys in tables.items())
    world.config.write_text(f"{text}\n{more}")


each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@each_case
def test_once_tells_the_verdict(seen: Seen, case: Case) -> None:
    """Outcome, stage, reason and one line that says what to do."""
    attempt = seen.attempts[case.name]
    failure = attempt["failure"]
    if case.failure is None:
        assert (attempt["outcome"], failure) == ("refreshed", None)
        return
    assert attempt["outcome"] == "failed"
    assert f"{failure['stage']}/{failure['reason']}" == case.failure, failure["message"]
    assert case.words in failure["message"]
    assert len(failure["message"].splitlines()) == 1


@each_case
def test_status_tells_the_same(seen: Seen, case: Case) -> None:
    """What stands, whether it works, and which step told it."""
    target = seen.targets[case.name]
    shown = (target["valid"], target["source_value"], target["image_pullable"])
    assert shown == (case.valid, case.source_value, case.image_pullable)
    if case.failure is None:
        assert case.words in target["layers"][-1]["words"]
        assert target["last_failure"] is None
        return
    assert target["last_failure"] == seen.attempts[case.name]["failure"]
    if case.failure.startswith("verify/"):
        last = target["layers"][-1]
        judged = case.failure in (REFUSED, "verify/forbidden")
        assert last["ok"] is (False if judged else None) or last["name"] == "certificate"


@each_case
def test_only_what_is_good_is_published(seen: Seen, case: Case) -> None:
    """Once, and what stands stays when it turns bad: it may still work somewhere."""
    writes = [write for write in seen.place.world.fal.writes if write.name == case.secret]
    assert len(writes) == case.published
    assert all(write.has_value for write in writes)


def test_nothing_leaks(seen: Seen) -> None:
    """No piece of a value is in an output, a page, a log or the state."""
    assert len(seen.place.traces) > 2 * len(CASES)
    assert all(seen.readable[:1])
    leaks = [trace for trace in seen.place.traces for text in seen.readable if trace in text]
    assert not leaks


def test_a_refused_login_is_tried_once(seen: Seen) -> None:
    """By `once` and by the daemon together; then it is left alone for an hour, as when locked."""
    for name in ("hub-wrong", "hub-sso", "hub-locked"):
        assert seen.place.hub.logins_of(name) == 1
        after = datetime.fromisoformat(seen.targets[name]["next_attempt_at"])
        assert after - datetime.now(UTC) > timedelta(minutes=55)


def test_a_good_login_costs_no_pull(seen: Seen) -> None:
    """Docker Hub counts GETs of manifests; what it told of its limit is shown."""
    assert seen.place.hub.pulls == 0
    shown = seen.targets["hub-good-image"]
    assert (shown["pulls_remaining"], shown["pulls_limit"]) == (200, 200)


def test_the_published_bytes_follow_the_username(seen: Seen) -> None:
    """Base64 without a line break for `_json_key_base64`, the JSON itself for `_json_key`."""
    fal, place = seen.place.world.fal, seen.place
    packed = fal.value("main", "GAR_GOOD")
    assert packed == base64.b64encode(place.value("gar-good").encode()).decode()
    assert fal.value("main", "GAR_GOOD_JSON") == place.value("gar-good-json")


# --- what the configuration cannot mean --------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        pytest.param(("username", "me:you"), "without colon", id="username-with-a-colon"),
        pytest.param(("image", "Org/App:1"), "is not a repository name", id="image-malformed"),
        pytest.param(("image", "org/app:"), "is not a tag", id="image-with-an-empty-tag"),
        pytest.param(
            ("image", "org/app@sha256:12"), "is not a digest", id="image-with-half-a-digest"
        ),
        pytest.param(("image", "https://docker.io/a"), "without the scheme", id="image-as-a-url"),
        pytest.param(
            ("image", "ghcr.io/org/app:1"),
            "is on ghcr.io, its target on registry-1.docker.io",
            id="image-on-another-registry",
        ),
    ],
)
def test_the_configuration_is_refused(
    seen: Seen,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: tuple[str, str],
    words: str,
) -> None:
    """Exit 2 and one line that names the key; nobody is asked anything."""
    place, (key, value) = seen.place, setting
    calls, logins = len(place.world.fal.calls), len(place.hub.requests)
    for name, text in place.world.process_environ().items():
        monkeypatch.setenv(name, text)
    keys = {"source": "dockerhub", "username": "me", "password": {"env": "VALUE_HUB_GOOD"}}
    path = place.world.directory / "refused.toml"
    path.write_text(toml_table("targets.odd", {**keys, "secret": "ODD", key: value}))

    for command in ("once", "run"):
        assert main(["--config", str(path), command]) == 2

    shown = capsys.readouterr()
    first, second = shown.err.splitlines()
    assert first == second
    assert f"targets.odd.{key}: " in first
    assert words in first
    assert shown.out == ""
    assert (len(place.world.fal.calls), len(place.hub.requests)) == (calls, logins)
