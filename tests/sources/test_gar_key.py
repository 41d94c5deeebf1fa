"""Service-account keys: what is taken for one, in which forms, and what each bad one is told."""

from __future__ import annotations

import base64
import json
import logging
import textwrap
import traceback

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from refresher.errors import Failure, InvalidCredential, Misconfigured
from refresher.sandbox.google_keys import rsa_key
from refresher.sources.gar_key import ServiceAccountKey, parse_key

PEM = (
    rsa_key(0)
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)
KEY = {
    "type": "service_account",
    "project_id": "sandbox",
    "private_key_id": "0123456789abcdef0123456789abcdef01234567",
    "private_key": PEM,
    "client_email": "puller@sandbox.iam.gserviceaccount.com",
    "token_uri": "https://oauth2.googleapis.com/token",
    "universe_domain": "googleapis.com",
}
#: As Google's console writes it.
FILE = json.dumps(KEY, indent=2)


def changed(**fields: object) -> str:
    return json.dumps({**KEY, **fields})


def without(name: str) -> str:
    return json.dumps({key: value for key, value in KEY.items() if key != name})


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


# --- forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        FILE,
        f"\ufeff{FILE}\n",
        f"  {FILE}\r\n\r\n",
        b64(FILE),
        b64(FILE) + "\n",
        "\n".join(textwrap.wrap(b64(FILE), 76)),
        "\r\n".join(textwrap.wrap(b64(FILE), 64)) + "\r\n",
        base64.urlsafe_b64encode(FILE.encode()).decode(),
        b64(FILE).rstrip("="),
    ],
    ids=[
        "raw", "bom", "padded", "base64", "newline", "wrapped", "crlf", "urlsafe", "unpadded",
    ],
)  # fmt: skip
def test_every_usual_form_is_the_same_key(text: str) -> None:
    """`cat key.json`, `base64 key.json` of GNU and of others, and what editors make of them."""
    key = parse_key(text)
    assert key.document.reveal() == FILE
    assert key.client_email == KEY["client_email"]
    assert key.private_key_id == KEY["private_key_id"]
    assert key.token_uri == "https://oauth2.googleapis.com/token"


def test_base64_is_published_unwrapped_and_is_the_very_document() -> None:
    """Whatever the form that it came in, fal gets one line."""
    wrapped = "\n".join(textwrap.wrap(b64(FILE), 76))
    assert parse_key(wrapped).as_password("_json_key_base64").reveal() == b64(FILE)
    assert parse_key(FILE).as_password("_json_key_base64").reveal() == b64(FILE)


def test_json_is_published_exactly_where_it_is_one_line() -> None:
    """The bytes that the user gave, white space and order included."""
    line = '{ "x":1,  ' + json.dumps(KEY)[1:]
    assert parse_key(line).as_password("_json_key").reveal() == line


def test_json_of_several_lines_is_published_as_one() -> None:
    """A fal secret can hold no line break; the document stays the same."""
    password = parse_key(FILE).as_password("_json_key").reveal()
    assert "\n" not in password
    assert json.loads(password) == KEY


def test_what_is_published_is_the_same_key_again() -> None:
    """So that exactly what is published can be judged."""
    for username in ("_json_key", "_json_key_base64"):
        again = parse_key(parse_key(FILE).as_password(username).reveal())
        assert again.info() == KEY


def test_another_user_name_goes_with_no_key() -> None:
    """Artifact Registry takes a key with two user names only."""
    with pytest.raises(Misconfigured, match="_json_key_base64 or _json_key; set username"):
        parse_key(FILE).as_password("oauth2accesstoken")


def test_a_configured_token_service_is_allowed() -> None:
    """A stand-in, say."""
    uri = "http://127.0.0.1:1/token"
    assert parse_key(changed(token_uri=uri), (uri,)).token_uri == uri


# --- bad input ---------------------------------------------------------------------------------

_CURVE = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    .decode()
)
BAD: list[tuple[str, str, type[Failure], str]] = [
    ("empty", "", InvalidCredential, "is empty"),
    ("a bare PEM", PEM, InvalidCredential, "a bare PEM; the whole JSON file"),
    ("base64 of a PEM", b64(PEM), InvalidCredential, "a bare PEM; the whole JSON file"),
    ("words", "not a key at all!", InvalidCredential, "neither JSON nor base64"),
    ("base64 of words", b64("hello there"), InvalidCredential, "base64 of something that is not"),
    ("base64 of bytes", "gIGC", InvalidCredential, "base64 of something that is"),
    ("base64 twice", b64(b64(FILE)), InvalidCredential, "base64 of something that is not JSON"),
    ("a JSON list", "[1]", InvalidCredential, "neither JSON nor base64"),
    ("cut JSON", FILE[:900], InvalidCredential, "does not parse; is it cut off"),
    ("cut base64", b64(FILE)[:900], InvalidCredential, "does not parse; is it cut off"),
    ("deep JSON", '{"a":' * 99999, InvalidCredential, "does not parse"),
    ("no type", without("type"), InvalidCredential, "lacks the field type"),
    ("a user", changed(type="authorized_user"), InvalidCredential, "is a user's credential"),
    ("federation", changed(type="external_account"), InvalidCredential, 'use mode = "token"'),
    ("other type", changed(type="gdch"), InvalidCredential, "another type than service_account"),
    ("no key", without("private_key"), InvalidCredential, "lacks the field private_key"),
    ("no e-mail", without("client_email"), InvalidCredential, "lacks the field client_email"),
    ("no URI", without("token_uri"), InvalidCredential, "lacks the field token_uri"),
    ("no id", without("private_key_id"), InvalidCredential, "lacks the field private_key_id"),
    ("empty id", changed(private_key_id=" "), InvalidCredential, "private_key_id is empty"),
    ("id no text", changed(private_key_id=5), InvalidCredential, "private_key_id is empty or no"),
    ("bad e-mail", changed(client_email="x y@z"), InvalidCredential, "client_email is not an"),
    ("e-mail path", changed(client_email="../a@b.c/d"), InvalidCredential, "client_email is not"),
    ("cut PEM", changed(private_key=PEM[:800]), InvalidCredential, "private_key is cut off"),
    ("middle cut", changed(private_key=PEM[:500] + PEM[700:]), InvalidCredential, "is cut off"),
    ("no PEM", changed(private_key="hunter2"), InvalidCredential, "private_key is cut off or not"),
    (
        "escaped twice",
        changed(private_key=PEM.replace("\n", "\\n")),
        InvalidCredential,
        r"holds \n as text",
    ),
    ("a curve", changed(private_key=_CURVE), InvalidCredential, "private_key is not an RSA key"),
    ("universe", changed(universe_domain="apis.example"), Misconfigured, "universe_domain is not"),
    (
        "token_uri elsewhere",
        changed(token_uri="https://evil.example/token"),
        Misconfigured,
        "nothing was sent there; list it in google.token_uris",
    ),
    (
        "token_uri over HTTP",
        changed(token_uri="http://oauth2.googleapis.com/token"),
        Misconfigured,
        "token_uri is not Google's",
    ),
]


@pytest.mark.parametrize(
    ("text", "kind", "words"), [row[1:] for row in BAD], ids=[row[0] for row in BAD]
)
def test_each_bad_key_is_told_its_part(
    text: str, kind: type[Failure], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One line that names the part, and nothing of the value, also not by way of the cause."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(kind) as failed:
        parse_key(text)
    assert type(failed.value) is kind
    assert words in failed.value.message
    assert "\n" not in failed.value.message
    shown = "".join(traceback.format_exception(failed.value)) + caplog.text
    hidden = [*PEM.split("\n")[1:-2], *_CURVE.split("\n")[1:-2], "hunter2", "evil.example"]
    assert not [part for part in hidden if part in shown]
    assert failed.value.__cause__ is None
    assert failed.value.__suppress_context__ or failed.value.__context__ is None


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
_DAMAGES = st.tuples(st.integers(0, len(FILE) - 1), st.integers(0, 40), st.text(max_size=3))


def key_or_failure(text: str) -> ServiceAccountKey | Failure:
    """Any other exception fails the test."""
    try:
        return parse_key(text)
    except (InvalidCredential, Misconfigured) as failure:
        return failure


def damaged(damage: tuple[int, int, str]) -> str:
    """The file with a piece cut out and something in its place."""
    at, length, instead = damage
    return FILE[:at] + instead + FILE[at + length :]


@given(
    st.text()
    | st.binary().map(lambda data: base64.b64encode(data).decode())
    | st.tuples(st.sampled_from(sorted(KEY)), _JSON).map(lambda c: changed(**{c[0]: c[1]}))
    | st.tuples(_DAMAGES, st.booleans()).map(lambda d: (b64 if d[1] else str)(damaged(d[0])))
)
def test_any_text_is_a_key_or_told_why_not(text: str) -> None:
    """For all damages: one line with none of the private key, or a key that can be published."""
    key = key_or_failure(text)
    if isinstance(key, Failure):
        assert len(key.message.splitlines()) == 1
        assert not [line for line in PEM.split("\n")[1:-2] if line in key.message]
        return
    assert key.token_uri == KEY["token_uri"]
    for username in ("_json_key", "_json_key_base64"):
        password = key.as_password(username).reveal()
        assert "\n" not in password
        assert parse_key(password).info() == key.info()


def test_a_key_shows_itself_without_its_private_part() -> None:
    """In logs and tracebacks."""
    key = parse_key(FILE)
    assert isinstance(key, ServiceAccountKey)
    shown = f"{key!r} {key} {key.as_password('_json_key_base64')}"
    assert "puller@sandbox" in shown
    assert "PRIVATE KEY" not in shown
    assert b64(FILE)[:40] not in shown
