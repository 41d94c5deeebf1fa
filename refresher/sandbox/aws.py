"""A stand-in for AWS: ECR, ECR Public and STS on one port.

ECR speaks JSON 1.1 and STS the query protocol with XML, as botocore's service descriptions of
2015-09-21, 2020-10-30 and 2011-06-15 have them. Signatures are really checked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Literal
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from refresher.clock import Clock, SystemClock
from refresher.sandbox.http import Request, Response, StandIn
from refresher.sandbox.sigv4 import Signature, is_signed_with, read_signature

#: The key that every stand-in knows.
ACCESS_KEY_ID = "AKIASANDBOX000000000"
SECRET_ACCESS_KEY = "sandbox/secret/access/key/0000000000000"  # noqa: S105 - opens only a stand-in
ACCOUNT = "123456789012"

#: How long an ended password or session is remembered, so that it is `expired`, not `unknown`.
REMEMBER = timedelta(hours=1)

_TARGETS = {
    "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken": "ecr",
    "SpencerFrontendService.GetAuthorizationToken": "ecr-public",
}

Verdict = Literal["good", "expired", "revoked", "unknown"]


class Refusal(Exception):
    """AWS says no."""

    def __init__(
        self, code: str, status: int, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(code)
        self.code = code
        self.status = status
        self.message = message
        self.headers = headers or {}


def _unsigned(service: str, ecr_code: str, sts_code: str, message: str) -> Refusal:
    """A refusal of the signature, which the two protocols name differently."""
    if service == "sts":
        return Refusal(sts_code, 403, message)
    return Refusal(ecr_code, 400, message)


# --- passwords ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issued:
    """A password that the stand-in issued."""

    account: str
    region: str
    #: `ecr` or `ecr-public`.
    service: str
    #: When it stops working, which may be before the `expiresAt` that was told.
    dies_at: datetime
    revoked: bool = False


class Passwords:
    """Every password that was issued and not yet forgotten, by its hash."""

    def __init__(self) -> None:
        self._issued: dict[bytes, Issued] = {}
        self._lock = threading.Lock()

    def add(self, password: str, issued: Issued, now: datetime) -> None:
        with self._lock:
            self._issued = {k: i for k, i in self._issued.items() if i.dies_at + REMEMBER > now}
            self._issued[_hash(password)] = issued

    def judge(self, password: str, now: datetime) -> Verdict:
        """What the registry should make of a password."""
        issued = self.issued(password)
        if issued is None:
            return "unknown"
        if issued.revoked:
            return "revoked"
        return "good" if now < issued.dies_at else "expired"

    def issued(self, password: str) -> Issued | None:
        """For which account and region it was issued; None where it was not."""
        with self._lock:
            return self._issued.get(_hash(password))

    def revoke(self, password: str) -> None:
        """End one password before its time, as the loss of a permission does."""
        self._revoke({_hash(password)})

    def revoke_all(self) -> None:
        """End all passwords issued so far."""
        with self._lock:
            keys = set(self._issued)
        self._revoke(keys)

    def _revoke(self, keys: set[bytes]) -> None:
        with self._lock:
            for key in keys & self._issued.keys():
                self._issued[key] = replace(self._issued[key], revoked=True)

    def __len__(self) -> int:
        return len(self._issued)


def _hash(password: str) -> bytes:
    return hashlib.sha256(password.encode()).digest()


def new_password(expires_at: datetime) -> str:
    """A random password that looks like a real one: base64 of JSON, not quite 2 KB."""
    inside = {
        "payload": base64.b64encode(secrets.token_bytes(900)).decode(),
        "datakey": base64.b64encode(secrets.token_bytes(184)).decode(),
        "version": "2",
        "type": "DATA_KEY",
        "expiration": int(expires_at.timestamp()),
    }
    return base64.b64encode(json.dumps(inside).encode()).decode()


# --- principals --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """An access key and whose it is."""

    secret_access_key: str
    account: str
    #: Who signs with it, such as `arn:aws:iam::123456789012:user/ci`.
    arn: str
    #: Demanded with every request where it is set.
    session_token: str | None = None
    #: End of the session; None for a key without one.
    expires_at: datetime | None = None
    #: The role, where the session is one of a role: what it assumes is chained.
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Role:
    """A role that can be assumed, and by whom."""

    arn: str
    #: Demanded by the trust policy where it is set.
    external_id: str | None = None
    #: ARNs of users and roles that are trusted; None trusts every known key.
    trusts: frozenset[str] | None = None
    max_session: timedelta = timedelta(hours=12)

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2]


@dataclass(slots=True)
class _Bucket:
    """A token bucket."""

    level: float
    at: float

    def take(self, rate: float, burst: float, monotonic: float) -> bool:
        self.level = min(burst, self.level + (monotonic - self.at) * rate)
        self.at = monotonic
        if self.level < 1:
            return False
        self.level -= 1
        return True


@dataclass(slots=True)
class _Trouble:
    """An error that is answered instead of the operation."""

    refusal: Refusal
    operation: str | None
    times: int | None


# --- the stand-in ------------------------------------------------------------------------------


class AwsStandIn(StandIn):
    """ECR, ECR Public and STS of every account and region. Set an attribute to change it."""

    #: GetAuthorizationToken, per account and region (ECR service quotas).
    rate = 20.0
    burst = 200.0

    def __init__(self, port: int = 0, *, clock: Clock | None = None) -> None:
        super().__init__(port)
        self.clock: Clock = clock or SystemClock()
        #: How far `X-Amz-Date` may be from our clock; None where time is moved by hand, since
        #: botocore signs with the machine's clock.
        self.tolerance: timedelta | None = timedelta(minutes=5)
        self.token_life = timedelta(hours=12)
        #: Real life of sessions where it is not what was asked for; AWS allows no less than 15 min.
        self.session_life: timedelta | None = None
        #: Whether a token dies with the session that it was issued to.
        self.session_bound_death = False
        #: Told instead of the token's end.
        self.expires_at_override: datetime | Literal["missing"] | None = None
        #: Answered as `authorizationToken` instead of a good one.
        self.raw_token: str | None = None
        #: Makes each password, given its end.
        self.make_password: Callable[[datetime], str] = new_password
        #: How often each operation was asked for.
        self.calls: Counter[str] = Counter()
        self.passwords = Passwords()
        #: Tokens of a trusted identity provider and when they end.
        self.web_identities: dict[str, datetime] = {}
        self._keys: dict[str, Key] = {}
        self._roles: dict[str, Role] = {}
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._troubles: list[_Trouble] = []
        self._state = threading.RLock()
        self.add_key(ACCESS_KEY_ID, SECRET_ACCESS_KEY)

    @property
    def environ(self) -> dict[str, str]:
        """The environment that sends boto3 here, with the key that is known."""
        return {
            "AWS_ENDPOINT_URL_ECR": self.url,
            "AWS_ENDPOINT_URL_ECR_PUBLIC": self.url,
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET_ACCESS_KEY,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def add_key(
        self, access_key_id: str, secret_access_key: str, account: str = ACCOUNT, user: str = "ci"
    ) -> None:
        """Register a long-lived key of a user."""
        with self._state:
            self._keys[access_key_id] = Key(
                secret_access_key, account, f"arn:aws:iam::{account}:user/{user}"
            )

    def add_role(self, role: Role) -> None:
        with self._state:
            self._roles[role.arn] = role

    def error(
        self,
        code: str,
        status: int,
        message: str,
        *,
        operation: str | None = None,
        times: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Refuse every operation, or one, the next `times` times or until `mend`."""
        with self._state:
            refusal = Refusal(code, status, message, headers)
            self._troubles.append(_Trouble(refusal, operation, times))

    def mend(self) -> None:
        super().mend()
        with self._state:
            self._troubles.clear()

    def handle(self, request: Request) -> Response:
        service = _TARGETS.get(request.headers.get("X-Amz-Target", ""), "sts")
        form = {} if service != "sts" else _form(request)
        operation = form.get("Action", "GetAuthorizationToken")
        now = self.clock.now()
        date = {"Date": format_datetime(now.astimezone(UTC), usegmt=True)}
        with self._state:
            self.calls[operation] += 1
            try:
                self._disturb(operation)
                answer = self._operate(service, operation, form, request, now)
            except Refusal as refusal:
                answer = _refusal(service, refusal)
        return Response(answer.status, answer.body, {**date, **answer.headers})

    def _disturb(self, operation: str) -> None:
        for trouble in self._troubles:
            if trouble.operation not in (None, operation) or trouble.times == 0:
                continue
            if trouble.times is not None:
                trouble.times -= 1
            raise trouble.refusal

    def _operate(
        self, service: str, operation: str, form: dict[str, str], request: Request, now: datetime
    ) -> Response:
        if operation == "AssumeRoleWithWebIdentity":
            return self._assume_with_web_identity(form, now)
        key, signature = self._authenticated(service, request, now)
        if operation == "AssumeRole":
            return self._assume(key, form, now)
        if operation == "GetCallerIdentity":
            inside = f"<Arn>{key.arn}</Arn><UserId>sandbox</UserId><Account>{key.account}</Account>"
            return _xml(operation, inside)
        if operation == "GetAuthorizationToken":
            return self._issue(service, key, signature.region, now)
        raise Refusal("InvalidAction", 400, f"Could not find operation {operation}")

    # --- who asks ------------------------------------------------------------------------------

    def _authenticated(
        self, service: str, request: Request, now: datetime
    ) -> tuple[Key, Signature]:
        """The key that signed the request. Raises a `Refusal` in the words of the service."""
        signature = read_signature(request)
        if signature is None:
            raise _unsigned(
                service,
                "IncompleteSignatureException",
                "IncompleteSignature",
                "Request is missing an Authorization header in the form of Signature Version 4",
            )
        key = self._keys.get(signature.access_key_id)
        given = request.headers.get("X-Amz-Security-Token")
        if key is None or given != key.session_token:
            raise _unsigned(
                service,
                "UnrecognizedClientException",
                "InvalidClientTokenId",
                "The security token included in the request is invalid",
            )
        wrong = self._wrong(service, request, signature, key, now)
        if wrong is not None:
            raise _unsigned(service, "InvalidSignatureException", "SignatureDoesNotMatch", wrong)
        if key.expires_at is not None and key.expires_at <= now:
            raise _unsigned(
                service,
                "ExpiredTokenException",
                "ExpiredToken",
                "The security token included in the request is expired",
            )
        return key, signature

    def _wrong(
        self, service: str, request: Request, signature: Signature, key: Key, now: datetime
    ) -> str | None:
        """What is wrong with a signature, in AWS's words."""
        if service != signature.service:
            return f"Credential should be scoped to correct service: '{service}'."
        if service == "ecr-public" and signature.region != "us-east-1":
            return "Credential should be scoped to a valid region."
        if self.tolerance is not None and abs(signature.signed_at - now) > self.tolerance:
            told, ours = f"{signature.signed_at:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%dT%H%M%SZ}"
            if signature.signed_at < now:
                return f"Signature expired: {told} is now earlier than {ours} ({ours} - 5 min.)"
            return f"Signature not yet current: {told} is still later than {ours} ({ours} + 5 min.)"
        if not is_signed_with(request, signature, key.secret_access_key):
            # As the real one, it quotes the request with its session token: log none of it.
            return (
                "The request signature we calculated does not match the signature you provided."
                f" The Canonical String should have been x-amz-security-token:{key.session_token}"
            )
        return None

    # --- ECR -----------------------------------------------------------------------------------

    def _issue(self, service: str, key: Key, region: str, now: datetime) -> Response:
        place = (key.account, region)
        bucket = self._buckets.setdefault(place, _Bucket(self.burst, self.clock.monotonic()))
        if not bucket.take(self.rate, self.burst, self.clock.monotonic()):
            raise Refusal("ThrottlingException", 400, "Rate exceeded")
        expires_at = dies_at = now + self.token_life
        if self.session_bound_death and key.expires_at is not None:
            dies_at = min(dies_at, key.expires_at)
        password = self.make_password(expires_at)
        self.passwords.add(password, Issued(*place, service, dies_at), now)
        token = base64.b64encode(f"AWS:{password}".encode()).decode()
        entry: dict[str, object] = {
            "authorizationToken": token if self.raw_token is None else self.raw_token
        }
        if self.expires_at_override != "missing":
            entry["expiresAt"] = (self.expires_at_override or expires_at).timestamp()
        return _json(service, entry, place)

    # --- STS -----------------------------------------------------------------------------------

    def _assume(self, key: Key, form: dict[str, str], now: datetime) -> Response:
        role = self._roles.get(form.get("RoleArn", ""))
        caller = key.role or key.arn
        trusted = role is not None and (role.trusts is None or caller in role.trusts)
        if role is None or not trusted or role.external_id not in (None, form.get("ExternalId")):
            raise Refusal(
                "AccessDenied",
                403,
                f"User: {key.arn} is not authorized to perform: sts:AssumeRole on resource:"
                f" {form.get('RoleArn', '')}",
            )
        return self._session(role, form, now, chained=key.role is not None)

    def _assume_with_web_identity(self, form: dict[str, str], now: datetime) -> Response:
        ends = self.web_identities.get(form.get("WebIdentityToken", ""))
        if ends is None:
            raise Refusal("InvalidIdentityToken", 400, "No OpenIDConnect provider found")
        if ends <= now:
            raise Refusal("ExpiredTokenException", 400, "Token expired: current date/time is later")
        role = self._roles.get(form.get("RoleArn", ""))
        if role is None:
            raise Refusal(
                "AccessDenied", 403, "Not authorized to perform sts:AssumeRoleWithWebIdentity"
            )
        return self._session(role, form, now, chained=False)

    def _session(
        self, role: Role, form: dict[str, str], now: datetime, *, chained: bool
    ) -> Response:
        seconds = _session_seconds(role, form, chained=chained)
        expires_at = now + (self.session_life or timedelta(seconds=seconds))
        key_id = f"ASIA{secrets.token_hex(8).upper()}"
        name = form.get("RoleSessionName", "")
        key = Key(
            secret_access_key=secrets.token_urlsafe(30),
            account=role.account,
            arn=f"arn:aws:sts::{role.account}:assumed-role/{role.name}/{name}",
            session_token=base64.b64encode(secrets.token_bytes(300)).decode(),
            expires_at=expires_at,
            role=role.arn,
        )
        self._keys = {
            i: k
            for i, k in self._keys.items()
            if k.expires_at is None or k.expires_at + REMEMBER > now
        }
        self._keys[key_id] = key
        return _xml(
            form["Action"],
            f"<AssumedRoleUser><Arn>{escape(key.arn)}</Arn>"
            f"<AssumedRoleId>AROASANDBOX:{escape(name)}</AssumedRoleId></AssumedRoleUser>"
            f"<Credentials><AccessKeyId>{key_id}</AccessKeyId>"
            f"<SecretAccessKey>{key.secret_access_key}</SecretAccessKey>"
            f"<SessionToken>{key.session_token}</SessionToken>"
            f"<Expiration>{expires_at:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>",
        )


def _session_seconds(role: Role, form: dict[str, str], *, chained: bool) -> int:
    """The life asked for, if a role may have it (STS API reference, AssumeRole).

    Clients themselves refuse to ask for less than 15 minutes.
    """
    seconds = int(form.get("DurationSeconds", "3600"))
    if chained and seconds > 3600:
        raise Refusal(
            "ValidationError",
            400,
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by"
            " role chaining",
        )
    if seconds > role.max_session.total_seconds():
        raise Refusal(
            "ValidationError",
            400,
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        )
    return seconds


# --- the wire ----------------------------------------------------------------------------------


def _form(request: Request) -> dict[str, str]:
    fields = parse_qs(request.body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[0] for name, values in fields.items()}


def _json(service: str, entry: dict[str, object], place: tuple[str, str]) -> Response:
    """The private API answers with a list and a proxyEndpoint, the public one with one object."""
    data: object = entry
    if service == "ecr":
        account, region = place
        proxy = f"https://{account}.dkr.ecr.{region}.amazonaws.com"
        data = [{**entry, "proxyEndpoint": proxy}]
    return Response.json({"authorizationData": data}, content_type="application/x-amz-json-1.1")


def _xml(operation: str, inside: str) -> Response:
    document = (
        f'<{operation}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/">'
        f"<{operation}Result>{inside}</{operation}Result>"
        f"<ResponseMetadata><RequestId>sandbox</RequestId></ResponseMetadata></{operation}Response>"
    )
    return Response(200, document.encode(), {"Content-Type": "text/xml"})


def _refusal(service: str, refusal: Refusal) -> Response:
    if service != "sts":
        return Response.json(
            {"__type": refusal.code, "message": refusal.message},
            refusal.status,
            "application/x-amz-json-1.1",
            refusal.headers,
        )
    document = (
        '<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error>'
        f"<Type>Sender</Type><Code>{escape(refusal.code)}</Code>"
        f"<Message>{escape(refusal.message)}</Message></Error>"
        "<RequestId>sandbox</RequestId></ErrorResponse>"
    )
    headers = {"Content-Type": "text/xml", **refusal.headers}
    return Response(refusal.status, document.encode(), headers)
