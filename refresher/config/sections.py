"""The tables that are there once. The sentence under a key is its description in the schema."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from refresher.config import kinds, values
from refresher.config.values import refuse
from refresher.model import Policy, SecretValue
from refresher.references import Reference

_DEFAULT = Policy()


class Section(BaseModel):
    """A table: frozen, no key but its own, no conversion of types, no value in an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )


class Daemon(Section):
    """The process: where it listens, what it remembers, whom it tells."""

    model_config = ConfigDict(json_schema_extra={"required": []})

    listen: kinds.Listen = "127.0.0.1:9478"
    """HOST:PORT of status page, API and metrics."""
    state: kinds.State
    """SQLAlchemy URL of the memory; by default a file in $STATE_DIRECTORY or the user's state."""
    api_token: kinds.SecretReference | None = None
    """Bearer token that a POST must show; without one only loopback may POST."""
    workers: Annotated[int, Field(ge=1, le=64)] = 8
    """Attempts that may run at the same time."""
    heartbeat_url: kinds.SecretReference | None = None
    """URL that is asked every 60 s, and at its /fail while a target is in trouble."""
    notify: kinds.References = ()
    """Apprise URLs that are told when a target changes for the worse or the better."""
    ca_bundle: kinds.FilePath | None = None
    """PEM file of certificate authorities to trust instead of the system's."""
    log_format: Literal["auto", "console", "json"] = "auto"
    """Form of the log; auto is console on a terminal and json elsewhere."""
    history: kinds.History = timedelta(days=30)
    """How long finished attempts are remembered."""
    fingerprint_key: kinds.SecretReference | None = None
    """Key of the fingerprints; by default random bytes that are kept with the state."""

    @model_validator(mode="before")
    @classmethod
    def _default_state(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, dict) or "state" in data:
            return data
        return {**data, "state": values.default_state(kinds.context_of(info).environ)}

    @property
    def address(self) -> tuple[str, int]:
        """Host without brackets and port of `listen`."""
        host, port = values.split_authority(self.listen)
        return host, port or 0

    def state_url(self, environ: Mapping[str, str]) -> SecretValue:
        """The URL of the state. Raises `Misconfigured` where it is a reference to nothing."""
        if isinstance(self.state, Reference):
            return self.state.read(environ)
        return SecretValue(self.state)


class Account(Section):
    """A fal account under a name of its own."""

    key: kinds.SecretReference
    """fal key, ID:SECRET, with the permission to write secrets."""
    host: kinds.Host = "api.alpha.fal.ai"
    """Host of fal's control plane; without a port it is 443."""
    tls: bool = True
    """Whether TLS is spoken; false is for a stand-in on loopback."""

    @model_validator(mode="before")
    @classmethod
    def _host_of_environment(cls, data: Any, info: ValidationInfo) -> Any:
        host = kinds.context_of(info).environ.get("FAL_GRPC_HOST")
        if not host or not isinstance(data, dict) or "host" in data:
            return data
        try:
            return {**data, "host": values.parse_host(host)}
        except ValueError as error:
            raise ValueError(f"environment variable FAL_GRPC_HOST: {error}") from error

    @model_validator(mode="after")
    def _plain_on_loopback(self) -> Self:
        host, _ = values.split_authority(self.host)
        plain = not self.tls and not values.is_loopback(host)
        refuse((plain, "tls", "false is allowed for a host on loopback only"))
        return self


class Fal(Account):
    """The fal account called `default`, and the others."""

    key: kinds.SecretReference = Reference(env="FAL_KEY")
    """fal key, ID:SECRET, with the permission to write secrets."""
    accounts: dict[kinds.Name, Account] = {}
    """More accounts, which targets name in `account`."""

    @field_validator("accounts")
    @classmethod
    def _default_is_ours(cls, accounts: dict[str, Account]) -> dict[str, Account]:
        refuse(("default" in accounts, "default", "this account is [fal] itself; rename it"))
        return accounts


_Share = Annotated[float, Field(ge=0.01, le=0.95)]


class PolicySettings(Section):
    """The numbers that decide when; what is not given comes from the level above."""

    refresh_fraction: _Share = _DEFAULT.refresh_fraction
    """Share of the returned life after which a renewable credential is stale."""
    jitter: Annotated[float, Field(ge=0, le=0.5)] = _DEFAULT.jitter
    """Share of that time by which a refresh may come earlier, drawn once per credential."""
    reverify_interval: kinds.Duration = _DEFAULT.reverify_interval
    """How often a published renewable credential is proved again."""
    unheld_after: kinds.Duration = _DEFAULT.unheld_after
    """How long after its last success a credential that no live process holds becomes due."""
    unheld_spread: kinds.Duration = _DEFAULT.unheld_spread
    """Over how long such targets are spread where they are many."""
    urgent_fraction: _Share = _DEFAULT.urgent_fraction
    """Last share of its life in which a renewable credential is urgent."""
    urgent_static: kinds.Duration = _DEFAULT.urgent_static
    """How long ahead of its end a static credential is urgent."""
    retry_first: kinds.Duration = _DEFAULT.retry_first
    """First retry delay; it doubles with each failure."""
    retry_cap: kinds.Duration = _DEFAULT.retry_cap
    """Longest retry delay."""
    retry_cap_urgent: kinds.Duration = _DEFAULT.retry_cap_urgent
    """Longest retry delay with no life left or none known."""
    retry_permanent: kinds.Duration = _DEFAULT.retry_permanent
    """Retry delay of a failure that only a person can mend."""
    refused_wait: kinds.Duration = _DEFAULT.refused_wait
    """How long a static value that the registry refused is left alone."""
    guard_fraction: Annotated[float, Field(ge=0.01, le=0.5)] = _DEFAULT.guard_fraction
    """Share of the returned life that must pass between two issues."""
    guard_floor: kinds.Duration = _DEFAULT.guard_floor
    """Shortest time between two issues."""
    guard_ceiling: kinds.Duration = _DEFAULT.guard_ceiling
    """Longest time between two issues before it doubles."""
    share_for: kinds.Duration = _DEFAULT.share_for
    """How old an issued credential may be and still serve another due target."""
    proof_for: kinds.Duration = _DEFAULT.proof_for
    """How old a proof may be and still allow a write."""
    check_interval: kinds.Duration = _DEFAULT.check_interval
    """How often a static credential is verified; for dockerhub the default is 6h."""
    expiry_warnings: kinds.Warnings = _DEFAULT.expiry_warnings
    """How far ahead the end of a static credential is announced."""

    def given(self) -> dict[str, Any]:
        """The numbers that the file names."""
        return {key: getattr(self, key) for key in self.model_fields_set}


class Google(Section):
    """Where Google is, for stand-ins and other universes."""

    token_uris: kinds.Urls = ()
    """Token services that a key file may name besides Google's own."""
    certs_url: kinds.Url = "https://www.googleapis.com/service_accounts/v1/metadata/x509"
    """URL under which an account's public certificates are listed by its e-mail address."""


class DockerHub(Section):
    """Where Docker Hub is, for stand-ins and proxies."""

    auth_url: kinds.Url = "https://auth.docker.io/token"
    """URL of the token service."""
    api_url: kinds.Url = "https://hub.docker.com"
    """Base URL of the Hub API."""
