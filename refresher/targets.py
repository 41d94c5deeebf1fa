"""From the configuration to targets: the one table from a source's name to its class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass

from refresher.clock import Clock, Skews
from refresher.config import AnyTarget, Aws, Config, EcrPublicTarget, EcrTarget, policy_of
from refresher.errors import ConfigError
from refresher.model import ImageRef, RegistryRef, SecretRef, Source, Target
from refresher.registry import RegistryVerifier, normalise_registry, parse_image
from refresher.sources.aws import AwsClients, AwsSettings
from refresher.sources.ecr import EcrPublicSource, EcrSource, parse_host


@dataclass(frozen=True, slots=True)
class Parts:
    """What sources share in a process."""

    clock: Clock
    skews: Skews
    aws: AwsClients
    registry: RegistryVerifier


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
    source = _SOURCES[section.source](section, parts)
    registry = _registry(section)
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
        verifier=parts.registry,
        username=section.username,
        policy=policy_of(config, section),
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


# --- sources -----------------------------------------------------------------------------------


def _ecr(section: AnyTarget, parts: Parts) -> Source:
    assert isinstance(section, EcrTarget)  # noqa: S101 - the table's key is the section's `source`
    host = parse_host(section.registry)
    if host is None:
        raise _Problem(
            "registry",
            f'"{section.registry}" is no ECR registry;'
            " expected a host such as 123456789012.dkr.ecr.us-east-1.amazonaws.com",
        )
    return EcrSource(
        host, _aws(section.aws), clock=parts.clock, skews=parts.skews, clients=parts.aws
    )


def _ecr_public(section: AnyTarget, parts: Parts) -> Source:
    assert isinstance(section, EcrPublicTarget)  # noqa: S101 - as above
    return EcrPublicSource(
        _aws(section.aws), clock=parts.clock, skews=parts.skews, clients=parts.aws
    )


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


def _not_yet(section: AnyTarget, _parts: Parts) -> Source:
    raise _Problem("source", f'"{section.source}" is not supported by this version')


_SOURCES: dict[str, Callable[[AnyTarget, Parts], Source]] = {
    "ecr": _ecr,
    "ecr-public": _ecr_public,
    "gar": _not_yet,
    "dockerhub": _not_yet,
    "oci": _not_yet,
}
