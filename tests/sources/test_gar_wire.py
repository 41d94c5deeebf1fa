"""How Google is called: TLS, bundles, proxies, and no library that is not there at run time."""

from __future__ import annotations

import ssl
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from refresher.clock import Skews
from refresher.errors import Misconfigured, TlsFailure, Unavailable
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.google import GoogleStandIn
from refresher.sources.gar import Google
from refresher.sources.gar_key import ServiceAccountKey, parse_key
from tests.awsenv import OffsetClock
from tests.googleenv import CALL_SECONDS, EMAIL, isolate, written
from tests.peers import free_port


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxy of this machine."""
    isolate(monkeypatch, tmp_path)


class TlsGoogle(GoogleStandIn):
    """The same over TLS."""

    def __init__(self, certificates: Certificates) -> None:
        super().__init__()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate_file, certificates.key_file)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.add_account(EMAIL)

    @property
    def url(self) -> str:
        return super().url.replace("http:", "https:")


def google_with(bundle: Path | None = None) -> Google:
    return Google(clock=OffsetClock(), skews=Skews(), ca_bundle=bundle, call_seconds=CALL_SECONDS)


def a_key(google: GoogleStandIn, tmp_path: Path, **changed: str) -> ServiceAccountKey:
    document = {**google.add_key(EMAIL), **changed}
    text = written(tmp_path / "key.json", document).read_text()
    return parse_key(text, (document["token_uri"],))


def test_a_private_authority_is_trusted_through_the_bundle(tmp_path: Path) -> None:
    """And without it nothing is sent."""
    certificates = authority(tmp_path / "tls", datetime.now(UTC))
    with TlsGoogle(certificates) as stand_in:
        key = a_key(stand_in, tmp_path)
        with google_with(certificates.ca_file) as trusting:
            trusting.exchange(key)
        with (
            google_with() as google,
            pytest.raises(TlsFailure, match="TLS failed: unable to get local issuer certificate;"),
        ):
            google.exchange(key)
        assert len(stand_in.requests) == 1


def test_a_bundle_of_the_environment_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As for the registries."""
    certificates = authority(tmp_path / "tls", datetime.now(UTC))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.ca_file))
    with TlsGoogle(certificates) as stand_in, google_with() as google:
        google.exchange(a_key(stand_in, tmp_path))


def test_a_bundle_that_cannot_be_used_is_a_mistake_in_the_config(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(Misconfigured, match=r"bundle\.pem"):
        google_with(tmp_path / "bundle.pem")


def test_https_goes_through_the_proxy_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """This one does not know CONNECT; NO_PROXY leads past it."""
    with GoogleStandIn() as proxy:
        proxy.add_account(EMAIL)
        key = a_key(proxy, tmp_path, token_uri=f"https://127.0.0.1:{free_port()}/token")
        monkeypatch.setenv("HTTPS_PROXY", f"user:hunter2@127.0.0.1:{proxy.port}")
        with google_with() as google:
            with pytest.raises(Unavailable, match="gave no whole answer") as failed:
                google.exchange(key)
            assert "hunter2" not in failed.value.message
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            with pytest.raises(Unavailable, match="cannot be reached"):
                google.exchange(key)


def test_a_proxy_that_cannot_be_used_is_a_mistake_in_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its password is not repeated."""
    monkeypatch.setenv("HTTPS_PROXY", "socks9://user:hunter2@proxy.example")
    with pytest.raises(Misconfigured, match="HTTPS_PROXY") as failed:
        google_with()
    assert "hunter2" not in failed.value.message


def test_it_runs_without_the_libraries_of_google_auths_transports() -> None:
    """They are not among our dependencies, and google-auth reaches for them in many places."""
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("requests", "aiohttp", "packaging"):
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import refresher.sources.gar
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
