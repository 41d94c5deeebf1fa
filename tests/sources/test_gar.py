"""A service-account key: read, and proved by its parts, at Google, and at the registry."""

from __future__ import annotations

import json
import logging
import textwrap
import traceback
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresher.clock import Skews
from refresher.errors import (
    ClockSkewed,
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
from refresher.model import Credential, Proof, Pull, RegistryRef, SecretValue, Source
from refresher.references import Reference
from refresher.registry import RegistryVerifier, parse_image
from refresher.sandbox.google import GarStandIn, GoogleStandIn
from refresher.sandbox.http import Fault, Response, StandIn
from refresher.sources.gar import GarKeySource, GarKeyVerifier, Google, judge_certificate
from tests.awsenv import OffsetClock
from tests.googleenv import CALL_SECONDS, EMAIL, google_at, isolate, written

HOST = "us-central1-docker.pkg.dev"


class Place:
    """Google and a registry on loopback, and one account with one key."""

    def __init__(self, google: GoogleStandIn, registry: GarStandIn, path: Path) -> None:
        self.google = google
        self.registry = registry
        self.path = path
        self.clock = OffsetClock()
        self.skews = Skews()
        #: Where the list of certificates is, if not at that Google.
        self.certs_url: str | None = None
        google.add_account(EMAIL)
        self.key = google.add_key(EMAIL)
        written(path, self.key)

    @property
    def key_id(self) -> str:
        return self.key["private_key_id"]

    def source(self, username: str = "_json_key_base64") -> GarKeySource:
        uris = (self.google.token_uri,)
        return GarKeySource(Reference(file=self.path), username, token_uris=uris)

    def credential(self, username: str = "_json_key_base64") -> Credential:
        return self.source(username).obtain(self.clock.now())

    def verify(self, image: str | None = None, username: str = "_json_key_base64") -> Proof:
        with self.verifier() as verifier:
            return self.judged(verifier, image, username)

    def judged(
        self,
        verifier: GarKeyVerifier,
        image: str | None = None,
        username: str = "_json_key_base64",
    ) -> Proof:
        ref = RegistryRef(HOST, self.registry.url)
        reference = parse_image(image, HOST) if image else None
        return verifier.verify(ref, self.credential(username), reference)

    def verifier(self) -> Verifying:
        return Verifying(self)


class Verifying:
    """A verifier and what it needs, closed at the end."""

    def __init__(self, place: Place) -> None:
        self._google: Google = google_at(place.google, place.clock, place.skews, place.certs_url)
        self._registry = RegistryVerifier(
            clock=place.clock, skews=place.skews, call_seconds=CALL_SECONDS
        )
        self._clock = place.clock

    def __enter__(self) -> GarKeyVerifier:
        return GarKeyVerifier(self._registry, self._google, clock=self._clock)

    def __exit__(self, *_: object) -> None:
        self._google.close()
        self._registry.close()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Place]:
    """A key that works, in a file."""
    isolate(monkeypatch, tmp_path)
    images = {"project/repo/app": ["v1"]}
    with GoogleStandIn() as google, GarStandIn(google.judge, images) as registry:
        yield Place(google, registry, tmp_path / "key.json")


def layers(of: Proof | Failure) -> dict[str, bool | None]:
    return {layer.name: layer.ok for layer in of.layers}


def words(of: Proof | Failure, name: str) -> str:
    return next(layer.words for layer in of.layers if layer.name == name)


# --- the source --------------------------------------------------------------------------------


def test_the_source_reads_anew_and_gives_the_bytes_that_go_with_the_user_name(
    place: Place,
) -> None:
    """Unwrapped base64 of the file, or its JSON on one line; nobody tells its end."""
    source: Source = place.source()
    text = place.path.read_text().strip()
    now = datetime.now(UTC)
    credential = source.obtain(now)
    expected = SecretValue(b64encode(text.encode()).decode())
    assert credential == Credential("_json_key_base64", expected, issued_at=now)
    assert not source.renewable

    rotated = place.google.add_key(EMAIL)
    place.path.write_text(
        "\n".join(textwrap.wrap(b64encode(json.dumps(rotated).encode()).decode()))
    )
    assert json.loads(place.credential("_json_key").password.reveal()) == rotated


def test_a_share_key_names_the_reference_and_the_form() -> None:
    """Targets with the same key in the same form share it; no value is in the name."""
    key = Reference(env="KEY")
    assert GarKeySource(key, "_json_key").share_key == GarKeySource(key, "_json_key").share_key
    assert (
        GarKeySource(key, "_json_key").share_key != GarKeySource(key, "_json_key_base64").share_key
    )
    assert GarKeySource(key, "_json_key").share_key == "gar key $KEY _json_key"


def test_a_key_that_is_not_there_is_a_matter_of_the_configuration(place: Place) -> None:
    """The file may come later."""
    place.path.unlink()
    with pytest.raises(Misconfigured, match=r"cannot read .*No such file"):
        place.credential()


# --- good --------------------------------------------------------------------------------------


@pytest.mark.parametrize("username", ["_json_key_base64", "_json_key"])
def test_a_good_key_passes_every_layer(place: Place, username: str) -> None:
    """With the very user name and bytes that fal will send."""
    proof = place.verify("project/repo/app:v1", username)
    assert proof.pull is Pull.OK
    assert proof.expires_at is None
    found = layers(proof)
    assert list(found)[:3] == ["key", "exchange", "certificate"]
    assert found["login"] is True
    assert set(found.values()) == {True}
    assert words(proof, "key") == f"{EMAIL}, key {place.key_id}"
    assert words(proof, "certificate") == "listed, and has no end"


def test_the_end_of_the_certificate_is_the_end_of_the_key(place: Place) -> None:
    """Months ahead, with no role in IAM needed."""
    end = (datetime.now(UTC) + timedelta(days=90)).replace(microsecond=0)
    place.google.expire_key(EMAIL, place.key_id, end)
    proof = place.verify()
    assert proof.expires_at == end
    assert words(proof, "certificate") == f"listed, and ends at {end:%FT%TZ}"


@pytest.mark.parametrize(
    ("end", "ok", "kept", "dead"),
    [
        (None, False, False, "so it was deleted"),
        (timedelta(0), False, True, "the key expired at"),
        (timedelta(seconds=1), True, True, None),
        (timedelta(days=1824), True, True, None),
        (timedelta(days=1826), True, False, None),
    ],
)
def test_what_a_certificate_means(
    end: timedelta | None, ok: bool, kept: bool, dead: str | None
) -> None:
    """Not listed, over, living, living long, and longer than any real end."""
    now = datetime(2026, 11, 23, 12, tzinfo=UTC)
    told = None if end is None else now + end
    found = judge_certificate(told, now)
    assert found.layer.ok is ok
    assert found.expires_at == (told if kept else None)
    assert (dead is None) if found.why_dead is None else (dead or "") in found.why_dead


@pytest.mark.parametrize(
    "trouble",
    [Response(500), Response(200, b"<html>"), Response(200, b"[]"), Response(200, b'{"%s": "x"}')],
    ids=["500", "HTML", "a list", "no PEM"],
)
def test_a_list_that_is_not_to_be_had_fails_nothing(place: Place, trouble: Response) -> None:
    """That layer is unknown, and so is the end; the registry accepts the key all the same."""
    body = trouble.body.replace(b"%s", place.key_id.encode())
    with Answering(Response(trouble.status, body)) as lists:
        place.certs_url = lists.url
        proof = place.verify()
    assert layers(proof)["certificate"] is None
    assert layers(proof)["login"] is True
    assert proof.expires_at is None


class Answering(StandIn):
    """Answers all in the same way."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self.fail(answer)


def test_the_e_mail_is_quoted_in_the_address_of_the_list(place: Place) -> None:
    """It comes out of a file that anyone may have written."""
    place.verify()
    paths = [request.path for request in place.google.requests]
    assert f"/x509/{EMAIL.replace('@', '%40')}" in paths


# --- dead, or perhaps --------------------------------------------------------------------------

REFUSED: list[tuple[str, type[Failure], bool | None, str]] = [
    ("account_not_found", Unauthorized, False, "the service account was deleted or disabled"),
    ("disabled", Unauthorized, False, "the service account is disabled; enable it"),
    ("timeframe", ClockSkewed, None, "synchronise it with NTP"),
    ("no_verifier", Unavailable, None, "it often can later"),
    ("disabled_client", Unauthorized, False, "client is disabled or gone"),
    ("invalid_client", Unauthorized, False, "client is disabled or gone"),
    ("admin_policy_enforced", Forbidden, False, "the organisation's policy forbids it"),
    ("unauthorized_client", Forbidden, False, "may not have a token for this"),
    ("access_denied", Forbidden, False, "may not have a token for this"),
    ("invalid_scope", Forbidden, False, "may not have a token for this"),
    ("throttled", Throttled, None, "too many calls"),
    ("internal_failure", Unavailable, None, "Google is in trouble (HTTP 500)"),
    ("bad_gateway", Unavailable, None, "Google is in trouble (HTTP 502)"),
    ("unavailable", Unavailable, None, "Google is in trouble (HTTP 503)"),
]


@pytest.mark.parametrize(("name", "kind", "ok", "told"), REFUSED, ids=[row[0] for row in REFUSED])
def test_each_answer_of_google_has_its_meaning(
    place: Place, name: str, kind: type[Failure], ok: bool | None, told: str
) -> None:
    """Only what speaks of the credential is called dead, and no answer is asked for twice."""
    place.google.refuse(name)
    with pytest.raises(kind) as failed:
        place.verify()
    assert type(failed.value) is kind
    assert told in failed.value.message
    assert layers(failed.value) == {"key": True, "exchange": ok}
    assert words(failed.value, "exchange") == failed.value.message
    assert len(place.google.requests) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.hang(), TimedOut),
        (Fault.drip(), TimedOut),
        (Fault.reset(), Unavailable),
        (Fault.truncated(), Unavailable),
        (Fault.garbage(), Unavailable),
        (Fault.enormous(), InvalidResponse),
        (Response(200, b"<html>welcome</html>"), InvalidResponse),
        (Response.json({"token": "x"}), InvalidResponse),
        (Response.json({"access_token": "x", "expires_in": "soon"}), InvalidResponse),
        (Response.json({"access_token": 5, "expires_in": 3599}), InvalidCredential),
        (Response(302, headers={"Location": "https://evil.example/"}), InvalidResponse),
        (Response(403, b"<html>proxy</html>"), InvalidResponse),
        (Response(429, headers={"Retry-After": "120"}), Throttled),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_trouble_on_the_wire_says_nothing_of_the_key(
    place: Place, fault: Fault | Response, kind: type[Failure]
) -> None:
    """Whatever stands between us and Google, within the deadline and in one attempt."""
    place.google.fail(fault)
    with pytest.raises(kind) as failed:
        place.verify()
    assert type(failed.value) is kind
    assert len(place.google.requests) == 1
    if kind is Throttled:
        assert failed.value.retry_after == timedelta(minutes=2)


def test_nobody_there_is_unavailable(place: Place) -> None:
    """A refused connection."""
    place.google.stop()
    with pytest.raises(Unavailable, match="cannot be reached; check network, DNS and proxy"):
        place.verify()


def test_a_deleted_key_is_dead_at_once(place: Place) -> None:
    """The signature is refused and the list confirms it."""
    place.google.delete_key(EMAIL, place.key_id)
    with pytest.raises(Unauthorized, match="not in Google's public list, so it was deleted") as e:
        place.verify()
    assert layers(e.value) == {"key": True, "exchange": False, "certificate": False}


def test_an_expired_key_is_dead_at_once(place: Place) -> None:
    """The certificate's end confirms it."""
    place.google.expire_key(EMAIL, place.key_id, datetime.now(UTC) - timedelta(hours=1))
    with pytest.raises(Unauthorized, match=r"the key expired at .*; replace the key") as failed:
        place.verify()
    assert layers(failed.value) == {"key": True, "exchange": False, "certificate": False}


def test_a_key_of_a_deleted_account_is_dead(place: Place) -> None:
    """Google says so itself."""
    place.google.delete_account(EMAIL)
    with pytest.raises(Unauthorized, match="account not found"):
        place.verify()


def test_a_new_key_is_not_called_dead_before_google_knows_it(place: Place) -> None:
    """For ten minutes it is unknown; then it works, or it is dead."""
    place.google.propagation = timedelta(hours=1)
    place.key = place.google.add_key(EMAIL)
    written(place.path, place.key)
    with place.verifier() as verifier:
        for minutes in (0, 5, 9):
            place.clock.offset = timedelta(minutes=minutes)
            with pytest.raises(Unavailable, match="new keys take up to 7 min") as failed:
                place.judged(verifier)
            assert layers(failed.value) == {"key": True, "exchange": None, "certificate": True}
        place.clock.offset = timedelta(minutes=11)
        with pytest.raises(Unauthorized, match="refused it for more than 10 min"):
            place.judged(verifier)


def test_a_key_that_google_learnt_starts_anew(place: Place) -> None:
    """The ten minutes count from the first refusal since it last worked."""
    with place.verifier() as verifier:
        place.google.refuse("signature")
        with pytest.raises(Unavailable):
            place.judged(verifier)
        place.google.refuse(None)
        place.judged(verifier)
        place.google.refuse("signature")
        place.clock.offset = timedelta(minutes=30)
        with pytest.raises(Unavailable):
            place.judged(verifier)


def test_a_refused_signature_without_the_list_is_unknown(place: Place) -> None:
    """Nothing confirms it, so time must."""
    place.google.delete_key(EMAIL, place.key_id)
    with Answering(Response(503)) as lists:
        place.certs_url = lists.url
        with place.verifier() as verifier:
            with pytest.raises(Unavailable) as failed:
                place.judged(verifier)
            place.clock.offset = timedelta(minutes=11)
            with pytest.raises(Unauthorized):
                place.judged(verifier)
    assert layers(failed.value) == {"key": True, "exchange": None, "certificate": None}


def test_a_clock_that_is_off_is_named(place: Place) -> None:
    """Google's clock is two hours ahead: nothing is said of the key, but of our clock."""
    place.google.clock = OffsetClock(timedelta(hours=2))
    with pytest.raises(ClockSkewed, match=r"our clock is -(7199|7200|7201) s off Google's"):
        place.verify()
    assert place.skews.seconds()[f"127.0.0.1:{place.google.port}"] == pytest.approx(7200, abs=2)


def test_a_credential_that_is_no_key_ends_at_the_first_layer(place: Place) -> None:
    """What is published is judged, whatever the source was."""
    bad = Credential("_json_key", SecretValue("{}"), issued_at=place.clock.now())
    with place.verifier() as verifier, pytest.raises(InvalidCredential) as failed:
        verifier.verify(RegistryRef(HOST, place.registry.url), bad, None)
    assert layers(failed.value) == {"key": False}
    assert place.google.requests == []


def test_a_registry_that_refuses_a_key_that_google_takes_is_believed(place: Place) -> None:
    """The login is what fal will do; the layers show how far the key came."""
    place.registry.judge = lambda username, password: False
    with pytest.raises(Unauthorized, match="authentication failed") as failed:
        place.verify()
    found = layers(failed.value)
    assert (found["exchange"], found["certificate"]) == (True, True)
    assert list(found.values())[-1] is False


def test_no_permission_is_in_the_proof(place: Place) -> None:
    """A good login without the role on the repository."""
    place.registry.forbid("project/repo/app")
    proof = place.verify("project/repo/app:v1")
    assert proof.pull is Pull.FORBIDDEN
    assert "downloadArtifacts" in (proof.pull_message or "")
    assert layers(proof)["pull"] is False


# --- leaks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["disabled", "signature", "internal_failure", "echo", "login"])
def test_nothing_of_a_key_or_a_token_is_shown(
    place: Place, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Not in messages, layers, arguments, causes or logs, even where Google repeats it."""
    caplog.set_level(logging.DEBUG)
    if name == "echo":
        private = place.key["private_key"]
        place.google.fail(
            Response.json({"error": "invalid_grant", "error_description": f"what: {private}"}, 400)
        )
    elif name == "login":
        place.registry.judge = lambda username, password: False
    else:
        place.google.refuse(name)
    with pytest.raises(Failure) as failed:
        place.verify()
    error = failed.value
    shown = "".join(traceback.format_exception(error)) + caplog.text + repr(error.layers)
    chain: BaseException | None = error
    while chain is not None:
        shown += repr(chain.args)
        chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)
    password = place.credential().password.reveal()
    assertions = [request.body.decode() for request in place.google.requests if request.body]
    hidden = [*place.key["private_key"].split("\n")[1:-2], password[:40], password[-40:]]
    hidden += [assertion[-60:] for assertion in assertions]
    assert not [part for part in hidden if part in shown]
