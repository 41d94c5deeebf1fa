"""Who we are at AWS, and a call made as that principal."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import boto3
import botocore.loaders
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import ClientError, NoCredentialsError

from refresher import __version__
from refresher.clock import Clock, Skews
from refresher.config import is_loopback
from refresher.deadline import CallThreads
from refresher.errors import InvalidResponse, Misconfigured
from refresher.references import Reference
from refresher.sources.aws_errors import VENDOR_ERRORS, Step, translated

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsSettings:
    """Who we are at AWS. With nothing set it is what boto3's default chain finds."""

    #: Profile of ~/.aws/config and ~/.aws/credentials.
    profile: str | None = None
    #: Roles to assume, each from the one before.
    role_arn: tuple[str, ...] = ()
    #: Sent with every AssumeRole; a role whose trust policy does not ask for it ignores it.
    external_id: Reference | None = None
    #: How CloudTrail names our sessions.
    session_name: str = "refresher"
    #: Life of the last session, 15 min to 12 h; AWS's default of 1 h where unset.
    duration: timedelta | None = None
    #: OIDC token that the first role is assumed with.
    web_identity_token_file: Path | None = None
    access_key_id: Reference | None = None
    secret_access_key: Reference | None = None
    session_token: Reference | None = None
    #: Take the end of the session for the end of a token, where that comes first.
    session_bound: bool = False

    @property
    def account(self) -> str:
        """Whose quotas our calls count against: the account of the last role, which its ARN
        names, else whatever stands for the one that we start from."""
        if self.role_arn:
            return self.role_arn[-1].split(":")[4]
        return f"of {self.access_key_id or self.profile or 'the environment'}"

    def __str__(self) -> str:
        """What is set, references by name: equal for settings that mean the same principal."""
        values = ((f.name, getattr(self, f.name), f.default) for f in fields(self))
        return " ".join(f"{name}={value}" for name, value, default in values if value != default)


# --- clients -----------------------------------------------------------------------------------

_CONFIG = Config(
    connect_timeout=3,
    read_timeout=5,
    retries={"mode": "standard", "total_max_attempts": 1},  # the policy retries
    user_agent_extra=f"refresher/{__version__}",
)

#: Who signs the calls of this thread. Clients are shared, identities are not.
_signer: ContextVar[ReadOnlyCredentials] = ContextVar("_signer")


class _SignerOfTheThread(Credentials):
    """Credentials for a client that many identities use, and botocore's provider of them."""

    def __init__(self) -> None:
        super().__init__("unused", "unused")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return _signer.get()

    def load_credentials(self) -> Credentials:
        return self


@cache
def _models() -> botocore.loaders.Loader:
    """AWS's descriptions of its services: megabytes once parsed, never changed."""
    return botocore.loaders.create_loader()


def new_session(
    region: str, profile: str | None, ca_bundle: Path | None = None
) -> botocore.session.Session:
    """A session that keeps nothing of an earlier one, so the credentials it finds are new.

    `ca_bundle` comes before AWS_CA_BUNDLE and the profile's `ca_bundle`, also in the clients that
    botocore makes to find credentials.
    """
    session = botocore.session.Session(profile=profile)
    session.register_component("data_loader", _models())
    session.set_default_client_config(_CONFIG)
    session.set_config_variable("region", region)
    session.set_config_variable("sts_regional_endpoints", "regional")
    if ca_bundle is not None:
        session.set_config_variable("ca_bundle", str(ca_bundle))
    session.register("before-send", _refuse_plain_text)
    return session


def _refuse_plain_text(**sending: Any) -> None:
    """The token of a session, and a password in the answer, would be readable on the way.

    Metadata services are not asked through a client, and so not through this.
    """
    url = urlsplit(sending["request"].url)
    if url.scheme != "https" and not is_loopback(url.hostname or ""):
        raise Misconfigured(
            f"AWS is reached at http://{url.hostname}, nothing was sent; plain HTTP is for loopback"
            " only, so check AWS_ENDPOINT_URL* and endpoint_url"
        )


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an API is reached. AWS_ENDPOINT_URL_* and the profile's settings come first."""

    #: botocore's name of the service, such as `ecr-public`.
    service: str
    region: str
    #: Profile whose endpoint, CA bundle and proxy settings apply.
    profile: str | None
    fips: bool = False
    dual_stack: bool = False


class AwsClients:
    """One client for each endpoint, made when first asked for.

    A client with its TLS context takes more than a megabyte, so sources share them: give all
    sources of a process the same object.
    """

    def __init__(self, ca_bundle: Path | None = None) -> None:
        """`ca_bundle`: PEM file instead of the public authorities."""
        #: Where the calls are made, each within its deadline.
        self.threads = CallThreads()
        self.ca_bundle = ca_bundle
        self._clients: dict[Endpoint, Any] = {}
        self._lock = threading.Lock()

    def at(self, endpoint: Endpoint) -> Any:
        """The client for `endpoint`. Raises `Misconfigured`, or an error of botocore's."""
        with self._lock:
            if endpoint not in self._clients:
                self._clients[endpoint] = _new_client(endpoint, self.ca_bundle)
            return self._clients[endpoint]


def _new_client(endpoint: Endpoint, ca_bundle: Path | None) -> Any:
    session = new_session(endpoint.region, endpoint.profile, ca_bundle)
    session.register_component("credential_provider", _SignerOfTheThread())
    # None leaves AWS_USE_FIPS_ENDPOINT and AWS_USE_DUALSTACK_ENDPOINT in force.
    variant = Config(
        use_fips_endpoint=endpoint.fips or None,
        use_dualstack_endpoint=endpoint.dual_stack or None,
    )
    try:
        boto = cast("Any", boto3.Session(botocore_session=session))
        return boto.client(endpoint.service, config=variant)
    except ValueError:  # what botocore raises for an endpoint URL that is none, and it holds it
        raise Misconfigured(
            f"the endpoint of {endpoint.service} in {endpoint.region} is not a URL;"
            " check AWS_ENDPOINT_URL* and endpoint_url"
        ) from None


# --- calls -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Identity:
    """Who signs a call."""

    keys: ReadOnlyCredentials = field(repr=False)
    #: The end of the session by AWS's clock; None for a key without one.
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What AWS answered to a call."""

    data: Mapping[str, Any] = field(repr=False)
    #: AWS's clock less ours; zero where the answer does not tell.
    skew: timedelta


class Caller:
    """Makes calls: each within its deadline, its errors translated, its `Date` noted."""

    def __init__(self, *, clock: Clock, skews: Skews, threads: CallThreads, seconds: float) -> None:
        self._clock = clock
        self._skews = skews
        self._threads = threads
        self._seconds = seconds

    def ask(
        self, step: Step, identity: Identity | None, call: Callable[[], Mapping[str, Any]]
    ) -> Answer:
        """AWS's answer to `call`, signed by `identity`. Raises a `Failure`."""

        def signed() -> Mapping[str, Any]:
            if identity is None:
                return call()
            before = _signer.set(identity.keys)
            try:
                return call()
            finally:
                _signer.reset(before)

        data = self.run(step, signed)
        return Answer(data, self._skew(step, data))

    def run(self, step: Step, call: Callable[[], T]) -> T:
        """What `call` returns. Raises a `Failure`."""
        try:
            return self._threads.within(self._seconds, step.peer, call)
        except VENDOR_ERRORS as error:
            told = error.response if isinstance(error, ClientError) else {}
            skew = self._skew(step, told)
            raise translated(error, step, skew, self._clock.now()) from None

    def _skew(self, step: Step, answer: Mapping[str, Any]) -> timedelta:
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        now = self._clock.now()
        seen = self._skews.observe(step.peer, now, headers.get("date"), headers.get("age"))
        return seen or timedelta(0)


# --- the principal -----------------------------------------------------------------------------


class Principal:
    """The identity that the settings describe.

    Its sessions are assumed anew each time: a token may die with the session that it was
    issued to, and botocore would hand out one with as little as ten minutes left.
    """

    def __init__(
        self, aws: AwsSettings, region: str, *, clients: AwsClients, caller: Caller
    ) -> None:
        self._aws = aws
        self._region = region
        self._clients = clients
        self._caller = caller
        self._environment: Identity | None = None

    def assume(self) -> Identity:
        """The identity at the end of all roles. Raises a `Failure`."""
        identity, roles = self._start()
        for role in roles:
            identity = self._with_role(identity, role)
        return identity

    def arn(self) -> str:
        """Who AWS takes us for at the end of all roles. Raises a `Failure`.

        The call needs no permission (STS API reference, GetCallerIdentity).
        """
        identity = self.assume()
        step = Step(f"sts.{self._region}", "allow sts:GetCallerIdentity to this principal")
        answer = self._caller.ask(step, identity, lambda: self._sts().get_caller_identity())
        arn = answer.data.get("Arn")
        if not isinstance(arn, str):
            raise InvalidResponse(f"{step.peer}: an answer without Arn")
        return arn

    def sts_url(self) -> str:
        """Where roles are assumed. Raises a `Failure`."""
        step = Step(f"sts.{self._region}", "")
        url: str = self._caller.run(step, lambda: self._sts().meta.endpoint_url)
        return url

    def _start(self) -> tuple[Identity, tuple[str, ...]]:
        """The identity that we have, and the roles still to be assumed from it."""
        roles = self._aws.role_arn
        if self._aws.access_key_id is not None or self._aws.secret_access_key is not None:
            return self._given(), roles
        if self._aws.web_identity_token_file is not None:
            return self._with_web_identity(self._aws.web_identity_token_file), roles[1:]
        return self._environment or self._found(), roles

    def _given(self) -> Identity:
        """The key that the configuration refers to."""
        key, secret = self._aws.access_key_id, self._aws.secret_access_key
        if key is None or secret is None:
            raise Misconfigured("aws.access_key_id and aws.secret_access_key go together; set both")
        token = self._aws.session_token
        session_token = None if token is None else token.read().reveal()
        return Identity(
            ReadOnlyCredentials(key.read().reveal(), secret.read().reveal(), session_token)
        )

    def _found(self) -> Identity:
        """What boto3's chain finds: environment, profile, SSO, container, instance."""
        profile = self._aws.profile
        step = Step(
            "AWS credentials" if profile is None else f"AWS profile {profile}",
            "allow it to the principal that the chain or profile starts from",
        )
        identity, method = self._caller.run(step, self._search)
        if method == "env":  # the one place that cannot change while we run
            self._environment = identity
        return identity

    def _search(self) -> tuple[Identity, str]:
        session = new_session(self._region, self._aws.profile, self._clients.ca_bundle)
        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        keys = found.get_frozen_credentials()
        # Not public; botocore tells nobody when a session ends.
        expires_at: datetime | None = getattr(found, "_expiry_time", None)
        return Identity(keys, expires_at), str(found.method)

    def _with_role(self, identity: Identity, role: str) -> Identity:
        step = Step(
            f"sts.{self._region}",
            f"allow sts:AssumeRole on {role} to this principal, and check the role's trust"
            " policy and external_id",
        )
        request = self._role_request(role)
        if self._aws.external_id is not None:
            request["ExternalId"] = self._aws.external_id.read().reveal()
        answer = self._caller.ask(step, identity, lambda: self._sts().assume_role(**request))
        return _session_identity(answer, step)

    def _with_web_identity(self, token_file: Path) -> Identity:
        if not self._aws.role_arn:
            raise Misconfigured("aws.web_identity_token_file needs aws.role_arn; set it")
        role = self._aws.role_arn[0]
        step = Step(
            f"sts.{self._region}",
            f"allow sts:AssumeRoleWithWebIdentity in the trust policy of {role}",
        )
        request = self._role_request(role)
        request["WebIdentityToken"] = Reference(file=token_file).read().reveal()
        answer = self._caller.ask(
            step, None, lambda: self._sts().assume_role_with_web_identity(**request)
        )
        return _session_identity(answer, step)

    def _role_request(self, role: str) -> dict[str, Any]:
        request: dict[str, Any] = {"RoleArn": role, "RoleSessionName": self._aws.session_name}
        if self._aws.duration is not None and role == self._aws.role_arn[-1]:
            request["DurationSeconds"] = int(self._aws.duration.total_seconds())
        return request

    def _sts(self) -> Any:
        return self._clients.at(Endpoint("sts", self._region, self._aws.profile))


def _session_identity(answer: Answer, step: Step) -> Identity:
    """The session that STS gave (STS API reference, Credentials)."""
    try:
        given = answer.data["Credentials"]
        keys = ReadOnlyCredentials(
            given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]
        )
        return Identity(keys, given["Expiration"])
    except KeyError as error:
        raise InvalidResponse(f"{step.peer}: an answer without {error.args[0]}") from error
