"""One call to a registry: deadlines and limits, and the errors of the library translated."""

from __future__ import annotations

import ssl
import threading
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.request import getproxies, proxy_bypass

import httpx

from refresher.clock import Clock, Skews
from refresher.deadline import CallThreads
from refresher.errors import (
    Failure,
    InvalidResponse,
    Misconfigured,
    TimedOut,
    TlsFailure,
    Unavailable,
)
from refresher.registry.challenges import Challenge, parse_challenges
from refresher.registry.words import MAX_WORDS, one_line

#: Seconds for one connect and for one read; the total deadline comes on top.
SOCKET_SECONDS = 5.0
#: No answer that we read is longer; a manifest may be, and of that only the status counts.
MAX_BODY_BYTES = 64 * 1024
#: What an image can be described by (OCI image specification 1.1, Docker image manifest v2.2).
MANIFEST_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
HEADERS = {
    "User-Agent": "refresher",
    "Accept": ", ".join((*MANIFEST_TYPES, "application/json")),
    "Accept-Encoding": "identity",  # 64 KiB are 64 KiB
}


@dataclass(frozen=True, slots=True)
class Call:
    method: str
    url: httpx.URL
    #: Host that a person would recognise, for the skew.
    peer: str
    #: What a message calls it.
    where: str
    authorization: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    where: str
    status: int
    headers: httpx.Headers
    #: At most 64 KiB.
    body: bytes
    #: Whether there was more.
    cut: bool
    #: When it came, by our clock.
    at: datetime

    def challenges(self) -> list[Challenge]:
        return parse_challenges(self.headers.get_list("WWW-Authenticate"))

    @property
    def challenge_error(self) -> str:
        """`error` of the challenges (RFC 6750 section 3.1), or empty."""
        errors = (challenge.parameters.get("error", "") for challenge in self.challenges())
        return next((error for error in errors if error), "")

    @property
    def location(self) -> str:
        """Host that a redirect names, or empty; the rest of it may hold a token."""
        try:
            return httpx.URL(self.headers.get("Location", "")).host
        except (httpx.InvalidURL, UnicodeError):
            return ""


class Wire:
    """One connection pool, and a total deadline for each call.

    It calls httpx's transports and not its client: those know no cookies, redirects or netrc,
    by which a credential could travel or a session of an earlier login be taken for a proof.
    """

    def __init__(
        self, clock: Clock, skews: Skews, ca_bundle: Path | None, call_seconds: float
    ) -> None:
        self._clock = clock
        self._skews = skews
        #: Total deadline of one call.
        self.call_seconds = call_seconds
        self._timeout = httpx.Timeout(min(SOCKET_SECONDS, call_seconds)).as_dict()
        self._threads = CallThreads()
        tls = tls_context(ca_bundle)
        self._direct = _transport(tls)
        self._proxy = _proxy_transport(tls)

    def ask(self, call: Call) -> Reply:
        """The answer, whatever it is. Raises a `Failure` where there was none."""
        abandoned = threading.Event()
        try:
            reply = self._threads.within(
                self.call_seconds, call.where, lambda: self._exchange(call, abandoned)
            )
        except TimedOut:
            abandoned.set()
            raise
        self._skews.observe(
            call.peer, reply.at, reply.headers.get("Date"), reply.headers.get("Age")
        )
        return reply

    def _exchange(self, call: Call, abandoned: threading.Event) -> Reply:
        headers = (
            HEADERS
            if call.authorization is None
            else {**HEADERS, "Authorization": call.authorization}
        )
        try:
            request = httpx.Request(
                call.method, call.url, headers=headers, extensions={"timeout": self._timeout}
            )
            with closing(self._transport_to(call.url).handle_request(request)) as response:
                at = self._clock.now()
                body = _read(response, abandoned)
        except (httpx.HTTPError, UnicodeError) as error:
            # Not chained: the error's object holds the request and its credential.
            raise _translated(error, call.where) from None
        return Reply(
            where=call.where,
            status=response.status_code,
            headers=response.headers,
            body=body[:MAX_BODY_BYTES],
            cut=len(body) > MAX_BODY_BYTES,
            at=at,
        )

    def _transport_to(self, url: httpx.URL) -> httpx.HTTPTransport:
        """Plain HTTP is loopback only, and a proxy has no business there."""
        if self._proxy is None or url.scheme == "http" or proxy_bypass(url.netloc.decode("ascii")):
            return self._direct
        return self._proxy

    def close(self) -> None:
        self._threads.close()
        self._direct.close()
        if self._proxy is not None:
            self._proxy.close()


def _read(response: httpx.Response, abandoned: threading.Event) -> bytes:
    """The body as it came; stops where it is too long or nobody waits for it any more."""
    body = b""
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_BODY_BYTES or abandoned.is_set():
            break
    return body


def tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    """Trusts the bundle, else SSL_CERT_FILE, else certifi's. Raises `Misconfigured`."""
    try:
        if ca_bundle is None:
            return httpx.create_ssl_context()
        return ssl.create_default_context(cafile=str(ca_bundle))
    except OSError as error:  # ssl.SSLError is one
        named = "SSL_CERT_FILE" if ca_bundle is None else f"daemon.ca_bundle {ca_bundle}"
        raise Misconfigured(
            f"cannot use the certificates of {named}: {error.strerror or error}"
        ) from error


def _transport(tls: ssl.SSLContext, proxy: str | None = None) -> httpx.HTTPTransport:
    """With no limit on connections: a call left behind must not keep the next one waiting."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.HTTPTransport(verify=tls, limits=limits, proxy=proxy)


def _proxy_transport(tls: ssl.SSLContext) -> httpx.HTTPTransport | None:
    """Through the proxy that the environment names; None where it names none."""
    proxies = getproxies()
    proxy = proxies.get("https") or proxies.get("all")
    if not proxy:
        return None
    try:
        return _transport(tls, proxy if "://" in proxy else f"http://{proxy}")
    except (ValueError, ImportError, httpx.InvalidURL):
        # Not chained: the proxy's URL may hold its password.
        raise Misconfigured(
            "the proxy that HTTPS_PROXY or ALL_PROXY names cannot be used; write http://HOST:PORT"
        ) from None


def _translated(error: Exception, where: str) -> Failure:
    if isinstance(error, httpx.TimeoutException):
        return TimedOut(f"{where} did not answer in time")
    tls = _tls_error(error)
    if tls is not None:
        why = getattr(tls, "verify_message", None) or tls.reason or "handshake failed"
        return TlsFailure(f"{where}: TLS failed: {why}; check its certificate and daemon.ca_bundle")
    if isinstance(error, httpx.RemoteProtocolError):
        return _translated_protocol(error, where)
    if isinstance(error, httpx.ConnectError | httpx.ProxyError):
        return Unavailable(f"{where} cannot be reached: {one_line(str(error))[:MAX_WORDS]}")
    if isinstance(error, httpx.NetworkError):
        return Unavailable(f"{where} broke the connection off")
    return InvalidResponse(f"{where}: it has an address that cannot be called")


def _translated_protocol(error: httpx.RemoteProtocolError, where: str) -> Failure:
    text = str(error)
    if "disconnected" in text or "peer closed" in text:
        return Unavailable(f"{where} closed the connection before its answer was complete")
    return InvalidResponse(f"{where} does not speak proper HTTP; is that the registry's address?")


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """The TLS error that a call ended with; a connection cut in the handshake is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return None if isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError) else cause
        cause = cause.__cause__ or cause.__context__
    return None
