"""A file of our own: private, and with one owner."""

from __future__ import annotations

import fcntl
import os
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
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
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
