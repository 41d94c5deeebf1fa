"""What an earlier process or configuration left behind is taken up."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial

from refresher import record
from refresher.errors import FailureReason
from refresher.model import FailureRecord, Outcome, Stage, Status, Store, Target


def adopt(store: Store, targets: Mapping[str, Target], now: datetime) -> None:
    """Take up the targets of a config, at the start and at every reload."""
    store.update_many(
        {name: partial(record.adopted, target, now=now) for name, target in targets.items()}
    )


def resume(store: Store, targets: Mapping[str, Target], now: datetime) -> None:
    """Pick up after an earlier process: close what it left open, and spread what nobody holds."""
    close_orphans(store, now)
    unheld = [target for target in targets.values() if target.renewable]
    many = len(unheld)
    store.update_many(
        {
            target.name: partial(_resumed, target, now, place / many, many)
            for place, target in enumerate(unheld)
        }
    )


def _resumed(
    target: Target, now: datetime, place: float, many: int, status: Status | None
) -> Status:
    known = status or record.adopted(target, None, now)
    return record.resumed(target, known, now, place, many)


def take_over(
    store: Store, targets: Mapping[str, Target], gone: Collection[str], now: datetime
) -> None:
    """Pick up after a replica that is gone: spread the targets that it held."""
    left = [targets[name] for name in gone if name in targets]
    statuses, many = store.statuses(), len(left)

    def taken_over(target: Target, place: int, status: Status | None) -> Status:
        known = status or record.adopted(target, None, now)
        if known.holder != statuses[target.name].holder:
            return known  # somebody published meanwhile
        return record.resumed(target, replace(known, holder=None), now, place / many, many)

    store.update_many(
        {target.name: partial(taken_over, target, place) for place, target in enumerate(left)}
    )


def close_orphans(store: Store, now: datetime) -> None:
    """Record as interrupted what an earlier process began and never ended."""
    for orphan in store.orphans():
        failure = FailureRecord(
            at=now,
            stage=Stage.STATE,
            reason=FailureReason.INTERRUPTED,
            message="the process ended during the attempt; the next one follows at once",
        )
        attempt = replace(orphan, ended_at=now, outcome=Outcome.FAILED, failure=failure)
        store.finish(attempt, partial(record.interrupted, id=orphan.id, failure=failure))
