"""The unit under a real systemd, booted in a container of its own on this machine's network."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.deploy.container import require_namespaces
from tests.deploy.image import Image
from tests.deploy.inside import Inside, answer
from tests.peers import ROOT, require, running
from tests.world import wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

FOLDER = ROOT / "config" / "systemd"
UNIT = FOLDER / "refresher.service"
BOOT_SECONDS = 90.0


@dataclass(frozen=True)
class Machine:
    """A booted container."""

    process: subprocess.Popen[bytes]
    root: Path

    def do(self, *command: str) -> str:
        """What a command prints inside."""
        (init,) = psutil.Process(self.process.pid).children()
        enter = ["nsenter", f"--target={init.pid}", "--all", "--", *command]
        done = subprocess.run(enter, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout.strip()

    def show(self) -> dict[str, str]:
        """What systemd knows of the service."""
        lines = self.do("systemctl", "show", UNIT.name).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    @property
    def main(self) -> psutil.Process:
        """The daemon, as this machine sees it."""
        (init,) = psutil.Process(self.process.pid).children()
        (found,) = (each for each in init.children() if "refresher" in " ".join(each.cmdline()))
        return found


@contextmanager
def booted(image: Image, world: Inside, folder: Path) -> Iterator[Machine]:
    """The file system of the image, with systemd as its first process and our unit enabled."""
    nspawn = require("systemd-nspawn")
    root = folder / "machine"
    subprocess.run(["cp", "--archive", image.root, root], check=True)
    _install(root, world)
    command = [
        nspawn, "--quiet", "--register=no", "--keep-unit", f"--directory={root}", "--boot",
        "--resolv-conf=off", "--timezone=off", "--console=pipe",
    ]  # fmt: skip
    try:
        with running(command, folder / "log") as process:
            yield Machine(process, root)
    finally:
        subprocess.run(["rm", "--recursive", "--force", root], check=True)


def _install(root: Path, world: Inside) -> None:
    """What docs/deploy.md says, and the way to the stand-ins."""
    environ = {**world.leading_in, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/etc/refresher/ca.pem"}
    del environ["PATH"]
    text = world.adapted((FOLDER / "refresher.toml").read_text())
    files = {
        "etc/refresher/refresher.toml": text.replace(
            "/run/secrets/refresher/ca.pem", "/etc/refresher/ca.pem"
        ),
        "etc/refresher/ca.pem": world.credentials["ca.pem"],
        "etc/refresher/credentials/fal-key": world.credentials["fal-key"],
        f"etc/systemd/system/{UNIT.name}": UNIT.read_text(),
        f"etc/systemd/system/{UNIT.name}.d/sandbox.conf": _drop_in(environ),
    }
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    (root / "etc/refresher/credentials/fal-key").chmod(0o600)
    (root / "etc/refresher/credentials").chmod(0o700)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    (wants / UNIT.name).symlink_to(f"../{UNIT.name}")


def _drop_in(environ: Mapping[str, str]) -> str:
    """A watchdog that nobody must wait for, besides."""
    lines = (f'Environment="{name}={value}"' for name, value in environ.items())
    return "\n".join(("[Service]", "WatchdogSec=8", *lines, ""))


def test_systemd_starts_bounds_watches_and_stops_it(image: Image, tmp_path: Path) -> None:
    """READY makes it active, its bounds are in force, a standstill restarts it, stop is clean."""
    require_namespaces()
    with Inside() as world, booted(image, world, tmp_path) as machine:
        wait_for(lambda: world.secret is not None, "a publish", BOOT_SECONDS)
        wait_for(lambda: machine.show().get("ActiveState") == "active", "READY=1")
        assert answer(f"{world.url}/readyz") == 200
        shown = machine.show()
        assert (shown["Type"], shown["SubState"]) == ("notify", "running")
        assert (shown["StatusErrno"], shown["NRestarts"]) == ("0", "0")

        main = machine.main
        assert main.uids().real >= 61184
        status = Path(f"/proc/{main.pid}/status").read_text()
        assert set(re.findall(r"^Cap(?:Prm|Eff|Bnd):\s+(\w+)", status, re.MULTILINE)) == {"0" * 16}
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        assert re.search(r"^Seccomp:\t2$", status, re.MULTILINE)
        assert (machine.root / "var/lib/private/refresher/refresher.db").exists()
        within = Path(f"/proc/{main.pid}/root")
        key = within / "run/credentials/refresher.service/fal-key"
        assert key.stat().st_uid == main.uids().real
        assert not os.access(within / "root/.ssh", os.F_OK)

        before = world.secret
        machine.do("systemctl", "reload", UNIT.name)
        assert machine.show()["ReloadResult"] == "success"
        wait_for(lambda: "config.reloaded" in machine.do("journalctl", "-u", UNIT.name), "a reload")
        machine.do("systemctl", "kill", "--signal=SIGUSR1", UNIT.name)
        wait_for(lambda: world.secret != before, "a refresh by signal")

        main.suspend()
        wait_for(lambda: machine.show().get("NRestarts") == "1", "a restart by the watchdog")
        wait_for(lambda: machine.show().get("ActiveState") == "active", "READY=1 once more")

        machine.do("systemctl", "stop", UNIT.name)
        shown = machine.show()
        assert (shown["ActiveState"], shown["Result"]) == ("inactive", "success")
        assert (shown["ExecMainCode"], shown["ExecMainStatus"]) == ("1", "0")
