"""The state goes away, and credentials are kept all the same; it comes back, and knows of it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from refresher import config
from refresher.clock import SystemClock
from refresher.engine import Engine
from refresher.errors import FailureReason
from refresher.model import Actor, Attempt, DueReason, Outcome, Status
from refresher.sandbox.http import Fault
from refresher.sandbox.world import World
from refresher.state import SqlStore
from tests import test_state
from tests.mounts import mounted
from tests.test_state import UNUSABLE, corrupt, is_one_line, snapshot, unprivileged
from tests.world import World as ProcessWorld
from tests.world import wait_for

NAME = "AWS_ECR_PASSWORD"


class HastyClock(SystemClock):
    """The machine's, with waits that may be skipped."""

    skipped = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.skipped


class Keeper:
    """An engine whose state is wherever a test wants it."""

    def __init__(self, world: World, path: Path) -> None:
        self.world = world
        self.path = path
        self.clock = HastyClock()
        text = world.config_toml().replace(str(world.directory / "refresher.db"), str(path))
        file = path.parent.parent / "refresher.toml"
        file.write_text(text)
        with capture_logs() as self.log:
            self.engine = Engine(config.load(file, os.environ), clock=self.clock)
            self.engine.take_up()

    @property
    def status(self) -> Status:
        return self.engine.store.statuses()["ecr"]

    def refresh(self) -> None:
        """One pass, as `refresher refresh` asks for it; what stands in fal is new afterwards."""
        before = self.world.fal.value("main", NAME)
        self.keep()
        after = self.world.fal.value("main", NAME)
        assert after is not None
        assert after != before

    def keep(self) -> Attempt:
        """One pass, whatever comes of it."""
        ids = self.engine.control.refresh(["ecr"], Actor.CLI)
        self.engine.scheduler.run_once(ids, self.engine.stopping)
        attempt = self.engine.store.attempt(ids["ecr"])
        assert attempt is not None
        return attempt

    def look(self) -> list[Mapping[str, Any]]:
        """What is said of the state when it is looked at again."""
        self.clock.skipped += 2
        with capture_logs() as log:
            self.engine.watch_state()
        self.log += log
        return [line for line in log if line["event"] in ("state.down", "state.up")]

    def events(self) -> list[str]:
        """What was said of the state so far, in order."""
        return [line["event"] for line in self.log if line["event"] in ("state.down", "state.up")]


@pytest.fixture(scope="module")
def shared_world() -> Iterator[World]:
    """The stand-ins, for all tests of this module."""
    with World() as world:
        for path in (world.directory, world.certificates.ca_file.parent):
            path.chmod(0o755)  # some tests are not root for a while
        yield world


@pytest.fixture
def world(shared_world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """An environment that leads to the stand-ins, and an empty fal."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "FAL_"))]:
        monkeypatch.delenv(name)
    for name, value in shared_world.environ.items():
        monkeypatch.setenv(name, value)
    shared_world.fal.secrets.clear()
    return shared_world


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the state is, in a directory of its own."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory / "refresher.db"


@pytest.fixture
def keeper_of(world: World, path: Path) -> Iterator[Callable[[], Keeper]]:
    """Makes keepers, each after the other; all are closed at the end."""
    keepers: list[Keeper] = []

    def make() -> Keeper:
        keepers.append(Keeper(world, path))
        return keepers[-1]

    yield make
    for keeper in keepers:
        keeper.engine.close(5)


KeeperOf = Callable[[], Keeper]


def stored(path: Path) -> SqlStore:
    """What is on disk."""
    return SqlStore.open(f"sqlite:///{path}", clock=SystemClock(), read_only=True)


# --- at the start ------------------------------------------------------------------------------


@pytest.mark.parametrize(("spoil", "said"), UNUSABLE)
def test_with_a_state_that_cannot_be_opened_credentials_are_kept_all_the_same(
    spoil: Callable[[Path], None], said: str, path: Path, keeper_of: KeeperOf
) -> None:
    """Damaged, newer, foreign: said once in one line and left as it is; out of the way, all that
    is known is written."""
    spoil(path)
    before = snapshot(path.parent)
    keeper = keeper_of()
    keeper.refresh()
    assert keeper.events() == ["state.down"]
    assert is_one_line(keeper.engine.store.last_error, path)
    assert keeper.look() == []
    assert snapshot(path.parent) == before
    assert not keeper.engine.store.up

    path.rename(path.with_suffix(".bad"))
    assert [line["event"] for line in keeper.look()] == ["state.up"]
    keeper.refresh()
    with closing(stored(path)) as found:
        assert found.statuses()["ecr"] == keeper.status
        assert len(found.attempts()) == 2


def test_files_that_are_open_to_others_are_warned_of_at_the_start(
    path: Path, keeper_of: KeeperOf
) -> None:
    """A line of the log for each, those of SQLite beside it too; nothing where all is private."""
    first = keeper_of()
    first.engine.close(5)
    path.chmod(0o640)
    second = keeper_of()
    said = [
        [line["message"] for line in keeper.log if line["event"] == "state.permissions_wide"]
        for keeper in (first, second)
    ]
    files = [f"{path}{end}" for end in ("", "-wal", "-shm")]
    lines = [f"{file} is open to other users (mode 0640); chmod 600 {file}" for file in files]
    assert said == [[], lines]


def test_in_a_directory_that_may_not_be_written_credentials_are_kept_all_the_same(
    world: World, keeper_of: KeeperOf
) -> None:
    """Read-only, as a volume that was mounted so; made writable, all that is known is written."""
    keeper_of().refresh()  # loads modules, which only root may read where its Python is its own
    with TemporaryDirectory() as top:
        Path(top).chmod(0o777)
        path = Path(top) / "state" / "refresher.db"
        path.parent.mkdir(mode=0o555)
        with unprivileged():
            keeper = Keeper(world, path)
            keeper.refresh()
            assert keeper.events() == ["state.down"]
            assert "Permission denied" in (keeper.engine.store.last_error or "")
            assert list(path.parent.iterdir()) == []
        path.parent.chmod(0o1777)
        with unprivileged():
            assert [line["event"] for line in keeper.look()] == ["state.up"]
        with closing(stored(path)) as found:
            assert found.statuses()["ecr"] == keeper.status
        keeper.engine.close(5)


def test_what_a_person_parked_is_parked_when_the_state_comes_back(
    path: Path, keeper_of: KeeperOf
) -> None:
    """What the process did without its state is newer; what it could not know stands as stored."""
    first = keeper_of()
    first.refresh()
    first.engine.control.pause("ecr")
    open_attempt = Attempt(
        id="left",
        target="ecr",
        actor=Actor.SCHEDULE,
        reason=DueReason.STALE,
        started_at=datetime.now(UTC),
    )
    first.engine.store.begin(open_attempt, lambda status: status or first.status)
    first.engine.close(5)
    backup = path.rename(path.with_suffix(".backup"))
    corrupt(path)

    second = keeper_of()
    second.refresh()
    published = second.status.secrets[0]
    backup.rename(path)
    assert [line["event"] for line in second.look()] == ["state.up"]
    assert second.status.paused
    assert second.status.secrets[0] == published
    assert second.status.last_failure is None
    orphan = second.engine.store.attempt("left")
    assert orphan is not None
    assert orphan.outcome is Outcome.FAILED
    assert orphan.failure is not None
    assert orphan.failure.reason is FailureReason.INTERRUPTED
    with closing(stored(path)) as found:
        assert found.statuses()["ecr"] == second.status
        assert len(found.attempts()) == 3


def test_what_stands_in_fal_is_known_again_when_the_state_comes_back(
    world: World, path: Path, keeper_of: KeeperOf
) -> None:
    """A process that could publish nothing meanwhile does not forget what an earlier one did."""
    first = keeper_of()
    first.refresh()
    standing = first.status.secrets[0]
    first.engine.close(5)
    backup = path.rename(path.with_suffix(".backup"))
    corrupt(path)

    world.aws.fail(Fault.reset())
    try:
        second = keeper_of()
        assert second.keep().outcome is Outcome.FAILED
        assert second.status.secrets[0].fingerprint is None
    finally:
        world.aws.mend()
    backup.rename(path)
    second.look()
    assert second.status.secrets[0] == standing
    assert second.status.last_success_at == first.status.last_success_at
    assert second.status.last_issue_at == first.status.last_issue_at
    assert second.status.last_failure is not None
    second.refresh()


# --- while it runs -----------------------------------------------------------------------------


Trouble = Callable[[Path, SqlStore], AbstractContextManager[None]]


@pytest.mark.parametrize(("trouble", "said"), test_state.TROUBLES)
def test_with_a_state_that_goes_away_credentials_are_kept_all_the_same(
    trouble: Trouble, said: str, path: Path, keeper_of: KeeperOf
) -> None:
    """Locked, full, deleted, replaced: said in one line, and all is written when it ends."""
    keeper = keeper_of()
    keeper.refresh()
    with trouble(path, keeper.engine.store):
        # Enough to need a page more, which is what a full disk has not got.
        for number in range(40):
            name = f"t{number}"
            keeper.engine.store.update(name, lambda _, name=name: test_state.blank(name))
        keeper.refresh()
        assert not keeper.engine.store.up
        keeper.refresh()
        keeper.look()
    keeper.look()
    assert keeper.engine.store.up
    first, *_, last = [line for line in keeper.log if line["event"] in ("state.down", "state.up")]
    assert is_one_line(first["message"], path)
    assert re.search(said, first["message"])
    assert last["event"] == "state.up"
    with closing(stored(path)) as found:
        assert found.statuses()["ecr"] == keeper.status
        assert len(found.attempts()) == 3
        assert found.fingerprint_key == keeper.engine.store.fingerprint_key


def test_a_damage_that_sqlite_does_not_see_is_healed_by_moving_the_file_away(
    path: Path, keeper_of: KeeperOf
) -> None:
    """Written over in place while it is open: memory writes all it knows to a new file."""
    keeper = keeper_of()
    keeper.refresh()
    with path.open("r+b") as stream:
        stream.write(b"\xff" * path.stat().st_size)
    keeper.refresh()
    path.rename(path.with_suffix(".bad"))
    assert [line["event"] for line in keeper.look()] == ["state.down"]
    assert [line["event"] for line in keeper.look()] == ["state.up"]
    with closing(stored(path)) as found:
        assert found.statuses()["ecr"] == keeper.status
        assert len(found.attempts()) == 2


def test_on_a_full_disk_credentials_are_kept_all_the_same(tmp_path: Path, world: World) -> None:
    """A real file system without a free block; with one freed, all is written."""
    with mounted(tmp_path / "disk", "size=512k", "mode=700") as disk:
        keeper = Keeper(world, disk / "state" / "refresher.db")
        keeper.refresh()
        filler = disk / "filler"
        with filler.open("wb", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                pass
        while keeper.engine.store.up:
            keeper.refresh()
        keeper.refresh()
        (line,) = keeper.look()
        assert line["event"] == "state.down"
        assert "the disk is full; free some space" in line["message"]
        filler.unlink()
        assert [line["event"] for line in keeper.look()] == ["state.up"]
        with closing(stored(keeper.path)) as found:
            assert found.statuses()["ecr"] == keeper.status
        keeper.engine.close(5)


# --- as a process ------------------------------------------------------------------------------


def test_the_daemon_says_that_its_state_is_away_and_that_it_is_back() -> None:
    """`refresher_state_up` 0 and a line of the log, with every secret kept; then 1 and a line."""
    with ProcessWorld() as world:
        world.configure()
        state = world.directory / "refresher.db"
        corrupt(state)
        before = state.read_bytes()
        with world.daemon() as running:
            wait_for(lambda: world.secret, "the first publish")
            assert up(running.url) == 0
            assert state.read_bytes() == before
            state.rename(state.with_suffix(".bad"))
            wait_for(lambda: up(running.url) == 1, "the state to be taken up")
            with closing(sqlite3.connect(state)) as raw:
                wait_for(lambda: raw.execute("SELECT * FROM attempts").fetchall(), "the history")
        lines = [json.loads(line) for line in running.log.read_text().splitlines()]
        said = [line for line in lines if line["event"] in ("state.down", "state.up")]
        assert [line["event"] for line in said] == ["state.down", "state.up"]
        assert is_one_line(said[0]["message"], state)
        assert said[0]["level"] == "error"


def up(url: str) -> float:
    """What the metric says."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("refresher_state_up "))
