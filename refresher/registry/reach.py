"""Whether a peer is there: its name, its port and its certificate. Nothing is sent to it."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from refresher.deadline import CALL_SECONDS, within
from refresher.errors import TlsFailure, Unavailable
from refresher.registry.wire import SOCKET_SECONDS, tls_context

_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found of a peer."""

    #: The address that answered.
    address: str
    #: The end of its certificate; None where it is reached without TLS.
    certificate_ends: datetime | None = None


def proxied(url: str) -> bool:
    """Whether our calls to `url` go through a proxy, which resolves and connects in our place."""
    parts, proxies = urlsplit(url), getproxies()
    if parts.scheme != "https" or not (proxies.get("https") or proxies.get("all")):
        return False
    return not proxy_bypass(parts.netloc)


def reach(url: str, ca_bundle: Path | None, seconds: float = CALL_SECONDS) -> Reached:
    """Resolve the host of `url`, connect, shake hands and hang up, all within `seconds`.

    `ca_bundle`: PEM file instead of the public authorities. Raises `Unavailable`, `TlsFailure`,
    `TimedOut`, or `Misconfigured` for a bundle that cannot be used.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
    tls = tls_context(ca_bundle) if parts.scheme == "https" else None
    return within(seconds, f"{host} port {port}", lambda: _reach(host, port, tls))


def _reach(host: str, port: int, tls: ssl.SSLContext | None) -> Reached:
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a name that can be looked up"
        raise Unavailable(f"DNS: {host} does not resolve ({reason})") from error
    with _connected(host, port) as connection:
        address = str(connection.getpeername()[0])
        return Reached(address, None if tls is None else _shake_hands(connection, tls, host))


def _connected(host: str, port: int) -> socket.socket:
    try:
        return socket.create_connection((host, port), SOCKET_SECONDS)
    except OSError as error:
        reason = error.strerror or "no answer in time"
        raise Unavailable(
            f"{host} resolves, but port {port} does not connect ({reason})"
        ) from error


def _shake_hands(connection: socket.socket, tls: ssl.SSLContext, host: str) -> datetime | None:
    """The end of the peer's certificate, which is then known to be good for `host`."""
    try:
        with tls.wrap_socket(connection, server_hostname=host) as secure:
            certificate = secure.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        raise TlsFailure(f"{host}: certificate refused: {error.verify_message}") from error
    except OSError as error:  # ssl.SSLError is one
        reason = getattr(error, "reason", None) or error.strerror or "no answer in time"
        raise TlsFailure(f"{host}: no TLS handshake ({reason})") from error
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
