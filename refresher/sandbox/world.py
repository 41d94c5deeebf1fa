"""All stand-ins at once: a world in which the whole product runs and nothing leaves the machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from refresher.sandbox.aws import ACCOUNT, AwsStandIn
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.fal import SANDBOX_KEY, FalStandIn
from refresher.sandbox.registry import RegistryStandIn

REGION = "us-east-1"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"

#: Variables that would lead a program out of this world.
_LEADING_OUT = ("AWS_", "FAL_", "GRPC_", "REFRESHER_")


class World:
    """AWS, a registry that accepts exactly the unexpired passwords of that AWS, and fal over TLS.

    Use it as a context manager; the stand-ins are there within the block.
    """

    aws: AwsStandIn
    registry: RegistryStandIn
    fal: FalStandIn
    certificates: Certificates
    #: A folder of its own, gone at the end; the state of a written configuration lies in it.
    directory: Path

    def __init__(
        self,
        *,
        token_life: timedelta = timedelta(hours=12),
        images: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """`token_life`: how long issued passwords work; `images`: repository to tags."""
        self._token_life = token_life
        self._images = images
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.directory = Path(stack.enter_context(TemporaryDirectory(prefix="refresher-")))
            self.certificates = authority(self.directory / "tls", datetime.now(UTC))
            self.aws = stack.enter_context(AwsStandIn())
            self.aws.token_life = self._token_life
            self.registry = stack.enter_context(
                RegistryStandIn(REGISTRY, self._judge, self._images)
            )
            self.fal = stack.enter_context(FalStandIn(self.certificates))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def environ(self) -> dict[str, str]:
        """The environment variables that send every client to the stand-ins."""
        return {
            **self.aws.environ,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,  # the AWS CLI reads this one
            "AWS_CONFIG_FILE": str(self.directory / "aws-config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(self.directory / "aws-credentials"),
            "FAL_KEY": SANDBOX_KEY.reveal(),
            "FAL_GRPC_HOST": self.fal.host,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(self.certificates.ca_file),
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
        }

    def over(self, environ: Mapping[str, str]) -> dict[str, str]:
        """An environment with whatever leads out of this world taken away, and ours put in."""
        kept = {name: value for name, value in environ.items() if not _leads_out(name)}
        return {**kept, **self.environ}

    def config_toml(
        self,
        targets: Mapping[str, str] | None = None,
        *,
        listen: str = "127.0.0.1:0",
        policy: Mapping[str, str | float] | None = None,
    ) -> str:
        """A configuration; `targets`: name to ECR host, by default one called `ecr`.

        gRPC reads its roots file once in a process, so the authority is named here, too.
        """
        daemon = {
            "listen": listen,
            "state": f"sqlite:///{self.directory / 'refresher.db'}",
            "ca_bundle": str(self.certificates.ca_file),
        }
        tables = [_table("daemon", daemon), _table("fal", {"host": self.fal.host})]
        if policy:
            tables.append(_table("policy", policy))
        for name, registry in (targets or {"ecr": REGISTRY}).items():
            tables.append(_table(f"targets.{name}", self._target(name, registry)))
        return "\n".join(tables)

    def write_config(
        self,
        path: Path,
        targets: Mapping[str, str] | None = None,
        *,
        listen: str = "127.0.0.1:0",
        policy: Mapping[str, str | float] | None = None,
    ) -> Path:
        """Write `config_toml` to `path`, and return it."""
        path.write_text(self.config_toml(targets, listen=listen, policy=policy), "utf-8")
        return path

    def _target(self, name: str, registry: str) -> dict[str, str]:
        return {
            "source": "ecr",
            "registry": registry,
            "registry_url": self.registry.url,
            "secret": secret_name(name),
        }

    def _judge(self, password: str) -> str:
        return self.aws.passwords.judge(password, datetime.now(UTC))


def secret_name(target: str) -> str:
    """The fal secret of a target in our configurations: AWS_ECR_PASSWORD for `ecr`."""
    return f"AWS_{target.upper().replace('-', '_')}_PASSWORD"


def _leads_out(name: str) -> bool:
    return name.startswith(_LEADING_OUT) or name.upper().endswith("_PROXY")


def _table(name: str, keys: Mapping[str, str | float]) -> str:
    """A TOML table; JSON's strings and numbers are TOML's as well."""
    lines = (f"{key} = {json.dumps(value)}" for key, value in keys.items())
    return "\n".join((f"[{name}]", *lines, ""))
