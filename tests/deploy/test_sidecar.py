"""Sidecar manners: what a container beside somebody's app must do, and must not do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from refresher.daemon import STOP_SECONDS
from refresher.health import TICK_LIMIT
from refresher.model import SecretValue
from refresher.sandbox.certificates import authority
from refresher.sandbox.fal import SANDBOX_KEY, FalKey, FalStandIn
from refresher.sandbox.http import Fault, closed_port
from refresher.sandbox.world import REGISTRY, STATIC_SECRETS
from tests.deploy.container import (
    Container,
    Mount,
    atomically,
    require_namespaces,
    started,
    stopped,
)
from tests.deploy.inside import CREDENTIALS, Inside, answer, wait_until_ready
from tests.deploy.manifests import FOLDER
from tests.proxy import Proxy
from tests.publish.relay import Relay
from tests.world import PATIENCE, World, wait_for

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


@pytest.mark.slow
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


@pytest.mark.slow
def test_it_follows_rotated_mounted_files(beside: Beside) -> None:
    """Another value, key and configuration, each by the kubelet's swap of one symbolic link."""
    first = beside.put()
    with beside.daemon() as daemon:
        wait_for(lambda: beside.published["hub"] == first, "the first value")
        beside.replace_hub_token()
        key = FalKey("other", SecretValue("key"))
        beside.fal.allow(key)
        beside.fal.revoke(SANDBOX_KEY)
        second = beside.put(key=key.reveal())
        beside.mount(f"{beside.text}\n[targets.two]\n{_ECR.format(url=beside.registry.url)}")
        assert second != first
        wait_for(lambda: beside.published["hub"] == second, "the second value", MINUTE)
        wait_for(lambda: beside.fal.value("main", "TWO") is not None, "the new target", MINUTE)
        assert len(daemon.lines("config.reloaded")) == 1


_ECR = f"""
source = "ecr"
registry = "{REGISTRY}"
registry_url = "{{url}}"
secret = "TWO"
"""


# --- the network -------------------------------------------------------------------------------


def test_it_starts_before_the_network_is_up(world: World) -> None:
    """No peer is there: it is ready and tries on, and publishes once they are."""
    aws, registry = (urlsplit(url).netloc for url in (world.aws.url, world.registry.url))
    world.fal.stop()
    with ExitStack() as later:
        with closed_port() as no_aws, closed_port() as no_registry:
            for name in ("AWS_ENDPOINT_URL_ECR", "AWS_ENDPOINT_URL_STS"):
                world.extra[name] = f"http://127.0.0.1:{no_aws}"
            text = world.config.read_text()
            world.config.write_text(text.replace(registry, f"127.0.0.1:{no_registry}"))
            daemon = later.enter_context(world.daemon())
            wait_for(lambda: len(daemon.lines("attempt.failed")) >= 2, "two attempts", MINUTE)
            assert {line["reason"] for line in daemon.lines("attempt.failed")} == {"unavailable"}
            assert probes(world) == (200, 200)
        later.enter_context(Relay(aws, no_aws))
        later.enter_context(Relay(registry, no_registry))
        world.fal.start()
        wait_for(lambda: world.secret is not None, "a publish", MINUTE)
        assert daemon.stop() == 0


@pytest.mark.slow
def test_it_never_fails_a_probe_for_an_outage_elsewhere(world: World) -> None:
    """Every peer hangs for longer than the loop may stand still."""
    world.configure({f"t{number}": REGISTRY for number in range(20)})
    world.aws.fail(Fault.hang())
    world.fal.hang()
    with world.daemon() as daemon:
        until = time.monotonic() + TICK_LIMIT + 15
        while time.monotonic() < until:
            assert probes(world) == (200, 200)
            time.sleep(1)
        assert len(daemon.lines("attempt.failed")) > 8
        assert {line["reason"] for line in daemon.lines("attempt.failed")} == {"timeout"}


def test_it_stops_within_the_grace_period(world: World) -> None:
    """With every worker waiting for an answer that does not come."""
    world.configure({f"t{number}": REGISTRY for number in range(20)})
    world.aws.fail(Fault.hang())
    with world.daemon() as daemon:
        wait_for(lambda: world.aws.requests, "an attempt that hangs")
        began = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - began < STOP_SECONDS + 3
        (line,) = daemon.lines("daemon.stopped")
        assert line["clean"] is True


def test_it_works_with_a_proxy_and_a_private_authority(world: World, tmp_path: Path) -> None:
    """fal is nowhere but behind the proxy, under a certificate that no public authority knows.

    tests/test_outbound.py does the same with each of the other ways out.
    """
    certificates = authority(tmp_path / "tls", datetime.now(UTC), names=["fal.invalid"])
    with (
        FalStandIn(certificates) as fal,
        Proxy({"fal.invalid": int(fal.host.split(":")[1])}) as proxy,
    ):
        text = world.config.read_text().replace(world.fal.host, "fal.invalid")
        text = text.replace(str(world.certificates.ca_file), str(certificates.ca_file))
        world.config.write_text(text)
        world.extra |= {
            "HTTPS_PROXY": f"http://{proxy.host}",
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": None,
        }
        with world.daemon():
            wait_for(lambda: fal.value("main", "AWS_ECR_PASSWORD") is not None, "a publish")
        assert set(proxy.asked) == {"CONNECT fal.invalid:443"}


# --- the place ---------------------------------------------------------------------------------


def test_it_needs_no_home_no_name_and_no_folder_for_temporary_files(tmp_path: Path) -> None:
    """A bare number for a user, an environment of nothing, and not a single file to write to."""
    require_namespaces()
    with Inside() as world:
        (tmp_path / "ca.pem").write_text(world.credentials["ca.pem"])
        text = world.adapted((FOLDER / "base" / "refresher.toml").read_text())
        for name in ("fal-key", "api-token"):
            (tmp_path / name).write_text(world.credentials[name])
        (tmp_path / "refresher.toml").write_text(text.replace("[daemon]", _IN_MEMORY))
        container = Container(
            command=["refresher", "run", "--config", "/etc/refresher.toml"],
            environ=world.leading_in,
            mounts=[
                Mount("/etc/refresher.toml", tmp_path / "refresher.toml"),
                *(
                    Mount(f"{CREDENTIALS}/{name}", tmp_path / name)
                    for name in ("ca.pem", "fal-key", "api-token")
                ),
            ],
            user=4242,
            group=4242,
        )
        with started(container, tmp_path / "container") as process:
            wait_until_ready(f"{world.url}/readyz", process, tmp_path / "container" / "log")
            wait_for(lambda: world.secret is not None, "a publish")
            assert stopped(process, PATIENCE)[0] == 0


_IN_MEMORY = """\
[daemon]
state = "sqlite://"
"""


# --- the log -----------------------------------------------------------------------------------


def test_it_logs_json_to_standard_output(world: World) -> None:
    """A line an event, with a time and a level, and nothing to standard error."""
    process = subprocess.Popen(
        [sys.executable, "-m", "refresher", "run"],
        env=world.process_environ(), cwd=world.directory,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        wait_for(lambda: world.secret is not None, "a publish")
    finally:
        process.terminate()
        out, err = process.communicate(timeout=30)
    lines = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [line["event"] for line in lines] == [
        "daemon.started", "attempt.refreshed", "daemon.stopped",
    ]  # fmt: skip
    for line in lines:
        assert line["level"] == "info"
        assert datetime.fromisoformat(line["timestamp"]).tzinfo is not None


def port_of(host: str) -> int:
    """The number behind the colon."""
    return int(host.rpartition(":")[2])


def probes(world: World) -> tuple[int, int]:
    """What liveness and readiness say."""
    live, ready = (answer(f"{world.url}{path}") for path in ("/livez", "/readyz"))
    return live, ready
