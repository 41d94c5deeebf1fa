"""A file of our own: private, and with one owner."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from refresher.errors import StateError


class StateInUse(StateError):
    """Another process owns the state."""


class OwnerLock:
    """Gives a file one owner: an advisory lock, flock(2), that dies with its process."""

    def __init__(self, path: Path, owned: Path) -> None:
        self._path = path
        self._owned = owned
        self._fd: int | None = None

    def acquire(self) -> None:
        """Own the file, also where the lock was deleted since. Raises `StateInUse`, `OSError`."""
        if self._fd is not None and identity(self._fd) == identity(self._path):
            return
        self.release()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            self._lock(fd)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _lock(self, fd: int) -> None:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.pread(fd, 20, 0).decode(errors="replace") or "unknown"
            raise StateInUse(
                f"state {self._owned} is in use by another refresher (pid {pid});"
                " stop it or set daemon.state to another file"
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)

    def release(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def identity(file: Path | int) -> tuple[int, int] | None:
    """Device and inode; None where there is no such file."""
    try:
        found = os.fstat(file) if isinstance(file, int) else file.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def make_directory(path: Path) -> None:
    """The directory with all that is missing above it, for its owner alone."""
    if path.is_dir():
        return
    make_directory(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)


def make_file(path: Path) -> None:
    """An empty file for its owner alone, where there is none. SQLite gives its others that mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        return


def refuse_open_directory(path: Path) -> None:
    """Raise `StateError` for a directory in which anybody may put a file in the place of ours.

    All may write to it, no sticky bit keeps them from what is not theirs, and it is no volume. Who
    reaches a volume is decided by who mounts it, not by its mode: a Kubernetes `emptyDir` is 0777
    without sticky bit, of root, and only its pod has it (pkg/volume/emptydir). One with an
    `fsGroup` is open to that group and not to all, so it is not refused either.
    """
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX and not is_volume(path):
        raise StateError(
            f"state directory {path} lets every user replace what is in it"
            f" (mode {stat.S_IMODE(mode):04o}); chmod 700 {path}, or set daemon.state to another"
        )


def exposed(path: Path) -> Iterator[str]:
    """What lets others than its owner at the file `path`, a line each with what to do.

    In a volume only what is open to all counts: kubelet gives its files to the `fsGroup`, 0660
    (pkg/volume/volume_linux.go), and nobody but an administrator can change its directory.
    """
    directory = path.parent
    volume = is_volume(directory)
    others = stat.S_IRWXO if volume else stat.S_IRWXG | stat.S_IRWXO
    places = [] if volume else [(directory, "700")]
    files = [(Path(f"{path}{end}"), "600") for end in ("", "-wal", "-shm", ".lock")]
    for place, mode in [*places, *files]:
        found = _mode(place)
        if found & others:
            yield f"{place} is open to other users (mode {found:04o}); chmod {mode} {place}"


def is_volume(path: Path) -> bool:
    """Whether something is mounted at the directory, be it a part of the same file system.

    `os.path.ismount` does not see those (https://docs.python.org/3/library/os.path.html), so where
    there is one, the kernel's table tells (proc_pid_mountinfo(5)).
    """
    try:
        table = Path("/proc/self/mountinfo").read_text("utf-8", "surrogateescape")
    except OSError:
        return path.is_mount()
    place = str(path.resolve())
    return any(_unescaped(line.split(" ")[4]) == place for line in table.splitlines())


def _unescaped(place: str) -> str:
    """A path as the table has it: space, tab, line feed and backslash are in octal."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        place = place.replace(code, chr(int(code[1:], 8)))
    return place


def _mode(path: Path) -> int:
    """Permission bits; none where there is no such file."""
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return 0
