"""A stand-in for Google: tokens, lists of certificates, impersonation and federation on one port.

Assertions are really verified. It answers as reported in the issues that
`refresher.sources.google_errors` names.
"""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from urllib.parse import parse_qs, unquote

from refresher.clock import Clock, SystemClock
from refresher.sandbox.google_keys import FOREVER, AccountKey, Assertion, read_assertion, rsa_key
from refresher.sandbox.http import Request, Response, StandIn
from refresher.sandbox.registry import BearerRegistryStandIn

#: Whatever `token_uri` a key names, its assertions are for this one.
AUDIENCE = "https://oauth2.googleapis.com/token"
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_STS_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"
_GENERATE = re.compile(r"/v1/projects/-/serviceAccounts/(?P<email>[^/:]+):generateAccessToken")
_METADATA = "/computeMetadata/v1/instance/service-accounts/default/token"


def _oauth(code: str, description: str, status: int = 400) -> Response:
    """An error of RFC 6749 section 5.2."""
    return Response.json({"error": code, "error_description": description}, status)


def _rpc(status: int, code: str, message: str) -> Response:
    """An error of Google's APIs (google.rpc.Status as JSON)."""
    return Response.json({"error": {"code": status, "message": message, "status": code}}, status)


#: Every answer of the token service but the good one.
REFUSALS: Mapping[str, Response] = {
    "signature": _oauth("invalid_grant", "Invalid JWT Signature."),
    "account_not_found": _oauth("invalid_grant", "Invalid grant: account not found"),
    "disabled": _oauth("invalid_grant", "Robot is disabled.", 401),
    "timeframe": _oauth(
        "invalid_grant",
        "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable"
        " timeframe. Check your iat and exp values in the JWT claim.",
    ),
    "audience": _oauth("invalid_grant", "Invalid JWT: Failed audience check."),
    "no_verifier": _oauth("invalid_grant", "Invalid JWT: No valid verifier found for issuer."),
    "disabled_client": _oauth("disabled_client", "The OAuth client was disabled."),
    "admin_policy_enforced": _oauth("admin_policy_enforced", "Forbidden by your administrator."),
    "unauthorized_client": _oauth(
        "unauthorized_client", "Client is unauthorized to retrieve access tokens.", 401
    ),
    "access_denied": _oauth("access_denied", "Requested client not authorized.", 403),
    "invalid_scope": _oauth("invalid_scope", "Empty or missing scope not allowed."),
    "invalid_client": _oauth("invalid_client", "The OAuth client was not found.", 401),
    "invalid_request": _oauth("invalid_request", "Missing required parameter."),
    "throttled": _oauth("rate_limit_exceeded", "Too many requests.", 429),
    "internal_failure": _oauth("internal_failure", "Backend Error", 500),
    "bad_gateway": Response(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"}),
    "unavailable": _oauth("temporarily_unavailable", "Try again.", 503),
}


class _Refused(Exception):
    """The token service says no; the name of one of `REFUSALS`."""


@dataclass(slots=True)
class _Account:
    email: str
    keys: dict[str, AccountKey] = field(default_factory=dict)
    disabled: bool = False
    #: Accounts that may have tokens of this one.
    trusts: set[str] = field(default_factory=set)


class GoogleStandIn(StandIn):
    """Google on loopback. Its attributes may be set at any time."""

    def __init__(self, *, clock: Clock | None = None, port: int = 0) -> None:
        super().__init__(port)
        self.clock: Clock = clock or SystemClock()
        #: How long a new access token lives.
        self.token_life = timedelta(seconds=3599)
        #: How long the token service takes to learn of a new key.
        self.propagation = timedelta(0)
        #: The account of the machine whose metadata server this is, too.
        self.machine_account: str | None = None
        #: Tokens of a trusted identity provider, and the account that they stand for.
        self.subject_tokens: dict[str, str] = {}
        self._accounts: dict[str, _Account] = {}
        #: Access token to its account and its end.
        self._tokens: dict[str, tuple[str, datetime]] = {}
        self._refusal: str | None = None
        self._count = 0
        self._state = threading.RLock()

    # --- where it is ---------------------------------------------------------------------------

    @property
    def token_uri(self) -> str:
        return f"{self.url}/token"

    @property
    def certs_url(self) -> str:
        return f"{self.url}/x509"

    @property
    def iam_url(self) -> str:
        return f"{self.url}/v1"

    @property
    def sts_url(self) -> str:
        return f"{self.url}/sts"

    def impersonation_url(self, email: str) -> str:
        """As a federation file names it."""
        return f"{self.iam_url}/projects/-/serviceAccounts/{email}:generateAccessToken"

    # --- what a person does at Google ----------------------------------------------------------

    def add_account(self, email: str, trusts: Iterable[str] = ()) -> None:
        """`trusts`: accounts that may impersonate it."""
        with self._state:
            self._accounts[email] = _Account(email, trusts=set(trusts))

    def disable_account(self, email: str, *, disabled: bool = True) -> None:
        self._accounts[email].disabled = disabled

    def delete_account(self, email: str) -> None:
        with self._state:
            del self._accounts[email]

    def add_key(self, email: str, not_after: datetime = FOREVER) -> dict[str, str]:
        """A new key of the account: the JSON of its file."""
        with self._state:
            key = AccountKey(rsa_key(self._count), self.clock.now() + self.propagation, not_after)
            self._count += 1
            self._accounts[email].keys[key.id] = key
        return {
            "type": "service_account",
            "project_id": "sandbox",
            "private_key_id": key.id,
            "private_key": key.pem,
            "client_email": email,
            "client_id": "100000000000000000001",
            "token_uri": self.token_uri,
            "universe_domain": "googleapis.com",
        }

    def delete_key(self, email: str, key_id: str) -> None:
        with self._state:
            del self._accounts[email].keys[key_id]

    def expire_key(self, email: str, key_id: str, not_after: datetime) -> None:
        """Set the end of the key's certificate."""
        self._accounts[email].keys[key_id].not_after = not_after

    def refuse(self, name: str | None) -> None:
        """Let the token service answer with that one of `REFUSALS`; None ends it."""
        if name is not None and name not in REFUSALS:
            raise KeyError(name)
        self._refusal = name

    # --- what a registry asks ------------------------------------------------------------------

    def judge(self, username: str, password: str) -> bool:
        """Whether Artifact Registry would take the login."""
        if username == "oauth2accesstoken":
            return self.judge_token(password) is not None
        return self.judge_key(username, password)

    def judge_token(self, token: str) -> str | None:
        """The account of a live access token."""
        with self._state:
            email, expires_at = self._tokens.get(token, ("", FOREVER))
            account = self._accounts.get(email)
            if account is None or account.disabled or expires_at <= self.clock.now():
                return None
            return email

    def judge_key(self, username: str, password: str) -> bool:
        """Whether the password is a live key, in the form that goes with the user name."""
        told = _key_in(username, password)
        with self._state:
            account = self._accounts.get(str(told.get("client_email")))
            key = account.keys.get(str(told.get("private_key_id"))) if account else None
            if account is None or key is None or account.disabled:
                return False
            return told.get("private_key") == key.pem and _works(key, self.clock.now())

    # --- the wire ------------------------------------------------------------------------------

    def handle(self, request: Request) -> Response:
        now = self.clock.now()
        date = {"Date": format_datetime(now.astimezone(UTC), usegmt=True)}
        with self._state:
            answer = self._answered(request, now)
        return Response(answer.status, answer.body, {**date, **answer.headers})

    def _answered(self, request: Request, now: datetime) -> Response:
        generate = _GENERATE.fullmatch(unquote(request.path))
        if generate is not None:
            return self._generate(request, generate["email"], now)
        if request.path.startswith("/x509/"):
            return self._listed(unquote(request.path.removeprefix("/x509/")))
        if request.path == _METADATA:
            return self._of_machine(request, now)
        if request.method != "POST" or request.path not in ("/token", "/sts"):
            return _rpc(404, "NOT_FOUND", "Requested entity was not found.")
        form = {name: values[0] for name, values in parse_qs(request.body.decode()).items()}
        try:
            email = self._federated(form) if request.path == "/sts" else self._proved(form, now)
        except _Refused as refused:
            return REFUSALS[str(refused)]
        return self._issued(email, now)

    def _issued(self, email: str, now: datetime) -> Response:
        life = int(self.token_life.total_seconds())
        token = self._new_token(email, now + self.token_life)
        kind = "urn:ietf:params:oauth:token-type:access_token"
        return Response.json(
            {
                "access_token": token,
                "expires_in": life,
                "token_type": "Bearer",
                "issued_token_type": kind,
            }
        )

    def _new_token(self, email: str, expires_at: datetime) -> str:
        token = f"ya29.{secrets.token_urlsafe(48)}"
        self._tokens[token] = (email, expires_at)
        return token

    def _proved(self, form: Mapping[str, str], now: datetime) -> str:
        """The account that an assertion proves (RFC 7523)."""
        if self._refusal is not None:
            raise _Refused(self._refusal)
        assertion = read_assertion(form.get("assertion", ""))
        if form.get("grant_type") != _JWT_GRANT or assertion is None:
            raise _Refused("invalid_request")
        account = self._accounts.get(str(assertion.claims.get("iss")))
        if account is None:
            raise _Refused("account_not_found")
        if account.disabled:
            raise _Refused("disabled")
        key = account.keys.get(str(assertion.header.get("kid")))
        if key is None or not _works(key, now) or not key.signed(assertion):
            raise _Refused("signature")
        _check_claims(assertion, now)
        return account.email

    def _federated(self, form: Mapping[str, str]) -> str:
        """The account that a token of another provider stands for (RFC 8693)."""
        email = self.subject_tokens.get(form.get("subject_token", ""))
        if form.get("grant_type") != _STS_GRANT or email is None:
            raise _Refused("access_denied")
        return email

    def _listed(self, email: str) -> Response:
        account = self._accounts.get(email)
        if account is None:
            return _rpc(404, "NOT_FOUND", "Service account not found.")
        return Response.json({key.id: key.certificate(email) for key in account.keys.values()})

    def _of_machine(self, request: Request, now: datetime) -> Response:
        if request.headers.get("Metadata-Flavor") != "Google":
            return Response(403, b"Missing Metadata-Flavor:Google header.")
        if self.machine_account is None:
            return Response(404, b"not found")
        return self._issued(self.machine_account, now)

    def _generate(self, request: Request, email: str, now: datetime) -> Response:
        """IAM REST reference, projects.serviceAccounts.generateAccessToken."""
        scheme, _, token = (request.headers.get("Authorization") or "").partition(" ")
        caller = self.judge_token(token) if scheme.lower() == "bearer" else None
        if caller is None:
            return _rpc(401, "UNAUTHENTICATED", "Request had invalid authentication credentials.")
        asked = json.loads(request.body)
        delegates = [name.rpartition("/")[2] for name in asked.get("delegates") or []]
        if not self._may(caller, [*delegates, email]):
            return _rpc(
                403,
                "PERMISSION_DENIED",
                "Permission 'iam.serviceAccounts.getAccessToken' denied on resource"
                " (or it may not exist).",
            )
        lifetime = int(asked["lifetime"].removesuffix("s"))
        if lifetime > 43200:
            return _rpc(400, "INVALID_ARGUMENT", "The access token lifetime cannot exceed 43200s.")
        expires_at = now + timedelta(seconds=lifetime)
        return Response.json(
            {
                "accessToken": self._new_token(email, expires_at),
                "expireTime": f"{expires_at:%Y-%m-%dT%H:%M:%SZ}",
            }
        )

    def _may(self, caller: str, chain: list[str]) -> bool:
        """Whether each account of the chain trusts the one before."""
        for email in chain:
            account = self._accounts.get(email)
            if account is None or account.disabled or caller not in account.trusts:
                return False
            caller = email
        return True


def _works(key: AccountKey, now: datetime) -> bool:
    return key.known_at <= now < key.not_after


def _check_claims(assertion: Assertion, now: datetime) -> None:
    """ "Using OAuth 2.0 for Server to Server Applications", required claims."""
    claims = assertion.claims
    if claims.get("aud") != AUDIENCE:
        raise _Refused("audience")
    issued, expires = int(claims.get("iat", 0)), int(claims.get("exp", 0))
    slack = 300
    seconds = now.timestamp()
    if expires - issued > 3600 or issued > seconds + slack or expires < seconds - slack:
        raise _Refused("timeframe")
    if not claims.get("scope"):
        raise _Refused("invalid_scope")


def _key_in(username: str, password: str) -> dict[str, object]:
    """The document of a key in a password; an empty one where there is none."""
    try:
        if username == "_json_key_base64":
            password = base64.b64decode(password, validate=True).decode()
        elif username != "_json_key":
            return {}
        document = json.loads(password)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


class GarStandIn(BearerRegistryStandIn):
    """A registry in the manner of Artifact Registry, which takes what a judge calls good."""

    def __init__(
        self,
        judge: Callable[[str, str], bool],
        images: Mapping[str, Iterable[str]] | None = None,
        host: str = "us-central1-docker.pkg.dev",
        port: int = 0,
    ) -> None:
        """`judge`: says of a user name and a password whether they may come in."""
        super().__init__(host, {}, images, flavour="gar", port=port)
        self.judge = judge

    def refused_login(self, username: str, password: str) -> Response | None:
        return None if self.judge(username, password) else self.flavour.wrong
