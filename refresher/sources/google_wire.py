"""How Google is called: deadlines and limits, and the errors of the library translated.

google-auth brings transports of its own; this one needs no further library, reads no endless
answer, notes the clock of the peer, and ends google-auth's retries, since the policy retries.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3
from google.auth.transport import Request, Response
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)

from refresher.clock import Clock, Skews, retry_after
from refresher.config import is_loopback
from refresher.deadline import within
from refresher.errors import (
    Failure,
    InvalidResponse,
    Misconfigured,
    TimedOut,
    TlsFailure,
    Unavailable,
)
from refresher.sources.google_errors import VENDOR_ERRORS, NoToken, Refusal, refused, translated

#: Seconds for one connect and for one read; the total deadline comes on top.
SOCKET_SECONDS = 5.0
#: The list of an account's certificates takes 1.5 KB each; an account has a dozen.
MAX_BODY_BYTES = 256 * 1024

#: EC2's over IPv6; over IPv4 it is link-local (EC2 user guide, instance metadata).
_EC2_METADATA_V6 = "fd00:ec2::254"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer(Response):
    """An answer, as google-auth reads it."""

    status: int
    headers: Mapping[str, str]
    data: bytes


class Talk(Request):
    """The calls of one deadline, as google-auth makes them."""

    def __init__(self, wire: GoogleWire) -> None:
        self._wire = wire
        self._abandoned = threading.Event()
        #: The last peer's clock less ours.
        self.skew = timedelta(0)

    def __call__(
        self,
        url: str,
        method: str = "GET",
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,  # noqa: ARG002 - one deadline holds for the whole talk
        **_: object,
    ) -> Answer:
        """The answer. Raises `NoToken` where there was none, or another status than 200.

        google-auth would try some of those again, and tell of others by text alone.
        """
        peer = urlsplit(url).netloc
        answer = self._wire.ask(method, url, body, headers or {}, self._abandoned)
        self.skew = self._wire.note(peer, answer) or timedelta(0)
        if answer.status == 200:
            return answer
        asked = self._wire.asked(answer)
        raise NoToken(refused(Refusal(peer, answer.status, answer.data, self.skew, asked)))

    def abandon(self) -> None:
        """Read no further: nobody waits for it."""
        self._abandoned.set()


class GoogleWire:
    """One connection pool, and a total deadline for each talk. Thread-safe."""

    def __init__(
        self, *, clock: Clock, skews: Skews, ca_bundle: Path | None, call_seconds: float
    ) -> None:
        """`ca_bundle`: PEM file instead of the public authorities; `call_seconds`: the total
        deadline, name resolution included.

        Raises `Misconfigured` for a bundle or an environment's proxy that cannot be used.
        """
        self._clock = clock
        self._skews = skews
        self._call_seconds = call_seconds
        self._timeout = urllib3.Timeout(
            connect=min(SOCKET_SECONDS, call_seconds), read=min(SOCKET_SECONDS, call_seconds)
        )
        tls = _tls(ca_bundle)
        self._direct = urllib3.PoolManager(ssl_context=tls)
        self._proxy = _proxy_pool(tls)

    def talk(self, what: str, calls: Callable[[Talk], T]) -> T:
        """What `calls` returns within the deadline. Raises a `Failure`, naming `what`."""
        talk = Talk(self)
        try:
            return within(self._call_seconds, what, lambda: calls(talk))
        except TimedOut:
            talk.abandon()
            raise
        except VENDOR_ERRORS as error:
            # Not chained: the error's object holds the answer or the request.
            raise translated(error, what) from None

    def ask(
        self,
        method: str,
        url: str,
        body: bytes | None,
        headers: Mapping[str, str],
        abandoned: threading.Event,
    ) -> Answer:
        """The answer, whatever it is. Raises `NoToken` where there was none."""
        peer = urlsplit(url).netloc
        if not url.startswith("https:") and not _is_near(url):
            raise NoToken(
                Misconfigured(f"{peer} is reached over plain HTTP, nothing was sent; use https")
            )
        try:
            response = self._pool(url).request(
                method,
                url,
                body=body,
                headers={"User-Agent": "refresher", **headers},
                timeout=self._timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
            with closing(response):
                data = _read(response, peer, abandoned)
        except HTTPError as error:
            # Not chained: the error's object holds the request.
            raise NoToken(_no_answer(error, peer)) from None
        return Answer(response.status, response.headers, data)

    def note(self, peer: str, answer: Answer) -> timedelta | None:
        """The peer's clock less ours, where the answer tells."""
        headers = answer.headers
        return self._skews.observe(peer, self._clock.now(), headers.get("Date"), headers.get("Age"))

    def asked(self, answer: Answer) -> timedelta | None:
        """How long the peer wants to be left alone, where the answer tells."""
        return retry_after(answer.headers, self._clock.now())

    def _pool(self, url: str) -> urllib3.PoolManager:
        """Plain HTTP is loopback or the metadata server, where a proxy has no business."""
        if self._proxy is None or url.startswith("http:") or proxy_bypass(urlsplit(url).netloc):
            return self._direct
        return self._proxy

    def close(self) -> None:
        self._direct.clear()
        if self._proxy is not None:
            self._proxy.clear()


def _is_near(url: str) -> bool:
    """Whether it is this machine or a cloud's metadata server, of which plain HTTP is the way."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host) or parts.netloc == metadata_host() or host == _EC2_METADATA_V6:
        return True
    try:
        return ip_address(host).is_link_local
    except ValueError:
        return False


def metadata_host() -> str:
    """Where a machine at Google asks who it is (Compute Engine documentation, metadata server)."""
    return os.environ.get("GCE_METADATA_HOST") or "metadata.google.internal"


def _read(response: urllib3.BaseHTTPResponse, peer: str, abandoned: threading.Event) -> bytes:
    """The body; stops where nobody waits for it any more. Raises `NoToken` for one too long."""
    body = b""
    while not abandoned.is_set() and (chunk := response.read1(65536, decode_content=False)):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise NoToken(InvalidResponse(f"{peer} sent more than 256 KiB; is that Google?"))
    return body


def _tls(ca_bundle: Path | None) -> ssl.SSLContext:
    """As httpx does it for the registries: the bundle, else SSL_CERT_FILE, else certifi's."""
    cafile = ca_bundle or os.environ.get("SSL_CERT_FILE") or certifi.where()
    try:
        return ssl.create_default_context(cafile=str(cafile))
    except OSError as error:  # ssl.SSLError is one
        raise Misconfigured(
            f"cannot use the certificates of {cafile}: {error.strerror or error}"
        ) from error


def _proxy_pool(tls: ssl.SSLContext) -> urllib3.ProxyManager | None:
    """Through the proxy that the environment names; None where it names none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy:
        return None
    try:
        url = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
        headers = urllib3.make_headers(proxy_basic_auth=url.auth) if url.auth else None
        return urllib3.ProxyManager(url.url, ssl_context=tls, proxy_headers=headers)
    except (ValueError, HTTPError):
        # Not chained: the proxy's URL may hold its password.
        raise Misconfigured(
            "the proxy that HTTPS_PROXY or ALL_PROXY names cannot be used; write http://HOST:PORT"
        ) from None


def _no_answer(error: HTTPError, peer: str) -> Failure:
    if isinstance(error, SSLError):
        why = getattr(error.args[0], "verify_message", None) or "handshake failed"
        return TlsFailure(f"{peer}: TLS failed: {why}; check the proxy and daemon.ca_bundle")
    if isinstance(error, NewConnectionError):  # of urllib3's time-outs it is one, too
        return Unavailable(f"{peer} cannot be reached; check network, DNS and proxy")
    if isinstance(error, ConnectTimeoutError | ReadTimeoutError):
        return TimedOut(f"{peer} did not answer in time")
    return Unavailable(f"{peer} gave no whole answer; check network and proxy")
