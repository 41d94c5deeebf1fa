"""Targets that share nothing: each refresh of each is a whole one."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from benchmarks.stand_ins import StandIns
from refresher.sandbox.aws import ACCOUNT
from refresher.sandbox.world import secret_name, toml_table


@contextmanager
def daemon(
    stand_ins: StandIns, targets: int, fal_accounts: int, workers: int = 8
) -> Iterator[psutil.Popen]:
    """`refresher run`, each target published once and ready for signals, ended with the block.

    fal takes 20 writes a second from one account.
    """
    path = stand_ins.directory / "wide.toml"
    path.write_text(_config(stand_ins, targets, fal_accounts, workers))
    command = [sys.executable, "-m", "refresher", "--config", str(path), "run"]
    with (stand_ins.directory / "log").open("wb") as log:
        process = psutil.Popen(command, env=stand_ins.environ, stdout=log, stderr=log)
    try:
        wait_for(process, stand_ins, targets)
        yield process
    finally:
        process.terminate()
        process.wait()


def wait_for(process: psutil.Popen, stand_ins: StandIns, writes: int) -> None:
    """Return once fal has so many."""
    until = time.monotonic() + 60
    while stand_ins.writes() < writes:
        require_alive(process)
        if time.monotonic() > until:
            raise TimeoutError("the daemon did not write its secrets in 60 s")
        time.sleep(0.01)


def require_alive(process: psutil.Popen) -> None:
    """Raises `RuntimeError` where it ended."""
    if process.poll() is not None:
        raise RuntimeError(f"the daemon ended with {process.poll()}")


def _config(stand_ins: StandIns, targets: int, fal_accounts: int, workers: int) -> str:
    key, host = {"env": "FAL_KEY"}, stand_ins.environ["FAL_GRPC_HOST"]
    tables: dict[str, dict[str, object]] = {
        "daemon": {
            "listen": "127.0.0.1:0",
            "state": f"sqlite:///{stand_ins.directory / 'state' / 'refresher.db'}",
            "ca_bundle": stand_ins.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"],
            "workers": workers,
        }
    }
    for n in range(fal_accounts):
        tables[f"fal.accounts.a{n}"] = {"key": key, "host": host}
    for n in range(targets):
        tables[f"targets.ecr-{n}"] = {
            "source": "ecr",
            "registry": f"{ACCOUNT}.dkr.ecr.us-east-{n + 1}.amazonaws.com",
            "registry_url": stand_ins.registry_url,
            "secret": secret_name(f"ecr-{n}"),
            "account": f"a{n % fal_accounts}",
        }
    return "\n".join(toml_table(name, keys) for name, keys in tables.items())
