"""File systems of our own, where the machine lets us mount one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(path: Path, *options: str) -> Iterator[Path]:
    """A tmpfs at this directory, such as `size=256k` or `mode=777`; skips where that needs root."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    _mount(["-t", "tmpfs", "-o", ",".join(options), "none", str(path)])
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


@contextmanager
def bound(path: Path, there: Path) -> Iterator[Path]:
    """The directory `there` at `path` as well, which no difference of devices betrays."""
    path.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        pytest.skip("only root mounts")
    _mount(["--bind", str(there), str(path)])
    try:
        yield path
    finally:
        subprocess.run(["umount", str(path)], check=True)


def _mount(arguments: list[str]) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"not allowed to mount: {done.stderr.strip()}")
