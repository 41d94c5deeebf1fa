"""The stand-in for Google says yes and no where Google would, judged by other libraries."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import httpx
import jwt
import pytest
from cryptography import x509

from refresher.clock import ManualClock
from refresher.sandbox.google import AUDIENCE, REFUSALS, GarStandIn, GoogleStandIn
from refresher.sandbox.google_keys import FOREVER
from refresher.sources.gar_key import parse_key
from refresher.sources.google_identity import SCOPE
from tests.awsenv import OffsetClock
from tests.googleenv import EMAIL, google_at

GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"


@pytest.fixture
def google() -> Iterator[GoogleStandIn]:
    """Google with one account."""
    with GoogleStandIn() as stand_in:
        stand_in.add_account(EMAIL)
        yield stand_in


def claims(**changed: object) -> dict[str, object]:
    now = int(time.time())
    usual = {"iss": EMAIL, "aud": AUDIENCE, "iat": now, "exp": now + 3600, "scope": SCOPE}
    return {**usual, **changed}


def ask(google: GoogleStandIn, assertion: str) -> httpx.Response:
    return httpx.post(
        google.token_uri, data={"grant_type": GRANT, "assertion": assertion}, timeout=5
    )


def signed(key: dict[str, str], body: dict[str, object]) -> str:
    """By PyJWT, as the account of the key."""
    headers = {"kid": key["private_key_id"]}
    return jwt.encode(body, key["private_key"], algorithm="RS256", headers=headers)


def test_an_assertion_of_another_library_is_taken(google: GoogleStandIn) -> None:
    """PyJWT signs, the stand-in verifies and gives a token of the account."""
    answer = ask(google, signed(google.add_key(EMAIL), claims()))
    document = answer.json()
    assert answer.status_code == 200
    assert (document["expires_in"], document["token_type"]) == (3599, "Bearer")
    assert google.judge_token(document["access_token"]) == EMAIL


def test_our_own_assertion_is_verified_by_another_library(google: GoogleStandIn) -> None:
    """What google-auth sends for our key, PyJWT reads with the certificate of the public list."""
    key = google.add_key(EMAIL)
    with google_at(google, OffsetClock()) as client:
        client.exchange(parse_key(json.dumps(key), (google.token_uri,)))
    (request,) = google.requests
    assertion = httpx.QueryParams(request.body.decode())["assertion"]
    listed = httpx.get(f"{google.certs_url}/{quote(EMAIL, safe='')}", timeout=5).json()
    public = x509.load_pem_x509_certificate(listed[key["private_key_id"]].encode()).public_key()
    read = jwt.decode(assertion, public, algorithms=["RS256"], audience=AUDIENCE, issuer=EMAIL)
    assert read["scope"] == SCOPE
    assert read["exp"] - read["iat"] == 3600
    assert jwt.get_unverified_header(assertion)["kid"] == key["private_key_id"]


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"iss": "nobody@sandbox.iam.gserviceaccount.com"}, "account_not_found"),
        ({"aud": "https://elsewhere.example/token"}, "audience"),
        ({"iat": int(time.time()) + 900, "exp": int(time.time()) + 4500}, "timeframe"),
        ({"iat": int(time.time()) - 7200, "exp": int(time.time()) - 3600}, "timeframe"),
        ({"exp": int(time.time()) + 9000}, "timeframe"),
        ({"scope": ""}, "invalid_scope"),
    ],
    ids=["issuer", "audience", "early", "late", "long", "scope"],
)
def test_wrong_claims_are_refused(
    google: GoogleStandIn, changed: dict[str, object], name: str
) -> None:
    """Each with its own words."""
    answer = ask(google, signed(google.add_key(EMAIL), claims(**changed)))
    assert (answer.status_code, answer.content) == (REFUSALS[name].status, REFUSALS[name].body)


def test_only_a_key_of_the_account_signs_for_it(google: GoogleStandIn) -> None:
    """Another account's key, another key's id, a deleted key, and no assertion at all."""
    good, other = google.add_key(EMAIL), google.add_key(EMAIL)
    mixed = {**good, "private_key": other["private_key"]}
    assert ask(google, signed(good, claims())).status_code == 200
    assert ask(google, signed(mixed, claims())).content == REFUSALS["signature"].body
    google.delete_key(EMAIL, good["private_key_id"])
    assert ask(google, signed(good, claims())).content == REFUSALS["signature"].body
    assert ask(google, "not.a.jwt").content == REFUSALS["invalid_request"].body


def test_a_new_key_is_known_after_a_while(clock: ManualClock) -> None:
    """The list shows it at once, the token service later."""
    with GoogleStandIn(clock=clock) as google:
        google.add_account(EMAIL)
        google.propagation = timedelta(minutes=7)
        key = google.add_key(EMAIL)
        password = json.dumps(key)
        assert not google.judge_key("_json_key", password)
        assert key["private_key_id"] in httpx.get(f"{google.certs_url}/{EMAIL}", timeout=5).json()
        clock.advance(timedelta(minutes=7))
        assert google.judge_key("_json_key", password)


def test_a_registry_takes_exactly_good_keys(google: GoogleStandIn) -> None:
    """In the form of the user name, while account, key and certificate last."""
    key = google.add_key(EMAIL)
    raw = json.dumps(key)
    packed = base64.b64encode(raw.encode()).decode()
    assert google.judge("_json_key", raw)
    assert google.judge("_json_key_base64", packed)
    for username, password in [
        ("_json_key", packed),
        ("_json_key_base64", raw),
        ("_json_key_base64", packed[:76] + "\n" + packed[76:]),
        ("_json_key", "[]"),
        ("_json_key", json.dumps({**key, "private_key": "x"})),
        ("someone", raw),
        ("oauth2accesstoken", raw),
    ]:
        assert not google.judge(username, password)
    google.disable_account(EMAIL)
    assert not google.judge("_json_key", raw)
    google.disable_account(EMAIL, disabled=False)
    google.expire_key(EMAIL, key["private_key_id"], datetime.now(UTC))
    assert not google.judge("_json_key", raw)


def test_certificates_end_when_they_are_told_to(google: GoogleStandIn) -> None:
    """A real certificate each; without an end it is the year 9999."""
    endless, ending = google.add_key(EMAIL), google.add_key(EMAIL)
    end = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    google.expire_key(EMAIL, ending["private_key_id"], end)
    listed = httpx.get(f"{google.certs_url}/{EMAIL}", timeout=5).json()
    ends = {
        key_id: x509.load_pem_x509_certificate(pem.encode()).not_valid_after_utc
        for key_id, pem in listed.items()
    }
    assert ends == {endless["private_key_id"]: FOREVER, ending["private_key_id"]: end}
    assert httpx.get(f"{google.certs_url}/nobody@x.y", timeout=5).status_code == 404


def test_a_token_ends(clock: ManualClock) -> None:
    """By the stand-in's clock, which its answers show."""
    with GoogleStandIn(clock=clock) as google:
        google.add_account(EMAIL)
        google.machine_account = EMAIL
        url = f"{google.url}/computeMetadata/v1/instance/service-accounts/default/token"
        answer = httpx.get(url, headers={"Metadata-Flavor": "Google"}, timeout=5)
        token = answer.json()["access_token"]
        assert answer.headers["Date"] == "Mon, 23 Nov 2026 12:00:00 GMT"
        assert google.judge("oauth2accesstoken", token)
        clock.advance(google.token_life)
        assert not google.judge("oauth2accesstoken", token)
        assert httpx.get(url, timeout=5).status_code == 403


@pytest.mark.parametrize("name", REFUSALS)
def test_every_refusal_can_be_had(google: GoogleStandIn, name: str) -> None:
    """Until it is taken back."""
    assertion = signed(google.add_key(EMAIL), claims())
    google.refuse(name)
    answer = ask(google, assertion)
    assert (answer.status_code, answer.content) == (REFUSALS[name].status, REFUSALS[name].body)
    google.refuse(None)
    assert ask(google, assertion).status_code == 200


def test_a_refusal_that_is_none_is_a_mistake(google: GoogleStandIn) -> None:
    """A test that names one that is not there would test nothing."""
    with pytest.raises(KeyError):
        google.refuse("no such")


def test_the_registry_asks_its_judge(google: GoogleStandIn) -> None:
    """And answers like Artifact Registry."""
    raw = json.dumps(google.add_key(EMAIL))
    with GarStandIn(google.judge, {"project/repo/app": ["v1"]}) as registry:
        url = f"{registry.url}/v2/token?scope=repository:project/repo/app:pull"
        good = httpx.get(url, auth=("_json_key", raw), timeout=5)
        bad = httpx.get(url, auth=("_json_key", "{}"), timeout=5)
        assert (good.status_code, good.json()["expires_in"]) == (200, 43200)
        assert (bad.status_code, bad.json()["errors"][0]["code"]) == (401, "UNAUTHORIZED")
        path = f"{registry.url}/v2/project/repo/app/manifests/v1"
        bearer = {"Authorization": f"Bearer {good.json()['token']}"}
        assert httpx.get(path, headers=bearer, timeout=5).status_code == 200
