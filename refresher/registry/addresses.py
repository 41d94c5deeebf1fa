"""Where a credential may be sent."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

import httpx

from refresher.errors import InvalidResponse, Misconfigured
from refresher.model import RegistryRef
from refresher.registry.words import MAX_WORDS, one_line


def check_url(registry: RegistryRef) -> httpx.URL:
    """The base URL, if a credential may be sent there: HTTPS, or plain HTTP on loopback.

    Raises `Misconfigured`.
    """
    return check_endpoint(registry.url, f"registry {registry.host}", "registry_url")


@lru_cache(maxsize=1024)
def check_endpoint(address: str, named: str, key: str) -> httpx.URL:
    """As `check_url`, for what messages call `named`; `key` of the configuration sets it."""
    where = f"{named} is reached at {address!r}"
    url = _parsed(address)
    if url is None or url.scheme not in ("http", "https") or url.userinfo:
        raise Misconfigured(f"{where}; {key} must be https://HOST")
    if url.scheme == "http" and not _is_loopback(url.host):
        raise Misconfigured(f"{where}; plain HTTP is for loopback only, use https")
    return url


def check_realm(realm: str, base: httpx.URL) -> httpx.URL:
    """The token service's URL, if a credential may be sent there.

    Another public host is how Docker Hub and Quay work. A host name that resolves to a private
    address is not refused: private registries live there, and the certificate is checked.
    Raises `InvalidResponse`.
    """
    url = _parsed(realm)
    if url is None:
        raise InvalidResponse(
            f"{base.host} names a token service that is not a URL; nothing was sent to it"
        )
    problem = _problem_of_realm(url, base)
    if problem is None:
        return url
    raise InvalidResponse(
        f"{base.host} names the token service {one_line(url.host)[:MAX_WORDS]!r}, which {problem};"
        " nothing was sent to it"
    )


def _parsed(text: str) -> httpx.URL | None:
    """The URL with its host; None where it is none."""
    try:
        url = httpx.URL(text)
        return url if url.host else None
    except (httpx.InvalidURL, UnicodeError):
        return None


def _problem_of_realm(url: httpx.URL, base: httpx.URL) -> str | None:
    if url.userinfo:
        return "comes with a user name"
    if base.scheme == "http" and url.scheme in ("http", "https") and _is_loopback(url.host):
        return None  # both are on this machine
    if url.scheme != "https":
        return "is not reached over HTTPS"
    if url.host == base.host or _is_public(url.host):
        return None
    return "is a private address"


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" if address is None else address.is_loopback


def _is_public(host: str) -> bool:
    address = _address(host)
    if address is None:
        return host != "localhost" and not host.endswith(".localhost")
    return address.is_global


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` writes out, also in a shorthand that resolvers take: `127.1`."""
    try:
        address = ip_address(host)
    except ValueError:
        try:
            return ip_address(socket.inet_aton(host))
        except (OSError, UnicodeError):
            return None
    return getattr(address, "ipv4_mapped", None) or address
