"""Our verdict and skopeo's agree, at a real docker-registry that takes tokens.

The token service is the stand-in's: docker-registry verifies its signatures, and a real client
speaks with both.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refresher.clock import Skews, SystemClock
from refresher.errors import Failure, FailureReason
from refresher.model import Credential, Pull, RegistryRef, SecretValue, Verifier
from refresher.registry import HubVerifier, RegistryVerifier, parse_image
from refresher.sandbox.dockerhub import HOST, DockerHubStandIn, Login
from tests.conftest import NOON
from tests.oci import (
    DockerRegistry,
    docker_registry,
    push_image,
    skopeo_inspect,
    skopeo_login,
    token_auth,
)

GOOD, OLD = "dckr_pat_good-0123456789", "dckr_pat_old-0123456789"
LOGINS = {("user", GOOD): Login.GOOD, ("user", OLD): Login.EXPIRED}
REPOSITORIES = ["team/app", "team/closed", "team/none"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the registry keeps its data."""
    return tmp_path_factory.mktemp("registry")


@pytest.fixture(scope="module")
def service() -> Iterator[DockerHubStandIn]:
    """A token service that never locks out and grants all repositories but one."""
    images = dict.fromkeys(REPOSITORIES, ())
    with DockerHubStandIn(LOGINS, images, lockout_after=1000) as service:
        service.forbid("team/closed")
        yield service


@pytest.fixture(scope="module")
def peer(folder: Path, service: DockerHubStandIn) -> Iterator[DockerRegistry]:
    """A docker-registry with two images, which takes that service's tokens and no others."""
    with docker_registry(folder, {"pusher": "secret"}) as registry:
        for repository in ("team/app", "team/closed"):
            push_image(folder, registry.host, f"{repository}:1.0", "pusher", "secret")
    with docker_registry(folder, auth=token_auth(folder, service)) as registry:
        yield registry


@pytest.fixture(params=["generic", "dockerhub"])
def verifier(request: pytest.FixtureRequest, service: DockerHubStandIn) -> Iterator[Verifier]:
    """Both ways of asking."""
    with RegistryVerifier(clock=SystemClock(), skews=Skews()) as generic:
        hub = HubVerifier(generic.wire, auth_url=service.auth_url)
        yield generic if request.param == "generic" else hub


@pytest.fixture
def registry(verifier: Verifier, peer: DockerRegistry) -> RegistryRef:
    """The docker-registry under the name that each way knows it by."""
    return RegistryRef(HOST, peer.ref.url) if isinstance(verifier, HubVerifier) else peer.ref


def _verdict(
    verifier: Verifier, registry: RegistryRef, secret: str, image: str | None
) -> Pull | FailureReason | None:
    reference = None if image is None else parse_image(image, registry.host)
    credential = Credential("user", SecretValue(secret), issued_at=NOON)
    try:
        return verifier.verify(registry, credential, reference).pull
    except Failure as failure:
        return failure.reason


@pytest.mark.parametrize(
    ("secret", "verdict", "said"),
    [
        (GOOD, None, "Login Succeeded"),
        ("wrong", FailureReason.UNAUTHORIZED, "invalid username/password"),
        (OLD, FailureReason.UNAUTHORIZED, "invalid username/password"),
    ],
)
def test_of_a_login_we_say_what_skopeo_says(
    *,
    verifier: Verifier,
    registry: RegistryRef,
    peer: DockerRegistry,
    folder: Path,
    secret: str,
    verdict: FailureReason | None,
    said: str,
) -> None:
    """Good, wrong and expired."""
    skopeo = skopeo_login(folder, peer.host, "user", secret)
    assert said in skopeo.stdout + skopeo.stderr
    assert _verdict(verifier, registry, secret, None) is verdict


@pytest.mark.parametrize(
    ("secret", "image", "verdict", "said"),
    [
        pytest.param(GOOD, "team/app:1.0", Pull.OK, "", id="good"),
        pytest.param(
            "wrong",
            "team/app:1.0",
            FailureReason.UNAUTHORIZED,
            "invalid username/password",
            id="wrong",
        ),
        pytest.param(
            OLD, "team/app:1.0", FailureReason.UNAUTHORIZED, "invalid username/password", id="old"
        ),
        pytest.param(
            GOOD, "team/closed:1.0", Pull.FORBIDDEN, "access to the resource is denied", id="closed"
        ),
        pytest.param(GOOD, "team/app:2.0", Pull.NOT_FOUND, "manifest unknown", id="no such tag"),
        pytest.param(GOOD, "team/none:1.0", Pull.NOT_FOUND, "manifest unknown", id="no such image"),
    ],
)
def test_of_an_image_we_say_what_skopeo_says(
    *,
    verifier: Verifier,
    registry: RegistryRef,
    peer: DockerRegistry,
    folder: Path,
    secret: str,
    image: str,
    verdict: Pull | FailureReason,
    said: str,
) -> None:
    """Good, wrong, expired, no permission and missing."""
    skopeo = skopeo_inspect(folder, peer.host, image, "user", secret)
    assert (skopeo.returncode == 0) is (verdict is Pull.OK)
    assert said in skopeo.stderr
    assert _verdict(verifier, registry, secret, image) is verdict


def test_the_registry_does_verify_signatures(
    peer: DockerRegistry, service: DockerHubStandIn, folder: Path
) -> None:
    """Tokens of another service with the same logins are worth nothing to it."""
    with (
        DockerHubStandIn(LOGINS, dict.fromkeys(REPOSITORIES, ())) as other,
        RegistryVerifier(clock=SystemClock(), skews=Skews()) as generic,
    ):
        hub = HubVerifier(generic.wire, auth_url=other.auth_url)
        verdict = _verdict(hub, RegistryRef(HOST, peer.ref.url), GOOD, "team/app:1.0")
    assert verdict is Pull.UNKNOWN
