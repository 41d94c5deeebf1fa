"""The image, built from the Dockerfile by a real builder, and run."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from refresher import __version__
from tests.deploy import manifests
from tests.deploy.container import Container, Mount, started, stopped, within
from tests.deploy.inside import Inside, wait_until_ready
from tests.deploy.manifests import FOLDER, built, only, pod
from tests.peers import ROOT, require, unavailable
from tests.world import PATIENCE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.xdist_group("image")]

BASE = "localhost/base"
NAME = f"localhost/refresher:{__version__}"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
#: Megabytes that the image puts on its base, compressed, as docs/deploy.md says.
LAYER = 70

_Table = dict[str, Any]


@dataclass(frozen=True)
class Builder:
    """buildah with a store of its own, which needs neither an engine nor namespaces."""

    folder: Path

    @cached_property
    def environ(self) -> dict[str, str]:
        """What makes any buildah this one."""
        conf = self.folder / "storage.conf"
        lines = (
            'driver = "vfs"',
            f'graphroot = "{self.folder}/graph"',
            f'runroot = "{self.folder}/run"',
        )
        conf.write_text("\n".join(("[storage]", *lines, "")))
        return {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(conf),
            "BUILDAH_ISOLATION": "chroot",
        }

    def do(self, *arguments: str) -> str:
        """What a command of buildah prints."""
        return self.run([require("buildah"), *arguments])

    def run(self, command: list[str]) -> str:
        """What a command prints that finds this buildah."""
        done = subprocess.run(
            command, cwd=ROOT, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=500, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout.strip()


@dataclass(frozen=True)
class Image:
    """The built image, and a container of it."""

    builder: Builder
    #: Of the container.
    name: str
    #: Its file system.
    root: Path
    #: That of its base.
    base: Path

    @property
    def config(self) -> _Table:
        """What an engine is told."""
        inspected = json.loads(self.builder.do("inspect", "--type=image", NAME))
        found: _Table = inspected["Docker"]["config"]
        return found

    @property
    def environ(self) -> dict[str, str]:
        """Its variables."""
        return dict(each.split("=", 1) for each in self.config["Env"])

    def run(self, *command: str) -> str:
        """What a command prints inside, under the user of the image."""
        return self.builder.do("run", self.name, "--", *command)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    """As `make image` builds it, on a base that is made from this machine's own mirrors."""
    for program in ("buildah", "debootstrap", "apt-get"):
        require(program)
    if os.geteuid() != 0:
        pytest.skip("only root makes a base image")
    folder = tmp_path_factory.mktemp("image")
    try:
        yield _image(Builder(folder), folder)
    finally:
        shutil.rmtree(folder)


def _image(builder: Builder, folder: Path) -> Image:
    base = folder / "base"
    suite, mirror = _mirror()
    include = "--include=python3,python3-venv"
    builder.run([require("debootstrap"), "--variant=minbase", include, suite, str(base), mirror])
    scratch = builder.do("from", "scratch")
    builder.do("copy", "--quiet", scratch, str(base), "/")
    builder.do("commit", "--quiet", "--rm", scratch, BASE)

    (folder / "pip.conf").write_text(_pip_conf())
    secrets = {"pip.conf": folder / "pip.conf", "ca.pem": AUTHORITIES}
    flags = [
        "--format=docker",  # the one of the two formats that knows HEALTHCHECK
        f"--build-arg=BASE={BASE}",
        *(f"--secret=id={name},src={path}" for name, path in secrets.items() if path.exists()),
    ]
    builder.run(["make", "image", "DOCKER=buildah", f"IMAGE_FLAGS={' '.join(flags)}"])
    name = builder.do("from", NAME)
    return Image(builder, name, Path(builder.do("mount", name)), base)


def _mirror() -> tuple[str, str]:
    """Suite and address that apt of this machine uses."""
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if line
    )
    suite = release["VERSION_CODENAME"]
    done = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Component: main"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    pairs = (line.split(" ", 1) for line in done.stdout.splitlines())
    found = next((address for codename, address in pairs if codename == suite), None)
    if found is None:
        unavailable(f"apt knows no mirror of {suite}")
    return suite, found


def _pip_conf() -> str:
    """How pip of this machine reaches its index, but for what lies on this machine."""
    found = {
        key: " ".join(word for word in value.split() if not word.startswith("file:"))
        for key, value in _pip_settings().items()
        if key in ("index-url", "extra-index-url", "trusted-host", "proxy")
    }
    lines = [f"{key} = {value}" for key, value in found.items() if value]
    return "\n".join(("[global]", f"cert = {AUTHORITIES}", *lines, ""))


def _pip_settings() -> dict[str, str]:
    pip = [sys.executable, "-m", "pip", "config", "list"]
    done = subprocess.run(pip, capture_output=True, text=True, check=True)
    found = re.findall(r"^(?:\w+|:env:)\.([\w-]+)=(.+)$", done.stdout, re.MULTILINE)
    return {key: ast.literal_eval(value) for key, value in found}


# --- what it is --------------------------------------------------------------------------------


def test_it_says_how_it_is_run(image: Image) -> None:
    """What the Dockerfile says arrives in the image."""
    config = image.config
    assert config["User"] == "65532:65532"
    assert config["Entrypoint"] == ["refresher"]
    assert config["Cmd"] == ["run"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.title"] == "refresher"


def test_it_brings_refresher_and_nothing_else(image: Image) -> None:
    """No file but below two folders: no cache, no package manager, no secret of the build."""
    new = _files(image.root) - _files(image.base)
    ours = {path for path in new if path.startswith(("opt/refresher/", "var/lib/refresher/"))}
    mounts = {"run/secrets", "etc/hosts", "etc/resolv.conf"}
    assert {path for path in new - ours if not path.startswith(tuple(mounts))} == set()
    assert not [path for path in ours if "/pip/" in path or path.endswith("/pip")]
    assert any(path.endswith("/refresher/__pycache__/daemon.cpython-311.pyc") for path in ours)


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir()}


def test_the_index_does_not_stay_in_it(image: Image) -> None:
    """Neither in a file of ours nor in the history of the image."""
    inspected = image.builder.do("inspect", "--type=image", NAME)
    own = _pip_conf().splitlines()[2:]
    addresses = [word for line in own for word in line.split(" = ", 1)[1].split()]
    text = b"".join(path.read_bytes() for path in (image.root / "opt").rglob("*") if path.is_file())
    for address in addresses:
        assert address not in inspected
        assert address.encode() not in text
    assert "cert = " not in inspected


def test_its_layer_is_small(
    image: Image, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """What a node that has the base pulls for it."""
    image.builder.do("push", "--quiet", NAME, f"oci:{tmp_path}/oci")
    blobs = tmp_path / "oci" / "blobs" / "sha256"
    (index,) = json.loads((tmp_path / "oci" / "index.json").read_text())["manifests"]
    manifest = json.loads((blobs / index["digest"].removeprefix("sha256:")).read_text())
    *_, layer = manifest["layers"]
    megabytes = layer["size"] / 1_000_000
    record_property("layer in MB", megabytes)
    assert len(manifest["layers"]) == 2
    assert megabytes == pytest.approx(LAYER, rel=0.05)
    assert f"{LAYER} MB" in (ROOT / "docs" / "deploy.md").read_text()


# --- what it does ------------------------------------------------------------------------------


def test_it_tells_its_version(image: Image) -> None:
    """Inside, by its own Python."""
    assert image.run("refresher", "--version") == f"refresher {__version__}"


def test_the_demo_runs_in_it(image: Image) -> None:
    """The whole product, with everything that the wheels must bring."""
    said = image.run("refresher", "demo", "--for", "20s")
    assert "Good: at every moment it held a password that the registry accepts." in said


def test_it_runs_read_only_as_nobody(image: Image, tmp_path: Path) -> None:
    """The container of the manifest in the image: read-only, no capabilities, a bare number."""
    objects = built(FOLDER / "example")
    with Inside() as world:
        text = world.adapted(only(objects, "ConfigMap")["data"]["refresher.toml"])
        files = {
            "refresher-config": {"refresher.toml": text},
            "refresher-credentials": world.credentials,
        }
        container = manifests.container(
            pod(only(objects, "Deployment")), files, tmp_path, root=image.root,
            environ={**world.leading_in, "PATH": image.environ["PATH"]},
        )  # fmt: skip
        with started(container, tmp_path / "container") as process:
            wait_until_ready(f"{world.url}/readyz", process, tmp_path / "container" / "log")
            wait_for(lambda: world.secret is not None, "a publish")
            assert stopped(process, PATIENCE)[0] == 0


def test_its_probe_passes_without_any_network(image: Image, tmp_path: Path) -> None:
    """By itself, with no more than a configuration: it lives, on the usual port."""
    config = tmp_path / "refresher.toml"
    text = (FOLDER / "base" / "refresher.toml").read_text()
    config.write_text(text.replace("0.0.0.0", "127.0.0.1"))
    told = image.config
    container = Container(
        command=[*told["Entrypoint"], *told["Cmd"]],
        environ=image.environ,
        mounts=[Mount("/etc/refresher/refresher.toml", config), Mount("/var/lib/refresher")],
        user=65532,
        group=65532,
        root=image.root,
        network=False,
    )
    probe = told["Healthcheck"]["Test"][1:]
    with started(container, tmp_path / "container") as process:
        wait_for(lambda: within(process, probe) == 0, "a probe that passes")
        assert stopped(process, PATIENCE)[0] == 0
