"""Whether a peer is there: resolved, connected, trusted, and nothing sent."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresher.errors import Misconfigured, TimedOut, TlsFailure, Unavailable
from refresher.registry.reach import proxied, reach
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.http import Request, Response, StandIn, closed_port


class Silent(StandIn):
    """A peer that has nothing to say, nor is it asked."""

    def handle(self, request: Request) -> Response:
        return Response(200)


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """Good for loopback, for a day."""
    return authority(tmp_path / "tls", datetime.now(UTC))


def test_a_certificate_is_checked_and_its_end_told(certificates: Certificates) -> None:
    """By the bundle that is given; and no request is made."""
    with Silent(certificates=certificates) as peer:
        found = reach(peer.url, certificates.ca_file)
        assert peer.requests == []
    assert found.address == "127.0.0.1"
    assert found.certificate_ends is not None
    left = found.certificate_ends - datetime.now(UTC)
    assert timedelta(hours=23) < left <= timedelta(days=1)


def test_without_tls_a_connection_is_all(certificates: Certificates) -> None:
    """As on loopback."""
    with Silent() as peer:
        assert reach(peer.url, certificates.ca_file).certificate_ends is None


def test_a_certificate_of_others_is_refused(certificates: Certificates) -> None:
    """The public authorities know nothing of ours; nor is one good for another name."""
    with Silent(certificates=certificates) as peer, pytest.raises(TlsFailure, match="refused"):
        reach(peer.url, None)


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    """An authority that is trusted is not enough."""
    other = authority(tmp_path / "other", datetime.now(UTC), ["elsewhere.example"])
    with Silent(certificates=other) as peer, pytest.raises(TlsFailure, match=r"127\.0\.0\.1"):
        reach(peer.url, other.ca_file)


def test_a_peer_that_speaks_no_tls_is_told(certificates: Certificates) -> None:
    """Plain HTTP where TLS is due."""
    with Silent() as peer, pytest.raises(TlsFailure, match="no TLS handshake"):
        reach(peer.url.replace("http:", "https:"), certificates.ca_file)


def test_a_name_and_a_port_fail_in_words_of_their_own() -> None:
    """What a person must look at differs."""
    with pytest.raises(Unavailable, match=r"DNS: nowhere\.invalid does not resolve"):
        reach("https://nowhere.invalid", None)
    with closed_port() as port, pytest.raises(Unavailable, match="resolves, but port"):
        reach(f"https://127.0.0.1:{port}", None)


def test_a_peer_that_never_shakes_hands_has_a_deadline() -> None:
    """It takes the connection and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(TimedOut, match=r"did not answer within 0\.3 s"):
            reach(f"https://127.0.0.1:{port}", None, seconds=0.3)


def test_a_bundle_that_is_none_is_told(tmp_path: Path) -> None:
    """Before anybody is called."""
    with pytest.raises(Misconfigured, match=r"daemon\.ca_bundle"):
        reach("https://127.0.0.1:1", tmp_path / "nothing.pem")


@pytest.mark.parametrize(
    ("url", "through"),
    [
        ("https://ghcr.io", True),
        ("https://inside.example", False),
        ("http://127.0.0.1:1", False),
    ],
)
def test_what_goes_through_a_proxy_is_known(
    monkeypatch: pytest.MonkeyPatch, url: str, through: bool
) -> None:
    """As our clients have it."""
    for name in ("all_proxy", "no_proxy", "https_proxy", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example")
    assert proxied(url) is through
