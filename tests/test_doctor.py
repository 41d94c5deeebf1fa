"""Everything but the write: whatever is broken gets its cause and its fix, and nothing changes."""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest

from refresher import config
from refresher.clock import Clock, ManualClock, SystemClock
from refresher.discovery import discover
from refresher.doctor import Check, Doctor, unusable
from refresher.doctor.fixes import Topic, fix_for
from refresher.engine import Engine
from refresher.errors import ConfigError, FailureReason
from refresher.model import Actor
from refresher.sandbox.aws import Role
from refresher.sandbox.certificates import authority
from refresher.sandbox.fal import SANDBOX_KEY, WRITE, FalStandIn, StoredSecret
from refresher.sandbox.http import Fault, Response, closed_port
from refresher.sandbox.world import GAR_ACCOUNT, IMAGE, REGISTRY, World
from tests.awsenv import OffsetClock, isolate

ROLE = "arn:aws:iam::123456789012:role/fal-pull"
KINDS = ("gar", "dockerhub", "oci")


@dataclass
class Bench:
    """A world, the configuration that leads to it, and a hand on the environment."""

    world: World
    path: Path
    environ: pytest.MonkeyPatch
    stack: ExitStack
    clock: Clock

    def edit(self, old: str, new: str) -> None:
        """Change the configuration."""
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    def append(self, text: str) -> None:
        self.path.write_text(f"{self.path.read_text()}\n{text}\n")

    def load(self) -> config.Config:
        return config.load(self.path, os.environ, follow="nothing")

    def doctor(self, **options: object) -> Doctor:
        made = Doctor(self.load(), clock=self.clock, **options)  # type: ignore[arg-type]
        self.stack.callback(made.close)
        return made

    def look(self, target: str, **options: object) -> dict[str, Check]:
        """Every check of a target and of the machine, by name."""
        doctor = self.doctor(**options)
        checks = [*doctor.machine(), *doctor.target(target), doctor.clock()]
        return {check.name: check for check in checks}

    def keep(self) -> None:
        """One pass of the product over all targets."""
        engine = Engine(config.load(self.path, os.environ), clock=SystemClock())
        try:
            engine.take_up()
            ids = engine.control.refresh(list(engine.targets), Actor.CLI)
            engine.scheduler.run_once(ids, threading.Event())
        finally:
            engine.close(5)

    @property
    def state(self) -> Path:
        return self.world.directory / "refresher.db"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """One target of each kind, and nothing is broken."""
    isolate(monkeypatch, tmp_path)
    with World(images={"team/app": ["1"]}) as world, ExitStack() as stack:
        path = world.write_config(tmp_path / "refresher.toml", kinds=KINDS)
        for name, value in world.environ.items():
            monkeypatch.setenv(name, value)
        yield Bench(world, path, monkeypatch, stack, SystemClock())


# --- all is well -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["ecr", *KINDS])
@pytest.mark.parametrize("kept", [False, True], ids=["before the first run", "after it"])
def test_nothing_is_broken_where_nothing_is(bench: Bench, target: str, kept: bool) -> None:
    """Of every kind; what nobody can know yet is no fault."""
    if kept:
        bench.keep()
    checks = bench.look(target)
    assert [check for check in checks.values() if check.ok is False] == []
    for name in ("references", "credential", "registry", "fal key", "reach fal", "clock"):
        assert checks[name].ok is True, checks[name]
    assert checks["secret main"].ok is (True if kept else None)
    assert checks["state"].ok is (True if kept else None)


def test_nothing_is_written(bench: Bench) -> None:
    """Neither to fal nor to the state, whatever is found."""
    bench.keep()
    writes, state = len(bench.world.fal.writes), bench.state.read_bytes()
    bench.world.expire_hub_token()
    bench.world.fal.secrets.pop(("main", "AWS_ECR_PASSWORD"))
    doctor = bench.doctor()
    every = [check for name in ("ecr", *KINDS) for check in doctor.target(name)]
    assert any(check.ok is False for check in every)
    assert len(bench.world.fal.writes) == writes
    assert bench.state.read_bytes() == state


def test_before_the_first_run_not_even_a_file_is_made(bench: Bench) -> None:
    """A state that is not there stays so."""
    bench.look("ecr")
    assert bench.world.fal.writes == []
    assert list(bench.world.directory.glob("refresher.db*")) == []


def test_a_peer_is_asked_once_for_all_targets(bench: Bench) -> None:
    """Two targets of one principal share a token, and all targets of an account its list."""
    bench.append(f"""
        [targets.second]
        source = "ecr"
        registry = "{REGISTRY}"
        registry_url = "{bench.world.registry.url}"
        secret = "SECOND"
    """)
    doctor = bench.doctor()
    for name in ("ecr", "second", *KINDS):
        list(doctor.target(name))
    assert bench.world.aws.calls["GetAuthorizationToken"] == 1
    assert bench.world.aws.calls["GetCallerIdentity"] == 1
    assert sum(call.method.endswith("ListSecrets") for call in bench.world.fal.calls) == 1


def test_who_we_are_is_told_with_the_role(bench: Bench) -> None:
    """The ARN that AWS sees at the end, and through which role."""
    assert bench.look("ecr")["identity"].words == "arn:aws:iam::123456789012:user/ci, no role"
    bench.world.aws.add_role(Role(ROLE))
    with_role(bench)
    identity = bench.look("ecr")["identity"]
    session = "arn:aws:sts::123456789012:assumed-role/fal-pull/refresher"
    assert identity.words == f"{session}, through {ROLE}"


def test_a_parked_target_can_be_examined(bench: Bench) -> None:
    """Before somebody takes it up again."""
    bench.edit("[targets.oci]", "[targets.oci]\nenabled = false")
    assert bench.look("oci")["registry"].ok


# --- what is broken ----------------------------------------------------------------------------


def with_role(bench: Bench) -> None:
    bench.edit("[targets.ecr]", f'[targets.ecr]\naws = {{ role_arn = "{ROLE}" }}')


def no_aws_credentials(bench: Bench) -> None:
    bench.environ.delenv("AWS_ACCESS_KEY_ID")
    bench.environ.delenv("AWS_SECRET_ACCESS_KEY")


def wrong_aws_key(bench: Bench) -> None:
    bench.environ.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY0000000000")


def token_refused(bench: Bench) -> None:
    words = "User is not authorized to perform: ecr:GetAuthorizationToken"
    bench.world.aws.error("AccessDeniedException", 400, words, operation="GetAuthorizationToken")


def skewed(bench: Bench) -> None:
    bench.world.aws.clock = OffsetClock(timedelta(minutes=10))


def registry_refuses(bench: Bench) -> None:
    bench.world.registry.fail(Response(401, b"Not Authorized\n"))


def registry_breaks(bench: Bench) -> None:
    bench.world.registry.fail(Fault.reset())


def nowhere(bench: Bench) -> None:
    bench.edit(bench.world.registry.url, "https://nowhere.invalid")


def nobody_there(bench: Bench) -> None:
    port = bench.stack.enter_context(closed_port())
    bench.edit(bench.world.registry.url, f"https://127.0.0.1:{port}")


def another_authority(bench: Bench) -> None:
    other = authority(bench.path.parent / "other", datetime.now(UTC))
    bench.edit(str(bench.world.certificates.ca_file), str(other.ca_file))


def ended_certificate(bench: Bench) -> None:
    """gRPC's server goes on with what it was started with, so another one is started."""
    ended = authority(bench.path.parent / "ended", datetime.now(UTC), life=-timedelta(hours=1))
    fal = bench.stack.enter_context(FalStandIn(ended))
    bench.edit(bench.world.fal.host, fal.host)
    bench.edit(str(bench.world.certificates.ca_file), str(ended.ca_file))


def set_to(name: str, value: str | None) -> Callable[[Bench], None]:
    """With a variable that has another value, or none."""

    def change(bench: Bench) -> None:
        if value is None:
            bench.environ.delenv(name)
        else:
            bench.environ.setenv(name, value)

    return change


def missing_image(bench: Bench) -> None:
    bench.edit(IMAGE, f"{IMAGE}-gone")


def forbidden_image(bench: Bench) -> None:
    bench.world.oci.forbid(IMAGE.split(":")[0])


def wide_key_file(bench: Bench) -> None:
    bench.world.key_file.chmod(0o644)


def missing_key_file(bench: Bench) -> None:
    bench.world.key_file.unlink()


def half_a_key(bench: Bench) -> None:
    bench.world.key_file.write_text(bench.world.key_file.read_text()[:200])


def deleted_key(bench: Bench) -> None:
    key_id = json.loads(bench.world.key_file.read_text())["private_key_id"]
    bench.world.google.delete_key(GAR_ACCOUNT, key_id)


def expired_hub_token(bench: Bench) -> None:
    bench.world.expire_hub_token()


def revoked_fal_key(bench: Bench) -> None:
    bench.world.fal.revoke(SANDBOX_KEY)


def no_such_environment(bench: Bench) -> None:
    bench.world.fal.environments = frozenset({"staging"})


def fal_is_away(bench: Bench) -> None:
    bench.world.fal.fail(grpc.StatusCode.UNAVAILABLE)


def deleted_secret(bench: Bench) -> None:
    bench.keep()
    bench.world.fal.secrets.pop(("main", "AWS_ECR_PASSWORD"))


def revoked_since(bench: Bench) -> None:
    """The last check found that what stands is refused, and nothing newer could be had."""
    bench.keep()
    bench.world.hub.logins.clear()
    bench.keep()


def ended_long_ago(bench: Bench) -> None:
    bench.keep()
    bench.clock = ManualClock(datetime.now(UTC) + timedelta(hours=13))


def wide_state(bench: Bench) -> None:
    bench.keep()
    bench.state.chmod(0o644)


def foreign_state(bench: Bench) -> None:
    bench.state.write_text("no database at all, by no means")


def host_of_another_kind(bench: Bench) -> None:
    bench.edit(f'registry = "{REGISTRY}"', 'registry = "ghcr.io"')


BROKEN = [
    # AWS
    (no_aws_credentials, ("ecr", "identity"), "missing or incomplete", "AWS_PROFILE, an access"),
    (wrong_aws_key, ("ecr", "identity"), "knows no such access key", "replace the access key"),
    (with_role, ("ecr", "identity"), rf"AssumeRole refused.*{ROLE}", "refresher policy ecr"),
    (token_refused, ("ecr", "credential"), "GetAuthorizationToken refused", "policy ecr"),
    (skewed, ("ecr", "identity"), r"our clock is -\d+ s off that of AWS", "with NTP"),
    (skewed, ("ecr", "clock"), r"ours is (599|600|601) s behind that of sts", "with NTP"),
    (set_to("AWS_PROFILE", "nobody"), ("ecr", "identity"), "nobody", "`aws` of targets.ecr"),
    # the registry
    (registry_refuses, ("ecr", "registry"), r"refused the credential \(HTTP 401\)", "may read"),
    (registry_breaks, ("ecr", "registry"), "broke the connection off|closed the", "status page"),
    (nowhere, ("ecr", "reach registry"), "DNS: nowhere.invalid does not resolve", "check the name"),
    (nobody_there, ("ecr", "reach registry"), r"port \d+ does not connect \(.*refused", "firewall"),
    (set_to("GHCR_TOKEN", "wrong"), ("oci", "registry"), "refused", r"put it into \$GHCR_TOKEN"),
    (missing_image, ("oci", "image"), f"{IMAGE}-gone .*HTTP 404", "push it, or correct image"),
    (forbidden_image, ("oci", "image"), "denies it access", "`refresher policy oci` prints"),
    (expired_hub_token, ("dockerhub", "registry"), "token is expired", "dockerhub-token"),
    (deleted_key, ("gar", "registry"), "it was deleted; replace", "put it into file .*gar-key"),
    # this machine
    (set_to("GHCR_TOKEN", None), ("oci", "references"), "GHCR_TOKEN is not set", "set the"),
    (missing_key_file, ("gar", "references"), "cannot read .*key.json: No such", "write the file"),
    (half_a_key, ("gar", "credential"), "does not parse; is it cut off", "whole and living"),
    (wide_key_file, ("gar", "files"), r"other users: .*key.json \(mode 0644", "chmod 600 /"),
    (wide_state, ("ecr", "state"), r"refresher.db is open to other users", "chmod 600 /"),
    (foreign_state, ("ecr", "state"), "is not a database", "correct daemon.state"),
    (host_of_another_kind, ("ecr", "config"), '"ghcr.io" is no ECR registry', "config schema"),
    # fal
    (set_to("FAL_KEY", "wrong"), ("ecr", "fal key"), r"\$FAL_KEY is not `id:", "fal keys create"),
    (set_to("FAL_KEY", None), ("ecr", "fal key"), "FAL_KEY is not set", r"into \$FAL_KEY"),
    (set_to("FAL_KEY", "a:b"), ("ecr", "fal key"), "was refused", "make a new key"),
    (revoked_fal_key, ("ecr", "fal key"), "was refused", "make a new key"),
    (fal_is_away, ("ecr", "fal key"), "cannot be reached now", "status page"),
    (another_authority, ("ecr", "reach fal"), "certificate refused", "daemon.ca_bundle"),
    (ended_certificate, ("ecr", "reach fal"), "certificate has expired", "check the clock"),
    (no_such_environment, ("ecr", "secret main"), "environment main was not found", "environments"),
    (deleted_secret, ("ecr", "secret main"), "was deleted after we wrote", "refresher once"),
    (deleted_secret, ("ecr", "drift"), r"someone else deleted AWS_ECR", "stop the other writer"),
    (revoked_since, ("dockerhub", "secret main"), "the registry refused it since", "refresher run"),
    (ended_long_ago, ("ecr", "secret main"), "that ended at 20", "start `refresher run`"),
]  # fmt: skip


@pytest.mark.parametrize(("breaks", "where", "cause", "fix"), BROKEN)
def test_what_is_broken_gets_its_cause_and_its_fix(
    bench: Bench, breaks: Callable[[Bench], None], where: tuple[str, str], cause: str, fix: str
) -> None:
    """Each by the check that a person would look for it under."""
    breaks(bench)
    target, name = where
    check = bench.look(target)[name]
    assert check.ok is False, check
    assert re.search(cause, check.words), check
    assert re.search(fix, check.fix), check
    assert "\n" not in check.words + check.fix


@pytest.mark.parametrize(
    ("breaks", "target", "left"),
    [
        (nowhere, "ecr", {"registry": "reach registry", "image": "registry"}),
        (with_role, "ecr", {"credential": "identity", "registry": "credential"}),
        (set_to("GHCR_TOKEN", None), "oci", {"credential": "references", "registry": "credential"}),
        (another_authority, "ecr", {"fal key": "reach fal", "secret main": "fal key"}),
        (revoked_fal_key, "ecr", {"secret main": "fal key", "exposure": "fal key"}),
    ],
)
def test_what_needs_a_broken_thing_is_not_tried(
    bench: Bench, breaks: Callable[[Bench], None], target: str, left: dict[str, str]
) -> None:
    """It names what comes first, and is no fault of its own."""
    breaks(bench)
    checks = bench.look(target)
    for name, first in left.items():
        assert checks[name] == Check(name, None, f"not tried: {first} comes first")


def test_every_reason_has_a_fix_at_every_place() -> None:
    """No new reason is left without words, and no name in them without a value."""
    words = {"target": "ecr", "reference": "$TOKEN", "key": "$FAL_KEY"}
    for topic in Topic:
        for reason in FailureReason:
            assert fix_for(topic, reason, words)


def test_an_unusable_configuration_is_told_whole() -> None:
    """A check for each problem."""
    checks = unusable(ConfigError("a.toml: fal.hots: unknown", "a.toml: targets: there are none"))
    assert [check.ok for check in checks] == [False, False]
    assert checks[0].words == "a.toml: fal.hots: unknown"


# --- what nobody can know ----------------------------------------------------------------------


def test_a_key_that_may_only_write_suffices(bench: Bench) -> None:
    """What it may not list is unknown, with what would make it known."""
    bench.world.fal.allow(replace(SANDBOX_KEY, permissions=frozenset({WRITE})))
    checks = bench.look("ecr")
    assert checks["fal key"].ok is True
    assert "may not list secrets, which writing does not need" in checks["fal key"].words
    assert checks["secret main"].ok is None
    assert "serverless:secrets:read" in checks["secret main"].fix


def test_sts_matters_only_where_roles_are_assumed(bench: Bench) -> None:
    """A network without STS issues tokens all the same to who needs no role."""
    with closed_port() as port:
        bench.environ.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{port}")
        checks = bench.look("ecr")
        assert checks["identity"].ok is None
        assert checks["registry"].ok is True
        with_role(bench)
        checks = bench.look("ecr")
    assert checks["reach sts"].ok is False
    assert checks["identity"].words == "not tried: reach sts comes first"
    assert checks["credential"].ok is None


def test_a_certificate_list_that_is_away_breaks_nothing_else(bench: Bench) -> None:
    """It only tells when a key will end; the registry decides."""
    with closed_port() as port:
        bench.edit(bench.world.google.certs_url, f"http://127.0.0.1:{port}/certs")
        checks = bench.look("gar")
    assert checks["reach certs"].ok is False
    assert checks["registry"].ok is True


def test_through_a_proxy_nothing_is_resolved_here(bench: Bench) -> None:
    """The proxy does; what lies behind it is tried by the checks that follow."""
    bench.environ.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    bench.environ.delenv("NO_PROXY")
    bench.environ.delenv("no_proxy")
    bench.edit(bench.world.oci.url, "https://ghcr.invalid")
    check = bench.look("oci")["reach registry"]
    assert (check.ok, check.words) == (
        None,
        "through a proxy, which resolves and connects in our place",
    )


def test_without_an_image_no_pull_is_proved(bench: Bench) -> None:
    """Which is said with the key that would prove it."""
    check = bench.look("ecr")["image"]
    assert check.ok is None
    assert check.fix == 'add image = "REPOSITORY:TAG" to targets.ecr'


# --- values that were refused before -----------------------------------------------------------


def test_a_value_known_to_be_refused_is_not_tried(bench: Bench) -> None:
    """Docker Hub locks a user out after a few wrong logins."""
    bench.world.expire_hub_token()
    bench.keep()
    asked = len(bench.world.hub.requests)
    check = bench.look("dockerhub")["registry"]
    assert check.ok is False
    assert re.search(r"refused this value at .*Z; not tried again .* --retry-refused", check.words)
    assert len(bench.world.hub.requests) == asked
    assert "token is expired" in bench.look("dockerhub", retry_refused=True)["registry"].words
    assert len(bench.world.hub.requests) == asked + 1


def test_another_value_is_tried(bench: Bench) -> None:
    """The verdict is on a value, not on its file."""
    bench.world.expire_hub_token()
    bench.keep()
    bench.world.replace_hub_token()
    assert bench.look("dockerhub")["registry"].ok is True


# --- what stands in fal ------------------------------------------------------------------------


def test_what_will_be_overwritten_is_said(bench: Bench) -> None:
    """With since when it is there, which its owner recognises."""
    put(bench, exposed=None)
    check = bench.look("ecr")["secret main"]
    assert check.ok is True
    assert re.search(r"there since 2020-01-01T00:00:00Z, not by us: .* overwrites it", check.words)


@pytest.mark.parametrize(
    ("held", "chosen", "ok", "words"),
    [
        (None, "", True, "default_exposed is left as fal holds it"),
        (False, "", True, "default_exposed is left as fal holds it"),
        (True, "", None, "fal shows it to every app of main as a variable; we leave that as it is"),
        (True, "false", True, "each write sets default_exposed to false"),
    ],
)
def test_who_sees_the_secret_is_said(
    bench: Bench, held: bool | None, chosen: str, ok: bool | None, words: str
) -> None:
    """`fal secrets set` exposes it without being asked to, and we leave that alone."""
    put(bench, exposed=held)
    if chosen:
        bench.edit("[targets.ecr]", f"[targets.ecr]\ndefault_exposed = {chosen}")
    check = bench.look("ecr")["exposure"]
    assert (check.ok, check.words) == (ok, words)


def put(bench: Bench, *, exposed: bool | None) -> None:
    """A secret that somebody else set long ago."""
    bench.world.fal.secrets["main", "AWS_ECR_PASSWORD"] = StoredSecret(
        SANDBOX_KEY.secret, datetime(2020, 1, 1, tzinfo=UTC), exposed
    )


def test_each_environment_has_its_own_check(bench: Bench) -> None:
    """None falls back to another."""
    bench.edit("[targets.ecr]", '[targets.ecr]\nenvironments = ["main", "staging"]')
    put(bench, exposed=None)
    checks = bench.look("ecr")
    assert (checks["secret main"].ok, checks["secret staging"].ok) == (True, None)


def learn(bench: Bench) -> None:
    """Two writes of ours, with a look at fal's list after each."""
    settings = config.load(bench.path, os.environ)
    engine = Engine(settings, clock=SystemClock())
    try:
        engine.take_up()
        for _ in range(2):
            ids = engine.control.refresh(["ecr"], Actor.CLI)
            engine.scheduler.run_once(ids, threading.Event())
            engine.find_drift()
    finally:
        engine.close(5)


def test_a_write_by_another_is_seen_once_fal_taught_us_how(bench: Bench) -> None:
    """By `created_time`, which is trusted after two writes of ours gave two values."""
    bench.keep()
    check = bench.look("ecr")["drift"]
    assert (check.ok, "once two of ours have taught us" in check.words) == (None, True)
    learn(bench)
    assert bench.look("ecr")["drift"].words == "nobody else wrote or deleted it since we did"
    put(bench, exposed=None)
    check = bench.look("ecr")["drift"]
    assert check.ok is False
    assert check.words == "someone else wrote AWS_ECR_PASSWORD (main) at 2020-01-01T00:00:00Z"
    assert "`refresher refresh ecr`" in check.fix


def test_a_fal_whose_times_stand_still_is_said_to_be_so(bench: Bench) -> None:
    """Then only a deletion would show."""
    bench.world.fal.created_time_moves = False
    learn(bench)
    check = bench.look("ecr")["drift"]
    assert (check.ok, "created_time does not move" in check.words) == (None, True)


# --- the fal project ---------------------------------------------------------------------------

APP = """
[tool.fal.apps.{name}.image]
image = "{registry}/team/app:1"
[tool.fal.apps.{name}.image.registries."{registry}"]
username = "{username}"
password = "{password}"
"""


@pytest.mark.parametrize(
    ("login", "ok", "words"),
    [
        (("AWS", "$AWS_ECR_PASSWORD"), True, "$AWS_ECR_PASSWORD is used by web (pyproject.toml:"),
        (("AWS", "$OTHER"), None, "no app of the project uses $AWS_ECR_PASSWORD"),
        (("bob", "$AWS_ECR_PASSWORD"), False, "logs in as bob, the secret is for AWS"),
    ],
)
def test_the_projects_use_of_the_secret_is_told(
    bench: Bench, tmp_path: Path, login: tuple[str, str], ok: bool | None, words: str
) -> None:
    """Which apps use it, and whether as what it holds."""
    (tmp_path / "p").mkdir()
    app = APP.format(name="web", registry=REGISTRY, username=login[0], password=login[1])
    (tmp_path / "p" / "pyproject.toml").write_text(app)
    doctor = bench.doctor(project=discover(tmp_path / "p"))
    (found,) = [each for each in doctor.target("ecr") if each.name == "project"]
    assert found.ok is ok, found
    assert words in found.words


def test_what_nobody_can_keep_alive_is_broken(bench: Bench, tmp_path: Path) -> None:
    """A literal password, with what to do instead; and what could not be read is said."""
    (tmp_path / "p").mkdir()
    app = APP.format(name="web", registry=REGISTRY, username="AWS", password="literal-canary")
    (tmp_path / "p" / "pyproject.toml").write_text(app)
    (tmp_path / "p" / "bad.py").write_text("registries = (")
    checks = list(bench.doctor(project=discover(tmp_path / "p")).machine())
    broken, unread = [
        [c for c in checks if c.name == "project" and c.ok is ok] for ok in (False, None)
    ]
    assert "app web (pyproject.toml:" in broken[0].words
    assert "$" in broken[0].fix
    assert "bad.py" in unread[0].words
    assert "literal-canary" not in str(checks)
