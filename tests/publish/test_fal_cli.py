"""The real fal command line against the stand-in: the independent proof that the wire is right."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from refresher.clock import SystemClock
from refresher.model import SecretRef, SecretValue
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.fal import SANDBOX_KEY, WRITE, FalKey, FalStandIn
from tests.peers import free_port, require

KEY = Reference(env="FAL_KEY")

Fal = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """A throw-away authority and a certificate for loopback."""
    return authority(tmp_path_factory.mktemp("certificates"), datetime.now(UTC))


@pytest.fixture
def stand_in(certificates: Certificates) -> Iterator[FalStandIn]:
    """fal's stand-in, over TLS."""
    with FalStandIn(certificates) as server:
        yield server


@pytest.fixture
def publisher(stand_in: FalStandIn, certificates: Certificates) -> Iterator[FalPublisher]:
    """Our own client of the same server."""
    made = FalPublisher(
        "default",
        KEY,
        host=stand_in.host,
        ca_bundle=certificates.ca_file,
        clock=SystemClock(),
        environ={"FAL_KEY": SANDBOX_KEY.reveal()},
    )
    yield made
    made.close()


@pytest.fixture
def fal(stand_in: FalStandIn, certificates: Certificates, tmp_path: Path) -> Fal:
    """Runs `fal`, which finds nothing but the stand-in.

    Its REST host and its proxies are loopback ports where nobody listens, so a call to
    anything else would fail and not leave the machine.
    """
    program = require("fal")
    nobody = f"127.0.0.1:{free_port()}"

    def run(*arguments: str, key: str = SANDBOX_KEY.reveal()) -> subprocess.CompletedProcess[str]:
        env = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "FAL_CONFIG_PATH": str(tmp_path / "config.toml"),
            "FAL_KEY": key,
            "FAL_GRPC_HOST": stand_in.host,
            "FAL_REST_HOST": nobody,
            "FAL_RUN_HOST": nobody,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(certificates.ca_file),
            "GRPC_VERBOSITY": "NONE",
            "https_proxy": f"http://{nobody}",
            "no_proxy": "127.0.0.1",
        }
        return subprocess.run(
            [program, *arguments],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_the_real_client_reads_back_what_we_published(fal: Fal, publisher: FalPublisher) -> None:
    """`fal secrets list` shows our secrets in the environments that we wrote to."""
    publisher.publish(SecretRef("default", "main", "AWS_ECR_PASSWORD"), SecretValue("one"), None)
    publisher.publish(SecretRef("default", "staging", "AWS_ECR_PASSWORD"), SecretValue("two"), True)

    for environment, exposed in (("main", None), ("staging", True)):
        listed = fal("secrets", "list", "--env", environment, "--output", "json")
        assert listed.returncode == 0, listed.stderr
        (secret,) = json.loads(listed.stdout)["secrets"]
        assert secret["name"] == "AWS_ECR_PASSWORD"
        assert secret["environment"] == environment
        assert secret["default_exposed"] is exposed
        assert datetime.fromisoformat(secret["created_at"]).tzinfo is not None


def test_we_write_as_the_real_client_does_but_for_exposure(
    fal: Fal, publisher: FalPublisher, stand_in: FalStandIn
) -> None:
    """Same method, same authentication, same fields, less the one that re-exposes a secret."""
    done = fal("secrets", "set", "A=the value", "--env", "main")
    assert done.returncode == 0, done.stderr
    assert stand_in.value("main", "A") == "the value"
    publisher.publish(SecretRef("default", "main", "A"), SecretValue("the value"), None)

    theirs, ours = stand_in.calls
    assert ours.method == theirs.method
    assert {"auth-key", "auth-key-id"} <= ours.metadata & theirs.metadata
    assert ours.metadata <= theirs.metadata
    assert ours.fields == theirs.fields - {"default_exposed"}
    assert "default_exposed" in theirs.fields


def test_we_keep_hidden_what_the_real_client_hid(
    fal: Fal, publisher: FalPublisher, stand_in: FalStandIn
) -> None:
    """A secret that its owner hid stays hidden after we refreshed it."""
    done = fal("secrets", "set", "A=old", "--not-exposed-by-default")
    assert done.returncode == 0, done.stderr

    publisher.publish(SecretRef("default", "main", "A"), SecretValue("new"), None)

    assert stand_in.value("main", "A") == "new"
    assert stand_in.secrets["main", "A"].default_exposed is False


def test_the_real_client_deletes_by_leaving_the_value_out(
    fal: Fal, publisher: FalPublisher, stand_in: FalStandIn
) -> None:
    """Which is why our requests always hold one."""
    publisher.publish(SecretRef("default", "main", "A"), SecretValue("v"), None)

    done = fal("secrets", "unset", "A")

    assert done.returncode == 0, done.stderr
    assert stand_in.value("main", "A") is None
    ours, theirs = stand_in.calls
    assert "value" in ours.fields
    assert "value" not in theirs.fields


def test_the_real_client_is_refused_like_ours(fal: Fal, stand_in: FalStandIn) -> None:
    """A write-only key and a wrong one fail with the real client too: the stand-in checks keys."""
    stand_in.allow(FalKey("writer", SecretValue("x"), frozenset({WRITE})))

    assert fal("secrets", "set", "A=v", key="writer:x").returncode == 0
    listed = fal("secrets", "list", key="writer:x")
    assert listed.returncode != 0
    assert "serverless:secrets:read" in listed.stdout + listed.stderr
    assert fal("secrets", "list", key="wrong:key").returncode != 0
