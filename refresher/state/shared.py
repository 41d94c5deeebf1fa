"""Several replicas on one PostgreSQL: the database decides, and memory is a copy a tick old.

A change is made on what the database has, under the lock of its row; so a wish, a pause or a
notice that was told is never lost to another replica. While the database is away memory answers,
as with `SqlStore`, and what was done in it is merged when the database is back.
"""

from __future__ import annotations

import math
import os
import secrets
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TypeVar
from zlib import crc32

from refresher import __version__, record, replicas
from refresher.clock import Clock
from refresher.deadline import CALL_SECONDS
from refresher.errors import Interrupted, StateError
from refresher.model import Attempt, Replica, Status
from refresher.state.board import Board, Change, Changed, Lease, changes
from refresher.state.server import SERVER_SECONDS
from refresher.state.store import SqlStore

#: Seconds that a lease and a heartbeat last: an attempt's source and proof, each of some calls of
#: at most 8 s; a write to fal renews it. A target of a replica that died waits so long.
LEASE_SECONDS = 60.0

#: Heartbeats within that time.
_BEATS = 6

#: The part of a lease that must be left when a call begins.
_LEFT = CALL_SECONDS / LEASE_SECONDS


T = TypeVar("T")


@dataclass(slots=True)
class Claims:
    """How often this replica asked for a target, and what came of it."""

    granted: int = 0
    #: Another replica had it, or had just changed it.
    taken: int = 0


class SharedStore(SqlStore):
    """A `Store` and `Replicas` in a PostgreSQL that other replicas use, too."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        fingerprint_key: bytes | None = None,
        server_seconds: float = SERVER_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """Nothing is opened yet: use `open_or_memory`."""
        super().__init__(
            url, clock=clock, fingerprint_key=fingerprint_key, server_seconds=server_seconds
        )
        self._host, self._pid = socket.gethostname(), os.getpid()
        self.replica = f"{self._host}-{self._pid}-{secrets.token_hex(3)}"
        self.claims = Claims()
        #: What it does, for the others to compare: set it before the first look.
        self.config = ""
        self._lease_seconds = lease_seconds
        self._database.idles = False  # there is a look twice a second
        self._board = Board(self._database, self.replica, lease_seconds)
        #: Of each target, what the database last told: its version and its status.
        self._versions: dict[str, int] = {}
        self._told: dict[str, Status] = {}
        self._horizon = 0
        #: Until when, by the monotonic clock, each target that we may attempt is ours.
        self._leases: dict[str, float] = {}
        self._there: Sequence[Replica] = ()
        #: Holders that did not live at the last heartbeat, of all that were known before it.
        self._gone: frozenset[str] = frozenset()
        #: Which one of how many that live.
        self._place = (0, 1)
        self._beat_at = -math.inf

    @classmethod
    def open_or_memory(
        cls,
        url: str,
        *,
        clock: Clock,
        fingerprint_key: bytes | None = None,
        server_seconds: float = SERVER_SECONDS,
        lease_seconds: float = LEASE_SECONDS,
    ) -> SharedStore:
        """As `SqlStore.open_or_memory`. `lease_seconds`: how long a lease and a heartbeat last."""
        store = cls(
            url,
            clock=clock,
            fingerprint_key=fingerprint_key,
            server_seconds=server_seconds,
            lease_seconds=lease_seconds,
        )
        store._begin()
        return store

    # --- replicas ------------------------------------------------------------------------------

    def there(self) -> Sequence[Replica]:
        """The replicas as they last were seen, also those that are gone, the oldest first."""
        return self._there

    def elsewhere(self, status: Status | None) -> bool:
        if status is None or status.holder in (None, self.replica):
            return False
        return status.holder not in self._gone

    def rank(self, name: str, share_key: str) -> int:
        """Each principal is one replica's first choice, so that few issue for it; then each name.

        A preference and no promise: who is idle takes whatever is due.
        """
        place, many = self._place
        if crc32(share_key.encode()) % many == place:
            return 0
        return 1 if crc32(name.encode()) % many == place else 2

    @property
    def behind(self) -> bool:
        alive = [each for each in self._there if each.alive]
        ours = next((each.configured_at for each in alive if each.id == self.replica), None)
        others = [each.configured_at for each in alive if each.config != self.config]
        return ours is not None and any(at > ours for at in others)

    def abandoned(self) -> Sequence[str]:
        """The targets whose holder is gone, for one replica to take up: the oldest that lives."""
        alive = [replica.id for replica in self._there if replica.alive]
        if not self.up or alive[:1] != [self.replica]:
            return []
        return [name for name, each in self.statuses().items() if each.holder in self._gone]

    def look(self) -> None:
        with self._disk:
            if self._reachable:
                self._tried(self._look)

    def _look(self) -> None:
        if self._clock.monotonic() >= self._beat_at:
            self._beat()
        self._horizon, rows = self._board.changes(self._horizon)
        for row in rows:
            if row.version > self._versions.get(row.name, 0):
                self._absorb(row.name, Changed(row.status, row.version))

    def _beat(self) -> None:
        now = self._clock.monotonic()
        # Whoever holds something had said that it lives: one that is seen later is no stranger.
        holders = {status.holder for status in self.statuses().values()} - {None}
        about = {"host": self._host, "pid": self._pid, "release": __version__}
        self._there = self._board.beat({**about, "config": self.config})
        alive = [each.id for each in self._there if each.alive]
        self._gone = frozenset(holder for holder in holders if holder and holder not in alive)
        self._place = (alive.index(self.replica), len(alive))
        self._beat_at = now + self._lease_seconds / _BEATS

    # --- leases --------------------------------------------------------------------------------

    def claim(self, due: Collection[Status], pressing: Collection[str]) -> Collection[str]:
        if not due:
            return []
        with self._disk:
            granted = self._tried(lambda: self._claim(due)) if self._reachable else None
        if granted is not None:
            return granted
        self._leases |= dict.fromkeys(pressing, math.inf)
        return pressing

    def _claim(self, due: Collection[Status]) -> Collection[str]:
        until = self._clock.monotonic() + self._lease_seconds
        with self._memory:
            versions = {
                status.name: self._versions[status.name]
                for status in due
                if self._told.get(status.name) is status is self._statuses[status.name]
                # One that was left open is closed first, so that no two attempts have one id.
                and status.attempt is None
            }
        granted = self._board.claim(versions)
        self.claims.granted += len(granted)
        self.claims.taken += len(due) - len(granted)
        with self._memory:
            self._versions |= granted
            self._leases |= dict.fromkeys(granted, until)
        return granted.keys()

    def assure(self, name: str) -> None:
        left = self._leases.get(name, -math.inf) - self._clock.monotonic()
        if left < self._lease_seconds * _LEFT:
            raise Interrupted("the lease ended, so another replica may be at the target")

    def intend(self, attempt: Attempt, fingerprint: str, *, pressing: bool) -> int:
        name = attempt.target
        change = partial(_intended, attempt, fingerprint)
        unleased = self._leases.get(name) == math.inf
        with self._disk:
            until = self._clock.monotonic() + self._lease_seconds
            lease = Lease.LEAVE if unleased else Lease.RENEW
            done = self._share({name: change}, lease) if self._reachable else None
            if done is not None:
                if not unleased:
                    self._leases[name] = until
                return done[name].generation
        if not unleased and not pressing:
            raise Interrupted(
                f"{self._last_error}; so no other replica can be told of a write, and what stands"
                " can wait"
            )
        return super()._record(name, change).generation

    # --- store ---------------------------------------------------------------------------------

    def begin(self, attempt: Attempt, change: Change) -> Status:
        """Raises `Interrupted` where another replica has the target by now."""
        self.assure(attempt.target)
        leased = self._leases[attempt.target] != math.inf
        return self._record_shared(attempt, change, Lease.RENEW if leased else Lease.LEAVE)

    def finish(self, attempt: Attempt, change: Change) -> Status:
        if attempt.id not in self._running:  # another replica's, which left it open
            return self._record_shared(attempt, change, Lease.LEAVE)
        status = self._record_shared(attempt, change, Lease.END)
        self._running.discard(attempt.id)
        self._leases.pop(attempt.target, None)
        return status

    def update_many(self, changes: Mapping[str, Change]) -> None:
        with self._disk:
            if self._reachable and self._share(changes) is not None:
                return
        super().update_many(changes)

    def orphans(self) -> Sequence[Attempt]:
        found = self._ask(self._board.orphans) or ()
        return [attempt for attempt in found if attempt.id not in self._running]

    def close(self) -> None:
        with self._disk:
            if not self._closed and self._reachable:
                self._tried(self._board.leave)
        super().close()

    def _record(self, name: str, change: Change, attempt: Attempt | None = None) -> Status:
        if attempt is not None:
            return self._record_shared(attempt, change, Lease.LEAVE)
        with self._disk:
            done = self._share({name: change}) if self._reachable else None
        return super()._record(name, change) if done is None else done[name]

    def _record_shared(self, attempt: Attempt, change: Change, lease: Lease) -> Status:
        name = attempt.target
        with self._disk:
            done = self._share({name: change}, lease, attempt) if self._reachable else None
        if done is None:
            return super()._record(name, change, attempt)
        with self._memory:
            self._remember(attempt)
            self._unwritten_attempts.discard(attempt.id)
        return done[name]

    @property
    def _reachable(self) -> bool:
        """Whether the database is asked, rather than memory; `_disk` is held."""
        return self.up and not self._closed

    def _tried(self, call: Callable[[], T]) -> T | None:
        """What `call` returns, or None where the database is away."""
        try:
            return call()
        except StateError as error:
            self._fail(error)
            return None

    def _fail(self, error: StateError) -> None:
        """Whatever is there when it is back is read anew: it may be another server."""
        super()._fail(error)
        self._database.disconnect()

    def _share(
        self,
        changes: Mapping[str, Change],
        lease: Lease = Lease.LEAVE,
        attempt: Attempt | None = None,
    ) -> dict[str, Status] | None:
        """The statuses once they are changed; None where the database is away."""

        def share() -> dict[str, Changed]:
            self._write()  # what was done while it was away comes first
            return self._board.change(changes, self._known, lease, attempt)

        done = self._tried(share)
        if done is None:
            return None
        for name, changed in done.items():
            self._absorb(name, changed)
        return {name: changed.status for name, changed in done.items()}

    def _known(self, name: str, version: int) -> Status | None:
        return self._told.get(name) if self._versions.get(name) == version else None

    def _absorb(self, name: str, changed: Changed) -> None:
        """Take over what the database told, unless it told something newer already."""
        with self._memory:
            if changed.version < self._versions.get(name, 0) or name in self._unwritten_targets:
                return
            self._versions[name] = changed.version
            if changed.status == self._statuses.get(name):
                self._told[name] = self._statuses[name]
                return
            self._told[name] = self._statuses[name] = changed.status
            self._book(changed.status)
            self._view = None

    # --- back again ----------------------------------------------------------------------------

    def _connect(self) -> None:
        """Open the database and take over what it holds, but for what was done in memory."""
        key, (horizon, rows) = self._database.connect(None, lambda each: changes(each, 0))
        with self._memory:
            self._generated_key, self._horizon, self._beat_at = key, horizon, -math.inf
            gone = self._statuses.keys() - {row.name for row in rows}
            self._unwritten_targets |= gone
            self._told = {name: s for name, s in self._told.items() if name not in gone}
            self._versions, self._gone = {}, frozenset()
        for row in rows:
            self._absorb(row.name, Changed(row.status, row.version))

    def _write(self) -> None:
        """Merge all that was done in memory; whatever fails is done later."""
        with self._memory:
            if not self._unwritten_targets and not self._unwritten_attempts:
                return
            ours = {name: self._statuses[name] for name in self._unwritten_targets}
            attempts = [self._attempts[each] for each in self._unwritten_attempts]
            self._unwritten_targets, self._unwritten_attempts = set(), set()
        now = self._clock.now()
        merges = {name: partial(self._merged, status, now) for name, status in ours.items()}
        try:
            if attempts:  # first: a status never speaks of an attempt that is not there
                self._database.write((), attempts)
            done = self._board.change(merges, lambda *_: None)
        except BaseException:
            with self._memory:
                self._unwritten_targets |= ours.keys()
                ids = {attempt.id for attempt in attempts}
                self._unwritten_attempts |= ids & self._attempts.keys()
            raise
        for name, changed in done.items():
            self._settle(ours[name], changed, now)

    def _merged(self, ours: Status, now: datetime, theirs: Status | None) -> Status:
        base = self._told.get(ours.name)
        if theirs is None:
            return ours
        if base is None:
            return record.recalled(theirs, ours)
        return replicas.merged(base, ours, theirs, now)

    def _settle(self, ours: Status, changed: Changed, now: datetime) -> None:
        """Take over what became of `ours`, with whatever was done in memory meanwhile."""
        name = ours.name
        with self._memory:
            present = self._statuses[name]
            self._versions[name], self._told[name] = changed.version, changed.status
            self._statuses[name] = replicas.merged(ours, present, changed.status, now)
            self._book(self._statuses[name])
            self._view = None


def _intended(attempt: Attempt, fingerprint: str, status: Status | None) -> Status:
    if status is None:
        raise Interrupted("the target is unknown; nothing was written")
    return replicas.intended(status, attempt.id, fingerprint)
