"""What the tests of homes share."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.deploy.image import Image, container, make
from tests.world import world

__all__ = ["image", "world"]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """A container of the image, which is built once, whichever process needs it first."""
    own = tmp_path_factory.getbasetemp()
    worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
    shared = (own if worker == "alone" else own.parent) / "image"
    made, users = shared / "made", shared / "users"
    with _alone(shared):
        users.mkdir(parents=True, exist_ok=True)
        (users / worker).touch()
        if not made.exists():
            make(shared)
            made.touch()
    with container(shared) as image:
        yield image
    with _alone(shared):
        (users / worker).unlink()
        if not list(users.iterdir()):
            subprocess.run(["rm", "--recursive", "--force", shared], check=True)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process is in here for the same folder."""
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
