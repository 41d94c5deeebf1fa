"""Where a credential may be sent."""

from __future__ import annotations

import httpx
import pytest

from refresher.errors import InvalidResponse, Misconfigured
from refresher.model import RegistryRef
from refresher.registry.addresses import check_realm, check_url


@pytest.mark.parametrize(
    "url",
    [
        "https://ghcr.io",
        "https://10.0.0.5:5000",
        "https://localhost",
        "http://127.0.0.1:5000",
        "http://127.8.9.10",
        "http://localhost:5000",
        "http://[::1]:5000",
    ],
)
def test_a_registry_is_reached_over_https_or_loopback(url: str) -> None:
    """Plain HTTP stays on this machine, as Docker has it."""
    assert check_url(RegistryRef("host", url)) == httpx.URL(url)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://ghcr.io", "loopback only"),
        ("http://10.0.0.5:5000", "loopback only"),
        ("http://127.0.0.1.evil.example", "loopback only"),
        ("http://localhost.evil.example", "loopback only"),
        ("ftp://ghcr.io", "must be https"),
        ("ghcr.io", "must be https"),
        ("https://user:password@ghcr.io", "must be https"),
        ("https://ghcr.io:port", "must be https"),
        ("https://xn--", "must be https"),
    ],
)
def test_any_other_address_is_a_mistake_in_the_config(url: str, words: str) -> None:
    """Nothing is sent there."""
    with pytest.raises(Misconfigured, match=words):
        check_url(RegistryRef("host", url))


PUBLIC = httpx.URL("https://registry.example")
LOOPBACK = httpx.URL("http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("realm", "base"),
    [
        ("https://registry.example/token", PUBLIC),
        ("https://auth.docker.io/token?x=1", PUBLIC),
        ("https://1.1.1.1/token", PUBLIC),
        ("https://10.0.0.5:6000/token", httpx.URL("https://10.0.0.5:5000")),
        ("http://127.0.0.1:6000/token", LOOPBACK),
        ("http://localhost:6000/token", LOOPBACK),
        ("https://auth.docker.io/token", LOOPBACK),
    ],
)
def test_a_token_service_may_be_public_or_the_registrys_own(realm: str, base: httpx.URL) -> None:
    """Docker Hub and Quay have theirs elsewhere."""
    assert check_realm(realm, base) == httpx.URL(realm)


@pytest.mark.parametrize(
    ("realm", "base", "words"),
    [
        ("http://registry.example/token", PUBLIC, "not reached over HTTPS"),
        ("http://auth.docker.io/token", LOOPBACK, "not reached over HTTPS"),
        ("file:///etc/passwd", PUBLIC, "not a URL"),
        ("ftp://auth.example/token", PUBLIC, "not reached over HTTPS"),
        ("https://127.0.0.1/token", PUBLIC, "private address"),
        ("https://127.1/token", PUBLIC, "private address"),
        ("https://2130706433/token", PUBLIC, "private address"),
        ("https://localhost/token", PUBLIC, "private address"),
        ("https://a.localhost/token", PUBLIC, "private address"),
        ("https://10.1.2.3/token", PUBLIC, "private address"),
        ("https://169.254.169.254/latest", PUBLIC, "private address"),
        ("https://[::1]/token", PUBLIC, "private address"),
        ("https://[fe80::1]/token", PUBLIC, "private address"),
        ("https://[::ffff:10.0.0.1]/token", PUBLIC, "private address"),
        ("https://10.0.0.6/token", httpx.URL("https://10.0.0.5"), "private address"),
        ("https://user:pass@auth.example/token", PUBLIC, "user name"),
        ("https://auth.example:port/token", PUBLIC, "not a URL"),
        ("https://xn--/token", PUBLIC, "not a URL"),
        ("/token", PUBLIC, "not a URL"),
        ("", PUBLIC, "not a URL"),
    ],
)
def test_any_other_token_service_gets_nothing(realm: str, base: httpx.URL, words: str) -> None:
    """A registry cannot send a credential in the clear, nor into a private network."""
    with pytest.raises(InvalidResponse, match=words):
        check_realm(realm, base)
