"""What there is to tell of a target, and what was told. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from refresher import policy, view
from refresher.errors import FailureReason
from refresher.model import Condition, Life, Stage, Status, Target, Verdict

_DAY = timedelta(days=1)

#: What a renewable target answers with one new issue; a second refusal is `forbidden`.
_REPLACED_BY_ITSELF = (Stage.VERIFY, FailureReason.UNAUTHORIZED)

_WAITING_HELPS = frozenset(
    {
        FailureReason.THROTTLED,
        FailureReason.UNAVAILABLE,
        FailureReason.TIMEOUT,
        FailureReason.INVALID_RESPONSE,
        FailureReason.INTERRUPTED,
    }
)


#: Reasons that speak against the value itself.
_NO_GOOD = frozenset({FailureReason.UNAUTHORIZED, FailureReason.INVALID_CREDENTIAL})


class Kind(StrEnum):
    """What a notice is about."""

    BAD = "bad"
    URGENT = "urgent"
    GOOD = "good"
    #: The end of what only a person can replace is one step nearer.
    EXPIRES = "expires"
    #: Nothing: a person wants to see whether notices arrive.
    TEST = "test"


@dataclass(frozen=True, slots=True)
class Notice:
    """What a person is told. Never holds a credential."""

    #: Name of the target; empty in a test.
    target: str
    kind: Kind
    #: One line.
    title: str
    #: What stands, since when, and what to do: a line each.
    text: str


TEST = Notice(
    target="",
    kind=Kind.TEST,
    title="refresher: a test",
    text="Notices of refresher arrive here. Nothing has happened.",
)


def news(target: Target, status: Status, now: datetime) -> Notice | None:
    """What people are not told yet, in one notice; None where they know all.

    Of a target whose condition changed and whose end came nearer at once, the change says both.
    """
    if not target.enabled:
        return None
    present = policy.condition(target, status, now)
    if present is not None and present is not status.told:
        return _notice(target, status, Kind(present.value), now)
    if policy.warning(target, status, now) is not None:
        return _notice(target, status, Kind.EXPIRES, now)
    return None


def told(target: Target, status: Status, now: datetime) -> Status:
    """The status once people know all; the very same one where they do already."""
    if not target.enabled:
        return status
    present = policy.condition(target, status, now) or status.told
    warned = policy.warned(target, status, now)
    if (present, warned) == (status.told, status.warned):
        return status
    return replace(status, told=present, warned=warned)


def troubles(
    targets: Mapping[str, Target], statuses: Mapping[str, Status], now: datetime
) -> list[str]:
    """A line for each enabled target that is bad: for the heartbeat."""
    rows = [(target, statuses.get(name)) for name, target in targets.items() if target.enabled]
    return [
        f"{target.name}: {_standing(target, status, now)}"
        for target, status in rows
        if status and policy.condition(target, status, now) is Condition.BAD
    ]


# --- words -------------------------------------------------------------------------------------


def _notice(target: Target, status: Status, kind: Kind, now: datetime) -> Notice:
    title = f"refresher: {target.name} {_headline(target, status, kind, now)}"
    return Notice(target.name, kind, title, "\n".join(_lines(target, status, kind, now)))


def _headline(target: Target, status: Status, kind: Kind, now: datetime) -> str:
    if kind is Kind.GOOD:
        return "is good again"
    if kind is Kind.EXPIRES:
        left = policy.life_left(target, status, now) or timedelta()
        days = max(-(-left // _DAY), 1)
        return f"expires in {days} day{'' if days == 1 else 's'}"
    return f"is {kind}: {_standing(target, status, now)}"


def _standing(target: Target, status: Status, now: datetime) -> str:
    """What stands in fal, in a few words."""
    ends_at = _time(view.expires_at(target, status), "an unknown time")
    if any(status.secret(ref).verdict is Verdict.UNAUTHORIZED for ref in target.secrets):
        return f"{target.registry.host} refuses its credential"
    if policy.life(target, status, now) is Life.EXPIRED:
        return f"its credential expired at {ends_at}"
    if nothing := policy.unpublished(target, status):
        return f"nothing was ever published to {', '.join(map(str, nothing))}: its attempts fail"
    if status.consecutive_failures:
        return f"its attempts fail and its credential ends at {ends_at}"
    return f"its credential ends at {ends_at}"


def _lines(target: Target, status: Status, kind: Kind, now: datetime) -> Iterator[str]:
    end = _time(view.expires_at(target, status), "unknown")
    yield f"Secrets: {', '.join(map(str, target.secrets))}, for {target.registry.host}."
    yield f"State: {policy.life(target, status, now)}. Ends: {end}."
    yield f"Last success: {_time(status.last_success_at, 'none')}."
    yield f"Last accepted by the registry: {_time(_accepted_at(target, status), 'never')}."
    failure = status.last_failure
    if failure is not None:
        yield f"Last failure: {_time(failure.at)}, {status.consecutive_failures:,} in a row."
        yield f"Cause: {failure.stage}/{failure.reason}: {failure.message}"
    yield f"What to do: {_advice(target, status, kind)}"


def _time(at: datetime | None, unknown: str = "") -> str:
    """In UTC and with the date: notices are read later and elsewhere."""
    return unknown if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _accepted_at(target: Target, status: Status) -> datetime | None:
    """When the registry last accepted what stands, in the secret where that is longest ago."""
    times = [status.secret(ref).verified_at for ref in target.secrets]
    known = [at for at in times if at is not None]
    return min(known) if len(known) == len(times) else None


def _advice(target: Target, status: Status, kind: Kind) -> str:
    if kind is Kind.GOOD:
        return "Nothing."
    if status.paused:
        return f"Run `refresher resume {target.name}`: while paused it is not kept."
    failure = status.last_failure
    if _needs_a_new_credential(target, status):
        return (
            f"Make a new credential and put it where targets.{target.name} reads it;"
            " a file is read again by itself, a variable after a restart."
        )
    if failure is None or (failure.stage, failure.reason) == _REPLACED_BY_ITSELF:
        return "Nothing, unless it is not good again within minutes: it is renewed by itself."
    if failure.reason in _WAITING_HELPS:
        return "Nothing, unless it lasts: it is retried by itself. Then see network and proxy."
    return "Mend what the cause names; it is then picked up by itself."


def _needs_a_new_credential(target: Target, status: Status) -> bool:
    """Whether a person has to make one: what stands is at its end, or what is there is no good."""
    failure = status.last_failure
    if target.renewable or (failure is not None and failure.stage is Stage.PUBLISH):
        return False
    if failure is None or not policy.unpublished(target, status):
        return True
    return failure.reason in _NO_GOOD
