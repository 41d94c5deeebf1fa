"""Tells a dead man's switch that all is well, or what is not.

The protocol is that of healthchecks.io: a request to the URL is success, one to the URL with
`/fail` behind its path is a failure whose body is kept (https://healthchecks.io/docs/http_api/).
"""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import urlsplit

from refresher import __version__, logs
from refresher.config import Config, is_loopback
from refresher.deadline import CALL_SECONDS, within
from refresher.errors import Failure, Misconfigured, TimedOut, TlsFailure, Unavailable
from refresher.model import SecretValue
from refresher.notify.lane import Outcome
from refresher.references import Reference

#: Seconds between two heartbeats.
HEARTBEAT_SECONDS = 60.0

#: Lines of a body at most: the service keeps 100 kB of it.
_MOST_LINES = 100


def warnings(config: Config, environ: Mapping[str, str]) -> list[str]:
    """A line where the heartbeat can be read and forged on its way; none while it has no URL."""
    reference = config.daemon.heartbeat_url
    if reference is None:
        return []
    try:
        parts = urlsplit(reference.read(environ).reveal())
        exposed = parts.scheme == "http" and not is_loopback(parts.hostname or "")
    except (Misconfigured, ValueError):  # of which each beat tells
        return []
    problem = "is plain HTTP to another machine, where it can be read and forged; use https://"
    return [config.problem("daemon.heartbeat_url", problem)] if exposed else []


class Heartbeat:
    """Asks the URL at each `beat`, where one is configured."""

    def __init__(
        self,
        *,
        reference: Callable[[], Reference | None],
        troubles: Callable[[], Sequence[str]],
        count: Callable[[Outcome], None],
        ca_bundle: Path | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """`reference` is the URL of the present configuration; `troubles` has a line for each."""
        self._reference = reference
        self._troubles = troubles
        self._count = count
        self._ca_bundle = ca_bundle
        self._call_seconds = call_seconds
        self._last_failure: str | None = None

    def beat(self) -> None:
        """Tell once. A failure is counted, and logged when it is a new one."""
        reference = self._reference()
        if reference is None:
            return
        try:
            self.tell(reference)
        except Failure as failure:
            self._count("failed")
            self._note(failure.message)
        else:
            self._note(None)

    def tell(self, reference: Reference) -> None:
        """Ask the URL that is read anew, within the deadline. Raises a `Failure`."""
        request = _request(reference.read(), self._troubles())
        within(self._call_seconds, "the heartbeat URL", partial(self._ask, request))

    def _note(self, failure: str | None) -> None:
        before, self._last_failure = self._last_failure, failure
        if failure == before:
            return
        if failure is None:
            logs.event("heartbeat.restored")
        else:
            logs.warning("heartbeat.failed", message=failure)

    def _ask(self, request: urllib.request.Request) -> None:
        # Errors are not chained: they hold the URL, and whoever has it can lie.
        try:
            self._opener.open(request, timeout=self._call_seconds).close()
        except HTTPError as error:
            error.close()
            raise Unavailable(f"the heartbeat URL answered {error.code}") from None
        except (OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", error)
            words = f"the heartbeat URL gave no answer: {type(reason).__name__}"
            raise _kind(reason)(words) from None

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """HTTP and HTTPS through the proxy of the environment, and no redirects."""
        opener = urllib.request.OpenerDirector()
        context = ssl.create_default_context(cafile=self._ca_bundle)
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(context=context),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
        ):
            opener.add_handler(handler)
        return opener


def _kind(reason: object) -> type[Failure]:
    if isinstance(reason, TimeoutError):
        return TimedOut
    return TlsFailure if isinstance(reason, ssl.SSLError) else Unavailable


def _request(url: SecretValue, troubles: Sequence[str]) -> urllib.request.Request:
    """A GET while all is well, else a POST of what is not."""
    address = _address(url, failing=bool(troubles))
    body = "\n".join(troubles[:_MOST_LINES]).encode() if troubles else None
    headers = {"User-Agent": f"refresher/{__version__}", "Content-Type": "text/plain"}
    return urllib.request.Request(address, body, headers)  # noqa: S310 - the scheme was checked


def _address(url: SecretValue, *, failing: bool) -> str:
    """Where to ask. Raises `Misconfigured` where the value is no URL over HTTP."""
    try:
        parts = urlsplit(url.reveal())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        # Outside of the handler: the error holds the URL.
        raise Misconfigured("the heartbeat URL is no http:// or https:// URL")
    path = f"{parts.path.rstrip('/')}/fail" if failing else parts.path
    return parts._replace(path=path, fragment="").geturl()
