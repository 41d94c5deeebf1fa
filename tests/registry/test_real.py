"""Our verdict and skopeo's agree, at a real docker-registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refresher.clock import Skews, SystemClock
from refresher.errors import Unauthorized
from refresher.model import Credential, Pull, SecretValue
from refresher.registry import RegistryVerifier, parse_image
from tests.conftest import NOON
from tests.oci import DockerRegistry, docker_registry, push_image, skopeo_inspect, skopeo_login

USERNAME, PASSWORD = "AWS", "päss:with:colons"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the registry keeps its data."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def peer(folder: Path) -> Iterator[DockerRegistry]:
    """A docker-registry with one login and one image."""
    with docker_registry(folder, {USERNAME: PASSWORD}) as registry:
        push_image(folder, registry.host, "team/app:1.0", USERNAME, PASSWORD)
        yield registry


@pytest.fixture
def verifier() -> Iterator[RegistryVerifier]:
    """A verifier on the machine's clock."""
    with RegistryVerifier(clock=SystemClock(), skews=Skews()) as verifier:
        yield verifier


def _credential(password: str) -> Credential:
    return Credential(USERNAME, SecretValue(password), issued_at=NOON)


def test_a_good_login_pulls(peer: DockerRegistry, folder: Path, verifier: RegistryVerifier) -> None:
    """Login and image are both proved, as skopeo sees it."""
    image = parse_image("team/app:1.0", peer.host)
    proof = verifier.verify(peer.ref, _credential(PASSWORD), image)
    skopeo = skopeo_inspect(folder, peer.host, "team/app:1.0", USERNAME, PASSWORD)
    assert (proof.pull, skopeo.returncode) == (Pull.OK, 0), skopeo.stderr


def test_a_wrong_password_is_unauthorized(
    peer: DockerRegistry, folder: Path, verifier: RegistryVerifier
) -> None:
    """What skopeo calls an invalid username/password is `unauthorized`."""
    skopeo = skopeo_login(folder, peer.host, USERNAME, "wrong")
    assert "invalid username/password" in skopeo.stderr
    with pytest.raises(Unauthorized, match="HTTP 401"):
        verifier.verify(peer.ref, _credential("wrong"), None)


@pytest.mark.parametrize("name", ["team/app:2.0", "team/other:1.0"])
def test_a_missing_image_does_not_spoil_the_login(
    peer: DockerRegistry, folder: Path, verifier: RegistryVerifier, name: str
) -> None:
    """The login is proved, the image is not found; skopeo finds none either."""
    proof = verifier.verify(peer.ref, _credential(PASSWORD), parse_image(name, peer.host))
    skopeo = skopeo_inspect(folder, peer.host, name, USERNAME, PASSWORD)
    assert proof.pull is Pull.NOT_FOUND
    assert "manifest unknown" in skopeo.stderr
    assert "manifest unknown" in (proof.pull_message or "")


def test_a_rotated_password_ends_the_old_one(folder: Path, verifier: RegistryVerifier) -> None:
    """When the htpasswd file changes, the new password passes and the old one is refused."""
    with docker_registry(folder / "rotated", {USERNAME: "old"}) as registry:
        verifier.verify(registry.ref, _credential("old"), None)
        registry.set_password(USERNAME, "new")
        assert verifier.verify(registry.ref, _credential("new"), None).pull is None
        with pytest.raises(Unauthorized):
            verifier.verify(registry.ref, _credential("old"), None)
