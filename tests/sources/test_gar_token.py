"""Short-lived access tokens: whose they are, how long they live, and what each refusal is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresher.clock import Skews
from refresher.errors import (
    Failure,
    Forbidden,
    InvalidCredential,
    InvalidResponse,
    Misconfigured,
    NotFound,
    Unauthorized,
    Unavailable,
)
from refresher.model import Credential, RegistryRef, Source
from refresher.references import Reference
from refresher.registry import RegistryVerifier
from refresher.sandbox.google import GarStandIn, GoogleStandIn
from refresher.sandbox.http import Response
from refresher.sources.gar import GarTokenSource, GoogleIdentity
from tests.awsenv import OffsetClock
from tests.googleenv import CALL_SECONDS, EMAIL, google_at, isolate, written

MIDDLE = "middle@sandbox.iam.gserviceaccount.com"
LAST = "last@sandbox.iam.gserviceaccount.com"


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[GoogleStandIn]:
    """Google with three accounts, each of which may be impersonated by the one before."""
    isolate(monkeypatch, tmp_path)
    with GoogleStandIn() as stand_in:
        stand_in.add_account(EMAIL)
        stand_in.add_account(MIDDLE, trusts=[EMAIL])
        stand_in.add_account(LAST, trusts=[MIDDLE])
        yield stand_in


@pytest.fixture
def key(google: GoogleStandIn, tmp_path: Path) -> Reference:
    """A file with a key of the first account."""
    return Reference(file=written(tmp_path / "key.json", google.add_key(EMAIL)))


def obtain(
    google: GoogleStandIn, identity: GoogleIdentity, offset: timedelta = timedelta(0)
) -> Credential:
    clock = OffsetClock(offset)
    with google_at(google, clock) as client:
        source: Source = GarTokenSource(identity, client)
        assert source.renewable
        return source.obtain(clock.now())


def life(credential: Credential) -> float:
    assert credential.expires_at is not None
    return (credential.expires_at - credential.issued_at).total_seconds()


# --- identities --------------------------------------------------------------------------------


def test_a_key_gives_a_token_of_its_account(google: GoogleStandIn, key: Reference) -> None:
    """Newly issued each time, good at the registry, and aware of its zone."""
    google.token_life = timedelta(seconds=1800)
    first = obtain(google, GoogleIdentity(key=key))
    assert first.username == "oauth2accesstoken"
    assert google.judge_token(first.password.reveal()) == EMAIL
    assert life(first) == pytest.approx(1800, abs=5)
    assert first.expires_at is not None
    assert first.expires_at.tzinfo is UTC
    assert obtain(google, GoogleIdentity(key=key)).password != first.password


def test_the_registry_takes_the_token(google: GoogleStandIn, key: Reference) -> None:
    """With the user name that goes with it."""
    credential = obtain(google, GoogleIdentity(key=key))
    clock = OffsetClock()
    with (
        GarStandIn(google.judge) as registry,
        google_at(google, clock),
        RegistryVerifier(clock=clock, skews=Skews(), call_seconds=CALL_SECONDS) as verifier,
    ):
        ref = RegistryRef(registry.host, registry.url)
        assert verifier.verify(ref, credential, None).verified_at
        google.disable_account(EMAIL)
        with pytest.raises(Unauthorized):
            verifier.verify(ref, credential, None)


def test_a_chain_of_impersonation_ends_at_the_last(google: GoogleStandIn, key: Reference) -> None:
    """Delegates in order, the principal last, and the lifetime that was asked for."""
    identity = GoogleIdentity(key=key, impersonate=(MIDDLE, LAST), lifetime=timedelta(hours=12))
    credential = obtain(google, identity)
    assert google.judge_token(credential.password.reveal()) == LAST
    assert life(credential) == pytest.approx(12 * 3600, abs=5)


def test_an_impersonated_life_is_counted_on_googles_clock(
    google: GoogleStandIn, key: Reference
) -> None:
    """Google tells a time of its own clock there, which may be minutes off ours."""
    google.clock = OffsetClock(timedelta(minutes=4))
    credential = obtain(google, GoogleIdentity(key=key, impersonate=(MIDDLE,)))
    assert life(credential) == pytest.approx(3600, abs=5)


def test_the_application_default_may_be_a_key(
    google: GoogleStandIn, key: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named by the variable that all of Google's tools read."""
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key.file))
    credential = obtain(google, GoogleIdentity())
    assert google.judge_token(credential.password.reveal()) == EMAIL


def federation(google: GoogleStandIn, token_file: Path, **fields: object) -> dict[str, object]:
    return {
        "type": "external_account",
        "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p"
        "/providers/o",
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": google.sts_url,
        "credential_source": {"file": str(token_file)},
        **fields,
    }


def test_workload_identity_federation_works_from_a_file(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A token of another provider for one of Google's; the file is read anew each time."""
    token_file = tmp_path / "subject"
    adc = written(tmp_path / "adc.json", federation(google, token_file))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(adc))
    for number in ("one", "two"):
        token_file.write_text(number)
        google.subject_tokens = {number: EMAIL}
        credential = obtain(google, GoogleIdentity())
        assert google.judge_token(credential.password.reveal()) == EMAIL


def test_federation_may_impersonate(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By the file itself, and by our own chain after it."""
    token_file = tmp_path / "subject"
    token_file.write_text("one")
    google.subject_tokens = {"one": EMAIL}
    url = google.impersonation_url(MIDDLE)
    adc = federation(google, token_file, service_account_impersonation_url=url)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(written(tmp_path / "adc.json", adc)))
    google.clock = OffsetClock(timedelta(minutes=4))
    credential = obtain(google, GoogleIdentity())
    assert google.judge_token(credential.password.reveal()) == MIDDLE
    assert life(credential) == pytest.approx(3600, abs=5)
    credential = obtain(google, GoogleIdentity(impersonate=(LAST,)))
    assert google.judge_token(credential.password.reveal()) == LAST


def test_the_machines_account_comes_from_its_metadata_server(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no file says anything else."""
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{google.port}")
    google.machine_account = EMAIL
    credential = obtain(google, GoogleIdentity())
    assert google.judge_token(credential.password.reveal()) == EMAIL
    credential = obtain(google, GoogleIdentity(impersonate=(MIDDLE,)))
    assert google.judge_token(credential.password.reveal()) == MIDDLE


def test_the_users_own_sign_in_is_found(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """gcloud's file in gcloud's folder goes before the metadata server."""
    (tmp_path / "application_default_credentials.json").write_text(
        json.dumps({"type": "authorized_user", "client_id": "x", "client_secret": "y"})
    )
    with pytest.raises(Misconfigured, match=r"application_default_credentials\.json is no"):
        obtain(google, GoogleIdentity())


def test_identities_that_differ_share_nothing() -> None:
    """The share key names all that makes the principal, references by name."""
    identities = [
        GoogleIdentity(),
        GoogleIdentity(key=Reference(env="KEY")),
        GoogleIdentity(impersonate=(LAST,)),
        GoogleIdentity(impersonate=(MIDDLE, LAST)),
        GoogleIdentity(impersonate=(LAST,), lifetime=timedelta(hours=2)),
    ]
    with GoogleStandIn() as stand_in, google_at(stand_in, OffsetClock()) as client:
        keys = {GarTokenSource(identity, client).share_key for identity in identities}
    assert len(keys) == len(identities)
    assert "gar token key=$KEY" in keys


# --- refusals ----------------------------------------------------------------------------------


def refused(google: GoogleStandIn, identity: GoogleIdentity) -> Failure:
    with pytest.raises(Failure) as failed:
        obtain(google, identity)
    return failed.value


def test_a_missing_link_of_the_chain_is_named(google: GoogleStandIn, key: Reference) -> None:
    """The first account may not impersonate the last one itself."""
    failure = refused(google, GoogleIdentity(key=key, impersonate=(LAST,)))
    assert isinstance(failure, Forbidden)
    assert "grant roles/iam.serviceAccountTokenCreator" in failure.message
    assert "iam.serviceAccounts.getAccessToken" in failure.message


def test_a_life_that_is_too_long_is_a_matter_of_the_configuration(
    google: GoogleStandIn, key: Reference
) -> None:
    """Google says so itself."""
    identity = GoogleIdentity(key=key, impersonate=(MIDDLE,), lifetime=timedelta(hours=13))
    failure = refused(google, identity)
    assert isinstance(failure, Misconfigured)
    assert "cannot exceed 43200s" in failure.message


def test_a_subject_that_is_not_trusted_is_forbidden(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And one that is not there is named."""
    token_file = tmp_path / "subject"
    adc = written(tmp_path / "adc.json", federation(google, token_file))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(adc))
    missing = refused(google, GoogleIdentity())
    assert isinstance(missing, Misconfigured)
    assert f"{token_file}, which credential_source names, is not there" in missing.message
    token_file.write_text("canary-of-another-provider")
    failure = refused(google, GoogleIdentity())
    assert isinstance(failure, Forbidden)
    assert "canary" not in repr(failure)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{}", "check its type and fields"),
        ("[", "check its type and fields"),
        ('{"type": "authorized_user"}', "check its type and fields"),
        ('{"type": "external_account"}', "check its type and fields"),
        ('{"type": "no such"}', "check its type and fields"),
    ],
)
def test_a_default_file_that_cannot_be_used_is_named(
    google: GoogleStandIn,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    document: str,
    words: str,
) -> None:
    """By its path; nothing is sent."""
    path = tmp_path / "adc.json"
    path.write_text(document)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    failure = refused(google, GoogleIdentity())
    assert isinstance(failure, Misconfigured)
    assert failure.message.startswith(str(path))
    assert words in failure.message
    assert google.requests == []


def test_a_default_file_that_is_a_key_is_pinned_too(
    google: GoogleStandIn, key: Reference, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its assertion goes to no other token service."""
    assert key.file is not None
    document = {**json.loads(key.file.read_text()), "token_uri": f"{google.url}/elsewhere"}
    path = written(tmp_path / "adc.json", document)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    failure = refused(google, GoogleIdentity())
    assert isinstance(failure, Misconfigured)
    assert "token_uri is not Google's" in failure.message
    assert google.requests == []


def test_no_identity_at_all_says_what_to_set(
    google: GoogleStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, and no metadata server or none with an account."""
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{google.port}")
    none = refused(google, GoogleIdentity())
    assert isinstance(none, NotFound)
    assert "set key or GOOGLE_APPLICATION_CREDENTIALS" in none.message
    monkeypatch.setenv("GCE_METADATA_HOST", "127.0.0.1:1")
    away = refused(google, GoogleIdentity())
    assert isinstance(away, Unavailable)
    assert "set key or GOOGLE_APPLICATION_CREDENTIALS" in away.message


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"access_token": "a b", "expires_in": 3599}, InvalidCredential),
        ({"access_token": "", "expires_in": 3599}, InvalidCredential),
        ({"access_token": "abc"}, InvalidCredential),
        ({"access_token": "abc", "expires_in": 0}, InvalidCredential),
        ({"access_token": "abc", "expires_in": -5}, InvalidCredential),
        ({"access_token": "abc", "expires_in": 14 * 3600}, InvalidCredential),
        ({"access_token": "abc", "expires_in": 10**30}, InvalidResponse),
        (["abc"], InvalidResponse),
    ],
)
def test_a_token_without_sense_is_never_taken(
    google: GoogleStandIn, key: Reference, answer: object, kind: type[Failure]
) -> None:
    """Not usable, without an end, over, or of a life that Google never gives."""
    google.fail(Response.json(answer))
    failure = refused(google, GoogleIdentity(key=key))
    assert type(failure) is kind
    assert "abc" not in failure.message


def test_a_deleted_key_says_so(google: GoogleStandIn, key: Reference) -> None:
    """There is nothing to confirm it with, and nothing published depends on it."""
    assert key.file is not None
    google.delete_key(EMAIL, json.loads(key.file.read_text())["private_key_id"])
    failure = refused(google, GoogleIdentity(key=key))
    assert isinstance(failure, Unauthorized)
    assert "the key was deleted, has expired, or is so new" in failure.message


def test_now_is_what_the_token_is_issued_at(google: GoogleStandIn, key: Reference) -> None:
    """The reading of the clock that the caller made."""
    now = datetime(2026, 1, 1, tzinfo=UTC)
    with google_at(google, OffsetClock()) as client:
        source = GarTokenSource(GoogleIdentity(key=key), client)
        assert source.obtain(now).issued_at == now
