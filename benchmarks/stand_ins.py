"""The stand-ins in a process of their own, so that what they cost is nobody else's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from refresher.sandbox.aws import ACCOUNT
from refresher.sandbox.world import World

#: With a target in each, none shares another's password and each refresh is a whole one.
REGIONS = (
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
    "eu-west-1",
    "eu-west-2",
    "eu-central-1",
    "ap-south-1",
    "ap-northeast-1",
    "sa-east-1",
)


@dataclass(frozen=True, slots=True)
class StandIns:
    """The running stand-ins, seen from outside."""

    #: The whole environment of a program that is to find them and nothing else.
    environ: dict[str, str]
    registry_url: str
    #: Configuration of the targets.
    config: Path
    targets: int
    #: A folder for whatever a measured program writes.
    directory: Path
    _process: subprocess.Popen[str]

    def writes(self) -> int:
        """How many values were written to fal so far."""
        print("writes", file=opened(self._process.stdin), flush=True)
        return int(opened(self._process.stdout).readline())


@contextmanager
def running(targets: int, regions: int) -> Iterator[StandIns]:
    """The stand-ins and a configuration of so many targets, ended with the block."""
    command = [sys.executable, "-m", "benchmarks.stand_ins", str(targets), str(regions)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        told: dict[str, Any] = json.loads(opened(process.stdout).readline())
        directory = Path(told["directory"])
        yield StandIns(
            environ={"PATH": os.environ["PATH"], "HOME": str(directory), **told["environ"]},
            registry_url=told["registry_url"],
            config=directory / "refresher.toml",
            targets=targets,
            directory=directory,
            _process=process,
        )
        opened(process.stdin).close()


def opened(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


def _serve(count: int, regions: Sequence[str]) -> None:
    """Until standard input ends: a line in, the number of writes out."""
    with World() as world:
        world.aws.rate = world.aws.burst = 1e6  # the quota is not what is measured
        targets = {
            f"ecr-{n}": f"{ACCOUNT}.dkr.ecr.{regions[n % len(regions)]}.amazonaws.com"
            for n in range(count)
        }
        world.write_config(world.directory / "refresher.toml", targets)
        told = {
            "environ": world.environ,
            "registry_url": world.registry.url,
            "directory": str(world.directory),
        }
        print(json.dumps(told), flush=True)
        for _ in sys.stdin:
            print(len(world.fal.writes), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), REGIONS[: int(sys.argv[2])])
