"""Who may do what with the files of the state, and what is said of files open to others."""

from __future__ import annotations

import os
import re
import stat
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from refresher.clock import ManualClock
from refresher.errors import StateError
from refresher.state import SqlStore
from refresher.state.file import is_volume
from tests.mounts import bound, mounted
from tests.test_state import is_one_line, run_attempt, started


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Where the state is, as somebody made it: each test gives it a mode."""
    directory = tmp_path / "state"
    directory.mkdir(mode=0o700)
    return directory


def opened(directory: Path, clock: ManualClock) -> SqlStore:
    """The state in this directory, with something in it."""
    store = SqlStore.open(f"sqlite:///{directory}/refresher.db", clock=clock)
    run_attempt(store, started("a1"))
    return store


def test_a_directory_that_all_may_write_is_refused(directory: Path, clock: ManualClock) -> None:
    """Any user could put a file in the place of ours: nothing is made there, and a mode helps."""
    directory.chmod(0o777)
    with pytest.raises(StateError, match=r"mode 0777\); chmod 700") as told:
        opened(directory, clock)
    assert is_one_line(told.value.message, directory)
    assert list(directory.iterdir()) == []
    directory.chmod(0o700)
    opened(directory, clock).close()


def test_a_daemon_goes_on_in_memory_there_and_takes_the_state_up_once_it_is_mended(
    directory: Path, clock: ManualClock
) -> None:
    """Refused is the directory, not the work."""
    directory.chmod(0o777)
    url = f"sqlite:///{directory}/refresher.db"
    with closing(SqlStore.open_or_memory(url, clock=clock)) as store:
        run_attempt(store, started("a1"))
        assert not store.up
        directory.chmod(0o700)
        clock.advance(timedelta(seconds=1))
        store.retry()
        assert store.up


@pytest.mark.parametrize("mode", [0o1777, 0o2775, 0o770, 0o755, 0o700])
def test_a_directory_where_each_has_its_own_is_used(
    mode: int, directory: Path, clock: ManualClock
) -> None:
    """A sticky one as /tmp, one of a group as Kubernetes makes it for `fsGroup`, and our own."""
    directory.chmod(mode)
    opened(directory, clock).close()
    assert stat.S_IMODE(directory.stat().st_mode) == mode
    assert stat.S_IMODE((directory / "refresher.db").stat().st_mode) == 0o600


def test_an_emptydir_of_kubernetes_is_used(tmp_path: Path, clock: ManualClock) -> None:
    """A mount of mode 0777, of root, without sticky bit; it cannot be mended, so none is warned."""
    with mounted(tmp_path / "empty dir", "mode=777") as volume:
        with closing(opened(volume, clock)) as store:
            assert store.exposed() == []
        assert stat.S_IMODE((volume / "refresher.db").stat().st_mode) == 0o600


def test_a_volume_that_is_part_of_the_same_file_system_is_used(
    tmp_path: Path, directory: Path, clock: ManualClock
) -> None:
    """A bind mount, as a `subPath` or a volume beside the container's own files."""
    directory.chmod(0o777)
    with bound(tmp_path / "volume", directory) as volume:
        assert volume.stat().st_dev == tmp_path.stat().st_dev
        assert is_volume(volume)
        assert not is_volume(tmp_path)
        opened(volume, clock).close()


def test_a_volume_of_a_group_is_not_warned_of(tmp_path: Path, clock: ManualClock) -> None:
    """At each mount kubelet makes all files of a volume with `fsGroup` the group's, 0660."""
    with mounted(tmp_path / "volume", "mode=2775") as volume, closing(opened(volume, clock)) as it:
        for file in volume.iterdir():
            file.chmod(0o660)
        assert it.exposed() == []
        (volume / "refresher.db").chmod(0o664)
        assert len(it.exposed()) == 1


def test_files_that_are_open_to_others_are_named(directory: Path, clock: ManualClock) -> None:
    """Each with its mode and with what to do; made private, none is."""
    with closing(opened(directory, clock)) as store:
        assert store.exposed() == []
        directory.chmod(0o755)
        (directory / "refresher.db").chmod(0o644)
        lines = store.exposed()
        assert len(lines) == 2
        assert re.fullmatch(r"\S+/state is .* \(mode 0755\); chmod 700 \S+/state", lines[0])
        assert re.fullmatch(r"\S+r\.db is .* \(mode 0644\); chmod 600 \S+r\.db", lines[1])


def test_a_link_in_the_place_of_the_lock_is_not_followed(
    tmp_path: Path, directory: Path, clock: ManualClock
) -> None:
    """In a directory of many users one could lead us to empty a file of ours."""
    precious = tmp_path / "precious"
    precious.write_text("notes")
    (directory / "refresher.db.lock").symlink_to(precious)
    with pytest.raises(StateError, match="cannot be used"):
        opened(directory, clock)
    assert precious.read_text() == "notes"


def test_the_umask_does_not_matter(directory: Path, clock: ManualClock) -> None:
    """What we make is private under any."""
    before = os.umask(0)
    try:
        with closing(opened(directory / "deep" / "er", clock)) as store:
            assert store.exposed() == []
    finally:
        os.umask(before)
