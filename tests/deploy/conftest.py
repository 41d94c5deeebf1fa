"""What the tests of homes share."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.deploy.image import Image, make
from tests.world import world

__all__ = ["image", "world"]


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """Built once, for the tests of the xdist group `image`."""
    folder = tmp_path_factory.mktemp("image")
    try:
        yield make(folder)
    finally:
        subprocess.run(["rm", "--recursive", "--force", folder], check=True)
