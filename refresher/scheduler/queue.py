"""What is due, in the order in which it should run."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from refresher import policy
from refresher.held import Held
from refresher.model import Life, Replicas, Status, Store, Target

#: How long it holds whether a target is pressing: it turns so by time alone.
_JUDGED_FOR = timedelta(seconds=10)

_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(slots=True)
class Ready:
    """A target that was found due."""

    name: str
    #: What it was judged by, and when.
    status: Status
    judged_at: datetime
    #: Before all others: a person waits, or a secret is about to die.
    pressing: bool
    since: datetime
    #: When it was last tried: after a restart all that is overdue is due since then.
    tried: datetime
    #: One issue serves all that share this.
    share_key: str
    #: Of several replicas each begins with other targets.
    rank: int = 0
    #: What has to end before it can start; looked at before anything else is.
    waits_for: Hashable = None


class Queue:
    """A look at the store puts it together anew; what did not change since is not judged again."""

    def __init__(self, store: Store, held: Held, replicas: Replicas) -> None:
        self._replicas = replicas
        self._store = store
        self._held = held
        self._ready: dict[str, Ready] = {}

    def look(self, targets: Mapping[str, Target], but: Iterable[str], now: datetime) -> None:
        """Find every due target, `but` for these."""
        statuses, left_out = self._store.statuses(), set(but)
        found = []
        for name in self._store.due(now):
            target, status = targets.get(name), statuses.get(name)
            if target is None or status is None or name in left_out:
                continue
            known = self._ready.get(name)
            if known is None or not _holds(known, status, now):
                known = self._judge(target, status, now)
            if known is not None:
                found.append(known)
        self._ready = {ready.name: ready for ready in _in_order(found)}

    def hand_out(self, start: Callable[[Ready], bool], full: Callable[[], bool]) -> None:
        """Offer each in turn until `full`; what `start` says True to is gone."""
        gone = []
        for ready in list(self._ready.values()):  # what ends at once comes here again
            if full():
                break
            if start(ready):
                gone.append(ready.name)
        for name in gone:
            self._ready.pop(name, None)

    def clear(self) -> None:
        self._ready = {}

    def __iter__(self) -> Iterator[Ready]:
        return iter(self._ready.values())

    def __len__(self) -> int:
        return len(self._ready)

    def _judge(self, target: Target, status: Status, now: datetime) -> Ready | None:
        if policy.due(target, status, self._held.hand(target, status), now) is None:
            return None
        trigger = status.trigger
        dying = policy.life(target, status, now) in (Life.URGENT, Life.EXPIRED)
        return Ready(
            name=target.name,
            status=status,
            judged_at=now,
            pressing=dying or trigger is not None,
            since=status.next_attempt_at if trigger is None else trigger.at,
            tried=status.last_attempt_at or _NEVER,
            share_key=target.source.share_key,
            rank=self._replicas.rank(target.name, target.source.share_key),
        )


def _holds(known: Ready, status: Status, now: datetime) -> bool:
    return known.status is status and abs(now - known.judged_at) < _JUDGED_FOR


def _in_order(found: list[Ready]) -> list[Ready]:
    """The pressing ones first, then our own share, then the longest due; those that one issue
    serves, together."""
    first: dict[tuple[bool, str], tuple[datetime, datetime]] = {}
    for ready in found:
        group, waits = (ready.pressing, ready.share_key), (ready.since, ready.tried)
        first[group] = min(first.get(group, waits), waits)
    return sorted(
        found,
        key=lambda ready: (
            not ready.pressing,
            ready.rank,
            first[ready.pressing, ready.share_key],
            ready.share_key,
            ready.since,
            ready.tried,
        ),
    )
