"""From the configuration to targets: the one table from a source's name to its classes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from refresher.clock import Clock, Skews
from refresher.config import (
    AnyTarget,
    Aws,
    Config,
    DockerHubTarget,
    EcrPublicTarget,
    EcrTarget,
    GarTarget,
    OciTarget,
    policy_of,
)
from refresher.errors import ConfigError
from refresher.model import ImageRef, RegistryRef, SecretRef, Source, Target, Verifier
from refresher.registry import HubVerifier, RegistryVerifier, normalise_registry, parse_image
from refresher.sources.aws import AwsClients, AwsSettings
from refresher.sources.ecr import EcrHost, EcrPublicSource, EcrSource, parse_host
from refresher.sources.static import StaticSource

if TYPE_CHECKING:
    from refresher.sources.google import Google

T = TypeVar("T", bound=Hashable)


class Parts:
    """What the sources and verifiers of a process share: clients, connections, turns."""

    def __init__(self, config: Config, clock: Clock, skews: Skews) -> None:
        """Raises `Misconfigured` for a CA bundle that cannot be used."""
        self.clock = clock
        self.skews = skews
        self._google = config.google
        self._ca_bundle = config.daemon.ca_bundle
        self.aws = AwsClients(config.daemon.ca_bundle)
        self.registry = RegistryVerifier(
            clock=clock, skews=skews, ca_bundle=config.daemon.ca_bundle
        )
        self.hub = HubVerifier(self.registry.wire, auth_url=config.dockerhub.auth_url)
        self._shared: dict[Hashable, Any] = {}

    @cached_property
    def google(self) -> Google:
        """Made when first asked for: google-auth takes megabytes that others need not pay."""
        from refresher.sources.google import Google  # noqa: PLC0415 - see above

        google = self._google
        return Google(
            clock=self.clock,
            skews=self.skews,
            token_uris=google.token_uris,
            certs_url=google.certs_url,
            ca_bundle=self._ca_bundle,
        )

    def shared(self, thing: T) -> T:
        """The first one that was equal to this: thousands of targets have a few of each."""
        kept: T = self._shared.setdefault(thing, thing)
        return kept

    def ecr(self, host: EcrHost, aws: AwsSettings) -> EcrSource:
        """One for all registries that one principal may read in one region."""
        key = (replace(host, host="", account=""), aws)
        if key not in self._shared:
            self._shared[key] = EcrSource(
                host, aws, clock=self.clock, skews=self.skews, clients=self.aws
            )
        source: EcrSource = self._shared[key]
        return source

    @property
    def token_uris(self) -> tuple[str, ...]:
        """Token services that a Google key may name besides Google's own."""
        return self._google.token_uris

    def close(self) -> None:
        self.registry.close()
        if "google" in self.__dict__:
            self.google.close()


class _Problem(Exception):
    """One key of a target that cannot be used: its name and the text."""


def build(config: Config, parts: Parts) -> dict[str, Target]:
    """The targets of a configuration, by name.

    Raises `ConfigError` with every problem that only a source or a registry can see.
    """
    targets, problems = {}, []
    for name, section in config.targets.items():
        try:
            targets[name] = _target(config, name, section, parts)
        except _Problem as problem:
            key, text = problem.args
            problems.append(config.problem(f"targets.{name}.{key}", text))
    if problems:
        raise ConfigError(*problems)
    return targets


def _target(config: Config, name: str, section: AnyTarget, parts: Parts) -> Target:
    source, verifier = _KINDS[section.source](section, parts)
    registry = parts.shared(_registry(section))
    secrets = tuple(
        SecretRef(section.account, environment, section.secret)
        for environment in section.environments
    )
    return Target(
        name=name,
        kind=section.source,
        registry=registry,
        image=_image(section, registry),
        secrets=secrets,
        source=source,
        verifier=verifier,
        username=section.username,
        policy=parts.shared(policy_of(config, section)),
        digest=_digest(section, source),
        verify_always=section.verify == "always",
        default_exposed=section.default_exposed,
        enabled=section.enabled,
    )


def _registry(section: AnyTarget) -> RegistryRef:
    host = normalise_registry(section.registry)
    return RegistryRef(host, (section.registry_url or f"https://{host}").rstrip("/"))


def _image(section: AnyTarget, registry: RegistryRef) -> ImageRef | None:
    if section.image is None:
        return None
    try:
        return parse_image(section.image, registry.host)
    except ValueError as error:
        raise _Problem("image", str(error)) from error


def _digest(section: AnyTarget, source: Source) -> str:
    """Identity of what is kept fresh; a change of it is `config_changed`."""
    identity = [
        section.source,
        section.registry,
        source.share_key,
        section.username,
        section.secret,
        sorted(section.environments),
        section.account,
    ]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


# --- kinds -------------------------------------------------------------------------------------

# The table's key is the section's `source`, which is what each assertion below says.


def _ecr(section: AnyTarget, parts: Parts) -> tuple[Source, Verifier]:
    assert isinstance(section, EcrTarget)  # noqa: S101
    host = parse_host(section.registry)
    if host is None:
        raise _Problem(
            "registry",
            f'"{section.registry}" is no ECR registry;'
            " expected a host such as 123456789012.dkr.ecr.us-east-1.amazonaws.com",
        )
    return parts.ecr(host, _aws(section.aws)), parts.registry


def _ecr_public(section: AnyTarget, parts: Parts) -> tuple[Source, Verifier]:
    assert isinstance(section, EcrPublicTarget)  # noqa: S101
    source = EcrPublicSource(
        _aws(section.aws), clock=parts.clock, skews=parts.skews, clients=parts.aws
    )
    return source, parts.registry


def _aws(aws: Aws) -> AwsSettings:
    return AwsSettings(
        profile=aws.profile,
        role_arn=aws.role_arn,
        external_id=aws.external_id,
        session_name=aws.session_name,
        duration=aws.duration if "duration" in aws.model_fields_set else None,
        web_identity_token_file=aws.web_identity_token_file,
        access_key_id=aws.access_key_id,
        secret_access_key=aws.secret_access_key,
        session_token=aws.session_token,
        session_bound=aws.session_bound,
    )


def _gar(section: AnyTarget, parts: Parts) -> tuple[Source, Verifier]:
    assert isinstance(section, GarTarget)  # noqa: S101
    from refresher.sources import gar, google_identity  # noqa: PLC0415 - as `Parts.google`

    if section.mode == "token":
        identity = google_identity.GoogleIdentity(
            key=section.key, impersonate=section.impersonate, lifetime=section.lifetime
        )
        return gar.GarTokenSource(identity, parts.google), parts.registry
    if section.key is None:  # the config asks for it in this mode
        raise _Problem("key", "is missing")
    source = gar.GarKeySource(section.key, section.username, token_uris=parts.token_uris)
    return source, gar.GarKeyVerifier(parts.registry, parts.google, clock=parts.clock)


def _docker_hub(section: AnyTarget, parts: Parts) -> tuple[Source, Verifier]:
    return _static(section), parts.hub


def _oci(section: AnyTarget, parts: Parts) -> tuple[Source, Verifier]:
    return _static(section), parts.registry


def _static(section: AnyTarget) -> Source:
    assert isinstance(section, DockerHubTarget | OciTarget)  # noqa: S101
    return StaticSource(section.username, section.password, expires_on=section.expires_on)


_KINDS: dict[str, Callable[[AnyTarget, Parts], tuple[Source, Verifier]]] = {
    "ecr": _ecr,
    "ecr-public": _ecr_public,
    "gar": _gar,
    "dockerhub": _docker_hub,
    "oci": _oci,
}
