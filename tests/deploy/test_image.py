"""The image as it was built, and what it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from refresher import __version__
from tests.deploy import manifests
from tests.deploy.container import Container, Mount, started, stopped, within
from tests.deploy.image import NAME, Image, pip_conf
from tests.deploy.inside import Inside, wait_until_ready
from tests.deploy.manifests import FOLDER, built, only, pod
from tests.peers import ROOT
from tests.world import PATIENCE, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

#: Megabytes that the image puts on its base, compressed, as docs/deploy.md says.
LAYER = 70


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
    own = pip_conf().splitlines()[2:]
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
