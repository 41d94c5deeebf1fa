"""config/kubernetes as kustomize puts it together, and its containers as they would be started."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.container import Container, Mount, atomically
from tests.peers import ROOT

FOLDER = ROOT / "config" / "kubernetes"
KUBECTL = Path(sys.executable).with_name("kubectl")

_Table = dict[str, Any]


@cache
def built(folder: Path) -> list[_Table]:
    """Every object of a kustomization. Asks no cluster and no network."""
    done = subprocess.run(
        [KUBECTL, "kustomize", folder],
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def only(objects: list[_Table], kind: str) -> _Table:
    """The one object of a kind."""
    (found,) = (each for each in objects if each["kind"] == kind)
    return found


def pod(deployment: _Table) -> _Table:
    """The spec of its pods."""
    spec: _Table = deployment["spec"]["template"]["spec"]
    return spec


def ours(spec: _Table) -> _Table:
    """The container of refresher among those of a pod."""
    (found,) = (each for each in spec["containers"] if each["name"] == "refresher")
    return dict(found)


def container(
    spec: _Table, files: Mapping[str, Mapping[str, str]], folder: Path, **more: Any
) -> Container:
    """Ours, as a kubelet starts it: `files` is what each ConfigMap and Secret volume holds.

    `folder` gets them, as the kubelet's own folder does. `environ` among `more` goes to that of
    the manifest.
    """
    made = ours(spec)
    of_pod, of_container = spec.get("securityContext", {}), made["securityContext"]
    group = of_pod.get("fsGroup")
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    mounts = [
        _mount(mount, volumes[mount["name"]], files.get(mount["name"]), folder, group)
        for mount in made["volumeMounts"]
    ]
    assert of_container["readOnlyRootFilesystem"]
    environ = {each["name"]: each["value"] for each in made["env"] if "value" in each}
    return Container(
        command=["refresher", *made["args"]],
        environ={**environ, **more.pop("environ", {})},
        mounts=[*mounts, *more.pop("mounts", [])],
        user=of_container["runAsUser"],
        group=of_container["runAsGroup"],
        groups=[] if group is None else [group],
        **more,
    )


def _mount(
    mount: _Table,
    volume: _Table,
    files: Mapping[str, str] | None,
    folder: Path,
    group: int | None,
) -> Mount:
    """A volume with nothing to hold is an empty folder, as one of a missing Secret is."""
    if "emptyDir" in volume or "persistentVolumeClaim" in volume:
        return Mount(mount["mountPath"])
    source = folder / str(mount["name"])
    fill(source, volume, files or {}, group)
    return Mount(mount["mountPath"], source, writable=not mount["readOnly"])


def fill(source: Path, volume: _Table, files: Mapping[str, str], group: int | None) -> None:
    """Let a ConfigMap or Secret volume hold these files, under the mode and group that it says."""
    kind = volume.get("secret", volume.get("configMap"))
    atomically(source, files, mode=kind.get("defaultMode", 0o644))
    if group is not None:
        for path in source.rglob("*"):
            os.chown(path, 0, group, follow_symlinks=False)
