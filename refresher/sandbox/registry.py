"""OCI registries on loopback: one that answers like ECR, and some that hand out tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from refresher.sandbox.http import Request, Response, StandIn
from refresher.sandbox.tokens import TokenSigner

_MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
_CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
#: The layer of an image with nothing in it: an empty tar, its end-of-archive blocks only.
_LAYER = bytes(1024)


def digest_of(blob: bytes) -> str:
    """The name of content by its SHA-256 (OCI image specification, "Digests")."""
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def _descriptor(media_type: str, blob: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(blob), "size": len(blob)}


@dataclass(frozen=True, slots=True)
class Image:
    """The smallest image that real clients accept: a configuration and one empty layer."""

    config: bytes
    layer: bytes
    manifest: bytes

    @property
    def blobs(self) -> dict[str, bytes]:
        """Content by digest."""
        return {digest_of(blob): blob for blob in (self.config, self.layer)}


def minimal_image() -> Image:
    """An image of nothing, the same at every call."""
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(_LAYER)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": _descriptor(_CONFIG_TYPE, config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar", _LAYER)],
        }
    ).encode()
    return Image(config=config, layer=_LAYER, manifest=manifest)


def error(status: int, code: str, message: str) -> Response:
    """An error of the distribution specification, "Error codes"."""
    return Response.json({"errors": [{"code": code, "message": message}]}, status)


def basic_login(request: Request) -> tuple[str, str] | None:
    """User name and password of a Basic header; None where there is none (RFC 7617)."""
    scheme, _, value = (request.headers.get("Authorization") or "").partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        username, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return None
    return (username, password) if colon else None


class OciRegistry(StandIn):
    """What all registries share: images. A subclass says who may come in."""

    def __init__(
        self, host: str, images: Mapping[str, Iterable[str]] | None = None, port: int = 0
    ) -> None:
        """`host`: its name as images have it; `images`: repository to tags."""
        super().__init__(port)
        self.host = host
        self._image = minimal_image()
        self._images = {name: set(tags) for name, tags in (images or {}).items()}
        self._forbidden: set[str] = set()

    def forbid(self, repository: str) -> None:
        """No login may pull from `repository` any more."""
        self._forbidden.add(repository)

    def permit(self, repository: str) -> None:
        """Every login may again."""
        self._forbidden.discard(repository)

    @abstractmethod
    def refusal(self, request: Request, repository: str | None) -> Response | None:
        """The answer to whom may not come in; None where the request may pass.

        `repository` is None at `/v2/`.
        """

    def missing(self, repository: str) -> Response:
        """The answer for a repository that does not exist."""
        return error(404, "NAME_UNKNOWN", f"The repository with name '{repository}' does not exist")

    def handle(self, request: Request) -> Response:
        if request.path in ("/v2", "/v2/"):
            return self.refusal(request, None) or Response.json(
                {}, headers={"Docker-Distribution-Api-Version": "registry/2.0"}
            )
        found = _split(request.path)
        if found is None:
            return error(404, "UNSUPPORTED", "no such address")
        repository, kind, reference = found
        refused = self.refusal(request, repository)
        if refused is not None:
            return refused
        if repository not in self._images:
            return self.missing(repository)
        return self._content(repository, kind, reference)

    def _content(self, repository: str, kind: str, reference: str) -> Response:
        if kind == "tags":
            return Response.json({"name": repository, "tags": sorted(self._images[repository])})
        if kind == "blobs":
            return self._blob(reference)
        digest = digest_of(self._image.manifest)
        if reference != digest and reference not in self._images[repository]:
            return error(404, "MANIFEST_UNKNOWN", "Requested image not found")
        headers = {"Content-Type": _MANIFEST_TYPE, "Docker-Content-Digest": digest}
        return Response(200, self._image.manifest, headers)

    def _blob(self, digest: str) -> Response:
        blob = self._image.blobs.get(digest)
        if blob is None:
            return error(404, "BLOB_UNKNOWN", "blob unknown to registry")
        return Response(200, blob, {"Content-Type": "application/octet-stream"})


def _split(path: str) -> tuple[str, str, str] | None:
    """`/v2/REPOSITORY/KIND/REFERENCE` in its parts."""
    parts = path.removeprefix("/v2/").rsplit("/", 2)
    if not path.startswith("/v2/") or len(parts) != 3:
        return None
    repository, kind, reference = parts
    return (repository, kind, reference) if kind in ("manifests", "blobs", "tags") else None


class RegistryStandIn(OciRegistry):
    """A registry that answers like private ECR, as reported in awslabs/soci-snapshotter."""

    def __init__(
        self,
        host: str,
        judge: Callable[[str], str],
        images: Mapping[str, Iterable[str]] | None = None,
        port: int = 0,
    ) -> None:
        """`judge` says of a password `good`, `expired`, `revoked` or `unknown`."""
        super().__init__(host, images, port)
        self._judge = judge

    def refusal(self, request: Request, repository: str | None) -> Response | None:
        login = basic_login(request)
        verdict = self._judge(login[1]) if login and login[0] == "AWS" else "unknown"
        if verdict == "expired":
            return error(
                403,
                "DENIED",
                "Your authorization token has expired. Reauthenticate and try again.",
            )
        if verdict == "revoked":
            return error(403, "DENIED", "The security token included in the request is invalid")
        if verdict != "good":
            return self._not_authorized()
        return self._not_permitted(repository) if repository in self._forbidden else None

    def _not_authorized(self) -> Response:
        challenge = f'Basic realm="https://{self.host}/",service="ecr.amazonaws.com"'
        return Response(
            401,
            b"Not Authorized\n",
            {"Content-Type": "text/plain; charset=utf-8", "Www-Authenticate": challenge},
        )

    def _not_permitted(self, repository: str | None) -> Response:
        account, _, region = self.host.partition(".dkr.ecr.")
        region = region.split(".", 1)[0] or "us-east-1"
        return error(
            403,
            "DENIED",
            f"User: arn:aws:sts::{account}:assumed-role/fal-pull/refresher is not authorized to"
            f" perform: ecr:BatchGetImage on resource:"
            f" arn:aws:ecr:{region}:{account}:repository/{repository}"
            " because no identity-based policy allows the ecr:BatchGetImage action",
        )


@dataclass(frozen=True, slots=True)
class Flavour:
    """How one kind of Bearer registry answers, as its users report it."""

    name: str
    #: Path of the token service on the registry's own host.
    token_path: str
    #: `service` of the challenge; None where it names none.
    service: str | None
    #: The token service's answer to a wrong login.
    wrong: Response
    #: The registry's answer to a login that may not pull; None for the 401 of the specification.
    denied: Response | None
    #: Whether a repository that does not exist is answered like one that is forbidden.
    hides: bool = False
    #: Whether tokens are JWTs that a client may read.
    jwt: bool = True
    #: Name of the token in the answer of the token service.
    given_as: str = "token"
    #: Whether a wrong login that asks for a scope gets an anonymous token.
    lenient: bool = False
    #: Seconds that a token lives.
    lifetime: int = 300


FLAVOURS: Mapping[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour(
            "generic",
            "/token",
            "registry",
            error(401, "UNAUTHORIZED", "authentication required"),
            None,
        ),
        Flavour(
            "ghcr",
            "/token",
            "ghcr.io",
            error(403, "DENIED", "denied"),
            error(403, "DENIED", "permission_denied: The token provided does not match scopes."),
            jwt=False,
        ),
        Flavour(
            "gar",
            "/v2/token",
            None,
            error(401, "UNAUTHORIZED", "authentication failed"),
            error(
                403,
                "DENIED",
                'Permission "artifactregistry.repositories.downloadArtifacts" denied on resource'
                ' "projects/p/locations/l/repositories/r" (or it may not exist)',
            ),
            hides=True,
            jwt=False,
            lifetime=43200,
        ),
        Flavour(
            "hub-like",
            "/token",
            "registry.docker.io",
            Response.json({"details": "incorrect username or password"}, 401),
            None,
            hides=True,
        ),
        Flavour(  # quay/quay #2155
            "quay",
            "/v2/auth",
            "quay.io",
            Response.json({"error": "Could not find robot with username: user"}, 401),
            error(401, "UNAUTHORIZED", "access to the requested resource is not authorized"),
        ),
        Flavour(  # Azure/acr #466
            "acr",
            "/oauth2/token",
            "example.azurecr.io",
            error(401, "UNAUTHORIZED", "Invalid clientid or client secret."),
            None,
            given_as="access_token",
            lifetime=10800,
        ),
        Flavour(
            "gitlab",
            "/jwt/auth",
            "container_registry",
            error(401, "UNAUTHORIZED", "HTTP Basic: Access denied. The password is incorrect."),
            error(403, "DENIED", "requested access to the resource is denied"),
        ),
        Flavour(  # goharbor/harbor src/core/service/token/creator.go
            "harbor",
            "/service/token",
            "harbor-registry",
            error(401, "UNAUTHORIZED", "Unauthorized"),
            None,
            lenient=True,
        ),
    )
}


@dataclass(slots=True)
class _Grant:
    """What a token is good for."""

    #: None for an anonymous one.
    username: str | None
    repositories: frozenset[str]
    expires_at: float = field(default=0.0)


class BearerRegistryStandIn(OciRegistry):
    """A registry with a token service, both on the same port.

    An anonymous request gets a token, too; it passes on `/v2/` and grants no repository.
    `accounts` maps user names to passwords and may be changed at any time. `issuer` and `signer`
    are what a real registry must be told to take its tokens.
    """

    issuer = "refresher sandbox"

    def __init__(
        self,
        host: str,
        accounts: Mapping[str, str],
        images: Mapping[str, Iterable[str]] | None = None,
        flavour: str = "generic",
        port: int = 0,
    ) -> None:
        super().__init__(host, images, port)
        self.accounts = dict(accounts)
        self.flavour = FLAVOURS[flavour]
        #: Where the challenge sends clients; changed by a test of realm guards.
        self.realm = f"{self.url}{self.flavour.token_path}"
        self._grants: dict[str, _Grant] = {}
        self._grants_lock = threading.Lock()

    @cached_property
    def signer(self) -> TokenSigner:
        """Who signs the tokens that are JWTs."""
        return TokenSigner()

    def handle(self, request: Request) -> Response:
        if request.path == self.flavour.token_path:
            return self._issue(request)
        return super().handle(request)

    def refused_login(self, username: str, password: str) -> Response | None:
        """The token service's answer to a login that it does not take; None for one it does."""
        return None if self.accounts.get(username) == password else self.flavour.wrong

    def refusal(self, request: Request, repository: str | None) -> Response | None:
        scheme, _, token = (request.headers.get("Authorization") or "").partition(" ")
        if not token:
            return self._challenged(None)
        with self._grants_lock:
            grant = self._grants.get(token) if scheme.lower() == "bearer" else None
        if grant is None or grant.expires_at <= time.time():
            return self._challenged("invalid_token")
        if repository is None or repository in grant.repositories:
            return None
        if grant.username is None or self.flavour.denied is None:
            return self._challenged("insufficient_scope")
        return self.flavour.denied

    def _challenged(self, reason: str | None) -> Response:
        parts = {"realm": self.realm, "service": self.flavour.service, "error": reason}
        written = ",".join(f'{name}="{value}"' for name, value in parts.items() if value)
        answer = error(401, "UNAUTHORIZED", "authentication required")
        return Response(
            401, answer.body, {**answer.headers, "Www-Authenticate": f"Bearer {written}"}
        )

    def _issue(self, request: Request) -> Response:
        login = basic_login(request)
        scopes = request.params.get("scope", [])
        refused = self.flavour.wrong if "Authorization" in request.headers else None
        if login is not None:
            refused = self.refused_login(*login)
        if refused is not None and not (self.flavour.lenient and scopes):
            return refused
        username = login[0] if login and refused is None else None
        expires_at = time.time() + self.flavour.lifetime
        grant = _Grant(username, self._granted(username, scopes), expires_at)
        token = self._jwt(grant) if self.flavour.jwt else secrets.token_urlsafe(24)
        with self._grants_lock:
            self._grants[token] = grant
        return Response.json({self.flavour.given_as: token, "expires_in": self.flavour.lifetime})

    def _granted(self, username: str | None, scopes: Iterable[str]) -> frozenset[str]:
        """Less than was asked is no error (distribution specification, token.md)."""
        if username is None:
            return frozenset()
        asked = {scope.split(":")[1] for scope in scopes if scope.startswith("repository:")}
        asked -= self._forbidden
        return frozenset(asked & set(self._images) if self.flavour.hides else asked)

    def _jwt(self, grant: _Grant) -> str:
        access = [
            {"type": "repository", "name": name, "actions": ["pull"]}
            for name in sorted(grant.repositories)
        ]
        claims = {
            "iss": self.issuer,
            "sub": grant.username or "",
            "aud": self.flavour.service,
            "nbf": int(time.time()),
            "iat": int(time.time()),
            "exp": int(grant.expires_at),
            "jti": secrets.token_hex(8),
            "access": access,
        }
        return self.signer.sign(claims)
