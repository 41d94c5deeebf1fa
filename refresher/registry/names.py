"""Registries and images as people write them."""

from __future__ import annotations

import re
from enum import StrEnum

from refresher.model import ImageRef

DOCKER_HUB = "registry-1.docker.io"
_DOCKER_HUB_NAMES = frozenset({DOCKER_HUB, "docker.io", "index.docker.io"})
_ECR = re.compile(r"\d{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9.-]+", re.ASCII)
_ECR_PUBLIC = frozenset({"public.ecr.aws", "ecr-public.aws.com"})

_HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::\d{1,5})?", re.ASCII)
# Grammar of names, tags and digests: OCI distribution specification, "Pulling manifests".
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
_DIGEST = re.compile(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,128}", re.ASCII)


class Kind(StrEnum):
    """Registries that answer in ways of their own."""

    ECR = "ecr"
    ECR_PUBLIC = "ecr-public"
    DOCKER_HUB = "dockerhub"
    OTHER = "other"


def kind_of(host: str) -> Kind:
    """The kind of the registry that images name `host`."""
    if _ECR.fullmatch(host):
        return Kind.ECR
    if host in _ECR_PUBLIC:
        return Kind.ECR_PUBLIC
    if host in _DOCKER_HUB_NAMES:
        return Kind.DOCKER_HUB
    return Kind.OTHER


def normalise_registry(key: str) -> str:
    """The host to reach for a registry as people write it, lower case, with a port if any.

    `https://index.docker.io/v1/`, the key of Docker Hub in a Docker configuration, and its other
    names become `registry-1.docker.io`. Raises `ValueError` with one line for a person.
    """
    host = key.strip().lower().removeprefix("https://").removeprefix("http://").split("/", 1)[0]
    if not _HOST.fullmatch(host):
        raise ValueError(f"{key!r} is not a registry; write its host, such as ghcr.io")
    return DOCKER_HUB if host in _DOCKER_HUB_NAMES else host


def parse_image(image: str, registry_host: str) -> ImageRef:
    """The image that `repo`, `repo:tag` or `repo@sha256:…` names on `registry_host`.

    The registry may stand in front and must then be that one. A first part with a dot, a colon
    or the name `localhost` is a registry, as Docker has it; on Docker Hub a name of one part is
    an official image, below `library/`. Raises `ValueError` with one line for a person.
    """
    if "://" in image:
        raise ValueError(f"image {image!r}: write it without the scheme, as docker pull takes it")
    name, _, digest = image.partition("@")
    name = _without_host(name, image, registry_host)
    repository, colon, tag = name.partition(":")
    if kind_of(registry_host) is Kind.DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if not _REPOSITORY.fullmatch(repository) or len(repository) > 255:
        raise ValueError(
            f"image {image!r}: {repository!r} is not a repository name;"
            " lower-case letters, digits and . _ - between slashes"
        )
    if colon and not _TAG.fullmatch(tag):
        raise ValueError(f"image {image!r}: {tag!r} is not a tag")
    if "@" in image and not _DIGEST.fullmatch(digest):
        raise ValueError(f"image {image!r}: {digest!r} is not a digest such as sha256:…")
    return ImageRef(repository=repository, reference=digest or tag or "latest")


def _without_host(name: str, image: str, registry_host: str) -> str:
    first, slash, rest = name.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        return name
    host = first.lower()
    if (DOCKER_HUB if host in _DOCKER_HUB_NAMES else host) != registry_host:
        raise ValueError(
            f"image {image!r} is on {first}, its target on {registry_host};"
            f" for a repository of that name write {registry_host}/{image}"
        )
    return rest
