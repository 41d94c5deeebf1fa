"""DNS and TLS: which peers a target has, and whether they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from refresher.config import GarTarget, split_authority
from refresher.doctor.checks import Check, good, unknown
from refresher.doctor.instruments import Case
from refresher.errors import Failure
from refresher.registry.reach import proxied
from refresher.sources.ecr import EcrPublicSource, EcrSource
from refresher.view import timestamp


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody whom the product calls for a target."""

    #: Such as `registry` or `sts`.
    name: str
    url: str
    #: PEM file of the authorities that its certificate may come from; None for the public ones.
    bundle: Path | None = None
    #: Whether nothing is issued or proved without it.
    issues: bool = False

    @property
    def check(self) -> str:
        """The name of its check."""
        return f"reach {self.name}"


def reach(case: Case, peer: Peer, name: str) -> Check:
    """Raises a `Failure` where the peer does not answer, or cannot be trusted."""
    if proxied(peer.url):
        return unknown(name, "through a proxy, which resolves and connects in our place")
    found = case.tools.reached(peer.url, peer.bundle)
    host = peer.url.partition("://")[2].partition("/")[0]
    if peer.url.startswith("http:"):
        return good(name, f"{host} takes connections, without TLS as on loopback")
    ends = found.certificate_ends
    until = "" if ends is None else f" until {timestamp(ends)}"
    return good(name, f"{host} at {found.address}, certificate good{until}")


def aws(case: Case) -> Iterator[Peer]:
    """STS only with roles: without them the product does not need it."""
    source, bundle = case.target.source, case.bundle or _path("AWS_CA_BUNDLE")
    if isinstance(source, EcrSource | EcrPublicSource):
        with suppress(Failure):  # of which the identity tells
            issuer, sts = source.urls()
            if case.section.aws.role_arn:  # type: ignore[union-attr]
                yield Peer("sts", sts, bundle, issues=True)
            yield Peer("issuer", issuer, bundle, issues=True)
    yield from registry(case)


def google(case: Case) -> Iterator[Peer]:
    """The token service that the key names, and who impersonates."""
    section, config = case.section, case.tools.config
    assert isinstance(section, GarTarget)  # noqa: S101 - the table's key says so
    if section.key is not None:
        with suppress(Failure):  # of which the credential tells
            yield Peer("issuer", case.tools.token_uri(section.key), case.bundle, issues=True)
    if section.mode == "key":
        yield Peer("certs", config.google.certs_url, case.bundle)
    yield from registry(case)


def docker_hub(case: Case) -> Iterator[Peer]:
    yield Peer("issuer", case.tools.config.dockerhub.auth_url, case.bundle, issues=True)
    yield from registry(case)


def registry(case: Case) -> Iterator[Peer]:
    yield Peer("registry", case.target.registry.url, case.bundle)


def fal(case: Case) -> Peer:
    host, port = split_authority(case.account.host)
    scheme = "https" if case.account.tls else "http"
    name = f"[{host}]" if ":" in host else host
    bundle = case.bundle or _path("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH")
    return Peer("fal", f"{scheme}://{name}:{port or 443}", bundle)


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
