"""One SQL database that holds the tables: SQLite or PostgreSQL by the same code."""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Select,
    Table,
    create_engine,
    delete,
    make_url,
    select,
    update,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from refresher.errors import StateError
from refresher.model import Attempt, Status
from refresher.state import schema
from refresher.state.file import (
    OwnerLock,
    exposed,
    identity,
    make_directory,
    make_file,
    refuse_open_directory,
)
from refresher.state.records import columns, decode, encode, timestamp
from refresher.state.server import SERVER_SECONDS, ServerDeadline

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

#: Seconds that SQLite waits for another program's lock.
BUSY_SECONDS = 0.25

#: Rows of one statement.
_BATCH = 500

#: The columns of a target that say what is known of it.
_ROW = ("name", "digest", "next_attempt_at", "last_success_at", "document")

T = TypeVar("T")

#: What to say of SQLite's result codes (https://www.sqlite.org/rescode.html).
_SQLITE_TROUBLE = {
    "SQLITE_BUSY": "is locked by another program; end that program",
    "SQLITE_LOCKED": "is locked by another program; end that program",
    "SQLITE_FULL": "cannot grow, the disk is full; free some space",
    "SQLITE_IOERR": "cannot be written, disk I/O error; check free space, quota and disk",
    "SQLITE_READONLY": "may not be written; give file and directory to the user of refresher",
    "SQLITE_CANTOPEN": "cannot be opened; check that it exists and belongs to this user",
    "SQLITE_NOTADB": "is not a database; move it away or set daemon.state to another file",
    "SQLITE_CORRUPT": "is damaged; move it away or put a backup in its place",
}


class Database:
    """One database, one transaction a call. Raises `StateError` and nothing else."""

    def __init__(
        self, url: URL, *, read_only: bool, server_seconds: float = SERVER_SECONDS
    ) -> None:
        self.read_only = read_only
        #: Whether a connection may be idle for so long that it is tried before each use.
        self.idles = True
        self._url = url
        self._path = _sqlite_path(url)
        self._lock: OwnerLock | None = None
        if self._path is not None and not read_only:
            self._lock = OwnerLock(Path(f"{self._path}.lock"), self._path)
        self._server_seconds = server_seconds
        self._deadline: ServerDeadline | None = None
        self._engine: Engine | None = None
        self._opened: tuple[int, int] | None = None
        insert = _insert_of(url)
        self._put_meta = _upsert(insert(schema.meta))
        self._put_targets = _upsert(insert(schema.targets), _ROW)
        self._put_attempts = _upsert(insert(schema.attempts))

    @property
    def connected(self) -> bool:
        return self._engine is not None

    def __str__(self) -> str:
        if self._path is not None:
            return str(self._path)
        return self._url.set(query={}).render_as_string(hide_password=True)

    def connect(
        self, fingerprint_key: bytes | None, read: Callable[[Connection], T]
    ) -> tuple[bytes, T]:
        """Open the database, made where there is none; what is there must be ours.

        Returns the fingerprint key kept in it, which becomes `fingerprint_key` unless that is
        None, and what `read` finds in it.
        """
        try:
            with self._translated():
                return self._connect(fingerprint_key, read)
        except BaseException:
            self.disconnect()
            raise

    def _connect(
        self, fingerprint_key: bytes | None, read: Callable[[Connection], T]
    ) -> tuple[bytes, T]:
        if self._path is not None and self._lock is not None:
            make_directory(self._path.parent)
            refuse_open_directory(self._path.parent)
            self._lock.acquire()
            make_file(self._path)
        engine = self._engine = self._create_engine()
        self._opened = identity(self._path) if self._path is not None else None
        agreed = self._bounded(lambda: self._agree(engine, fingerprint_key, read))
        if self._path is not None and self._lock is not None:
            self._make_crash_safe(engine)
        return agreed

    def _agree(
        self, engine: Engine, fingerprint_key: bytes | None, read: Callable[[Connection], T]
    ) -> tuple[bytes, T]:
        if not self.read_only:
            self._prepare(engine)
        with engine.begin() as connection:
            kept = self._admit(connection)
            found = read(connection)
            if fingerprint_key not in (None, kept):
                self._keep_key(connection, fingerprint_key)
        return fingerprint_key or kept, found

    def _bounded(self, call: Callable[[], T]) -> T:
        """What `call` returns; a file answers or fails by itself, a server has a deadline."""
        if self._deadline is None:
            return call()
        try:
            return self._deadline.within(f"state {self}", call)
        finally:
            if self._deadline.lost:
                self.disconnect()

    def _create_engine(self) -> Engine:
        if self._url.get_backend_name() != "sqlite":
            engine = create_engine(
                self._url,
                hide_parameters=True,
                pool_pre_ping=self.idles,
                connect_args={
                    "connect_timeout": 3,
                    "tcp_user_timeout": 5000,
                    # A pooler may give each transaction another connection of the server.
                    "prepare_threshold": None,
                },
            )
            self._deadline = ServerDeadline(engine, self._server_seconds)
            return engine
        if self._path is None:
            return create_engine(
                "sqlite://",
                connect_args={"check_same_thread": False},
                poolclass=StaticPool,
                hide_parameters=True,
            )
        # Never mode=rwc: a file that SQLite made would have the wrong mode.
        uri = f"{self._path.absolute().as_uri()}?mode={'ro' if self.read_only else 'rw'}"
        return create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(
                uri, uri=True, timeout=BUSY_SECONDS, check_same_thread=False
            ),
            poolclass=StaticPool,
            hide_parameters=True,
        )

    def _make_crash_safe(self, engine: Engine) -> None:
        """What is committed survives the death of the process, with no wait for the disk.

        NORMAL in WAL may lose the last commits to a power cut, never the database
        (https://www.sqlite.org/pragma.html#pragma_synchronous).
        """
        with engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")

    def _admit(self, connection: Connection) -> bytes:
        """The fingerprint key of a database that is ours and of our time."""
        self._refuse_what_is_not_ours(schema.table_names(connection))
        meta = self._meta(connection)
        return bytes.fromhex(meta["fingerprint_key"])

    def _prepare(self, engine: Engine) -> None:
        """Make an empty database ours, and bring an older one up to date."""
        with engine.connect() as connection:
            if self._is_prepared(connection):
                return
        with engine.begin() as connection:
            schema.begin_to_change(connection)
            if self._is_prepared(connection):
                return  # by another replica
            if schema.table_names(connection):
                schema.migrate(connection)
            else:
                self._create_tables(connection)

    def _is_prepared(self, connection: Connection) -> bool:
        tables = schema.table_names(connection)
        if not tables:
            return False
        self._refuse_what_is_not_ours(tables)
        self._meta(connection)
        return schema.is_current(connection, tables)

    def _refuse_what_is_not_ours(self, tables: Collection[str]) -> None:
        if schema.meta.name not in tables:
            raise StateError(
                f"state {self} {'belongs to something else' if tables else 'is empty'};"
                " set daemon.state to another one"
            )

    def _meta(self, connection: Connection) -> dict[str, str]:
        meta = {row.key: row.value for row in connection.execute(select(schema.meta))}
        if int(meta.get("schema_version", "0")) > schema.SCHEMA_VERSION:
            raise StateError(
                f"state {self} was written by a newer refresher (schema {meta['schema_version']},"
                f" this one knows {schema.SCHEMA_VERSION}); upgrade refresher"
            )
        return meta

    def _create_tables(self, connection: Connection) -> None:
        schema.create(connection)
        connection.execute(
            self._put_meta, [{"key": "schema_version", "value": str(schema.SCHEMA_VERSION)}]
        )
        self._keep_key(connection, secrets.token_bytes(32))

    def _keep_key(self, connection: Connection, key: bytes) -> None:
        connection.execute(self._put_meta, [{"key": "fingerprint_key", "value": key.hex()}])

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        self.check_in_place()
        assert self._engine is not None  # noqa: S101 - `connect` came first
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            raise StateError(f"state {self} {_trouble(error)}") from error
        except OSError as error:
            raise StateError(
                f"state {self} cannot be used ({error.strerror}); check path, owner and disk"
            ) from error
        except ModuleNotFoundError as error:
            raise StateError(
                f"state {self} needs the package {error.name}; install refresher[postgres]"
            ) from error
        except (KeyError, ValueError) as error:
            raise StateError(
                f"state {self} holds a record that this refresher cannot read;"
                " move it away or put a backup in its place"
            ) from error

    def check_in_place(self) -> None:
        """SQLite goes on writing to a file that was deleted, and tells nobody."""
        with self._translated():
            if self._path is None or identity(self._path) == self._opened:
                return
        self.disconnect()
        raise StateError(
            f"state {self} was deleted or replaced while in use; it will be written anew"
        )

    def exposed(self) -> Sequence[str]:
        """What lets others at the files, a line each with what to do."""
        return [] if self._path is None else list(exposed(self._path))

    def transact(self, work: Callable[[Connection], T]) -> T:
        """What `work` returns, in one transaction."""

        def run() -> T:
            with self._transaction() as connection:
                return work(connection)

        return self._bounded(run)

    def write(self, statuses: Collection[Status], attempts: Collection[Attempt]) -> None:
        """Store all in one transaction; with nothing to store, prove that it could be."""

        def store(connection: Connection) -> None:
            for some in _batches(statuses):
                connection.execute(self._put_targets, [target_row(each) for each in some])
            for few in _batches(attempts):
                connection.execute(self._put_attempts, [columns(each) for each in few])
            if not statuses and not attempts:
                connection.execute(update(schema.meta).values(value=schema.meta.c.value))

        self.transact(store)

    def put_attempt(self, connection: Connection, attempt: Attempt) -> None:
        """Store one attempt within a transaction."""
        connection.execute(self._put_attempts, [columns(attempt)])

    def attempt(self, id: str) -> Attempt | None:
        found = self.select_attempts(select(schema.attempts).where(schema.attempts.c.id == id))
        return found[0] if found else None

    def attempts(self, target: str | None, limit: int) -> Sequence[Attempt]:
        newest = select(schema.attempts).order_by(
            schema.attempts.c.started_at.desc(), schema.attempts.c.id.desc()
        )
        if target is not None:
            newest = newest.where(schema.attempts.c.target == target)
        return self.select_attempts(newest.limit(limit))

    def open_attempts(self) -> Sequence[Attempt]:
        return self.select_attempts(
            select(schema.attempts).where(schema.attempts.c.ended_at.is_(None))
        )

    def select_attempts(self, statement: Select[Any]) -> Sequence[Attempt]:
        def read(connection: Connection) -> Sequence[Attempt]:
            rows = connection.execute(statement).mappings().all()
            return [decode(Attempt, row) for row in rows]

        return self.transact(read)

    def prune(self, before: datetime) -> int:
        time = timestamp(before)
        old = delete(schema.attempts).where(schema.attempts.c.ended_at < time)
        return self.transact(lambda connection: connection.execute(old).rowcount)

    def disconnect(self) -> None:
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None
        if self._deadline is not None:
            self._deadline.close()
            self._deadline = None

    def close(self) -> None:
        self.disconnect()
        if self._lock is not None:
            self._lock.release()


def _insert_of(url: URL) -> Callable[[Table], sqlite.Insert | postgresql.Insert]:
    """The INSERT that knows ON CONFLICT; PostgreSQL's takes megabytes, so only who needs it."""
    if url.get_backend_name() == "sqlite":
        return sqlite.insert
    from sqlalchemy.dialects.postgresql import insert  # noqa: PLC0415 - see above

    return insert


def _upsert(
    insert: sqlite.Insert | postgresql.Insert, names: Collection[str] = ()
) -> sqlite.Insert | postgresql.Insert:
    """Put rows, new or known, with these columns of theirs; without `names` with all."""
    every = [c for c in insert.table.columns if not names or c.name in names]
    return insert.on_conflict_do_update(
        index_elements=[column.name for column in every if column.primary_key],
        set_={c.name: insert.excluded[c.name] for c in every if not c.primary_key},
    )


def _trouble(error: SQLAlchemyError) -> str:
    """What is wrong and what to do, of an error of SQLAlchemy's."""
    cause: BaseException = getattr(error, "orig", None) or error
    code = "_".join(getattr(cause, "sqlite_errorname", "").split("_")[:2])
    return _SQLITE_TROUBLE.get(code) or f"failed: {cause}; check that it is reachable and whole"


def is_shared(url: str) -> bool:
    """Whether several processes may use the database. Raises `StateError` as `parse_url`."""
    return parse_url(url).get_backend_name() != "sqlite"


def parse_url(url: str) -> URL:
    """The address of a database. Raises `StateError` where it is none that we know."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        # Not chained: the text may hold a password.
        raise StateError("daemon.state is not a URL; write sqlite:///PATH") from None
    if parsed.drivername == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.drivername in ("sqlite", "postgresql+psycopg"):
        return parsed
    raise StateError(
        f"daemon.state: {parsed.drivername} is not supported;"
        " write sqlite:///PATH or postgresql://…"
    )


def _sqlite_path(url: URL) -> Path | None:
    """None for a database in memory, and for one that is no file."""
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        return None
    return Path(url.database or "").absolute()


def _batches(records: Iterable[T]) -> Iterator[tuple[T, ...]]:
    """So many as are worth their memory while they are written."""
    left = iter(records)
    while batch := tuple(islice(left, _BATCH)):
        yield batch


def recall(connection: Connection) -> dict[str, Status]:
    """All that is known of every target."""
    documents = connection.scalars(select(schema.targets.c.document))
    found = [decode(Status, document) for document in documents]
    return {status.name: status for status in found}


def target_row(status: Status) -> dict[str, Any]:
    """A row of `targets`."""
    document = encode(status)
    return {each: document if each == "document" else document.get(each) for each in _ROW}
