"""From a configuration to targets: who is asked, who proves it, and what makes it another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, date, datetime, timedelta

import pytest

from refresher.clock import ManualClock, Skews
from refresher.config import parse
from refresher.errors import ConfigError
from refresher.model import ImageRef, RegistryRef, SecretRef, Target
from refresher.registry import HubVerifier, RegistryVerifier
from refresher.sandbox.world import toml_table
from refresher.sources.ecr import EcrPublicSource, EcrSource
from refresher.sources.gar import GarKeySource, GarKeyVerifier, GarTokenSource
from refresher.sources.static import StaticSource
from refresher.targets import Parts, build

Keys = dict[str, object]
Build = Callable[..., dict[str, Target]]

ECR: Keys = {
    "source": "ecr",
    "registry": "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    "secret": "ECR",
}
ECR_PUBLIC: Keys = {"source": "ecr-public", "secret": "ECR_PUBLIC"}
GAR: Keys = {
    "source": "gar",
    "registry": "us-central1-docker.pkg.dev",
    "key": {"file": "/run/secrets/gar.json"},
    "secret": "GAR",
}
GAR_TOKEN: Keys = {**GAR, "mode": "token"}
HUB: Keys = {
    "source": "dockerhub",
    "username": "me",
    "password": {"env": "HUB_TOKEN"},
    "secret": "HUB",
}
OCI: Keys = {
    "source": "oci",
    "registry": "ghcr.io",
    "username": "me",
    "password": {"env": "GHCR_TOKEN"},
    "secret": "OCI",
}
ACCOUNT = toml_table("fal.accounts.other", {"key": {"env": "FAL_KEY"}})


@pytest.fixture
def built(clock: ManualClock, skews: Skews) -> Iterator[Build]:
    """Builds the targets of a configuration of these tables."""
    with ExitStack() as stack:

        def build_these(more: str = "", **targets: Keys) -> dict[str, Target]:
            tables = [toml_table(f"targets.{name}", keys) for name, keys in targets.items()]
            text = "\n".join([toml_table("daemon", {"state": "sqlite://"}), *tables, more])
            config = parse(text, "refresher.toml", {}, follow="nothing")
            parts = stack.enter_context(closing(Parts(config, clock, skews)))
            return build(config, parts)

        yield build_these


@pytest.mark.parametrize(
    ("keys", "classes", "host", "username"),
    [
        (ECR, (EcrSource, RegistryVerifier), ECR["registry"], "AWS"),
        (ECR_PUBLIC, (EcrPublicSource, RegistryVerifier), "public.ecr.aws", "AWS"),
        (GAR, (GarKeySource, GarKeyVerifier), GAR["registry"], "_json_key_base64"),
        (GAR_TOKEN, (GarTokenSource, RegistryVerifier), GAR["registry"], "oauth2accesstoken"),
        (HUB, (StaticSource, HubVerifier), "registry-1.docker.io", "me"),
        (OCI, (StaticSource, RegistryVerifier), "ghcr.io", "me"),
    ],
    ids=["ecr", "ecr-public", "gar", "gar-token", "dockerhub", "oci"],
)
def test_a_kind_has_its_source_verifier_registry_and_username(
    built: Build, keys: Keys, classes: tuple[type, type], host: str, username: str
) -> None:
    """The table from a source's name to its classes, and where each is reached unless told."""
    target = built(one=keys)["one"]

    assert (type(target.source), type(target.verifier)) == classes
    assert target.registry == RegistryRef(host, f"https://{host}")
    assert (target.kind, target.username) == (keys["source"], username)
    assert target.secrets == (SecretRef("default", "main", str(keys["secret"])),)
    assert target.renewable == (classes[0] in (EcrSource, EcrPublicSource, GarTokenSource))
    assert (target.image, target.enabled, target.verify_always) == (None, True, False)
    assert target.default_exposed is None


def test_what_is_configured_is_what_is_built(built: Build) -> None:
    """Each key of a target that is not its source's reaches the target."""
    keys = {
        **OCI,
        "registry_url": "http://127.0.0.1:5000/",
        "image": "ghcr.io/team/app@sha256:" + "a" * 64,
        "environments": ["main", "staging"],
        "account": "other",
        "verify": "always",
        "default_exposed": False,
        "enabled": False,
    }

    target = built(ACCOUNT, one=keys)["one"]

    assert target.registry == RegistryRef("ghcr.io", "http://127.0.0.1:5000")
    assert target.image == ImageRef("team/app", "sha256:" + "a" * 64)
    assert target.secrets == tuple(SecretRef("other", env, "OCI") for env in ("main", "staging"))
    assert (target.verify_always, target.default_exposed, target.enabled) == (True, False, False)


def test_numbers_come_from_the_target_then_the_policy_then_the_kind(built: Build) -> None:
    """Docker Hub is checked every 6 h, the others every hour, unless somebody says otherwise."""
    own = {**OCI, "secret": "OWN", "policy": {"check_interval": "2h"}}

    as_is = built(hub=HUB, oci=OCI, gar=GAR)
    told = built(toml_table("policy", {"check_interval": "3h"}), hub=HUB, oci=OCI, own=own)

    def hours(targets: dict[str, Target]) -> dict[str, float]:
        hour = timedelta(hours=1)
        return {name: target.policy.check_interval / hour for name, target in targets.items()}

    assert hours(as_is) == {"hub": 6, "oci": 1, "gar": 1}
    assert hours(told) == {"hub": 3, "oci": 3, "own": 2}


def test_the_end_that_a_person_names_is_the_credentials(
    built: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`expires_on` ends with the first second of its day, in UTC."""
    monkeypatch.setenv("HUB_TOKEN", "token")
    target = built(hub={**HUB, "expires_on": date(2027, 3, 1)})["hub"]

    credential = target.source.obtain(datetime(2026, 11, 23, tzinfo=UTC))

    assert credential.expires_at == datetime(2027, 3, 1, tzinfo=UTC)


# --- identity ----------------------------------------------------------------------------------


def told(keys: Keys) -> str:
    """A target by its kind, a change by its keys."""
    return str(keys["source"]) if "secret" in keys and "source" in keys else "-".join(keys)


@pytest.mark.parametrize(
    ("keys", "change"),
    [
        (ECR, {"registry": "123456789012.dkr.ecr.eu-west-2.amazonaws.com"}),
        (ECR, {"aws": {"role_arn": "arn:aws:iam::123456789012:role/pull"}}),
        (ECR, {"aws": {"profile": "ci"}}),
        (ECR, {"secret": "ANOTHER"}),
        (ECR, {"environments": ["staging"]}),
        (ECR, {"environments": ["main", "staging"]}),
        (ECR, {"account": "other"}),
        (GAR, {"registry": "europe-docker.pkg.dev"}),
        (GAR, {"username": "_json_key"}),
        (GAR, {"key": {"env": "GAR_KEY"}}),
        (GAR, {"mode": "token"}),
        (GAR_TOKEN, {"impersonate": "a@project.iam.gserviceaccount.com"}),
        (HUB, {"username": "you"}),
        (HUB, {"password": {"env": "OTHER_TOKEN"}}),
        (OCI, {"registry": "quay.io"}),
        (OCI, {"source": "dockerhub", "registry": "docker.io"}),
    ],
    ids=told,
)
def test_another_identity_has_another_digest(built: Build, keys: Keys, change: Keys) -> None:
    """Source, registry, principal, username, secret, environments or account: `config_changed`."""
    assert digest(built, keys) != digest(built, {**keys, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"image": "team/app:2"},
        {"policy": {"check_interval": "5m", "retry_first": "1s"}},
        {"enabled": False},
        {"verify": "always"},
        {"default_exposed": True},
        {"registry_url": "http://127.0.0.1:5000"},
    ],
    ids=told,
)
@pytest.mark.parametrize("keys", [ECR, GAR, HUB, OCI], ids=told)
def test_what_is_no_identity_leaves_the_digest(built: Build, keys: Keys, change: Keys) -> None:
    """The same credential, looked at in another way, is not published again."""
    assert digest(built, keys) == digest(built, {**keys, **change})


def test_the_digest_is_of_what_is_meant(built: Build) -> None:
    """Neither the target's name, nor an order, nor a default that is written out changes it."""
    keys = {**HUB, "environments": ["main", "staging"]}
    same = {
        **HUB,
        "environments": ["staging", "main"],
        "registry": "index.docker.io",
        "account": "default",
    }
    assert digest(built, keys) == built(renamed=same)["renamed"].digest


def test_no_value_is_in_the_digest(built: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is stored, so it knows where a credential is kept and not what it is."""
    monkeypatch.setenv("HUB_TOKEN", "one")
    before = digest(built, HUB)
    monkeypatch.setenv("HUB_TOKEN", "two")
    assert digest(built, HUB) == before


def digest(built: Build, keys: Keys) -> str:
    return built(ACCOUNT, one=keys)["one"].digest


# --- what cannot be built ----------------------------------------------------------------------


def test_all_problems_are_told_together_with_their_paths(built: Build) -> None:
    """What only a source or a registry can see: hosts and images, each on a line of its own."""
    with pytest.raises(ConfigError) as refused:
        built(
            ecr={**ECR, "registry": "ecr.example.com"},
            gar={**GAR, "image": "Team/App"},
            good=OCI,
            hub={**HUB, "image": "ghcr.io/team/app:1"},
            oci={**OCI, "secret": "OCI_2", "image": "team/app@sha256:12"},
        )

    ecr, gar, hub, oci = refused.value.problems
    for problem, path, words in (
        (ecr, "ecr.registry", '"ecr.example.com" is no ECR registry; expected a host such as 1234'),
        (gar, "gar.image", "'Team/App' is not a repository name; lower-case letters, digits"),
        (hub, "hub.image", "is on ghcr.io, its target on registry-1.docker.io; for a repository"),
        (oci, "oci.image", "'sha256:12' is not a digest such as sha256:"),
    ):
        assert problem.startswith(f"refresher.toml: targets.{path}: ")
        assert words in problem


def test_google_is_loaded_only_where_it_is_needed(clock: ManualClock, skews: Skews) -> None:
    """Its libraries take megabytes, which a configuration without it does not pay."""
    config = parse(
        toml_table("targets.one", OCI), "refresher.toml", {"HOME": "/"}, follow="nothing"
    )
    with closing(Parts(config, clock, skews)) as parts:
        build(config, parts)
        assert "google" not in vars(parts)
        assert parts.google is parts.google


def _ecr(secret: str, registry: str) -> Keys:
    return {**ECR, "secret": secret, "registry": registry}


def test_targets_of_one_principal_and_region_share_their_source(built: Build) -> None:
    """Whatever the registry: ten thousand targets have a few principals, numbers and registries."""
    role = {"role_arn": "arn:aws:iam::123456789012:role/pull"}
    targets = built(
        one=ECR,
        other=_ecr("B", "210987654321.dkr.ecr.eu-west-1.amazonaws.com"),
        elsewhere=_ecr("C", "123456789012.dkr.ecr.us-east-1.amazonaws.com"),
        another={**ECR, "secret": "D", "aws": role},
    )
    one, other = targets["one"], targets["other"]
    assert one.source is other.source
    assert one.policy is targets["another"].policy
    assert one.registry is targets["another"].registry
    assert len({id(target.source) for target in targets.values()}) == 3


def test_a_quota_is_one_of_an_account_and_region(built: Build) -> None:
    """Whatever role of the account asks."""
    roles = [
        f"arn:aws:iam::{account}:role/{name}"
        for account, name in (("123456789012", "a"), ("123456789012", "b"), ("210987654321", "a"))
    ]
    targets = built(
        **{
            f"t{n}": {**ECR, "secret": f"S{n}", "aws": {"role_arn": role}}
            for n, role in enumerate(roles)
        },
        ours=ECR,
        hub=HUB,
    )
    quotas = {name: target.source.quota for name, target in targets.items()}
    assert quotas["t0"] == quotas["t1"] == "ecr eu-west-1 123456789012"
    assert quotas["t2"] == "ecr eu-west-1 210987654321"
    assert quotas["ours"] == "ecr eu-west-1 of the environment"
    assert quotas["hub"] is None
