"""What replicas share on PostgreSQL: leases, what changed since the last look, and who is there.

Every lease and every heartbeat is kept by the server's clock, so theirs need not agree. A call is
one transaction; a change holds the lock of its rows, which are locked by name, so that no two
replicas wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Connection,
    DateTime,
    Integer,
    Text,
    and_,
    any_,
    bindparam,
    exists,
    func,
    literal,
    select,
    text,
    update,
)

from refresher.errors import Interrupted
from refresher.model import Attempt, Replica, Status
from refresher.state.database import Database, target_row
from refresher.state.records import decode
from refresher.state.schema import attempts, targets

#: Rows that one transaction changes at most, so that none holds many locks for long.
_BATCH = 500

Change = Callable[[Status | None], Status]


class Lease(Enum):
    """What a change does to its target's lease."""

    LEAVE = auto()
    #: It must be ours, and lasts its full time from now on.
    RENEW = auto()
    #: It ends, where it is ours.
    END = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """A target as the database has it."""

    name: str
    #: Counts the changes of the row.
    version: int
    #: The status in terms of JSON.
    document: object

    @property
    def status(self) -> Status:
        return decode(Status, self.document)


@dataclass(frozen=True, slots=True)
class Changed:
    """What a change made of a target."""

    status: Status
    version: int


_CHANGES = text("""
    SELECT now.horizon, t.name, t.version, t.document
    FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon) AS now
    LEFT JOIN targets AS t ON t.revision >= :since
""").columns(horizon=BigInteger, name=Text, version=BigInteger, document=JSON)

_CLAIM = text("""
    WITH free AS MATERIALIZED (
        SELECT t.name
        FROM unnest(:names, :versions) AS due (name, version)
        JOIN targets AS t ON t.name = due.name AND t.version = due.version
        WHERE t.leased_until IS NULL OR t.leased_until < clock_timestamp() OR t.replica = :me
        FOR UPDATE OF t SKIP LOCKED
    )
    UPDATE targets AS t
    SET replica = :me, leased_until = clock_timestamp() + make_interval(secs => :lease)
    FROM free WHERE t.name = free.name
    RETURNING t.name, t.version
""").bindparams(
    bindparam("names", type_=ARRAY(Text)), bindparam("versions", type_=ARRAY(BigInteger))
)

_BEAT = text("""
    INSERT INTO replicas
        (id, host, pid, release, config, configured_at, started_at, alive_until)
    SELECT
        :id, :host, :pid, :release, :config,
        coalesce(min(configured_at), clock_timestamp()), clock_timestamp(),
        clock_timestamp() + make_interval(secs => :lease)
    FROM replicas WHERE config = :config
    ON CONFLICT (id) DO UPDATE SET
        alive_until = excluded.alive_until,
        config = excluded.config,
        configured_at = CASE replicas.config WHEN excluded.config
            THEN replicas.configured_at ELSE excluded.configured_at END
""")

#: Those that are gone are shown for an hour.
_FORGET = text("DELETE FROM replicas WHERE alive_until < clock_timestamp() - interval '1 hour'")

_REPLICAS = text("""
    SELECT id, host, pid, release, config, configured_at, started_at,
        alive_until > clock_timestamp() AS alive
    FROM replicas ORDER BY started_at, id
""").columns(
    id=Text,
    host=Text,
    pid=Integer,
    release=Text,
    config=Text,
    configured_at=DateTime(timezone=True),
    started_at=DateTime(timezone=True),
    alive=Boolean,
)

_LEAVE = (
    text("UPDATE targets SET replica = NULL, leased_until = NULL WHERE replica = :me"),
    text("DELETE FROM replicas WHERE id = :me"),
)

#: Attempts that nobody is at: their target has no lease, or it is for another attempt.
_ORPHANS = select(attempts).where(
    attempts.c.ended_at.is_(None),
    ~exists().where(
        and_(
            targets.c.name == attempts.c.target,
            targets.c.leased_until > func.clock_timestamp(),
            func.json_extract_path_text(targets.c.document, "attempt") == attempts.c.id,
        )
    ),
)


class Board:
    """The shared part of one database, as one replica uses it. Raises `StateError`."""

    def __init__(self, database: Database, me: str, lease: float) -> None:
        """`lease`: seconds that a lease and a heartbeat last."""
        self._database = database
        self._me = me
        self._lease = lease

    # --- targets -------------------------------------------------------------------------------

    def changes(self, since: int) -> tuple[int, Sequence[Row]]:
        """The rows that changed, and what to give as `since` the next time; 0 at first.

        Transactions do not end in the order in which they began, so the next look begins with the
        oldest that was still under way at this one: a row may come again, and none is missed.
        """
        return self._database.transact(lambda connection: changes(connection, since))

    def claim(self, versions: Mapping[str, int]) -> dict[str, int]:
        """Of these targets those that are ours now, with their new versions.

        Only one that is still as we know it: what changed since is to be looked at first.
        """
        names = {"names": list(versions), "versions": list(versions.values())}
        values = {**names, "me": self._me, "lease": self._lease}

        def claim(connection: Connection) -> dict[str, int]:
            return {row.name: row.version for row in connection.execute(_CLAIM, values)}

        return self._database.transact(claim)

    def change(
        self,
        changes: Mapping[str, Change],
        known: Callable[[str, int], Status | None],
        lease: Lease = Lease.LEAVE,
        attempt: Attempt | None = None,
    ) -> dict[str, Changed]:
        """Apply each change to what the database has, with an attempt in the same transaction.

        `known` gives the status of a version where that is at hand. Raises `Interrupted` where a
        lease that is to be renewed is not ours, and whatever a change raises.
        """
        names = sorted(changes)
        done: dict[str, Changed] = {}
        for start in range(0, len(names), _BATCH):
            batch = names[start : start + _BATCH]
            change = _Batch(self, {name: changes[name] for name in batch}, known, lease, attempt)
            done |= self._database.transact(change.run)
        return done

    def orphans(self) -> Sequence[Attempt]:
        return self._database.select_attempts(_ORPHANS)

    # --- replicas ------------------------------------------------------------------------------

    def beat(self, about: Mapping[str, object]) -> list[Replica]:
        """Say that we are alive and what we are, and who else is there, the oldest first."""

        def beat(connection: Connection) -> list[Replica]:
            connection.execute(_BEAT, {"id": self._me, "lease": self._lease, **about})
            connection.execute(_FORGET)
            return [Replica(**row) for row in connection.execute(_REPLICAS).mappings()]

        return self._database.transact(beat)

    def leave(self) -> None:
        """We are gone, and hold nothing."""

        def leave(connection: Connection) -> None:
            for statement in _LEAVE:
                connection.execute(statement, {"me": self._me})

        self._database.transact(leave)

    # --- used by a batch -----------------------------------------------------------------------

    def lease_values(self, lease: Lease, holder: str | None) -> dict[str, Any]:
        """The columns of a lease once a change is made. Raises `Interrupted`."""
        if lease is Lease.RENEW:
            if holder != self._me:
                raise Interrupted("another replica took the target over; nothing was written")
            span = func.make_interval(0, 0, 0, 0, 0, 0, self._lease)
            return {"leased_until": func.clock_timestamp() + span}
        if lease is Lease.END and holder == self._me:
            return {"replica": None, "leased_until": None}
        return {}

    def put_attempt(self, connection: Connection, attempt: Attempt) -> None:
        self._database.put_attempt(connection, attempt)


def changes(connection: Connection, since: int) -> tuple[int, Sequence[Row]]:
    """As `Board.changes`, within a transaction."""
    found = connection.execute(_CHANGES, {"since": since}).all()
    rows = [Row(name, version, document) for _, name, version, document in found if name]
    return found[0].horizon, rows


class _Batch:
    """Changes of rows in one transaction."""

    def __init__(
        self,
        board: Board,
        changes: Mapping[str, Change],
        known: Callable[[str, int], Status | None],
        lease: Lease,
        attempt: Attempt | None,
    ) -> None:
        self._board = board
        self._changes = changes
        self._known = known
        self._lease = lease
        self._attempt = attempt

    def run(self, connection: Connection) -> dict[str, Changed]:
        done: dict[str, Changed] = {}
        while missing := sorted(self._changes.keys() - done.keys()):
            rows = self._locked(connection, missing)
            for row in rows:
                done[row.name] = self._change(connection, row)
            done |= self._inserted(connection, sorted(set(missing) - {row.name for row in rows}))
        if self._attempt is not None:
            self._board.put_attempt(connection, self._attempt)
        return done

    def _locked(self, connection: Connection, names: Sequence[str]) -> Sequence[Any]:
        columns = (targets.c.name, targets.c.version, targets.c.replica, targets.c.document)
        wanted = select(*columns).where(targets.c.name == any_(literal(names, ARRAY(Text))))
        return connection.execute(wanted.order_by(targets.c.name).with_for_update()).all()

    def _change(self, connection: Connection, row: Any) -> Changed:
        values = self._board.lease_values(self._lease, row.replica)
        before = self._known(row.name, row.version)
        if before is None:
            before = decode(Status, row.document)
        after = self._changes[row.name](before)
        if after != before:
            values |= target_row(after)
        if not values:
            return Changed(before, row.version)
        connection.execute(update(targets).where(targets.c.name == row.name).values(**values))
        return Changed(after, row.version + 1)

    def _inserted(self, connection: Connection, names: Sequence[str]) -> dict[str, Changed]:
        """The new rows, but for those that another replica inserted just now."""
        if not names:
            return {}
        from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415 - as in database.py

        made = {name: self._changes[name](None) for name in names}
        put = insert(targets).values([target_row(status) for status in made.values()])
        inserted = connection.scalars(put.on_conflict_do_nothing().returning(targets.c.name))
        return {name: Changed(made[name], 1) for name in inserted}
