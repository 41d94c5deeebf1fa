"""All stand-ins at once: a world in which the whole product runs and nothing leaves the machine."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

from refresher.sandbox.aws import ACCOUNT, AwsStandIn
from refresher.sandbox.certificates import Certificates, authority
from refresher.sandbox.dockerhub import DockerHubStandIn, Login
from refresher.sandbox.fal import SANDBOX_KEY, FalStandIn
from refresher.sandbox.google import GarStandIn, GoogleStandIn
from refresher.sandbox.google_keys import FOREVER
from refresher.sandbox.registry import BearerRegistryStandIn, RegistryStandIn

REGION = "us-east-1"
REGISTRY = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
GAR_HOST = "us-central1-docker.pkg.dev"
GAR_ACCOUNT = "puller@sandbox.iam.gserviceaccount.com"
OCI_HOST = "ghcr.io"
#: Who logs in to Docker Hub and to the OCI registry.
USER = "sandbox"
#: What each registry besides ECR has.
IMAGE = "sandbox/app:1"

#: The fal secret of the target of each kind whose credential only a person can replace.
STATIC_SECRETS: Mapping[str, str] = {
    "gar": "GOOGLE_AR_JSON_BASE64",
    "dockerhub": "DOCKERHUB_TOKEN",
    "oci": "GHCR_TOKEN",
}

#: Variables that would lead a program out of this world.
_LEADING_OUT = ("AWS_", "CLOUDSDK_", "FAL_", "GCE_", "GHCR_", "GOOGLE_", "GRPC_", "REFRESHER_")

_Table = Mapping[str, object]


class World:
    """AWS, a registry that accepts exactly the unexpired passwords of that AWS, and fal over TLS.

    Google, Docker Hub and the OCI registry start when they are first asked for, which a
    configuration of theirs does. Use it as a context manager; all are there within the block.
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
        key_life: timedelta | None = None,
        images: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        """`token_life`: how long passwords of ECR work; `key_life`: how long Google's key does,
        None for one without an end; `images`: repository to tags, of the ECR registry."""
        self._token_life = token_life
        self._key_life = key_life
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

    # --- what starts when asked for ------------------------------------------------------------

    @cached_property
    def google(self) -> GoogleStandIn:
        """Google, where `GAR_ACCOUNT` has the key that lies in `key_file`."""
        google = self._stack.enter_context(GoogleStandIn())
        google.add_account(GAR_ACCOUNT)
        end = FOREVER if self._key_life is None else datetime.now(UTC) + self._key_life
        _put(self.key_file, json.dumps(google.add_key(GAR_ACCOUNT, end), indent=2))
        return google

    @cached_property
    def gar(self) -> GarStandIn:
        """An Artifact Registry that takes what that Google calls good."""
        return self._stack.enter_context(GarStandIn(self.google.judge, _images(), GAR_HOST))

    @cached_property
    def hub(self) -> DockerHubStandIn:
        """Docker Hub, where `USER` may log in with the token that lies in `hub_token_file`."""
        hub = self._stack.enter_context(DockerHubStandIn({}, _images()))
        self._put_hub_token(hub)
        return hub

    @cached_property
    def oci(self) -> BearerRegistryStandIn:
        """A registry in the manner of GHCR, where `USER` may log in with `oci_token`."""
        accounts = {USER: self.oci_token}
        return self._stack.enter_context(
            BearerRegistryStandIn(OCI_HOST, accounts, _images(), "ghcr")
        )

    @cached_property
    def oci_token(self) -> str:
        """What the environment variable GHCR_TOKEN holds."""
        return f"ghp_{secrets.token_hex(18)}"

    @property
    def key_file(self) -> Path:
        return self.directory / "gar-key.json"

    @property
    def hub_token_file(self) -> Path:
        return self.directory / "dockerhub-token"

    def expire_hub_token(self) -> None:
        """Let Docker Hub refuse the token in its file from now on, as past its last day."""
        self.hub.logins[USER, self.hub_token_file.read_text("utf-8")] = Login.EXPIRED

    def replace_hub_token(self) -> None:
        """Do what a person does then: put a new token into the file."""
        self._put_hub_token(self.hub)

    def _put_hub_token(self, hub: DockerHubStandIn) -> None:
        token = f"dckr_pat_{secrets.token_urlsafe(20)}"
        hub.logins[USER, token] = Login.GOOD
        _put(self.hub_token_file, token)

    # --- how it is reached ---------------------------------------------------------------------

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
            "GHCR_TOKEN": self.oci_token,
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
        kinds: Iterable[str] = (),
        listen: str = "127.0.0.1:0",
        policy: Mapping[str, str | float] | None = None,
    ) -> str:
        """A configuration; `targets`: name to ECR host, by default one called `ecr`; `kinds`:
        those of `STATIC_SECRETS` of which there is a target, too, called like its kind.

        gRPC reads its roots file once in a process, so the authority is named here, too.
        """
        tables: dict[str, _Table] = {
            "daemon": {
                "listen": listen,
                "state": f"sqlite:///{self.directory / 'refresher.db'}",
                "ca_bundle": str(self.certificates.ca_file),
            },
            "fal": {"host": self.fal.host},
        }
        if policy:
            tables["policy"] = policy
        for name, registry in (targets or {"ecr": REGISTRY}).items():
            tables[f"targets.{name}"] = self._ecr_target(name, registry)
        for kind in kinds:
            tables |= self._tables_of(kind)
        return "\n".join(toml_table(name, keys) for name, keys in tables.items())

    def write_config(
        self,
        path: Path,
        targets: Mapping[str, str] | None = None,
        *,
        kinds: Iterable[str] = (),
        listen: str = "127.0.0.1:0",
        policy: Mapping[str, str | float] | None = None,
    ) -> Path:
        """Write `config_toml` to `path`, and return it."""
        text = self.config_toml(targets, kinds=kinds, listen=listen, policy=policy)
        path.write_text(text, "utf-8")
        return path

    def _ecr_target(self, name: str, registry: str) -> _Table:
        return {
            "source": "ecr",
            "registry": registry,
            "registry_url": self.registry.url,
            "secret": secret_name(name),
        }

    def _tables_of(self, kind: str) -> dict[str, _Table]:
        """The target of a static kind, and where its peers are."""
        made = {"gar": self._gar_tables, "dockerhub": self._hub_tables, "oci": self._oci_tables}
        return made[kind]()

    def _gar_tables(self) -> dict[str, _Table]:
        target = {
            "source": "gar",
            "registry": GAR_HOST,
            "registry_url": self.gar.url,
            "key": {"file": str(self.key_file)},
            "secret": STATIC_SECRETS["gar"],
            "image": IMAGE,
        }
        peers = {"token_uris": [self.google.token_uri], "certs_url": self.google.certs_url}
        return {"google": peers, "targets.gar": target}

    def _hub_tables(self) -> dict[str, _Table]:
        target = {
            "source": "dockerhub",
            "registry_url": self.hub.url,
            "username": USER,
            "password": {"file": str(self.hub_token_file)},
            "secret": STATIC_SECRETS["dockerhub"],
            "image": IMAGE,
        }
        return {"dockerhub": {"auth_url": self.hub.auth_url}, "targets.dockerhub": target}

    def _oci_tables(self) -> dict[str, _Table]:
        target = {
            "source": "oci",
            "registry": OCI_HOST,
            "registry_url": self.oci.url,
            "username": USER,
            "password": {"env": "GHCR_TOKEN"},
            "secret": STATIC_SECRETS["oci"],
            "image": IMAGE,
        }
        return {"targets.oci": target}

    def _judge(self, password: str) -> str:
        return self.aws.passwords.judge(password, datetime.now(UTC))


def secret_name(target: str) -> str:
    """The fal secret of an ECR target in our configurations: AWS_ECR_PASSWORD for `ecr`."""
    return f"AWS_{target.upper().replace('-', '_')}_PASSWORD"


def toml_table(name: str, keys: _Table) -> str:
    """A TOML table of strings, numbers, days, lists of them, and tables of one line."""
    lines = (f"{key} = {_toml(value)}" for key, value in keys.items())
    return "\n".join((f"[{name}]", *lines, ""))


def _toml(value: object) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's as well."""
    if isinstance(value, date):
        return value.isoformat()
    if not isinstance(value, Mapping):
        return json.dumps(value)
    return f"{{ {', '.join(f'{key} = {_toml(item)}' for key, item in value.items())} }}"


def _leads_out(name: str) -> bool:
    return name.startswith(_LEADING_OUT) or name.upper().endswith("_PROXY")


def _images() -> dict[str, list[str]]:
    repository, tag = IMAGE.split(":")
    return {repository: [tag]}


def _put(path: Path, value: str) -> None:
    """Write a credential, whole or not at all, for its owner only."""
    aside = path.with_name(f"{path.name}.new")
    aside.touch(0o600)
    aside.write_text(value, "utf-8")
    aside.replace(path)
