"""A real docker-registry and a real skopeo, and the images that go between them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from refresher.model import RegistryRef
from refresher.sandbox.registry import BearerRegistryStandIn, digest_of, minimal_image
from tests.peers import free_port, require, running, wait_for_port


@dataclass(frozen=True, slots=True)
class DockerRegistry:
    """A docker-registry that runs."""

    port: int
    htpasswd: Path

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def ref(self) -> RegistryRef:
        return RegistryRef(host=self.host, url=f"http://{self.host}")

    def set_password(self, username: str, password: str) -> None:
        """Let this login in, and no other; docker-registry reads the file anew when it changes."""
        write_htpasswd(self.htpasswd, {username: password})


def write_htpasswd(path: Path, accounts: dict[str, str]) -> None:
    """An htpasswd file with bcrypt, the only kind that docker-registry takes."""
    htpasswd = require("htpasswd")
    lines = [
        subprocess.run(
            [htpasswd, "-niBC4", username],
            input=password.encode(),
            capture_output=True,
            check=True,
        ).stdout.decode()
        for username, password in accounts.items()
    ]
    aside = path.with_suffix(".new")
    aside.write_text("\n".join(line.strip() for line in lines) + "\n")
    aside.replace(path)


def _config(folder: Path, port: int, auth: dict[str, object]) -> Path:
    config = folder / "config.yml"
    document = {  # JSON is YAML
        "version": "0.1",
        "log": {"accesslog": {"disabled": True}, "level": "error"},
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
        "http": {"addr": f"127.0.0.1:{port}", "secret": "loopback"},
        "auth": auth,
    }
    config.write_text(json.dumps(document))
    return config


@contextmanager
def docker_registry(
    folder: Path,
    accounts: dict[str, str] | None = None,
    auth: dict[str, object] | None = None,
) -> Iterator[DockerRegistry]:
    """A docker-registry on loopback that keeps its data below `folder`.

    `accounts` are the logins of its htpasswd file; `auth` replaces that section of its
    configuration, for token authentication.
    """
    program = require("docker-registry")
    folder.mkdir(parents=True, exist_ok=True)
    htpasswd = folder / "htpasswd"
    if auth is None:
        write_htpasswd(htpasswd, accounts or {})
        auth = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    port = free_port()
    config = _config(folder, port, auth)
    with running([program, "serve", str(config)], folder / "registry.log"):
        wait_for_port(port)
        yield DockerRegistry(port=port, htpasswd=htpasswd)


def token_auth(folder: Path, service: BearerRegistryStandIn) -> dict[str, object]:
    """The `auth` section that takes the tokens of this token service and of no other."""
    folder.mkdir(parents=True, exist_ok=True)
    bundle = folder / "tokens.pem"
    bundle.write_bytes(service.signer.certificate_pem)
    return {
        "token": {
            "realm": service.realm,
            "service": service.flavour.service,
            "issuer": service.issuer,
            "rootcertbundle": str(bundle),
        }
    }


def oci_layout(folder: Path) -> Path:
    """A minimal image as an OCI layout (OCI image specification, "Image Layout")."""
    image = minimal_image()
    blobs = {**image.blobs, digest_of(image.manifest): image.manifest}
    place = folder / "blobs" / "sha256"
    place.mkdir(parents=True, exist_ok=True)
    for digest, blob in blobs.items():
        (place / digest.removeprefix("sha256:")).write_bytes(blob)
    entry = {
        "mediaType": json.loads(image.manifest)["mediaType"],
        "digest": digest_of(image.manifest),
        "size": len(image.manifest),
        "annotations": {"org.opencontainers.image.ref.name": "latest"},
    }
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return folder


def _skopeo(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    policy = folder / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    return subprocess.run(
        [require("skopeo"), "--policy", str(policy), *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def push_image(folder: Path, host: str, image: str, username: str, password: str) -> None:
    """Put a minimal image at `HOST/image`."""
    layout = oci_layout(folder / "layout")
    pushed = _skopeo(
        folder,
        "copy",
        "--dest-tls-verify=false",
        f"--dest-creds={username}:{password}",
        f"oci:{layout}:latest",
        f"docker://{host}/{image}",
    )
    assert pushed.returncode == 0, pushed.stderr


def skopeo_inspect(
    folder: Path, host: str, image: str, username: str, password: str
) -> subprocess.CompletedProcess[str]:
    """What skopeo says of `HOST/image` with this login: it logs in and fetches the manifest."""
    return _skopeo(
        folder,
        "inspect",
        "--raw",
        "--tls-verify=false",
        f"--creds={username}:{password}",
        f"docker://{host}/{image}",
    )


def skopeo_login(
    folder: Path, host: str, username: str, password: str
) -> subprocess.CompletedProcess[str]:
    """What skopeo says of the login alone."""
    authfile = folder / "auth.json"
    return subprocess.run(
        [
            require("skopeo"),
            "login",
            "--tls-verify=false",
            f"--authfile={authfile}",
            f"--username={username}",
            "--password-stdin",
            host,
        ],
        input=password,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
