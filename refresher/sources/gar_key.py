"""Service-account keys: read, judged part by part, written as Artifact Registry takes them."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from refresher.errors import InvalidCredential, Misconfigured
from refresher.model import SecretValue

#: User names for which the password is the key: its JSON, or base64 of that
#: (Artifact Registry documentation, "Configure authentication to Artifact Registry for Docker").
JSON_USERNAME = "_json_key"
BASE64_USERNAME = "_json_key_base64"

#: Token services of Google's own. Keys of before 2018 name the second.
TOKEN_URIS = ("https://oauth2.googleapis.com/token", "https://accounts.google.com/o/oauth2/token")
UNIVERSE = "googleapis.com"


@dataclass(frozen=True, slots=True)
class ServiceAccountKey:
    """A service-account key that can sign. It shows itself without its private part."""

    client_email: str
    #: What Google calls the key; public.
    private_key_id: str
    #: Where it is exchanged for an access token.
    token_uri: str
    #: The JSON exactly as it was given.
    document: SecretValue

    def info(self) -> dict[str, Any]:
        """The fields of the document."""
        fields: dict[str, Any] = json.loads(self.document.reveal())
        return fields

    def as_password(self, username: str) -> SecretValue:
        """The password that Artifact Registry takes for this key with `username`.

        One line, since a fal secret can hold no line break. Raises `Misconfigured` for a user
        name that goes with no key.
        """
        text = self.document.reveal()
        if username == BASE64_USERNAME:
            return SecretValue(base64.b64encode(text.encode()).decode("ascii"))
        if username != JSON_USERNAME:
            raise Misconfigured(
                f"a service-account key is published for {BASE64_USERNAME} or {JSON_USERNAME};"
                " set username to one of them"
            )
        if any(character in text for character in "\r\n"):
            text = json.dumps(self.info(), separators=(",", ":"))
        return SecretValue(text)


def parse_key(text: str, token_uris: tuple[str, ...] = ()) -> ServiceAccountKey:
    """The key in `text`: its JSON, or base64 of that in either alphabet, wrapped or not.

    `token_uris`: token services that it may name besides Google's own; a key that names another
    would have us send a signed assertion there. Raises `InvalidCredential`, or `Misconfigured`
    for a key of another place, and names the part; no message holds a value.
    """
    document = _document(text.strip().removeprefix("\ufeff"))
    fields = _fields(document)
    _check_type(fields)
    required = ("client_email", "private_key_id", "private_key", "token_uri")
    email, key_id, private_key, token_uri = (_field(fields, name) for name in required)
    if not re.fullmatch(r"[\w.+-]+@[\w-]+(\.[\w:-]+)+", email, re.ASCII):
        raise InvalidCredential("the service-account key: client_email is not an e-mail address")
    _check_place(fields, token_uri, token_uris)
    _check_private_key(private_key)
    return ServiceAccountKey(email, key_id, token_uri, SecretValue(document))


def _document(text: str) -> str:
    """The JSON, which may come as base64."""
    if not text:
        raise InvalidCredential("the service-account key is empty")
    if text.startswith("{"):
        return text
    _refuse_pem(text)
    try:
        # Without its padding some tools write it; with too much of it Python takes it, too.
        packed = "".join(text.split()).translate(str.maketrans("-_", "+/")).rstrip("=")
        decoded = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except ValueError:
        raise InvalidCredential(
            "the service-account key is neither JSON nor base64 of it; is it whole?"
        ) from None
    try:
        document = decoded.decode("utf-8-sig")
    except UnicodeDecodeError:
        # Not chained: the error's object holds the bytes.
        document = ""
    _refuse_pem(document)
    if not document.lstrip().startswith("{"):
        raise InvalidCredential("the service-account key is base64 of something that is not JSON")
    return document


def _refuse_pem(text: str) -> None:
    if text.startswith("-----BEGIN"):
        raise InvalidCredential(
            "the service-account key is a bare PEM; the whole JSON file is needed"
        )


def _fields(document: str) -> dict[str, object]:
    try:
        fields: dict[str, object] = json.loads(document)
    except (ValueError, RecursionError):
        # Not chained: the error's object holds the document.
        raise InvalidCredential(
            "the service-account key is JSON that does not parse; is it cut off?"
        ) from None
    return fields


#: Other credentials of Google's that are JSON files with a `type`, too.
_OTHER_TYPES = {
    "authorized_user": "is a user's credential; create a key of a service account",
    "external_account": 'is a federation file, which holds no key; use mode = "token"',
    "external_account_authorized_user": "is a user's credential; create a service account's key",
    "impersonated_service_account": 'is an impersonation file; use mode = "token"',
}


def _check_type(fields: dict[str, object]) -> None:
    kind = _field(fields, "type")
    if kind != "service_account":
        what = _OTHER_TYPES.get(kind, "is of another type than service_account")
        raise InvalidCredential(f"the service-account key {what}")


def _field(fields: dict[str, object], name: str) -> str:
    value = fields.get(name)
    if name not in fields:
        raise InvalidCredential(f"the service-account key lacks the field {name}")
    if not isinstance(value, str) or not value.strip():
        raise InvalidCredential(f"the service-account key: {name} is empty or no text")
    return value


def _check_place(fields: dict[str, object], token_uri: str, token_uris: tuple[str, ...]) -> None:
    if fields.get("universe_domain", UNIVERSE) != UNIVERSE:
        raise Misconfigured(
            f"the service-account key: universe_domain is not {UNIVERSE}; other universes are not"
            " supported"
        )
    if token_uri not in (*TOKEN_URIS, *token_uris):
        raise Misconfigured(
            "the service-account key: token_uri is not Google's, nothing was sent there;"
            " list it in google.token_uris if you trust it"
        )


def _check_private_key(pem: str) -> None:
    if "\\n" in pem:
        raise InvalidCredential(
            "the service-account key: private_key holds \\n as text; its line breaks were escaped"
            " twice"
        )
    try:
        # Whether its numbers are primes takes longer to find out than all the rest.
        key = load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not chained: what the library says of a key may quote it.
        raise InvalidCredential(
            "the service-account key: private_key is cut off or not a private key in PEM"
        ) from None
    if not isinstance(key, RSAPrivateKey):
        raise InvalidCredential("the service-account key: private_key is not an RSA key")
