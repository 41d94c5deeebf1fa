"""A platform team's peers in a process of their own: many principals, registries and accounts.

Each answers 50 ms after it was asked, and AWS enforces its quota.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from grpc import StatusCode

from benchmarks.stand_ins import opened
from refresher.model import SecretValue
from refresher.sandbox.aws import AwsStandIn, Role
from refresher.sandbox.certificates import authority
from refresher.sandbox.fal import FalKey, FalStandIn
from refresher.sandbox.http import Fault, Request, Response
from refresher.sandbox.registry import RegistryStandIn
from refresher.sandbox.world import toml_table

#: Seconds until a peer answers.
ANSWER_SECONDS = 0.05
REGIONS = ("us-east-1", "us-west-2", "eu-west-1", "ap-south-1")
ROLES = 10
#: A role in a region, whose passwords are good for all of its registries.
PRINCIPALS = ROLES * len(REGIONS)
REGISTRIES = 40
FAL_ACCOUNTS = 40

#: Half of what it is in life, since the policy takes no share of it under 1/100.
TOKEN_LIFE = timedelta(hours=6)

_Tables = dict[str, Mapping[str, object]]


@dataclass(frozen=True, slots=True)
class Counts:
    """What the peers were asked so far."""

    #: Values that were written to fal.
    writes: int
    #: Passwords that AWS was asked for, and how many of these requests it throttled.
    issues: int
    throttled: int
    #: Requests to registries.
    visits: int


@dataclass(frozen=True, slots=True)
class Fleet:
    """The running peers, seen from outside."""

    environ: dict[str, str]
    #: A folder with `fleet.toml` in it.
    directory: Path
    _process: subprocess.Popen[str]

    @property
    def config(self) -> Path:
        return self.directory / "fleet.toml"

    def counts(self) -> Counts:
        """What was asked so far."""
        return Counts(**self._ask("counts"))

    def fal(self, *, up: bool) -> None:
        """Let fal answer, or be unavailable."""
        self._ask("up" if up else "down")

    def _ask(self, line: str) -> dict[str, Any]:
        print(line, file=opened(self._process.stdin), flush=True)
        told: dict[str, Any] = json.loads(opened(self._process.stdout).readline())
        return told


@contextmanager
def running(targets: int, policy: Mapping[str, str | float], workers: int) -> Iterator[Fleet]:
    """The peers and a configuration of so many targets, ended with the block."""
    command = [sys.executable, "-m", "benchmarks.fleet"]
    arguments = [str(targets), json.dumps(policy), str(workers)]
    with subprocess.Popen(
        [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        told: dict[str, Any] = json.loads(opened(process.stdout).readline())
        yield Fleet(told["environ"], Path(told["directory"]), process)
        opened(process.stdin).close()


# --- in the process of the peers ---------------------------------------------------------------


class _Aws(AwsStandIn):
    def answer(self, request: Request) -> Fault | Response:
        time.sleep(ANSWER_SECONDS)
        answer = super().answer(request)
        if isinstance(answer, Response) and b"ThrottlingException" in answer.body:
            self.calls["throttled"] += 1
        return answer


class _Registry(RegistryStandIn):
    visits = 0

    def answer(self, request: Request) -> Fault | Response:
        time.sleep(ANSWER_SECONDS)
        self.visits += 1
        return self.handle(request)


class _Peers:
    def __init__(self, stack: ExitStack) -> None:
        self.directory = Path(stack.enter_context(TemporaryDirectory(prefix="refresher-")))
        self._certificates = authority(self.directory / "tls", datetime.now(UTC))
        self._aws = stack.enter_context(_Aws())
        self._aws.token_life = TOKEN_LIFE
        for role in range(ROLES):
            self._aws.add_role(Role(_role(role)))
        self._registries = [stack.enter_context(self._registry(n)) for n in range(REGISTRIES)]
        self._keys = [FalKey(f"key-{n}", SecretValue(f"secret-{n}")) for n in range(FAL_ACCOUNTS)]
        self._fal = stack.enter_context(FalStandIn(self._certificates, keys=self._keys))
        self._fal.slow(ANSWER_SECONDS)

    def _registry(self, number: int) -> _Registry:
        judge = self._aws.passwords.judge
        host = f"{_owner(number)}.dkr.ecr.{REGIONS[0]}.amazonaws.com"
        return _Registry(host, lambda password: judge(password, datetime.now(UTC)))

    def environ(self) -> dict[str, str]:
        keys = {f"FAL_KEY_{n}": key.reveal() for n, key in enumerate(self._keys)}
        return {
            **self._aws.environ,
            **keys,
            "AWS_CONFIG_FILE": str(self.directory / "aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.directory / "aws-credentials"),
            "HOME": str(self.directory),
            "NO_PROXY": "127.0.0.1",
        }

    def tables(self, targets: int, policy: Mapping[str, str | float], workers: int) -> _Tables:
        daemon = {
            "listen": "127.0.0.1:0",
            "state": f"sqlite:///{self.directory / 'state' / 'refresher.db'}",
            "ca_bundle": str(self._certificates.ca_file),
            "workers": workers,
        }
        accounts = {
            f"fal.accounts.a{n}": {"key": {"env": f"FAL_KEY_{n}"}, "host": self._fal.host}
            for n in range(FAL_ACCOUNTS)
        }
        fleet = {f"targets.t{n}": self._target(n) for n in range(targets)}
        return {"daemon": daemon, "policy": policy, **accounts, **fleet}

    def _target(self, number: int) -> Mapping[str, object]:
        """Neighbours differ in everything, and each principal meets every registry."""
        role, region = number % ROLES, REGIONS[number % PRINCIPALS // ROLES]
        registry = number // PRINCIPALS % REGISTRIES
        return {
            "source": "ecr",
            "registry": f"{_owner(registry)}.dkr.ecr.{region}.amazonaws.com",
            "registry_url": self._registries[registry].url,
            "secret": f"PASSWORD_{number}",
            "account": f"a{(number + number // PRINCIPALS) % FAL_ACCOUNTS}",
            "aws": {"role_arn": _role(role)},
        }

    def obey(self, line: str) -> Mapping[str, int]:
        if line == "down":
            self._fal.fail(StatusCode.UNAVAILABLE, "upstream connect error")
        elif line == "up":
            self._fal.slow(ANSWER_SECONDS)
        return {
            "writes": len(self._fal.writes),
            "issues": self._aws.calls["GetAuthorizationToken"],
            "throttled": self._aws.calls["throttled"],
            "visits": sum(registry.visits for registry in self._registries),
        }


def _role(number: int) -> str:
    return f"arn:aws:iam::{200_000_000_000 + number}:role/fal-pull"


def _owner(registry: int) -> int:
    return 100_000_000_000 + registry


def _serve(targets: int, policy: Mapping[str, str | float], workers: int) -> None:
    """Until standard input ends: a line in, the counts out."""
    with ExitStack() as stack:
        peers = _Peers(stack)
        tables = peers.tables(targets, policy, workers)
        text = "\n".join(toml_table(name, keys) for name, keys in tables.items())
        (peers.directory / "fleet.toml").write_text(text)
        told = {"environ": peers.environ(), "directory": str(peers.directory)}
        print(json.dumps(told), flush=True)
        for line in sys.stdin:
            print(json.dumps(peers.obey(line.strip())), flush=True)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3]))
