"""What is remembered survives; what cannot be written is remembered all the same."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import fields, is_dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refresher.clock import ManualClock
from refresher.errors import FailureReason, StateError
from refresher.model import (
    Actor,
    Attempt,
    DueReason,
    FailureRecord,
    Outcome,
    SecretRef,
    SecretStatus,
    SecretValue,
    Stage,
    StageTime,
    Status,
    Trigger,
    fingerprint,
)
from refresher.state import SqlStore, StateInUse
from refresher.state.records import decode, encode
from refresher.state.schema import SCHEMA_VERSION
from refresher.state.store import REMEMBERED_ATTEMPTS
from tests.conftest import NOON
from tests.peers import ROOT, free_port
from tests.postgres import Cluster
from tests.publish.relay import Relay

SECOND = timedelta(seconds=1)


def blank(name: str = "ecr") -> Status:
    """A target of which nothing is known."""
    secret = SecretStatus(ref=SecretRef("default", "main", "AWS_ECR_PASSWORD"))
    return Status(name=name, digest="d1", secrets=(secret,), next_attempt_at=NOON)


def started(id: str, target: str = "ecr", at: datetime = NOON) -> Attempt:
    """An attempt that is under way."""
    return Attempt(
        id=id, target=target, actor=Actor.SCHEDULE, reason=DueReason.STALE, started_at=at
    )


def ended(attempt: Attempt, after: timedelta = SECOND) -> Attempt:
    """The same attempt, failed."""
    at = attempt.started_at + after
    return replace(
        attempt,
        ended_at=at,
        outcome=Outcome.FAILED,
        failure=FailureRecord(at, Stage.VERIFY, FailureReason.TIMEOUT, "no answer – within 8 s"),
        stages=(StageTime(Stage.SOURCE, 0.25), StageTime(Stage.VERIFY, 8.0)),
    )


def count_failure(current: Status | None) -> Status:
    """A change that is lost if two of them run at once."""
    known = current or blank()
    return replace(known, consecutive_failures=known.consecutive_failures + 1)


def run_attempt(store: SqlStore, attempt: Attempt) -> Attempt:
    """Begin and finish an attempt."""
    closed = ended(attempt)
    store.begin(attempt, lambda s: replace(s or blank(attempt.target), attempt=attempt.id))
    store.finish(closed, lambda s: replace(s or blank(attempt.target), attempt=None))
    return closed


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file of a directory but the lock, with its content."""
    return {
        p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and p.suffix == ".db"
    }


def is_one_line(message: str | None, path: Path) -> bool:
    """Whether an error says on one line where and what to do."""
    return message is not None and "\n" not in message and str(path) in message and ";" in message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state will be: the directory is not there yet."""
    return tmp_path / "state" / "refresher.db"


@pytest.fixture
def open_store(path: Path, clock: ManualClock) -> Iterator[Callable[..., SqlStore]]:
    """Opens the state at `path`; what is still open at the end is closed."""
    stores: list[SqlStore] = []

    def opened(how: Callable[..., SqlStore] = SqlStore.open, **options: Any) -> SqlStore:
        stores.append(how(f"sqlite:///{path}", clock=clock, **options))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


OpenStore = Callable[..., SqlStore]


# --- records -----------------------------------------------------------------------------------

MOMENTS = st.builds(
    lambda apart, zone: (NOON + apart).astimezone(zone),
    st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)),
    st.sampled_from([UTC, timezone(timedelta(hours=-9, minutes=-30))]),
)
PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    datetime: MOMENTS,
    timedelta: st.timedeltas(timedelta(0), timedelta(days=36_500)),
    float: st.floats(0, 1e9),
    int: st.integers(0, 2**31),
    str: st.text(max_size=20),
}


def any_of(kind: Any) -> st.SearchStrategy[Any]:
    """Any value of a type of the model, every field drawn."""
    if kind in PLAIN:
        return PLAIN[kind]
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return st.builds(kind, **{field.name: any_of(hints[field.name]) for field in fields(kind)})
    if get_origin(kind) is tuple:
        return st.lists(any_of(get_args(kind)[0]), max_size=3).map(tuple)
    if NoneType in get_args(kind):
        return st.none() | any_of(get_args(kind)[0])
    return st.from_type(kind)


@given(any_of(Status) | any_of(Attempt))
def test_what_is_encoded_comes_back_from_json_unchanged(value: Status | Attempt) -> None:
    """Every field of a status and of an attempt survives JSON, times to the microsecond."""
    assert decode(type(value), json.loads(json.dumps(encode(value)))) == value


@settings(max_examples=20, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(status=any_of(Status), attempt=any_of(Attempt))
def test_what_is_written_comes_back_from_the_database_unchanged(
    status: Status, attempt: Attempt
) -> None:
    """Every field of a status and of an attempt survives the database."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{directory}/refresher.db"
        with closing(SqlStore.open(url, clock=ManualClock(NOON))) as store:
            store.begin(replace(attempt, target=status.name), lambda _: status)
        with closing(SqlStore.open(url, clock=ManualClock(NOON))) as store:
            assert store.statuses() == {status.name: status}
            assert store.attempts() == [replace(attempt, target=status.name)]


def test_times_are_rfc_3339_in_utc() -> None:
    """A time is stored as UTC and always as wide, so that text sorts as time does."""
    berlin = datetime.fromisoformat("2026-11-23T13:00:00+01:00")
    assert encode(berlin) == "2026-11-23T12:00:00.000000Z"


def test_a_record_of_another_release_is_read() -> None:
    """A field that is missing gets its default, one that is unknown goes."""
    document = encode(blank())
    assert "paused" not in document  # it holds its default
    document["colour"] = "green"
    assert decode(Status, document) == blank()


@pytest.mark.parametrize(
    "damage",
    [
        {"next_attempt_at": "soon"},
        {"next_attempt_at": None},
        {"secrets": 7},
        {"digest": 1},
        {"paused": "no"},
        {"last_failure": {}},
        {"source_value": []},
    ],
)
def test_a_malformed_record_is_refused(damage: dict[str, Any]) -> None:
    """What no status looks like raises `ValueError`, whatever is wrong with it."""
    with pytest.raises(ValueError, match="malformed"):
        decode(Status, encode(blank()) | damage)


def test_a_credential_cannot_be_stored() -> None:
    """A secret value is refused, also deep inside something else."""
    with pytest.raises(TypeError, match="SecretValue is not stored"):
        encode((blank(), (SecretValue("hunter2"),)))


# --- memory and database -----------------------------------------------------------------------


def test_what_was_written_is_there_after_a_restart(open_store: OpenStore) -> None:
    """Statuses, history and fingerprint key outlive the process."""
    store = open_store()
    status = store.update("ecr", lambda _: blank())
    attempt = run_attempt(store, started("a1"))
    key = store.fingerprint_key
    store.close()

    again = open_store()
    assert again.statuses() == {"ecr": status}
    assert again.status("ecr") == status
    assert again.status("other") is None
    assert again.attempt("a1") == attempt
    assert again.attempt("a2") is None
    assert again.fingerprint_key == key
    assert len(key) == 32


def test_the_snapshot_is_the_callers_own(open_store: OpenStore) -> None:
    """A snapshot cannot be changed, does not change by itself and costs nothing to take again."""
    store = open_store()
    store.update("ecr", lambda _: blank())
    before = store.statuses()
    assert store.statuses() is before
    store.update("ecr", count_failure)
    assert before["ecr"].consecutive_failures == 0
    assert store.statuses()["ecr"].consecutive_failures == 1
    with pytest.raises(TypeError):
        before["ecr"] = blank()  # type: ignore[index]


def test_no_change_is_lost_among_threads(open_store: OpenStore) -> None:
    """Eight threads that count in one status lose none, in memory and on disk."""
    store = open_store()
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(store.update, "ecr", count_failure) for _ in range(400)]:
            done.result()
    assert store.statuses()["ecr"].consecutive_failures == 400
    store.close()
    assert open_store().statuses()["ecr"].consecutive_failures == 400


def test_a_change_that_fails_changes_nothing(open_store: OpenStore) -> None:
    """Neither the status nor the history knows of a change that raised."""
    store = open_store()
    store.update("ecr", lambda _: blank())

    def fail(_: Status | None) -> Status:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        store.begin(started("a1"), fail)
    assert store.statuses() == {"ecr": blank()}
    assert store.attempts() == []


def test_history_is_newest_first(open_store: OpenStore) -> None:
    """Attempts come newest first, of one target or all, as many as asked for."""
    store = open_store()
    for number in range(6):
        target = "hub" if number % 2 else "ecr"
        run_attempt(store, started(f"a{number}", target, NOON + number * SECOND))
    store.close()
    again = open_store()
    run_attempt(again, started("a6", "ecr", NOON + 6 * SECOND))

    def ids(**which: Any) -> list[str]:
        return [attempt.id for attempt in again.attempts(**which)]

    assert ids() == ["a6", "a5", "a4", "a3", "a2", "a1", "a0"]
    assert ids(target="ecr") == ["a6", "a4", "a2", "a0"]
    assert ids(limit=2) == ["a6", "a5"]
    assert ids(target="none") == []


def test_old_attempts_are_forgotten(open_store: OpenStore) -> None:
    """Pruning takes what ended before a time, from disk and memory, and nothing that runs."""
    store = open_store()
    run_attempt(store, started("old", at=NOON - timedelta(days=2)))
    store.close()
    store = open_store()
    run_attempt(store, started("older", at=NOON - timedelta(days=3)))
    run_attempt(store, started("young"))
    store.begin(started("running", at=NOON - timedelta(days=4)), lambda s: s or blank())
    assert store.prune(NOON - timedelta(days=1)) == 2
    assert [attempt.id for attempt in store.attempts()] == ["young", "running"]
    store.close()
    assert [attempt.id for attempt in open_store().attempts()] == ["young", "running"]


def test_an_attempt_of_this_process_is_no_orphan(open_store: OpenStore) -> None:
    """Only what an earlier process opened and never closed is an orphan; closed, it is none."""
    store = open_store()
    store.begin(started("left"), lambda s: s or blank())
    assert store.orphans() == []
    store.close()

    store = open_store()
    store.begin(started("mine"), lambda s: s or blank())
    assert [orphan.id for orphan in store.orphans()] == ["left"]
    for orphan in store.orphans():
        store.finish(ended(orphan), lambda s: s or blank())
    assert store.orphans() == []


def test_a_configured_fingerprint_key_is_used_and_not_stored(
    open_store: OpenStore, path: Path
) -> None:
    """`daemon.fingerprint_key` stands in for the key kept with the state."""
    store = open_store(fingerprint_key=b"k" * 32)
    assert store.fingerprint_key == b"k" * 32
    store.close()
    assert all(
        (b"k" * 32).hex().encode() not in content for content in snapshot(path.parent).values()
    )
    assert open_store().fingerprint_key != b"k" * 32


def test_a_store_in_memory_needs_no_file(clock: ManualClock) -> None:
    """`sqlite://` keeps state for the life of the store."""
    with closing(SqlStore.open("sqlite://", clock=clock)) as store:
        run_attempt(store, started("a1"))
        assert store.up
        assert [attempt.id for attempt in store.attempts()] == ["a1"]


def test_a_closed_store_still_answers(open_store: OpenStore) -> None:
    """A worker that ends late finds a closed store harmless, and closing it twice is too."""
    store = open_store()
    attempt = run_attempt(store, started("a1"))
    store.close()
    store.close()
    assert store.update("ecr", count_failure).consecutive_failures == 1
    assert store.attempts() == [attempt]
    assert open_store().statuses()["ecr"].consecutive_failures == 0


# --- the file ----------------------------------------------------------------------------------


def test_the_schema_is_what_it_was(open_store: OpenStore, path: Path) -> None:
    """The schema is a promise: another one needs another version and a migration."""
    open_store().close()
    with closing(sqlite3.connect(path)) as raw:
        names = [name for (name,) in raw.execute("SELECT name FROM sqlite_master WHERE sql <> ''")]
        columns = {
            table: [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            for table in ("attempts", "meta", "targets")
        }
        version = raw.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    assert version == (str(SCHEMA_VERSION),) == ("1",)
    assert sorted(names) == [
        "alembic_version",
        "attempts",
        "attempts_by_end",
        "attempts_by_start",
        "attempts_by_target",
        "meta",
        "replicas",
        "targets",
        "targets_by_revision",
    ]
    assert columns["meta"] == ["key", "value"]
    assert columns["targets"] == [
        "name",
        "digest",
        "next_attempt_at",
        "last_success_at",
        "document",
        "version",
        "revision",
        "replica",
        "leased_until",
    ]
    assert columns["attempts"] == [field.name for field in fields(Attempt)]


def test_nobody_else_may_read_the_state(open_store: OpenStore, path: Path) -> None:
    """Directory 0700 and files 0600, whatever the umask."""
    before = os.umask(0)
    try:
        store = open_store()
        store.update("ecr", lambda _: blank())
    finally:
        os.umask(before)
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in path.parent.iterdir()}
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(modes) == {f"refresher.db{end}" for end in ("", "-wal", "-shm", ".lock")}
    assert set(modes.values()) == {0o600}


def test_no_credential_value_is_in_any_file(open_store: OpenStore, path: Path) -> None:
    """After a whole cycle the files hold the fingerprint and not the value."""
    canary = SecretValue("canary-6f1d0c")
    store = open_store()
    printed = fingerprint(store.fingerprint_key, canary)
    secret = replace(blank().secrets[0], fingerprint=printed, proved=True)
    store.begin(started("a1"), lambda _: replace(blank(), attempt="a1"))
    closed = replace(ended(started("a1")), fingerprint_after=printed)
    store.finish(closed, lambda _: replace(blank(), secrets=(secret,)))
    files = list(path.parent.iterdir())
    content = b"".join(subprocess.check_output(["cat", str(file)]) for file in files)
    assert printed.encode() in content
    assert canary.reveal().encode() not in content


HOLD = """
import sys
from refresher.clock import SystemClock
from refresher.state import SqlStore
from tests.test_state import blank, replace, started
store = SqlStore.open(sys.argv[1], clock=SystemClock())
store.begin(started("a1"), lambda _: replace(blank(), attempt="a1"))
print("begun", flush=True)
sys.stdin.read()
"""


@contextmanager
def other_process(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that owns the state and is in the middle of an attempt."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, f"sqlite:///{path}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == b"begun\n"
            yield process
        finally:
            process.kill()


def test_a_killed_process_leaves_an_orphan(open_store: OpenStore, path: Path) -> None:
    """After kill −9 in the middle of an attempt, status and attempt are both there."""
    with other_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    store = open_store()
    assert store.statuses() == {"ecr": replace(blank(), attempt="a1")}
    assert store.orphans() == [started("a1")]


def test_a_file_has_one_owner(open_store: OpenStore, path: Path) -> None:
    """A second owner is refused, told who the first one is, and does not go on in memory."""
    with other_process(path) as process:
        for how in (SqlStore.open, SqlStore.open_or_memory):
            with pytest.raises(
                StateInUse, match=rf"another refresher \(pid {process.pid}\)"
            ) as told:
                open_store(how)
            assert is_one_line(told.value.message, path)
    assert open_store().up


def test_a_reader_looks_on(open_store: OpenStore) -> None:
    """Read-only works beside the owner and without one, and cannot write."""
    owner = open_store()
    run_attempt(owner, started("a1"))
    for stop in (lambda: None, owner.close):
        stop()
        reader = open_store(read_only=True)
        assert reader.statuses() == owner.statuses()
        assert [attempt.id for attempt in reader.attempts()] == ["a1"]
        assert reader.fingerprint_key == owner.fingerprint_key
        with pytest.raises(StateError, match="reading only"):
            reader.update("ecr", count_failure)
        reader.close()


def test_a_reader_makes_nothing(open_store: OpenStore, path: Path) -> None:
    """Read-only says so where there is no state, and leaves no trace."""
    with pytest.raises(StateError, match="check that it exists") as told:
        open_store(read_only=True)
    assert is_one_line(told.value.message, path)
    assert not path.parent.exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("hunter2", "not a URL; write sqlite:///PATH"),
        ("mysql://me:hunter2@host/db", "mysql is not supported"),
        ("", "not a URL"),
    ],
)
def test_an_address_of_another_kind_is_refused(url: str, said: str, clock: ManualClock) -> None:
    """What is no SQLite or PostgreSQL URL is an error, also where memory would do."""
    for how in (SqlStore.open, SqlStore.open_or_memory):
        with pytest.raises(StateError, match=said) as told:
            how(url, clock=clock)
        assert "hunter2" not in told.value.message


# --- a state that cannot be opened -------------------------------------------------------------


def make_own(path: Path) -> None:
    """A good state with one target in it."""
    with closing(SqlStore.open(f"sqlite:///{path}", clock=ManualClock(NOON))) as store:
        store.update("kept", lambda _: blank("kept"))


def corrupt(path: Path) -> None:
    path.write_bytes(b"not a database at all, but somebody's notes" * 100)


def damage(path: Path) -> None:
    make_own(path)
    content = bytearray(path.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    path.write_bytes(content)


def make_foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as raw:
        raw.execute("CREATE TABLE bookmarks (url)")


def make_newer(path: Path) -> None:
    make_own(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE meta SET value = '2' WHERE key = 'schema_version'")


def make_unreadable(path: Path) -> None:
    make_own(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE targets SET document = '{}'")


def lose_json(path: Path) -> None:
    make_own(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("UPDATE targets SET document = '{'")


def lose_key(path: Path) -> None:
    make_own(path)
    with closing(sqlite3.connect(path)) as raw, raw:
        raw.execute("DELETE FROM meta WHERE key = 'fingerprint_key'")


def make_directory(path: Path) -> None:
    path.mkdir()


UNUSABLE = [
    (corrupt, "is not a database; move it away"),
    (damage, "is damaged; move it away"),
    (make_foreign, "belongs to something else; set daemon.state"),
    (make_newer, r"newer refresher \(schema 2, this one knows 1\); upgrade refresher"),
    (make_unreadable, "holds a record that this refresher cannot read; move it away"),
    (lose_json, "holds a record that this refresher cannot read; move it away"),
    (lose_key, "holds a record that this refresher cannot read; move it away"),
    (make_directory, "cannot be opened; check"),
]


@pytest.mark.parametrize(("spoil", "said"), UNUSABLE)
def test_a_state_that_cannot_be_opened_is_left_as_it_is(
    spoil: Callable[[Path], None],
    said: str,
    path: Path,
    open_store: OpenStore,
    clock: ManualClock,
) -> None:
    """It is said in one line; the daemon goes on in memory, and never touches what is there."""
    path.parent.mkdir()
    spoil(path)
    before = snapshot(path.parent)
    with pytest.raises(StateError, match=said) as told:
        open_store()
    assert is_one_line(told.value.message, path)

    store = open_store(SqlStore.open_or_memory)
    assert not store.up
    assert store.last_error == told.value.message
    attempt = run_attempt(store, started("a1"))
    clock.advance(SECOND)
    store.retry()
    assert not store.up
    assert store.status("ecr") == blank()
    assert store.attempts() == [attempt]
    assert store.attempt("a1") == attempt
    assert store.orphans() == []
    assert len(store.fingerprint_key) == 32
    store.close()
    assert snapshot(path.parent) == before


def test_a_state_that_was_moved_away_is_begun_anew(
    path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    """Once the file that was in the way is gone, all that memory knows is written."""
    path.parent.mkdir()
    corrupt(path)
    store = open_store(SqlStore.open_or_memory)
    attempt = run_attempt(store, started("a1"))
    key = store.fingerprint_key
    path.rename(path.with_suffix(".bad"))
    clock.advance(SECOND)
    store.retry()
    assert store.up
    assert store.last_error is None
    store.close()

    again = open_store()
    assert again.statuses() == {"ecr": blank()}
    assert again.attempts() == [attempt]
    assert again.fingerprint_key == key


def test_a_backup_is_taken_up(path: Path, open_store: OpenStore, clock: ManualClock) -> None:
    """A good file put in place of a bad one is read; where both know a target, memory is newer."""
    make_own(path)
    path.rename(path.with_suffix(".backup"))
    corrupt(path)
    store = open_store(SqlStore.open_or_memory)
    store.update("ecr", lambda _: blank())
    path.with_suffix(".backup").rename(path)
    clock.advance(SECOND)
    store.retry()
    assert store.up
    assert store.statuses() == {"kept": blank("kept"), "ecr": blank()}
    store.close()
    assert set(open_store().statuses()) == {"kept", "ecr"}


@contextmanager
def unprivileged() -> Iterator[None]:
    """Not root, to whom modes mean nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_that_may_not_be_written_is_named(path: Path, clock: ManualClock) -> None:
    """A read-only directory is said in one line, and the daemon goes on in memory."""
    path.parent.mkdir(mode=0o500)
    with unprivileged():
        with pytest.raises(StateError, match=r"Permission denied.*check path, owner") as told:
            SqlStore.open(f"sqlite:///{path}", clock=clock)
        with closing(SqlStore.open_or_memory(f"sqlite:///{path}", clock=clock)) as store:
            assert store.update("ecr", count_failure).consecutive_failures == 1
            assert not store.up
    assert is_one_line(told.value.message, path)
    assert list(path.parent.iterdir()) == []


def test_a_file_in_the_place_of_the_directory_is_named(path: Path, open_store: OpenStore) -> None:
    """A path that leads through a file is said in one line."""
    path.parent.write_text("notes")
    with pytest.raises(StateError, match="cannot be used") as told:
        open_store()
    assert is_one_line(told.value.message, path)
    assert path.parent.read_text() == "notes"


# --- a state that goes away --------------------------------------------------------------------


@contextmanager
def locked(path: Path, store: SqlStore) -> Iterator[None]:
    """Another program writes and does not end."""
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("BEGIN IMMEDIATE")
        yield
        raw.execute("ROLLBACK")


@contextmanager
def no_room(path: Path, store: SqlStore) -> Iterator[None]:
    """The operating system accepts no byte more, as over a quota."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def full(path: Path, store: SqlStore) -> Iterator[None]:
    """SQLite finds no page more: the same result code as a full disk."""
    engine = store._database._engine
    assert engine is not None
    with engine.connect() as connection:
        most = connection.exec_driver_sql("PRAGMA max_page_count").scalar()
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    yield
    with engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {most}")


@contextmanager
def deleted(path: Path, store: SqlStore) -> Iterator[None]:
    """Somebody tidied up."""
    path.unlink()
    yield


@contextmanager
def directory_deleted(path: Path, store: SqlStore) -> Iterator[None]:
    """Somebody tidied up thoroughly, and left a file where the directory was."""
    shutil.rmtree(path.parent)
    path.parent.write_text("notes")
    yield
    path.parent.unlink()


@contextmanager
def replaced(path: Path, store: SqlStore) -> Iterator[None]:
    """Somebody put something else there."""
    path.unlink()
    corrupt(path)
    yield
    assert path.read_bytes().startswith(b"not a database at all")
    path.unlink()


TROUBLES = [
    (locked, "locked by another program"),
    (no_room, "disk I/O error"),
    (full, "disk is full"),
    (deleted, "was deleted or replaced"),
    (directory_deleted, "was deleted or replaced"),
    (replaced, "was deleted or replaced"),
]

Trouble = Callable[[Path, SqlStore], Any]


@pytest.mark.parametrize(("trouble", "said"), TROUBLES)
def test_a_state_that_goes_away_costs_nothing_but_durability(
    trouble: Trouble, said: str, path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    """It is said in one line, memory goes on, and all is on disk once the trouble ends."""
    store = open_store()
    store.update("hub", lambda _: blank("hub"))
    first = run_attempt(store, started("a1"))
    with trouble(path, store):
        # Enough to need a page more, which is what a full disk has not got.
        for number in range(40):
            store.update(f"t{number}", lambda _, name=f"t{number}": blank(name))
        second = run_attempt(store, started("a2", at=NOON + SECOND))
        assert not store.up
        assert is_one_line(store.last_error, path)
        assert re.search(said, store.last_error or "")
        assert store.attempts() == [second, first]
        assert store.attempt("a2") == second
        assert len(store.statuses()) == 42
    clock.advance(SECOND)
    store.retry()
    assert store.up
    assert store.last_error is None
    known = store.statuses()
    key = store.fingerprint_key
    store.close()

    again = open_store()
    assert again.statuses() == known
    assert again.attempts() == [second, first]
    assert again.orphans() == []
    assert again.fingerprint_key == key


def test_the_trouble_that_lasts_is_named(
    path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    """A database that was replaced by something else stays untouched and is said to be none."""
    store = open_store()
    with replaced(path, store):
        store.retry()
        assert "was deleted or replaced" in (store.last_error or "")
        clock.advance(SECOND)
        store.update("ecr", lambda _: blank())
        assert "is not a database" in (store.last_error or "")


def test_a_deleted_database_is_noticed_without_a_write(path: Path, open_store: OpenStore) -> None:
    """The tick notices, and so does whoever reads the history."""
    for notice in (SqlStore.retry, SqlStore.attempts):
        store = open_store()
        path.unlink()
        notice(store)
        assert not store.up
        store.close()


def test_one_deleted_with_its_lock_may_find_another_owner(
    path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    """A refresher that started on the emptied directory owns it; the first one stays in memory."""
    store = open_store()
    shutil.rmtree(path.parent)
    other = open_store()
    store.update("ecr", lambda _: blank())
    clock.advance(SECOND)
    store.retry()
    assert f"in use by another refresher (pid {os.getpid()})" in (store.last_error or "")
    assert other.statuses() == {}
    other.close()
    clock.advance(SECOND)
    store.retry()
    assert store.up


def test_workers_do_not_queue_up_behind_a_broken_database(
    path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    """Within a second of a failure nobody tries again; then whoever writes first does."""
    store = open_store()
    with locked(path, store):
        store.update("ecr", lambda _: blank())
    store.update("ecr", count_failure)
    assert not store.up
    clock.advance(SECOND)
    store.update("ecr", count_failure)
    assert store.up
    store.close()
    assert open_store().statuses()["ecr"].consecutive_failures == 2


def test_closing_writes_what_is_left(path: Path, open_store: OpenStore) -> None:
    """Whatever could not be written is written on the way out, if it can be by then."""
    store = open_store()
    with locked(path, store):
        store.update("ecr", lambda _: blank())
    store.close()
    assert open_store().statuses() == {"ecr": blank()}


def test_memory_is_bounded_while_the_database_is_away(
    path: Path, open_store: OpenStore, clock: ManualClock
) -> None:
    """The newest attempts are kept for later, the others are lost."""
    store = open_store()
    with locked(path, store):
        for number in range(REMEMBERED_ATTEMPTS + 5):
            run_attempt(store, started(f"a{number}", at=NOON + number * SECOND))
        assert len(store.attempts(limit=10_000)) == REMEMBERED_ATTEMPTS
    clock.advance(SECOND)
    store.retry()
    store.close()
    kept = open_store().attempts(limit=10_000)
    assert len(kept) == REMEMBERED_ATTEMPTS
    assert kept[-1].id == "a5"


def test_pruning_goes_on_in_memory(path: Path, open_store: OpenStore) -> None:
    """While the database is away, memory forgets and says how much."""
    store = open_store()
    with locked(path, store):
        run_attempt(store, started("a1"))
        assert store.prune(NOON + timedelta(days=1)) == 1
        assert store.attempts() == []


def test_readers_do_not_wait_for_the_disk(path: Path, open_store: OpenStore) -> None:
    """While a write waits for another program's lock, the snapshot is there at once."""
    store = open_store()
    changed = threading.Event()

    def change(_: Status | None) -> Status:
        changed.set()
        return blank()

    with locked(path, store), ThreadPoolExecutor(1) as pool:
        writing = pool.submit(store.update, "ecr", change)
        changed.wait(5)
        assert store.statuses() == {"ecr": blank()}
        assert not writing.done()
        writing.result()


# --- PostgreSQL --------------------------------------------------------------------------------


def test_postgresql_is_the_same(cluster: Cluster, clock: ManualClock) -> None:
    """The same store on PostgreSQL: it survives a restart, and goes on while the server is away."""
    port = free_port()
    url = f"postgresql://refresher:hunter2@127.0.0.1:{port}/postgres"
    with pytest.raises(StateError, match=f"127.0.0.1:{port}/postgres failed") as told:
        SqlStore.open(url, clock=clock)
    assert "hunter2" not in told.value.message

    with cluster.running(port):
        store = SqlStore.open(url, clock=clock)
        first = run_attempt(store, started("a1"))
        store.begin(started("a2", at=NOON + SECOND), lambda s: s or blank())
    second = ended(started("a2", at=NOON + SECOND))
    store.finish(second, count_failure)
    assert not store.up
    assert store.attempts() == [second, first]
    with cluster.running(port):
        clock.advance(SECOND)
        store.retry()
        assert store.up
        store.close()
        with closing(SqlStore.open(url, clock=clock)) as again:
            assert again.statuses()["ecr"].consecutive_failures == 1
            assert again.attempts() == [second, first]
            assert again.orphans() == []
            assert again.fingerprint_key == store.fingerprint_key
            assert again.prune(NOON + timedelta(days=1)) == 2


def test_a_server_that_hangs_costs_its_deadline_once_and_durability(
    cluster: Cluster, clock: ManualClock
) -> None:
    """It takes the question and never answers, as a stopped one or its pooler does."""
    port = free_port()
    with cluster.running(port), Relay(f"127.0.0.1:{port}") as relay:
        url = f"postgresql://refresher@{relay.host}/postgres"
        store = SqlStore.open_or_memory(url, clock=clock, server_seconds=1.0)
        store.update("ecr", count_failure)
        assert store.up
        relay.freeze()
        began = time.monotonic()
        for _ in range(10):
            store.update("ecr", count_failure)
        assert 1.0 <= time.monotonic() - began < 3.0
        assert store.last_error is not None
        assert "/postgres did not answer within 1 s; check" in store.last_error
        clock.advance(SECOND)
        store.retry()
        assert store.up
        store.close()
        with closing(SqlStore.open(url, clock=clock)) as again:
            assert again.statuses()["ecr"].consecutive_failures == 11


def test_without_its_driver_postgresql_is_refused_with_the_cure() -> None:
    """The extra that is missing is named."""
    script = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from refresher.clock import SystemClock\n"
        "from refresher.state import SqlStore\n"
        "SqlStore.open('postgresql://me:hunter2@127.0.0.1:1/db', clock=SystemClock())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    last = run.stderr.strip().splitlines()[-1]
    assert last.endswith("needs the package psycopg; install refresher[postgres]")
    assert "hunter2" not in run.stderr


def test_a_store_in_memory_takes_writes_from_any_thread(clock: ManualClock) -> None:
    """`sqlite://` serves dry runs, whose workers write from a pool."""
    with closing(SqlStore.open("sqlite://", clock=clock)) as store, ThreadPoolExecutor(1) as pool:
        pool.submit(store.update, "ecr", lambda old: old or blank()).result()
        assert store.up


def _of(name: str, **changes: Any) -> Callable[[Status | None], Status]:
    return lambda _old: replace(blank(name), **changes)


def test_what_is_due_is_told_by_its_time_or_a_wish(open_store: OpenStore) -> None:
    """Its time has come, or a person waits; nothing else, and none that was put off since."""
    with closing(open_store()) as store:
        wish = Trigger("wish", NOON, Actor.CLI)
        later = NOON + timedelta(minutes=1)
        store.update("now", _of("now", next_attempt_at=NOON))
        store.update("later", _of("later", next_attempt_at=later))
        store.update("asked", _of("asked", next_attempt_at=later, trigger=wish))
        assert set(store.due(NOON)) == {"now", "asked"}
        assert set(store.due(later)) == {"now", "later", "asked"}
        store.update("now", _of("now", next_attempt_at=later))
        assert set(store.due(NOON)) == {"asked"}


def test_all_is_due_while_the_clock_shows_less_than_at_an_attempt(open_store: OpenStore) -> None:
    """What was booked before it was set back is too far ahead."""
    with closing(open_store()) as store:
        tried = NOON + timedelta(hours=1)
        store.update("a", _of("a", last_attempt_at=tried, next_attempt_at=tried))
        store.update("b", _of("b", next_attempt_at=tried + timedelta(hours=1)))
        assert set(store.due(NOON)) == {"a", "b"}
        assert set(store.due(tried)) == {"a"}


def test_what_is_due_is_known_again_after_a_restart(open_store: OpenStore) -> None:
    with closing(open_store()) as store:
        store.update("a", _of("a", next_attempt_at=NOON))
    with closing(open_store()) as store:
        assert list(store.due(NOON)) == ["a"]


def test_many_changes_are_one_and_what_is_as_it_was_is_not_written(
    open_store: OpenStore, path: Path
) -> None:
    with closing(open_store()) as store:
        store.update_many({f"t{n}": _of(f"t{n}") for n in range(1200)})
        kept = dict(store.statuses())
        wal = Path(f"{path}-wal")
        before = wal.stat().st_size
        store.update_many({name: lambda old: old or blank() for name in kept})
        assert wal.stat().st_size <= before + 8192  # the proof that it could be written
        assert store.statuses() == kept
    with closing(open_store()) as store:
        assert store.statuses() == kept
