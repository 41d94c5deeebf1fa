"""Sidecar manners: what a container beside somebody's app must do, and must not do."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from refresher.daemon import STOP_SECONDS
from refresher.sandbox.http import Fault, closed_port
from refresher.sandbox.world import SANDBOX_KEY, STATIC_SECRETS
from tests.deploy.container import atomically
from tests.deploy.inside import answer
from tests.world import World, wait_for

#: Seconds within which a changed file must be noticed.
MINUTE = 60.0


class Beside(World):
    """A world whose credentials and configuration lie in folders that a kubelet fills."""

    def __enter__(self) -> Beside:
        super().__enter__()
        for folder in (self.secret_folder, self.config_folder):
            folder.mkdir()
        self.extra |= {"REFRESHER_CONFIG": str(self.config_folder / "refresher.toml")}
        self.extra |= {"FAL_KEY": None}
        self.mount()
        return self

    @property
    def secret_folder(self) -> Path:
        return self.directory / "credentials"

    @property
    def config_folder(self) -> Path:
        return self.directory / "etc"

    @property
    def text(self) -> str:
        """A configuration with ECR and Docker Hub, all of whose secrets are files."""
        text = self.config_toml(kinds=["dockerhub"], listen=f"127.0.0.1:{self.port}")
        hub = f'"{self.hub_token_file}"'
        assert hub in text
        key = f'[fal]\nkey = {{ file = "{self.secret_folder}/fal-key" }}'
        return text.replace(hub, f'"{self.secret_folder}/hub"').replace("[fal]", key)

    def mount(self, text: str | None = None) -> None:
        """Let the ConfigMap hold a configuration."""
        atomically(self.config_folder, {"refresher.toml": text or self.text})

    def put(self, *, key: str = SANDBOX_KEY.reveal()) -> str:
        """Let the Secret hold both credentials, and return the one of Docker Hub."""
        self.hub  # noqa: B018 - starts with the first look at it
        token = self.hub_token_file.read_text()
        atomically(self.secret_folder, {"fal-key": key, "hub": token}, mode=0o440)
        return token

    @property
    def published(self) -> dict[str, str | None]:
        """What stands in fal."""
        names = {"ecr": "AWS_ECR_PASSWORD", "hub": STATIC_SECRETS["dockerhub"]}
        return {name: self.fal.value("main", secret) for name, secret in names.items()}


@pytest.fixture
def beside() -> Iterator[Beside]:
    """A world for a sidecar."""
    with Beside() as made:
        yield made


# --- files -------------------------------------------------------------------------------------


def test_it_waits_for_credentials_that_appear_late(beside: Beside) -> None:
    """It starts without them, says which file is missing, and goes on within a minute."""
    with beside.daemon() as daemon:
        wait_for(lambda: len(daemon.lines("attempt.failed")) >= 2, "both attempts")
        for line in daemon.lines("attempt.failed"):
            assert line["reason"] == "config"
            assert str(beside.secret_folder) in line["message"]
        assert answer(f"{beside.url}/readyz") == 200
        assert answer(f"{beside.url}/livez") == 200
        token = beside.put()
        wait_for(lambda: beside.published["hub"] == token, "a publish of Docker Hub's", MINUTE)
        wait_for(lambda: beside.published["ecr"] is not None, "a publish of ECR's", MINUTE)
