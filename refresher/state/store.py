"""Memory answers, the database remembers.

A change goes to memory first and is then written together with whatever could not be written
before, each target's status in one transaction with its attempt. A database that is away costs
durability and nothing else, and comes back by itself.
"""

from __future__ import annotations

import math
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TypeVar

from refresher import record
from refresher.clock import Clock
from refresher.errors import StateError
from refresher.model import Attempt, Status
from refresher.state.database import Database, parse_url, recall
from refresher.state.file import StateInUse
from refresher.state.server import SERVER_SECONDS

#: Attempts kept in memory, the newest: what is shown and written later while the database is away.
REMEMBERED_ATTEMPTS = 1_000

#: Of its own comings and goings a store remembers so many, the newest.
REMEMBERED_CHANGES = 100

#: Seconds between two tries of a database that failed, so that workers do not queue up behind it.
RETRY_SECONDS = 1.0

T = TypeVar("T")
Change = Callable[[Status | None], Status]


class SqlStore:
    """A `Store` in a SQL database, which goes on in memory while that is away."""

    def __init__(
        self,
        url: str,
        *,
        clock: Clock,
        fingerprint_key: bytes | None = None,
        read_only: bool = False,
        server_seconds: float = SERVER_SECONDS,
    ) -> None:
        """Nothing is opened yet: use `open` or `open_or_memory`."""
        self._database = Database(
            parse_url(url), read_only=read_only, server_seconds=server_seconds
        )
        self._clock = clock
        self._configured_key = fingerprint_key
        self._generated_key: bytes | None = None
        # Whoever needs both takes _disk first. _memory is never held over I/O.
        self._disk = threading.Lock()
        self._memory = threading.RLock()
        self._statuses: dict[str, Status] = {}
        #: When each is looked at again, and the last moment at which any was tried: flat, since
        #: the scheduler asks twice a second and there may be thousands.
        self._looks: dict[str, float] = {}
        self._latest = -math.inf
        self._view: Mapping[str, Status] | None = None
        self._attempts: dict[str, Attempt] = {}
        self._running: set[str] = set()
        self._unwritten_targets: set[str] = set()
        self._unwritten_attempts: set[str] = set()
        self._last_error: str | None = None
        self._changes: deque[str | None] = deque(maxlen=REMEMBERED_CHANGES)
        self._try_again_at = 0.0
        self._closed = False
        #: Whether this process knows what an earlier one stored.
        self._recalled = False

    @classmethod
    def open(
        cls,
        url: str,
        *,
        clock: Clock,
        fingerprint_key: bytes | None = None,
        read_only: bool = False,
    ) -> SqlStore:
        """The store at `sqlite:///PATH`, `sqlite://` (memory) or `postgresql://…`.

        `fingerprint_key` stands in for the one kept with the state and is never stored.
        `read_only` looks at the state beside its owner, as it stands now.

        Raises `StateInUse` where another process owns it, and `StateError` where it cannot be
        opened; whatever is there stays as it is.
        """
        store = cls(url, clock=clock, fingerprint_key=fingerprint_key, read_only=read_only)
        try:
            store._connect()
        except BaseException:
            store.close()
            raise
        return store

    @classmethod
    def open_or_memory(
        cls,
        url: str,
        *,
        clock: Clock,
        fingerprint_key: bytes | None = None,
        server_seconds: float = SERVER_SECONDS,
    ) -> SqlStore:
        """Like `open`, but a state that cannot be opened is `up` False, in memory, and retried.

        Raises `StateInUse` where another process owns it, and `StateError` where the URL is none
        of ours: neither gets better by waiting.
        """
        store = cls(
            url, clock=clock, fingerprint_key=fingerprint_key, server_seconds=server_seconds
        )
        store._begin()
        return store

    def _begin(self) -> None:
        try:
            self._connect()
        except StateInUse:
            self.close()
            raise
        except StateError as error:
            self._generated_key = secrets.token_bytes(32)
            self._fail(error)

    @property
    def up(self) -> bool:
        return self._last_error is None

    @property
    def last_error(self) -> str | None:
        """Why `up` is False: one line with what to do; None while it is True."""
        return self._last_error

    def changes(self) -> Sequence[str | None]:
        """What `last_error` became since this was last asked, in order: None where it is back."""
        found = []
        while self._changes:
            found.append(self._changes.popleft())
        return found

    @property
    def fingerprint_key(self) -> bytes:
        key = self._configured_key or self._generated_key
        assert key is not None  # noqa: S101 - opening sets one
        return key

    def exposed(self) -> Sequence[str]:
        """What lets other users at the state, a line each with what to do."""
        return self._database.exposed()

    def statuses(self) -> Mapping[str, Status]:
        with self._memory:
            if self._view is None:
                self._view = MappingProxyType(dict(self._statuses))
            return self._view

    def status(self, name: str) -> Status | None:
        with self._memory:
            return self._statuses.get(name)

    def due(self, now: datetime) -> Sequence[str]:
        at = now.timestamp()
        with self._memory:
            if at < self._latest:  # the clock was set back, so what was booked says nothing
                return list(self._statuses)
            return [name for name, look in self._looks.items() if look <= at]

    def update(self, name: str, change: Change) -> Status:
        return self._record(name, change)

    def update_many(self, changes: Mapping[str, Change]) -> None:
        self._require_writable()
        with self._memory:
            for name, change in changes.items():
                self._put(name, change)
        self._flush()

    def begin(self, attempt: Attempt, change: Change) -> Status:
        return self._record(attempt.target, change, attempt)

    def finish(self, attempt: Attempt, change: Change) -> Status:
        status = self._record(attempt.target, change, attempt)
        self._running.discard(attempt.id)
        return status

    def attempt(self, id: str) -> Attempt | None:
        with self._memory:
            remembered = self._attempts.get(id)
        if remembered is not None:
            return remembered
        return self._ask(lambda: self._database.attempt(id))

    def attempts(self, target: str | None = None, limit: int = 100) -> Sequence[Attempt]:
        stored = self._ask(lambda: self._database.attempts(target, limit)) or ()
        with self._memory:
            remembered = [a for a in self._attempts.values() if target in (None, a.target)]
        known = {attempt.id: attempt for attempt in (*stored, *remembered)}
        return sorted(known.values(), key=lambda a: (a.started_at, a.id), reverse=True)[:limit]

    def orphans(self) -> Sequence[Attempt]:
        stored = self._ask(self._database.open_attempts) or ()
        return [attempt for attempt in stored if attempt.id not in self._running]

    def prune(self, before: datetime) -> int:
        with self._memory:
            ended = [a for a in self._attempts.values() if a.ended_at and a.ended_at < before]
            for attempt in ended:
                self._forget(attempt)
        stored = self._ask(lambda: self._database.prune(before))
        return len(ended) if stored is None else stored

    def retry(self) -> None:
        """Write what could not be written, if it is time, and notice a file that went away.

        Call it every few seconds; it costs nothing while all is well.
        """
        if not self._database.read_only:
            self._flush()

    def close(self) -> None:
        """Write what is left, if that is possible now, and let go of the database."""
        with self._disk:
            if self._closed:
                return
            self._closed = True
            if self._unwritten_targets or self._unwritten_attempts:
                self._try_to_write()
            self._database.close()

    def _record(self, name: str, change: Change, attempt: Attempt | None = None) -> Status:
        self._require_writable()
        with self._memory:
            status = self._put(name, change)
            if attempt is not None:
                self._remember(attempt)
        self._flush()
        return status

    def _require_writable(self) -> None:
        if self._database.read_only:
            raise StateError(f"state {self._database} was opened for reading only")

    def _put(self, name: str, change: Change) -> Status:
        before = self._statuses.get(name)
        status = change(before)
        if status is not before:
            self._statuses[name] = status
            self._view = None
            self._unwritten_targets.add(name)
            self._book(status)
        return status

    def _book(self, status: Status) -> None:
        waits = status.trigger is not None
        self._looks[status.name] = -math.inf if waits else status.next_attempt_at.timestamp()
        if status.last_attempt_at is not None:
            self._latest = max(self._latest, status.last_attempt_at.timestamp())

    def _remember(self, attempt: Attempt) -> None:
        self._attempts.pop(attempt.id, None)
        self._attempts[attempt.id] = attempt
        self._unwritten_attempts.add(attempt.id)
        if attempt.ended_at is None:
            self._running.add(attempt.id)
        if len(self._attempts) > REMEMBERED_ATTEMPTS:
            self._forget(next(iter(self._attempts.values())))

    def _forget(self, attempt: Attempt) -> None:
        del self._attempts[attempt.id]
        self._unwritten_attempts.discard(attempt.id)

    def _flush(self) -> None:
        """Write what is unwritten. While the database is away one thread tries, and none waits."""
        if not self._disk.acquire(blocking=self.up):
            return
        try:
            waiting = not self.up and self._clock.monotonic() < self._try_again_at
            if not self._closed and not waiting:
                self._try_to_write()
        finally:
            self._disk.release()

    def _try_to_write(self) -> None:
        try:
            if not self._database.connected:
                self._connect()
            self._write()
        except StateError as error:
            self._fail(error)
        else:
            self._say(None)

    def _write(self) -> None:
        """Write all that is unwritten; whatever fails stays so."""
        with self._memory:
            names, ids = self._unwritten_targets, self._unwritten_attempts
            self._unwritten_targets, self._unwritten_attempts = set(), set()
            statuses = [self._statuses[name] for name in names]
            attempts = [self._attempts[i] for i in ids]
        if self.up and not statuses and not attempts:
            self._database.check_in_place()  # another thread wrote ours along with its own
            return
        try:
            self._database.write(statuses, attempts)
        except BaseException:
            with self._memory:
                self._unwritten_targets |= names
                self._unwritten_attempts |= ids & self._attempts.keys()
            raise

    def _connect(self) -> None:
        """Open the database and agree with it: memory is newer than whatever stands there.

        Read for the first time, it tells what memory never knew.
        """
        self._generated_key, stored = self._database.connect(self._generated_key, recall)
        with self._memory:
            self._unwritten_targets.update(self._statuses)
            self._unwritten_attempts.update(self._attempts)
            ours = self._statuses
            if not self._recalled:
                ours = {name: record.recalled(stored.get(name), ours[name]) for name in ours}
            self._statuses = stored | ours
            self._recalled = True
            self._view = None
            for status in self._statuses.values():
                self._book(status)

    def _fail(self, error: StateError) -> None:
        self._say(error.message)
        self._try_again_at = self._clock.monotonic() + RETRY_SECONDS

    def _say(self, trouble: str | None) -> None:
        if trouble != self._last_error:
            self._changes.append(trouble)
        self._last_error = trouble

    def _ask(self, query: Callable[[], T]) -> T | None:
        """What the database says, or None while it is away."""
        with self._disk:
            if not self.up or self._closed:
                return None
            try:
                return query()
            except StateError as error:
                self._fail(error)
                return None
