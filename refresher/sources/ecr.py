"""Amazon ECR, private and public: a password for user `AWS`, issued by `GetAuthorizationToken`."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from refresher.clock import Clock, Skews
from refresher.deadline import CALL_SECONDS
from refresher.errors import InvalidCredential, InvalidResponse
from refresher.model import Credential, SecretValue
from refresher.sources.aws import (
    AwsClients,
    AwsSettings,
    Caller,
    Endpoint,
    Principal,
)
from refresher.sources.aws_errors import Step

__all__ = [
    "PUBLIC_HOSTS",
    "USERNAME",
    "AwsClients",
    "AwsSettings",
    "EcrHost",
    "EcrPublicSource",
    "EcrSource",
    "parse_host",
]

USERNAME = "AWS"
PUBLIC_HOSTS = frozenset({"public.ecr.aws", "ecr-public.aws.com"})
#: ECR Public issues its tokens in this region alone (Amazon ECR Public user guide).
PUBLIC_REGION = "us-east-1"
#: Tokens live 12 hours; what claims more than this is no ECR token.
LONGEST_LIFE = timedelta(hours=13)
#: A difference of clocks up to this is network delay and the whole seconds of `Date`.
NEGLIGIBLE_SKEW = timedelta(seconds=60)

# --- hosts -------------------------------------------------------------------------------------

# As amazon-ecr-credential-helper and Kubernetes' ecr-credential-provider match it.
_HOST = re.compile(
    r"(?P<account>\d{12})\.dkr[.-]ecr(?P<fips>-fips)?\.(?P<region>[a-z0-9][a-z0-9_-]*)\."
    r"(?P<suffix>amazonaws\.(?:com(?:\.cn)?|eu)|on\.(?:aws|amazonwebservices\.com\.cn)"
    r"|sc2s\.sgov\.gov|c2s\.ic\.gov|cloud\.adc-e\.uk|csp\.hci\.ic\.gov)",
    re.ASCII | re.IGNORECASE,
)

#: Partition, its regions, the suffixes of its registries (botocore's partitions.json).
_PARTITIONS = (
    ("aws", r"(us|eu|ap|sa|ca|me|af|il|mx)-\w+-\d+", {"amazonaws.com", "on.aws"}),
    ("aws-cn", r"cn-\w+-\d+", {"amazonaws.com.cn", "on.amazonwebservices.com.cn"}),
    ("aws-us-gov", r"us-gov-\w+-\d+", {"amazonaws.com", "on.aws"}),
    ("aws-eusc", r"eusc-de-\w+-\d+", {"amazonaws.eu"}),
    ("aws-iso", r"us-iso-\w+-\d+", {"c2s.ic.gov"}),
    ("aws-iso-b", r"us-isob-\w+-\d+", {"sc2s.sgov.gov"}),
    ("aws-iso-e", r"eu-isoe-\w+-\d+", {"cloud.adc-e.uk"}),
    ("aws-iso-f", r"us-isof-\w+-\d+", {"csp.hci.ic.gov"}),
)


@dataclass(frozen=True, slots=True)
class EcrHost:
    """A private ECR registry, read off its host name."""

    #: The host in lower case.
    host: str
    #: Twelve digits of the AWS account that owns the registry.
    account: str
    region: str
    #: Such as `aws` or `aws-cn`; credentials never cross partitions.
    partition: str
    #: Whether it is a FIPS host; the API endpoint is chosen to match.
    fips: bool
    #: Whether the host has an IPv6 address, too; the API endpoint is chosen to match.
    dual_stack: bool


def parse_host(host: str) -> EcrHost | None:
    """The registry behind `host`, or None where that is not a private ECR host.

    Forms: Amazon ECR user guide, "Making requests to Amazon ECR registries".
    """
    match = _HOST.fullmatch(host)
    if match is None:
        return None
    region, suffix = match["region"].lower(), match["suffix"].lower()
    partition = _partition(region, suffix)
    if partition is None:
        return None
    return EcrHost(
        host=host.lower(),
        account=match["account"],
        region=region,
        partition=partition,
        fips=match["fips"] is not None,
        dual_stack=suffix.startswith("on."),
    )


def _partition(region: str, suffix: str) -> str | None:
    for partition, regions, suffixes in _PARTITIONS:
        if re.fullmatch(regions, region, re.ASCII):
            return partition if suffix in suffixes else None
    return None


# --- tokens ------------------------------------------------------------------------------------


def _password(token: object) -> SecretValue:
    """The password in an `authorizationToken`, which is base64 of `AWS:password`.

    It may hold colons and be of any length and alphabet (ECR API reference, AuthorizationData).
    """
    if not isinstance(token, str):
        raise InvalidCredential("ECR answered without an authorizationToken")
    try:
        user, _, password = base64.b64decode(token, validate=True).decode().partition(":")
    except ValueError:
        # Not chained: the error's object holds the token.
        raise InvalidCredential("ECR's authorizationToken is not base64 of UTF-8 text") from None
    if user != USERNAME:
        raise InvalidCredential(f"ECR's authorizationToken is not for the user {USERNAME}")
    if not password:
        raise InvalidCredential("ECR's authorizationToken holds an empty password")
    return SecretValue(password)


def _expiry(told: object, skew: timedelta, now: datetime) -> datetime:
    """The end of the token's life on our clock, at which `now` was read.

    As the issuer told it, unless the clocks differ by more than a minute: then shifted, so that
    the token's life is the one that the issuer meant.
    """
    if not isinstance(told, datetime):
        raise InvalidCredential("ECR answered without expiresAt, so its token's life is unknown")
    expires_at = _on_our_clock(told, skew)
    if expires_at <= now:
        raise InvalidCredential(
            f"ECR's token had expired when it was issued: expiresAt is {expires_at:%FT%TZ}"
        )
    if expires_at - now > LONGEST_LIFE:
        raise InvalidCredential(
            f"ECR's token claims to live to {expires_at:%FT%TZ}, more than 13 hours; none does"
        )
    return expires_at


def _on_our_clock(told: datetime, skew: timedelta) -> datetime:
    return told.astimezone(UTC) - (skew if abs(skew) > NEGLIGIBLE_SKEW else timedelta(0))


# --- sources -----------------------------------------------------------------------------------


class _Source:
    """What both sources have in common: one `GetAuthorizationToken` by a fresh principal."""

    renewable = True
    #: GetAuthorizationToken is counted per account and region (ECR service quotas).
    quota: str | None

    def __init__(
        self,
        aws: AwsSettings,
        endpoint: Endpoint,
        remedy: str,
        *,
        clock: Clock,
        skews: Skews,
        clients: AwsClients | None,
        call_seconds: float,
    ) -> None:
        self._endpoint = endpoint
        self._session_bound = aws.session_bound
        self._step = Step(f"{endpoint.service}.{endpoint.region}", remedy)
        self._clients = clients or AwsClients()
        self._caller = Caller(
            clock=clock, skews=skews, threads=self._clients.threads, seconds=call_seconds
        )
        self._principal = Principal(
            aws, endpoint.region, clients=self._clients, caller=self._caller
        )

    def obtain(self, now: datetime) -> Credential:
        """A newly issued password, good for every registry that the principal may read.

        `registryIds` is never sent: it is deprecated and changes nothing (ECR API reference).
        Raises a `Failure`.
        """
        identity = self._principal.assume()
        answer = self._caller.ask(
            self._step,
            identity,
            lambda: self._clients.at(self._endpoint).get_authorization_token(),
        )
        entry = self._entry(answer.data.get("authorizationData"))
        password = _password(entry.get("authorizationToken"))
        expires_at = _expiry(entry.get("expiresAt"), answer.skew, now)
        if self._session_bound and identity.expires_at is not None:
            expires_at = min(expires_at, _on_our_clock(identity.expires_at, answer.skew))
        return Credential(USERNAME, password, issued_at=now, expires_at=expires_at)

    def arn(self) -> str:
        """Who AWS takes us for. Raises a `Failure`."""
        return self._principal.arn()

    def urls(self) -> tuple[str, str]:
        """Where tokens are issued and where roles are assumed. Raises a `Failure`."""
        url: str = self._caller.run(
            self._step, lambda: self._clients.at(self._endpoint).meta.endpoint_url
        )
        return url, self._principal.sts_url()

    def _entry(self, told: object) -> Mapping[str, object]:
        """The private API answers with a list of one, the public one with that one alone."""
        entry = told[0] if isinstance(told, list) and told else told
        if not isinstance(entry, Mapping):
            raise InvalidResponse(f"{self._step.peer}: an answer without authorizationData")
        return entry


class EcrSource(_Source):
    """Passwords for the private registries that one principal may read in one region."""

    def __init__(
        self,
        host: EcrHost,
        aws: AwsSettings,
        *,
        clock: Clock,
        skews: Skews,
        clients: AwsClients | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        # FIPS and dual-stack are left out: the same token serves all hosts of its region.
        self.share_key = f"ecr {host.partition} {host.region} {aws}"
        self.quota = f"ecr {host.region} {aws.account}"
        super().__init__(
            aws,
            Endpoint("ecr", host.region, aws.profile, host.fips, host.dual_stack),
            "allow ecr:GetAuthorizationToken on * to this principal",
            clock=clock,
            skews=skews,
            clients=clients,
            call_seconds=call_seconds,
        )


class EcrPublicSource(_Source):
    """Passwords for public.ecr.aws."""

    def __init__(
        self,
        aws: AwsSettings,
        *,
        clock: Clock,
        skews: Skews,
        clients: AwsClients | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self.share_key = f"ecr-public aws {PUBLIC_REGION} {aws}"
        self.quota = f"ecr-public {aws.account}"
        super().__init__(
            aws,
            Endpoint("ecr-public", PUBLIC_REGION, aws.profile),
            "allow ecr-public:GetAuthorizationToken and sts:GetServiceBearerToken on *"
            " to this principal",
            clock=clock,
            skews=skews,
            clients=clients,
            call_seconds=call_seconds,
        )
