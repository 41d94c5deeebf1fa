"""config/fal: the app by fal's own package, which also runs it here, around a real daemon."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from refresher import config
from tests.deploy.inside import Inside
from tests.peers import ROOT, free_port, unavailable
from tests.world import PATIENCE, wait_for

FOLDER = ROOT / "config" / "fal"
PYTHON = ROOT / ".venv-fal" / "bin" / "python"

LOADED = """\
import json, sys
from runpy import run_path
import cloudpickle
app = run_path(sys.argv[1])["Refresher"]
cloudpickle.dumps(app)  # how it travels
image = app.image.to_dict()
print(json.dumps({**app.host_kwargs, "name": app.app_name, "secrets": app.secrets,
    "machine": app.machine_type, "dockerfile": image["dockerfile_str"],
    "arguments": image["build_args"]}, default=str))
"""


@dataclass(frozen=True)
class Hosted:
    """The app, in fal's own runtime."""

    process: subprocess.Popen[bytes]
    at: httpx.Client
    log: Path


#: The port of the daemon is the world's, for 9478 may be taken.
RUN = """\
import sys
from runpy import run_path
app = run_path(sys.argv[1])["Refresher"]
app.configuration = open(sys.argv[2]).read()
app.daemon_url = sys.argv[3]
app.run_local(exposed_port=int(sys.argv[4]), exposed_metrics_port=int(sys.argv[5]))
"""


def environ(world: Inside) -> dict[str, str]:
    """What fal would set, and the way to the stand-ins."""
    led = {
        name: value
        for name, value in world.leading_in.items()
        if name not in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    return {
        **led,
        "HOME": str(world.directory),
        "FAL_CONFIG_PATH": os.devnull,
        "REFRESHER_FAL_KEY": world.credentials["fal-key"].strip(),
        "REFRESHER_AWS_ACCESS_KEY_ID": world.environ["AWS_ACCESS_KEY_ID"],
        "REFRESHER_AWS_SECRET_ACCESS_KEY": world.environ["AWS_SECRET_ACCESS_KEY"],
    }


@pytest.fixture
def python() -> str:
    """That of an environment with fal in it."""
    if not PYTHON.exists():
        unavailable("fal's package is not there; `make .venv-fal/.done` installs it")
    return str(PYTHON)


def test_fal_takes_the_app(python: str, tmp_path: Path) -> None:
    """One runner, always; a health check; the secrets that its configuration asks for."""
    done = subprocess.run(
        [python, "-c", LOADED, str(FOLDER / "app.py")],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FAL_CONFIG_PATH": os.devnull},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    app = json.loads(done.stdout.splitlines()[-1])
    assert app["name"] == "refresher"
    assert (app["min_concurrency"], app["max_concurrency"]) == (1, 1)
    assert "path='/livez'" in app["health_check_config"]
    text = (FOLDER / "refresher.toml").read_text()
    assert sorted(app["secrets"]) == sorted(re.findall(r'env = "(\w+)"', text))
    told = {"HOME": str(tmp_path), **dict.fromkeys(app["secrets"], "id:secret")}
    assert config.parse(text, "refresher.toml", told).targets
    assert '"$REFRESHER"' in app["dockerfile"]
    assert app["arguments"] == {"REFRESHER": "refresher"}


@contextmanager
def hosted(python: str, world: Inside, folder: Path) -> Iterator[Hosted]:
    """The app, as `fal run --local` starts it."""
    port = free_port()
    ca = str(world.certificates.ca_file)
    text = world.adapted((FOLDER / "refresher.toml").read_text())
    (folder / "refresher.toml").write_text(text.replace("/run/secrets/refresher/ca.pem", ca))
    command = [python, "-c", RUN, FOLDER / "app.py", folder / "refresher.toml", world.url]
    with (
        (folder / "log").open("wb") as log,
        httpx.Client(base_url=f"http://127.0.0.1:{port}") as at,
    ):
        process = subprocess.Popen(
            [*map(str, command), str(port), str(free_port())],
            env={**environ(world), "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": ca},
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            wait_for(lambda: _live(at) == 200, "health")
            yield Hosted(process, at, folder / "log")
        finally:
            process.kill()
            process.wait()


def _live(app: httpx.Client) -> int:
    try:
        return app.post("/livez").status_code
    except httpx.HTTPError:
        return 0


def test_fals_own_runtime_hosts_the_daemon(python: str, tmp_path: Path) -> None:
    """It publishes, answers through the app, is healthy, and ends whole with the runner."""
    with Inside() as world, hosted(python, world, tmp_path) as app:
        wait_for(lambda: world.secret is not None, "a publish")
        (target,) = app.at.post("/").json()["targets"]
        assert (target["name"], target["valid"]) == ("ecr", True)
        app.process.terminate()
        app.process.wait(PATIENCE)
        said = app.log.read_text()
        assert '"clean": true, "event": "daemon.stopped"' in said
        assert "Traceback" not in said


def test_fal_is_told_of_a_daemon_that_is_gone(python: str, tmp_path: Path) -> None:
    """Then its health check replaces the runner."""
    with Inside() as world, hosted(python, world, tmp_path) as app:
        (daemon,) = psutil.Process(app.process.pid).children()
        daemon.kill()
        wait_for(lambda: _live(app.at) == 503, "sickness")
