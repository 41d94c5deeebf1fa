"""One notice to one Apprise URL. Apprise is an optional extra and imported when it is needed."""

from __future__ import annotations

import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from refresher.config import Config
from refresher.deadline import CALL_SECONDS, within
from refresher.errors import ConfigError, Misconfigured, Unavailable
from refresher.model import SecretValue
from refresher.notify.news import Kind, Notice
from refresher.references import Reference

#: Kinds of notices as Apprise's kinds of notifications, which decide colour and icon.
_TYPES = {
    Kind.BAD: "failure",
    Kind.URGENT: "warning",
    Kind.EXPIRES: "warning",
    Kind.GOOD: "success",
    Kind.TEST: "info",
}


def require(config: Config) -> None:
    """Raise `ConfigError` where URLs are configured and Apprise is not installed."""
    if config.daemon.notify and find_spec("apprise") is None:
        problem = 'needs Apprise, which is not installed; install "refresher[notify]"'
        raise ConfigError(config.problem("daemon.notify", problem))


def send(
    reference: Reference,
    notice: Notice,
    *,
    ca_bundle: Path | None = None,
    call_seconds: float = CALL_SECONDS,
) -> None:
    """Send a notice to the URL that is read anew, within `call_seconds`.

    `ca_bundle`: PEM file instead of the public authorities, for services over HTTPS. Raises
    `Misconfigured`, `TimedOut` or `Unavailable`; none of them says a part of the URL.
    """
    url = reference.read()
    within(call_seconds, "the notifier", partial(_send, url, notice, ca_bundle))


def scheme(reference: Reference) -> str:
    """The scheme of the URL, which names the service; `?` where there is none to show."""
    try:
        url = reference.read().reveal()
    except Misconfigured:
        return "?"
    found = re.match(r"([a-z][a-z0-9+.-]{0,30})://", url, re.IGNORECASE)
    return found[1].lower() if found else "?"


def _send(url: SecretValue, notice: Notice, ca_bundle: Path | None) -> None:
    import apprise  # noqa: PLC0415 - optional, and 30 MB that only this thread needs

    asset = apprise.AppriseAsset(
        app_id="refresher", app_desc="refresher", async_mode=False, http_redirects=False
    )
    services = apprise.Apprise(asset=asset)
    if not services.add(url.reveal()):
        raise Misconfigured("is no URL that Apprise knows; see its list of services")
    if not all(service.verify_certificate for service in services):
        raise Misconfigured("switches the check of certificates off; take `verify` out of it")
    if ca_bundle is not None:
        for service in services:  # requests takes a path, and other libraries take it for True
            service.verify_certificate = str(ca_bundle)  # type: ignore[assignment] # its default
    kind = apprise.NotifyType(_TYPES[notice.kind])
    if not services.notify(title=notice.title, body=notice.text, notify_type=kind):
        raise Unavailable("the service is unreachable or did not accept the notice")
