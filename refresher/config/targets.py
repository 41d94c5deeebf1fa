"""The tables of the targets, one for each source: keys of another source are refused."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from refresher.config import kinds
from refresher.config.sections import PolicySettings, Section
from refresher.config.values import refuse

_HOUR = timedelta(hours=1)


class Aws(Section):
    """Which AWS identity asks for the token; boto3's default chain where nothing is given."""

    profile: kinds.Profile | None = None
    """Profile of the shared AWS configuration."""
    role_arn: kinds.Roles = ()
    """Role to assume; a list is a chain, each assumed from the one before."""
    external_id: kinds.SecretReference | None = None
    """External id that the role's trust policy asks for."""
    session_name: kinds.SessionName = "refresher"
    """Name of the session, as CloudTrail shows it."""
    duration: kinds.SessionLife = _HOUR
    """Life of the assumed session; AWS allows a chain of roles one hour at most."""
    web_identity_token_file: kinds.FilePath | None = None
    """File with the OIDC token to assume the first role with."""
    access_key_id: kinds.SecretReference | None = None
    """Access key id, in place of boto3's default chain."""
    secret_access_key: kinds.SecretReference | None = None
    """Secret of that access key."""
    session_token: kinds.SecretReference | None = None
    """Session token, where the access key is a temporary one."""
    session_bound: bool = False
    """Whether to refresh by the end of the session where that comes before the token's."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        given = self.model_fields_set
        keys = self.access_key_id is not None
        web = self.web_identity_token_file is not None
        needing_role = {"external_id", "session_name", "duration", "web_identity_token_file"}
        refuse(
            *((not self.role_arn, key, "needs role_arn") for key in sorted(needing_role & given)),
            (
                keys != (self.secret_access_key is not None),
                "secret_access_key" if keys else "access_key_id",
                "access_key_id and secret_access_key go together",
            ),
            (self.session_token is not None and not keys, "session_token", "needs access_key_id"),
            (
                self.profile is not None and (keys or web),
                "profile",
                "excludes access_key_id and web_identity_token_file",
            ),
            (keys and web, "web_identity_token_file", "excludes access_key_id"),
            (
                len(self.role_arn) > 1 and self.duration > _HOUR,
                "duration",
                "AWS allows a chain of roles 1h at most",
            ),
        )
        return self


class TargetSection(Section):
    """What every target has."""

    secret: kinds.SecretName
    """Name of the fal secret to keep."""
    environments: Annotated[kinds.Environments, Field(min_length=1)] = ("main",)
    """fal environments to write it to; none falls back to another."""
    account: kinds.Name = "default"
    """fal account: `default` is [fal], others are [fal.accounts.NAME]."""
    image: kinds.Image | None = None
    """Image of that registry that the credential must be able to pull."""
    verify: Literal["auto", "always"] = "auto"
    """always: never publish unproved, not even when what stands in fal is dead."""
    registry_url: kinds.Url | None = None
    """Where the registry is reached when that is not https://REGISTRY."""
    enabled: bool = True
    """false parks the target."""
    default_exposed: bool | None = None
    """Whether fal shows the secret to apps that do not ask; absent leaves what fal holds."""
    policy: PolicySettings = PolicySettings()
    """Numbers for this target that go before [policy]."""


class EcrTarget(TargetSection):
    """A private registry of Amazon ECR."""

    source: Literal["ecr"]
    registry: kinds.Registry
    """Registry host, ACCOUNT.dkr.ecr.REGION.amazonaws.com and its relatives."""
    username: Literal["AWS"] = "AWS"
    """The only user name that ECR knows."""
    aws: Aws = Aws()
    """Which AWS identity asks for the token."""


class EcrPublicTarget(TargetSection):
    """Amazon ECR Public."""

    source: Literal["ecr-public"]
    registry: kinds.Registry = "public.ecr.aws"
    """public.ecr.aws or ecr-public.aws.com."""
    username: Literal["AWS"] = "AWS"
    """The only user name that ECR knows."""
    aws: Aws = Aws()
    """Which AWS identity asks for the token."""

    @field_validator("registry")
    @classmethod
    def _is_public(cls, registry: str) -> str:
        if registry not in {"public.ecr.aws", "ecr-public.aws.com"}:
            raise ValueError('expected "public.ecr.aws" or "ecr-public.aws.com"')
        return registry


_GoogleUser = Literal["_json_key_base64", "_json_key", "oauth2accesstoken"]


def _google_user(given: dict[str, Any]) -> _GoogleUser:
    return "oauth2accesstoken" if given.get("mode") == "token" else "_json_key_base64"


class GarTarget(TargetSection):
    """Google Artifact Registry."""

    source: Literal["gar"]
    registry: kinds.Registry
    """Registry host, LOCATION-docker.pkg.dev or gcr.io."""
    mode: Literal["key", "token"] = "key"
    """key publishes the service-account key, token a short-lived access token."""
    username: _GoogleUser = Field(default_factory=_google_user)
    """User name of the fal app; the published bytes follow it."""
    key: kinds.SecretReference | None = None
    """Service-account key, raw JSON or base64."""
    impersonate: kinds.ServiceAccounts = ()
    """Service account to impersonate in mode token; a list is a chain."""
    lifetime: kinds.TokenLife = _HOUR
    """Life of the impersonated token; above 1h only where the organisation allows it."""

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        token = self.mode == "token"
        refuse(
            (not token and self.key is None, "key", 'missing; mode "key" publishes it'),
            (
                token != (self.username == "oauth2accesstoken"),
                "username",
                f'is not what mode "{self.mode}" publishes for; leave it out',
            ),
            (bool(self.impersonate) and not token, "impersonate", 'needs mode = "token"'),
            (
                "lifetime" in self.model_fields_set and not self.impersonate,
                "lifetime",
                "needs impersonate",
            ),
        )
        return self


_HUB_NAMES = {"docker.io", "index.docker.io", "registry-1.docker.io"}


class DockerHubTarget(TargetSection):
    """Docker Hub."""

    source: Literal["dockerhub"]
    registry: kinds.Registry = "docker.io"
    """docker.io or another of its names; a stand-in is set with registry_url."""
    username: kinds.Username
    """Docker id, or organisation for an organisation access token."""
    password: kinds.SecretReference
    """Access token."""
    expires_on: date | None = None
    """Day on which the token ends, in UTC; a token cannot report it."""

    @field_validator("registry")
    @classmethod
    def _is_hub(cls, registry: str) -> str:
        if registry not in _HUB_NAMES:
            raise ValueError('expected "docker.io"; for other registries use source = "oci"')
        return "docker.io"


class OciTarget(TargetSection):
    """Any registry of the OCI distribution specification."""

    source: Literal["oci"]
    registry: kinds.Registry
    """Registry host."""
    username: kinds.Username
    """User name."""
    password: kinds.SecretReference
    """Password or access token."""
    expires_on: date | None = None
    """Day on which the password ends, in UTC."""


AnyTarget = EcrTarget | EcrPublicTarget | GarTarget | DockerHubTarget | OciTarget

#: The one table from a source's name to its keys.
TARGETS: dict[str, type[TargetSection]] = {
    "ecr": EcrTarget,
    "ecr-public": EcrPublicTarget,
    "gar": GarTarget,
    "dockerhub": DockerHubTarget,
    "oci": OciTarget,
}
