"""refresher as an app of fal: one runner that is always there, and `refresher run` in it.

    REFRESHER=https://… fal deploy config/fal/app.py::Refresher --auth private

REFRESHER is what pip installs: the URL of a wheel, or git+https://…. docs/deploy.md says what this
home can do, and what it cannot.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import ClassVar

import fal
from fal.container import ContainerImage
from fastapi import HTTPException

HERE = Path(__file__).parent

# In an environment of its own, for fal's runtime brings old versions of the same libraries.
DOCKERFILE = """\
FROM python:3.11-slim-bookworm
ARG REFRESHER
RUN python3 -m venv /opt/refresher \\
    && /opt/refresher/bin/pip install --no-cache-dir "$REFRESHER"
ENV PATH="/opt/refresher/bin:${PATH}"
"""


class Refresher(fal.App, name="refresher"):
    """Keeps the credentials of the other apps; it must not need one of them itself."""

    image = ContainerImage.from_dockerfile_str(
        DOCKERFILE, build_args={"REFRESHER": os.environ.get("REFRESHER", "refresher")}
    )
    machine_type = "XS"
    # Never none, and never two for long.
    min_concurrency = 1
    max_concurrency = 1
    # Nothing else of your account is shown to it. A runner has no role of AWS, so these are keys.
    secrets: ClassVar[list[str]] = [
        "REFRESHER_FAL_KEY",
        "REFRESHER_AWS_ACCESS_KEY_ID",
        "REFRESHER_AWS_SECRET_ACCESS_KEY",
    ]
    termination_grace_period_seconds = 20

    #: Read where the app is deployed from, and sent along.
    configuration = (HERE / "refresher.toml").read_text("utf-8")
    daemon_url = "http://127.0.0.1:9478"

    def setup(self) -> None:
        """Start the daemon. Its state lives as long as the runner, which costs an extra issue."""
        self.folder = tempfile.TemporaryDirectory(prefix="refresher-")
        path = Path(self.folder.name) / "refresher.toml"
        path.write_text(self.configuration, "utf-8")
        self.daemon = subprocess.Popen(
            ["refresher", "run", "--config", str(path)],
            env={**os.environ, "STATE_DIRECTORY": self.folder.name},
        )
        until = time.monotonic() + 60
        while self._ask("/readyz")[0] != 200:
            if self.daemon.poll() is not None or time.monotonic() > until:
                raise RuntimeError("refresher does not start; its log says why")
            time.sleep(0.2)

    def handle_exit(self) -> None:
        """fal lets go of the runner."""
        self.daemon.terminate()

    def teardown(self) -> None:
        """Every attempt is recorded, and none is left half done."""
        self.daemon.terminate()
        self.daemon.wait(timeout=15)
        self.folder.cleanup()

    @fal.endpoint("/")
    def targets(self) -> dict:
        """What `refresher status --output json` prints."""
        return json.loads(self._ask("/api/v1/targets")[1])

    @fal.endpoint("/livez", health_check=fal.HealthCheck(call_regularly=True, failure_threshold=4))
    def livez(self) -> dict:
        """fal replaces the runner where a new start helps, and never for an outage elsewhere."""
        status, _ = self._ask("/livez")
        if status != 200:
            raise HTTPException(503, "refresher is stuck or gone")
        return {}

    def _ask(self, path: str) -> tuple[int, bytes]:
        """Status and body of a GET; 0 where the daemon does not answer."""
        try:
            with urllib.request.urlopen(self.daemon_url + path, timeout=4) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()
        except OSError:
            return 0, b""
