"""File and environment to a frozen, validated model; every problem with its path in the file."""

from refresher.config.checks import active, check_references, policy_of, references
from refresher.config.loading import Follow, build, load, parse, tables
from refresher.config.root import Config
from refresher.config.sections import Account, Daemon, DockerHub, Fal, Google, PolicySettings
from refresher.config.showing import effective, schema
from refresher.config.targets import (
    AnyTarget,
    Aws,
    DockerHubTarget,
    EcrPublicTarget,
    EcrTarget,
    GarTarget,
    OciTarget,
)
from refresher.config.values import (
    Context,
    format_duration,
    is_loopback,
    parse_duration,
    split_authority,
)

__all__ = [
    "Account",
    "AnyTarget",
    "Aws",
    "Config",
    "Context",
    "Daemon",
    "DockerHub",
    "DockerHubTarget",
    "EcrPublicTarget",
    "EcrTarget",
    "Fal",
    "Follow",
    "GarTarget",
    "Google",
    "OciTarget",
    "PolicySettings",
    "active",
    "build",
    "check_references",
    "effective",
    "format_duration",
    "is_loopback",
    "load",
    "parse",
    "parse_duration",
    "policy_of",
    "references",
    "schema",
    "split_authority",
    "tables",
]
