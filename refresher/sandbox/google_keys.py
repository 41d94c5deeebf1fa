"""Keys as Google keeps them for service accounts, and the assertions that they sign."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import NameOID

#: What Google's certificates say of a key that has no end.
FOREVER = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:  # noqa: ARG001 - tells them apart
    """The process's RSA key of that number: making one takes longer than a test."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class AccountKey:
    """One key of a service account."""

    private: rsa.RSAPrivateKey = field(repr=False)
    #: When the token service learns of it; the list shows it at once.
    known_at: datetime
    not_after: datetime
    id: str = field(default_factory=lambda: secrets.token_hex(20))

    @cached_property
    def pem(self) -> str:
        """The private part, as a key file holds it."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()

    def certificate(self, email: str) -> str:
        """PEM of the certificate that Google publishes."""
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, email[:64])])
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(self.known_at, self.not_after) - timedelta(days=1))
            .not_valid_after(self.not_after)
            .sign(self.private, hashes.SHA256())
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    def signed(self, assertion: Assertion) -> bool:
        """Whether this key made the signature (RFC 7518 section 3.3)."""
        public = self.private.public_key()
        try:
            public.verify(
                assertion.signature, assertion.signed, padding.PKCS1v15(), hashes.SHA256()
            )
        except InvalidSignature:
            return False
        return assertion.header.get("alg") == "RS256"


@dataclass(frozen=True, slots=True)
class Assertion:
    """A JWT in its parts (RFC 7515 section 7.1)."""

    header: dict[str, Any]
    claims: dict[str, Any]
    signed: bytes
    signature: bytes


def read_assertion(token: str) -> Assertion | None:
    """The JWT; None where it is none."""
    try:
        header, claims, signature = token.split(".")
        return Assertion(
            json.loads(_decoded(header)),
            json.loads(_decoded(claims)),
            f"{header}.{claims}".encode(),
            _decoded(signature),
        )
    except ValueError:
        return None


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
