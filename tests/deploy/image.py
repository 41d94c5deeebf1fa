"""An image of ours, from the Dockerfile by a real builder, with no engine and no registry."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from refresher import __version__
from tests.peers import ROOT, require, unavailable

BASE = "localhost/base"
NAME = f"localhost/refresher:{__version__}"
AUTHORITIES = Path("/etc/ssl/certs/ca-certificates.crt")
#: What the base has besides a minimal Debian: what the image needs, and what a host of it has.
PACKAGES = ("python3", "python3-venv", "systemd", "dbus")

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


def make(folder: Path) -> None:
    """As `make image` builds it, on a base that is made from this machine's own mirrors."""
    for program in ("buildah", "debootstrap", "apt-get"):
        require(program)
    if os.geteuid() != 0:
        pytest.skip("only root makes a base image")
    builder = Builder(folder)
    base = folder / "base"
    suite, mirror = _mirror()
    include = f"--include={','.join(PACKAGES)}"
    builder.run([require("debootstrap"), "--variant=minbase", include, suite, str(base), mirror])
    scratch = builder.do("from", "scratch")
    builder.do("copy", "--quiet", scratch, str(base), "/")
    builder.do("commit", "--quiet", "--rm", scratch, BASE)

    (folder / "pip.conf").write_text(pip_conf())
    secrets = {"pip.conf": folder / "pip.conf", "ca.pem": AUTHORITIES}
    flags = [
        "--format=docker",  # the one of the two formats that knows HEALTHCHECK
        f"--build-arg=BASE={BASE}",
        *(f"--secret=id={name},src={path}" for name, path in secrets.items() if path.exists()),
    ]
    builder.run(["make", "image", "DOCKER=buildah", f"IMAGE_FLAGS={' '.join(flags)}"])


@contextmanager
def container(folder: Path) -> Iterator[Image]:
    """A container of what was made there."""
    builder = Builder(folder)
    name = builder.do("from", NAME)
    try:
        yield Image(builder, name, Path(builder.do("mount", name)), folder / "base")
    finally:
        builder.do("rm", name)


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


def pip_conf() -> str:
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
