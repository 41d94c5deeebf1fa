"""A process in a file system of its own, as a container runtime would start it.

No engine is needed: a mount namespace, binds, `chroot` and `setpriv` do what an engine does with a
manifest. The file system is read-only but for the mounts, and the process has no capabilities.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers import ROOT, require, unavailable

#: Of this machine, where there is no image: its programs, our environment, and their Python.
_OURS = tuple(
    path
    for path in ("/usr", "/bin", "/lib", "/lib64", str(ROOT), sys.base_prefix)
    if Path(path).exists()
)


@dataclass(frozen=True)
class Mount:
    """What lies at a path of the container."""

    path: str
    #: A folder or file of this machine; None for an empty folder that anyone may write to.
    source: Path | None = None
    writable: bool = False


@dataclass(frozen=True)
class Container:
    """Everything that a manifest says about one."""

    command: Sequence[str]
    environ: Mapping[str, str]
    mounts: Sequence[Mount]
    user: int
    group: int
    #: Supplementary groups.
    groups: Sequence[int] = ()
    #: The file system of an image; None for this machine's programs.
    root: Path | None = None
    #: False for one that reaches nothing but itself.
    network: bool = True


@contextmanager
def started(container: Container, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Its process, killed at the end of the block; the log is `folder`/log. Skips without root."""
    require_namespaces()
    root = folder / "root"
    root.mkdir(parents=True)
    unshare = ["unshare", "--mount", *([] if container.network else ["--net"])]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*unshare, "sh", "-e", "-c", "\n".join(_script(container, str(root)))],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def require_namespaces() -> None:
    """Skip the test where no container can be made."""
    if os.geteuid() != 0:
        pytest.skip("only root makes a container")
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    if done.returncode != 0:
        unavailable("this machine lets nobody have a mount namespace")


def _script(container: Container, root: str) -> Iterator[str]:
    """The lines that end as the process itself, under the same process id."""
    if not container.network:
        yield f"{require('ip')} link set lo up"
    if container.root is None:
        yield f"mount -t tmpfs -o mode=755 none {root}"
        for path in _OURS:
            yield from _bind(path, root + path, writable=False)
    else:
        yield f"mount --bind {container.root} {root}"
    yield f"mkdir -p {root}/dev {root}/proc"
    yield f"mount --rbind /dev {root}/dev"
    yield f"mount --rbind /proc {root}/proc"
    for mount in container.mounts:
        yield from _mounted(mount, root)
    yield f"mount -o remount,bind,ro {root}"
    environ = [f"{name}={value}" for name, value in container.environ.items()]
    groups = ",".join(map(str, container.groups))
    yield shlex.join(
        [
            "exec", "chroot", root, "setpriv",
            f"--reuid={container.user}", f"--regid={container.group}",
            f"--groups={groups}" if groups else "--clear-groups",
            "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs",
            "env", "--ignore-environment", *environ, *container.command,
        ]
    )  # fmt: skip


def _mounted(mount: Mount, root: str) -> Iterator[str]:
    there = root + mount.path
    if mount.source is None:
        yield f"mkdir -p {there}"
        yield f"mount -t tmpfs -o mode=1777 none {there}"
        return
    yield from _bind(str(mount.source), there, writable=mount.writable)


def _bind(source: str, there: str, *, writable: bool) -> Iterator[str]:
    source, there = shlex.quote(source), shlex.quote(there)
    if Path(source).is_dir():
        yield f"mkdir -p {there}"
    else:
        yield f'mkdir -p "$(dirname {there})"; touch {there}'
    yield f"mount --bind {source} {there}"
    if not writable:
        yield f"mount -o remount,bind,ro {there}"


def within(process: subprocess.Popen[bytes], command: Sequence[str]) -> int:
    """The exit code of another command in the same container, as of a probe that is one."""
    enter = ["nsenter", f"--target={process.pid}", "--mount", "--net", "--root", "--wd"]
    return subprocess.run([*enter, *command], check=False, timeout=60).returncode


def stopped(process: subprocess.Popen[bytes], grace: float) -> tuple[int, float]:
    """Its exit code after SIGTERM, and the seconds that it took, at most those of its grace."""
    began = time.monotonic()
    process.terminate()
    return process.wait(grace), time.monotonic() - began


def atomically(folder: Path, files: Mapping[str, str], *, mode: int = 0o644) -> None:
    """Let a mounted Secret or ConfigMap hold these files, as the kubelet does it.

    They lie in a folder with the time in its name; `..data` leads there, and is put in the place
    of the old one with one rename.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = folder / f"..{time.time_ns()}"
    real.mkdir()
    for name, value in files.items():
        path = real / name
        path.write_text(value)
        path.chmod(mode)
        link = folder / name
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")
    before = (folder / "..data").resolve() if (folder / "..data").is_symlink() else None
    aside = folder / "..data_tmp"
    aside.symlink_to(real.name)
    aside.replace(folder / "..data")
    if before is not None:
        for path in before.iterdir():
            path.unlink()
        before.rmdir()
