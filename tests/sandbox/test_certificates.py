"""The throw-away authority, judged by Python's own TLS."""

from __future__ import annotations

import ssl
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from refresher.sandbox.certificates import Certificates, authority


def shake_hands(certificates: Certificates, name: str) -> None:
    """A handshake in memory, the client as strict as Python can be."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.certificate_file, certificates.key_file)
    client = ssl.create_default_context(cafile=certificates.ca_file)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=name)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs, ours):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "::1"])
def test_every_name_of_loopback_is_served(tmp_path: Path, name: str) -> None:
    """A strict client that trusts the authority accepts the certificate."""
    shake_hands(authority(tmp_path, datetime.now(UTC)), name)


def test_another_authority_is_not_trusted(tmp_path: Path) -> None:
    """Each authority vouches for its own certificate only."""
    one = authority(tmp_path / "one", datetime.now(UTC))
    other = authority(tmp_path / "other", datetime.now(UTC))
    mixed = Certificates(other.ca_file, one.certificate_file, one.key_file)

    with pytest.raises(ssl.SSLCertVerificationError):
        shake_hands(mixed, "localhost")


def test_a_wrong_name_is_refused(tmp_path: Path) -> None:
    """A certificate for another name shows how clients take that."""
    wrong = authority(tmp_path, datetime.now(UTC), names=["elsewhere.invalid"])

    with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
        shake_hands(wrong, "localhost")


def test_a_negative_life_has_expired(tmp_path: Path) -> None:
    """A certificate whose time is over shows how clients take that."""
    expired = authority(tmp_path, datetime.now(UTC), life=-timedelta(hours=1))

    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake_hands(expired, "localhost")


def test_the_private_key_is_its_owners(tmp_path: Path) -> None:
    """The key's mode is 0600, also where an older file was open to others."""
    (tmp_path / "server.key").touch(mode=0o644)

    written = authority(tmp_path, datetime.now(UTC))

    assert stat.S_IMODE(written.key_file.stat().st_mode) == 0o600


def test_a_missing_directory_is_made(tmp_path: Path) -> None:
    """The files appear in a directory that did not exist."""
    written = authority(tmp_path / "deep" / "er", datetime.now(UTC))

    assert written.ca_file.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
