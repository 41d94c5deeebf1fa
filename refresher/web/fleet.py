"""Which targets are shown, soonest trouble first, and how many there are of each kind. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from heapq import nsmallest

from refresher.model import Status, Target
from refresher.view import expires_at
from refresher.web.standing import Group, Standing, standing
from refresher.web.words import number

#: Targets on one page; the filter reaches the others.
MOST_SHOWN = 200

_NEVER = datetime.max.replace(tzinfo=UTC)

#: What `?state=` may name.
STATES: tuple[str, ...] = tuple(dict.fromkeys([*Group, *Standing]))


@dataclass(frozen=True, slots=True)
class Filter:
    """What a person looks for."""

    #: Part of a target's name, source, registry or secret, in any case; "" matches all.
    text: str = ""
    #: One of `STATES`; "" matches all.
    state: str = ""

    def admits(self, row: Row) -> bool:
        """Whether the row is looked for."""
        if self.state not in ("", row.standing, row.standing.group):
            return False
        text = self.text.strip().lower()
        return not text or any(text in word.lower() for word in _words(row.target))


@dataclass(frozen=True, slots=True)
class Row:
    """A target with its status and the word for it."""

    target: Target
    status: Status
    standing: Standing
    expires_at: datetime | None

    @property
    def published(self) -> bool:
        """Whether anything stands in a secret of the target."""
        return any(self.status.secret(ref).fingerprint for ref in self.target.secrets)

    @property
    def order(self) -> tuple[int, datetime, str]:
        """Soonest trouble first."""
        return self.standing.rank, self.expires_at or _NEVER, self.target.name


@dataclass(frozen=True, slots=True)
class Fleet:
    """All targets, counted, and those that are shown."""

    total: int
    counts: Mapping[Group, int]
    #: How many the filter admits.
    matching: int
    #: The worst of those, at most `MOST_SHOWN`.
    shown: Sequence[Row]

    @property
    def hidden(self) -> int:
        """How many the filter admits that are not shown."""
        return self.matching - len(self.shown)


def fleet(targets: Iterable[tuple[Target, Status]], wanted: Filter, now: datetime) -> Fleet:
    """What the page shows of these targets."""
    rows = [
        Row(target, status, standing(target, status, now), expires_at(target, status))
        for target, status in targets
    ]
    matching = [row for row in rows if wanted.admits(row)]
    return Fleet(
        total=len(rows),
        counts=Counter(row.standing.group for row in rows),
        matching=len(matching),
        shown=nsmallest(MOST_SHOWN, matching, key=lambda row: row.order),
    )


def headline(fleet: Fleet) -> str:
    """The one sentence that a glance is for."""
    total, counts = fleet.total, fleet.counts
    if not total:
        return "No targets are configured"
    if counts[Group.TROUBLE]:
        return f"{number(counts[Group.TROUBLE])} of {_targets(total)} in trouble"
    if counts[Group.UNKNOWN]:
        return f"{number(counts[Group.UNKNOWN])} of {_targets(total)} not known yet"
    if counts[Group.PARKED] == total:
        return "All targets are parked" if total > 1 else "The target is parked"
    if counts[Group.PARKED]:
        return f"{number(counts[Group.FINE])} of {_targets(total)} fine, the others parked"
    return f"All {_targets(total)} fine" if total > 1 else "The target is fine"


def _targets(count: int) -> str:
    return f"{number(count)} target{'' if count == 1 else 's'}"


def _words(target: Target) -> Iterable[str]:
    yield from (target.name, target.kind, target.registry.host)
    for secret in target.secrets:
        yield from (secret.name, secret.environment, secret.account)
