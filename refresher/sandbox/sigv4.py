"""Signature Version 4 as the receiving side checks it, written after AWS's description.

IAM user guide, "Create a signed AWS API request". Nothing of botocore is used, so that the
signatures of the client under test are judged by something else than themselves.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote

from refresher.sandbox.http import Request

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,]+)/(?P<day>[0-9]{8})/(?P<region>[a-z0-9-]+)"
    r"/(?P<service>[a-z0-9-]+)/aws4_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]+),"
    r" ?Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True)
class Signature:
    """What the headers of a signed request claim."""

    access_key_id: str
    #: Day of the credential scope, YYYYMMDD.
    day: str
    region: str
    service: str
    #: Lower-case names of the headers that are signed.
    headers: tuple[str, ...]
    hexdigest: str
    #: `X-Amz-Date`.
    signed_at: datetime


def read_signature(request: Request) -> Signature | None:
    """The signature on `request`, or None where it is missing or incomplete."""
    match = _AUTHORIZATION.fullmatch(request.headers.get("Authorization", ""))
    date = request.headers.get("X-Amz-Date", "")
    if match is None or not re.fullmatch(r"[0-9]{8}T[0-9]{6}Z", date):
        return None
    headers = tuple(match["headers"].split(";"))
    if "host" not in headers or not date.startswith(match["day"]):
        return None
    return Signature(
        access_key_id=match["key"],
        day=match["day"],
        region=match["region"],
        service=match["service"],
        headers=headers,
        hexdigest=match["signature"],
        signed_at=datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC),
    )


def is_signed_with(request: Request, signature: Signature, secret_access_key: str) -> bool:
    """Whether the holder of the secret key signed `request` as it arrived."""
    scope = f"{signature.day}/{signature.region}/{signature.service}/aws4_request"
    text = "\n".join(
        (
            "AWS4-HMAC-SHA256",
            request.headers["X-Amz-Date"],
            scope,
            hashlib.sha256(_canonical(request, signature.headers).encode()).hexdigest(),
        )
    )
    key = f"AWS4{secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    expected = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature.hexdigest)


def _canonical(request: Request, signed: tuple[str, ...]) -> str:
    query = sorted(
        (quote(name, safe="-_.~"), quote(value, safe="-_.~"))
        for name, value in parse_qsl(request.query, keep_blank_values=True)
    )
    headers = (f"{name}:{' '.join((request.headers[name] or '').split())}\n" for name in signed)
    return "\n".join(
        (
            request.method,
            quote(request.path, safe="/-_.~"),
            "&".join(f"{name}={value}" for name, value in query),
            "".join(headers),
            ";".join(signed),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
