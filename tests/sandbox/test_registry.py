"""The stand-ins answer as the registries do, and real clients take them for registries."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import jwt
import pytest
from cryptography import x509

from refresher.sandbox.http import Response
from refresher.sandbox.registry import FLAVOURS, BearerRegistryStandIn, RegistryStandIn
from tests.oci import skopeo_inspect, skopeo_login

HOST = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
VERDICTS = {"good": "good", "old": "expired", "gone": "revoked"}

Get = Callable[..., httpx.Response]


@pytest.fixture
def ecr() -> Iterator[RegistryStandIn]:
    """A registry in the manner of ECR with one image."""
    with RegistryStandIn(
        HOST, lambda password: VERDICTS.get(password, "unknown"), {"team/app": ["v1"]}
    ) as registry:
        yield registry


@pytest.fixture
def get() -> Iterator[Get]:
    """An HTTP client that is closed with the test."""
    with httpx.Client() as client:
        yield client.get


def test_ecr_challenges_with_basic(ecr: RegistryStandIn, get: Get) -> None:
    """Plain text, and the host's own name in the realm."""
    answer = get(f"{ecr.url}/v2/")
    assert (answer.status_code, answer.text) == (401, "Not Authorized\n")
    expected = f'Basic realm="https://{HOST}/",service="ecr.amazonaws.com"'
    assert answer.headers["WWW-Authenticate"] == expected


@pytest.mark.parametrize(
    ("login", "status", "challenged"),
    [
        (("AWS", "good"), 200, False),
        (("AWS", "old"), 403, False),
        (("AWS", "gone"), 403, False),
        (("AWS", "other"), 401, True),
        (("user", "good"), 401, True),
    ],
)
def test_ecr_judges_by_what_the_issuer_says(
    ecr: RegistryStandIn, get: Get, login: tuple[str, str], status: int, challenged: bool
) -> None:
    """An expired token is 403 without a challenge."""
    answer = get(f"{ecr.url}/v2/", auth=login)
    assert (answer.status_code, "WWW-Authenticate" in answer.headers) == (status, challenged)


@pytest.mark.parametrize("header", ["Basic %%%", "Basic bm9jb2xvbg==", "Bearer x", "Basic"])
def test_a_malformed_header_is_no_login(ecr: RegistryStandIn, get: Get, header: str) -> None:
    """As if there were none."""
    assert get(f"{ecr.url}/v2/", headers={"Authorization": header}).status_code == 401


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("team/app/manifests/v1", 200, None),
        ("team/app/manifests/v2", 404, "MANIFEST_UNKNOWN"),
        ("none/manifests/v1", 404, "NAME_UNKNOWN"),
        ("closed/manifests/v1", 403, "DENIED"),
        ("team/app/blobs/sha256:0", 404, "BLOB_UNKNOWN"),
        ("team/app/tags/list", 200, None),
        ("odd", 404, "UNSUPPORTED"),
    ],
)
def test_images_are_there_missing_or_forbidden(
    ecr: RegistryStandIn, get: Get, path: str, status: int, code: str | None
) -> None:
    """Errors have the specification's shape."""
    ecr.forbid("closed")
    answer = get(f"{ecr.url}/v2/{path}", auth=("AWS", "good"))
    assert answer.status_code == status
    assert code is None or answer.json()["errors"][0]["code"] == code


def test_a_permission_can_be_given_back(ecr: RegistryStandIn, get: Get) -> None:
    """`permit` undoes `forbid`."""
    ecr.forbid("team/app")
    ecr.permit("team/app")
    assert get(f"{ecr.url}/v2/team/app/manifests/v1", auth=("AWS", "good")).status_code == 200


def test_skopeo_takes_it_for_a_registry(ecr: RegistryStandIn, tmp_path: Path) -> None:
    """A real client logs in and fetches the image, and is refused with the expired password."""
    host = f"127.0.0.1:{ecr.port}"
    good = skopeo_inspect(tmp_path, host, "team/app:v1", "AWS", "good")
    assert good.returncode == 0, good.stderr
    assert skopeo_login(tmp_path, host, "AWS", "old").returncode == 1


@pytest.fixture(params=list(FLAVOURS))
def bearer(request: pytest.FixtureRequest) -> Iterator[BearerRegistryStandIn]:
    """A registry with a token service, of each flavour."""
    with BearerRegistryStandIn(
        "registry.example", {"user": "pass"}, {"team/app": ["v1"]}, flavour=request.param
    ) as registry:
        yield registry


def _token(bearer: BearerRegistryStandIn, get: Get, **options: object) -> str:
    answer = get(bearer.realm, params={"scope": "repository:team/app:pull"}, **options)
    assert answer.status_code == 200
    return str(answer.json()[bearer.flavour.given_as])


def _pull(bearer: BearerRegistryStandIn, get: Get, token: str) -> httpx.Response:
    return get(
        f"{bearer.url}/v2/team/app/manifests/v1", headers={"Authorization": f"Bearer {token}"}
    )


def test_skopeo_takes_each_flavour_for_a_registry(
    bearer: BearerRegistryStandIn, tmp_path: Path
) -> None:
    """A real client gets a token and fetches the image; with a wrong password it gets neither."""
    host = f"127.0.0.1:{bearer.port}"
    good = skopeo_inspect(tmp_path, host, "team/app:v1", "user", "pass")
    assert good.returncode == 0, good.stderr
    assert skopeo_inspect(tmp_path, host, "team/app:v1", "user", "wrong").returncode == 1


def test_an_anonymous_token_passes_on_v2_only(bearer: BearerRegistryStandIn, get: Get) -> None:
    """Which is why 200 on /v2/ with a bearer proves nothing."""
    token = _token(bearer, get)
    ping = get(f"{bearer.url}/v2/", headers={"Authorization": f"Bearer {token}"})
    assert ping.status_code == 200
    pull = _pull(bearer, get, token)
    assert pull.status_code == 401
    assert 'error="insufficient_scope"' in pull.headers["WWW-Authenticate"]


def test_a_login_gets_a_token_for_what_it_may_pull(bearer: BearerRegistryStandIn, get: Get) -> None:
    """Less than was asked is no error of the token service."""
    assert _pull(bearer, get, _token(bearer, get, auth=("user", "pass"))).status_code == 200
    bearer.forbid("team/app")
    refused = _pull(bearer, get, _token(bearer, get, auth=("user", "pass")))
    assert refused.status_code == (bearer.flavour.denied or Response(401)).status


def test_a_garbage_token_is_invalid(bearer: BearerRegistryStandIn, get: Get) -> None:
    """And so is a Basic login at the registry itself."""
    assert 'error="invalid_token"' in _pull(bearer, get, "garbage").headers["WWW-Authenticate"]
    basic = base64.b64encode(b"user:pass").decode()
    answer = get(f"{bearer.url}/v2/", headers={"Authorization": f"Basic {basic}"})
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("flavour", "status", "body"),
    [
        (
            "generic",
            401,
            {"errors": [{"code": "UNAUTHORIZED", "message": "authentication required"}]},
        ),
        ("ghcr", 403, {"errors": [{"code": "DENIED", "message": "denied"}]}),
        ("gar", 401, {"errors": [{"code": "UNAUTHORIZED", "message": "authentication failed"}]}),
        ("hub-like", 401, {"details": "incorrect username or password"}),
    ],
)
def test_each_flavour_refuses_a_wrong_login_in_its_way(
    get: Get, flavour: str, status: int, body: object
) -> None:
    """The bodies of the real ones."""
    with BearerRegistryStandIn("h", {"user": "pass"}, flavour=flavour) as registry:
        answer = get(registry.realm, auth=("user", "wrong"))
    assert (answer.status_code, answer.json()) == (status, body)


def test_a_jwt_tells_what_was_granted(get: Get) -> None:
    """An independent library reads it, and verifies it with the certificate it carries."""
    with BearerRegistryStandIn("h", {"user": "pass"}, {"team/app": ["v1"]}) as registry:
        token = _token(registry, get, auth=("user", "pass"))
    carried = base64.b64decode(jwt.get_unverified_header(token)["x5c"][0])
    certificate = x509.load_der_x509_certificate(carried)
    assert certificate == x509.load_pem_x509_certificate(registry.signer.certificate_pem)
    claims = jwt.decode(
        token,
        certificate.public_key(),
        algorithms=["RS256"],
        audience="registry",
        issuer=registry.issuer,
    )
    assert claims["access"] == [{"type": "repository", "name": "team/app", "actions": ["pull"]}]
