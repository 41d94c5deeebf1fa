"""Times, spans and failures as people say them. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from refresher.errors import FailureReason
from refresher.model import FailureRecord, Stage

_SECOND = timedelta(seconds=1)
#: How late something may be before it is called late: the scheduler looks once a second.
_GRACE = timedelta(seconds=30)
#: Up to here the seconds of a time matter.
_NEAR = timedelta(minutes=10)
#: From here on its hour does not.
_FAR = timedelta(days=30)


def span(duration: timedelta) -> str:
    """A length of time in its two largest units, the rest cut off: `3 h 12 min`."""
    seconds = max(int(duration.total_seconds()), 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes == 0:
        return f"{seconds} s"
    if hours == 0:
        return f"{minutes} min"
    if days == 0:
        return f"{hours} h {minutes % 60} min" if minutes % 60 else f"{hours} h"
    return f"{days:,} d {hours % 24} h" if hours % 24 and days < 100 else f"{days:,} d"


def relative(at: datetime, now: datetime) -> str:
    """`in 3 h 12 min`, `5 min ago` or `now`."""
    ahead = at - now
    if abs(ahead) < _SECOND:
        return "now"
    return f"in {span(ahead)}" if ahead > timedelta() else f"{span(-ahead)} ago"


def due(at: datetime, now: datetime) -> str:
    """The same of something that is to happen: `in 3 h`, `now`, `overdue by 5 min`."""
    if at - now >= _SECOND:
        return f"in {span(at - now)}"
    return "now" if now - at <= _GRACE else f"overdue by {span(now - at)}"


def absolute(at: datetime, now: datetime) -> str:
    """In UTC, as short as it is clear beside `now`.

    `15:50:31`, `15:50`, `24 Nov, 15:50`, `24 Nov 2027`.
    """
    at, now = at.astimezone(UTC), now.astimezone(UTC)
    if at.date() == now.date():
        return f"{at:%H:%M:%S}" if abs(at - now) < _NEAR else f"{at:%H:%M}"
    year = "" if at.year == now.year else f" {at.year}"
    time = f", {at:%H:%M}" if abs(at - now) < _FAR else ""
    return f"{at.day} {at:%b}{year}{time}"


def number(count: int) -> str:
    """`10,000`."""
    return f"{count:,}"


# --- failures ----------------------------------------------------------------------------------

_AT_STAGE = {
    Stage.SOURCE: "Getting a credential",
    Stage.VERIFY: "Verifying it against the registry",
    Stage.PUBLISH: "Publishing to fal",
    Stage.STATE: "Writing the state",
}

_BY_ITSELF = "nothing unless it lasts, it is retried by itself"

_TO_DO = {
    FailureReason.UNAUTHORIZED: "put a valid credential where the configuration points",
    FailureReason.FORBIDDEN: "grant what is missing; the command refresher policy prints it",
    FailureReason.NOT_FOUND: "check the names of this target in the configuration",
    FailureReason.THROTTLED: "nothing, it waits for as long as it was asked to",
    FailureReason.UNAVAILABLE: f"{_BY_ITSELF}; then look at network, DNS and proxy",
    FailureReason.TIMEOUT: f"{_BY_ITSELF}; then look at network, firewall and proxy",
    FailureReason.TLS: "check daemon.ca_bundle, and whether a proxy opens TLS on the way",
    FailureReason.CLOCK_SKEW: "set this machine's clock right",
    FailureReason.INVALID_RESPONSE: f"{_BY_ITSELF}; then see what answers in the peer's place",
    FailureReason.INVALID_CREDENTIAL: "check what the source gives, it cannot be used",
    FailureReason.CONFIG: "mend what is named; it is then picked up by itself",
    FailureReason.INTERRUPTED: "nothing, it goes on at once",
}

_TO_DO_AT_STAGE = {
    (Stage.SOURCE, FailureReason.UNAUTHORIZED): "renew the identity that this target uses",
    (Stage.PUBLISH, FailureReason.UNAUTHORIZED): "put a valid fal key where fal.key points",
    (Stage.PUBLISH, FailureReason.FORBIDDEN): "give the fal key the right to write secrets",
}

#: Their messages end with what to do, after a semicolon, where a peer's words allow to tell.
_FOR_A_PERSON = frozenset(
    {
        FailureReason.UNAUTHORIZED,
        FailureReason.FORBIDDEN,
        FailureReason.NOT_FOUND,
        FailureReason.TLS,
        FailureReason.CONFIG,
    }
)


def failed_stage(failure: FailureRecord) -> str:
    """What failed and why: `Publishing to fal: unauthorized`."""
    return f"{_AT_STAGE[failure.stage]}: {failure.reason.replace('_', ' ')}"


def told(failure: FailureRecord) -> tuple[str, str]:
    """What happened, and what a person can do about it."""
    what, _, to_do = failure.message.rpartition("; ")
    if what and failure.reason in _FOR_A_PERSON:
        return what, to_do
    return failure.message, _usual(failure)


def _usual(failure: FailureRecord) -> str:
    if failure.stage is Stage.STATE:
        return "check the disk or the database that daemon.state names"
    return _TO_DO_AT_STAGE.get((failure.stage, failure.reason)) or _TO_DO[failure.reason]
