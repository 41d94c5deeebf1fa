"""The least that each principal needs for exactly these targets. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

from refresher.config import (
    Aws,
    Config,
    DockerHubTarget,
    EcrPublicTarget,
    EcrTarget,
    GarTarget,
    OciTarget,
)
from refresher.registry import normalise_registry, parse_image
from refresher.sources.ecr import EcrHost, parse_host

#: fal names them so in its refusals; the second one only lets us say what will be overwritten.
FAL_PERMISSIONS = ("serverless:secrets:write", "serverless:secrets:read")

#: What a pull of an image asks for (Amazon ECR user guide, identity-based policy examples).
_PULL = [
    "ecr:BatchCheckLayerAvailability",
    "ecr:BatchGetImage",
    "ecr:GetDownloadUrlForLayer",
]


class AwsPrivileges(TypedDict):
    """What one AWS principal needs."""

    #: The last role that is assumed, or how the principal is found.
    principal: str
    targets: list[str]
    #: An IAM policy document for it.
    policy: dict[str, Any]


class GooglePrivileges(TypedDict):
    """A role that one Google account needs, and on what."""

    account: str
    targets: list[str]
    role: str
    on: str


class FalPrivileges(TypedDict):
    """What the key of one fal account needs."""

    account: str
    targets: list[str]
    permissions: list[str]
    command: str


class RegistryPrivileges(TypedDict):
    """What the token of a person must allow."""

    registry: str
    username: str
    targets: list[str]
    scope: str


class Privileges(TypedDict):
    """Everything that the targets need, by who grants it."""

    aws: list[AwsPrivileges]
    google: list[GooglePrivileges]
    registries: list[RegistryPrivileges]
    fal: list[FalPrivileges]


def needed(config: Config, names: Iterable[str]) -> Privileges:
    """The least privileges for these targets of the configuration."""
    targets = {name: config.targets[name] for name in names}
    return {
        "aws": list(_aws(targets)),
        "google": list(_google(targets)),
        "registries": list(_registries(targets)),
        "fal": list(_fal(targets)),
    }


# --- AWS ---------------------------------------------------------------------------------------


def _aws(targets: Mapping[str, Any]) -> Iterator[AwsPrivileges]:
    groups: dict[str, tuple[Aws, dict[str, EcrTarget | EcrPublicTarget]]] = {}
    for name, target in targets.items():
        if isinstance(target, EcrTarget | EcrPublicTarget):
            key = target.aws.model_dump_json()
            groups.setdefault(key, (target.aws, {}))[1][name] = target
    for aws, members in groups.values():
        yield from _chain(aws, list(members))
        yield {
            "principal": _principal(aws),
            "targets": list(members),
            "policy": _document(_statements(members)),
        }


def _chain(aws: Aws, names: list[str]) -> Iterator[AwsPrivileges]:
    """Whoever assumes a role needs to; the first does so with a web identity where there is one."""
    starters = ["the starting identity", *aws.role_arn]
    for starter, role in zip(starters, aws.role_arn, strict=False):
        if starter == starters[0] and aws.web_identity_token_file is not None:
            continue
        assume = {"Effect": "Allow", "Action": ["sts:AssumeRole"], "Resource": role}
        yield {"principal": starter, "targets": names, "policy": _document([assume])}


def _principal(aws: Aws) -> str:
    if aws.role_arn:
        return aws.role_arn[-1]
    if aws.profile is not None:
        return f"profile {aws.profile}"
    if aws.access_key_id is not None:
        return f"the user of the access key in {aws.access_key_id}"
    return "what boto3's default chain finds"


def _statements(targets: Mapping[str, EcrTarget | EcrPublicTarget]) -> Iterator[dict[str, Any]]:
    """GetAuthorizationToken knows no resource; a pull is of one repository."""
    private = [target for target in targets.values() if isinstance(target, EcrTarget)]
    if private:
        yield {"Effect": "Allow", "Action": ["ecr:GetAuthorizationToken"], "Resource": "*"}
        resources = sorted({_repository(target) for target in private})
        yield {"Effect": "Allow", "Action": _PULL, "Resource": resources}
    if len(private) < len(targets):
        actions = ["ecr-public:GetAuthorizationToken", "sts:GetServiceBearerToken"]
        yield {"Effect": "Allow", "Action": actions, "Resource": "*"}


def _repository(target: EcrTarget) -> str:
    """The repository of the target's image; all of the registry where none is configured."""
    host = parse_host(target.registry)
    assert host is not None  # noqa: S101 - the targets were built from this configuration
    return f"arn:{host.partition}:ecr:{host.region}:{host.account}:repository/{_name(target, host)}"


def _name(target: EcrTarget, host: EcrHost) -> str:
    return "*" if target.image is None else parse_image(target.image, host.host).repository


def _document(statements: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


# --- the others --------------------------------------------------------------------------------


def _google(targets: Mapping[str, Any]) -> Iterator[GooglePrivileges]:
    for name, target in targets.items():
        if not isinstance(target, GarTarget):
            continue
        for account in target.impersonate:
            yield {
                "account": "whoever impersonates it",
                "targets": [name],
                "role": "roles/iam.serviceAccountTokenCreator",
                "on": account,
            }
        yield {
            "account": _google_account(target),
            "targets": [name],
            "role": "roles/artifactregistry.reader",
            "on": f"the repository of {target.image}" if target.image else target.registry,
        }


def _google_account(target: GarTarget) -> str:
    if target.impersonate:
        return target.impersonate[-1]
    return f"the account of {target.key}" if target.key else "the application default account"


def _registries(targets: Mapping[str, Any]) -> Iterator[RegistryPrivileges]:
    for name, target in targets.items():
        if isinstance(target, DockerHubTarget | OciTarget):
            hub = isinstance(target, DockerHubTarget)
            yield {
                "registry": normalise_registry(target.registry),
                "username": target.username,
                "targets": [name],
                "scope": "access token with scope Read-only" if hub else "read packages, pull only",
            }


def _fal(targets: Mapping[str, Any]) -> Iterator[FalPrivileges]:
    accounts: dict[str, list[str]] = {}
    for name, target in targets.items():
        accounts.setdefault(target.account, []).append(name)
    for account, names in accounts.items():
        yield {
            "account": account,
            "targets": names,
            "permissions": list(FAL_PERMISSIONS),
            "command": f"fal keys create --desc refresher --permission {','.join(FAL_PERMISSIONS)}",
        }
