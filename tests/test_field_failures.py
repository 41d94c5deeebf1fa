"""How tools of this kind failed in the field, counted from their public issues: a test for each.

The names are those of the reports, most often told first; the projects are in the docstrings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from refresher import notify, policy, view
from refresher.clock import ManualClock, Skews, SystemClock
from refresher.errors import (
    ClockSkewed,
    Failure,
    FailureReason,
    Forbidden,
    InvalidCredential,
    InvalidResponse,
    Misconfigured,
    NotFound,
    Throttled,
    TimedOut,
    TlsFailure,
    Unauthorized,
    Unavailable,
)
from refresher.health import TICK_LIMIT
from refresher.metrics import Metrics
from refresher.model import (
    Actor,
    Attempt,
    Condition,
    Credential,
    DueReason,
    Life,
    Outcome,
    RegistryRef,
    SecretRef,
    Stage,
    Target,
)
from refresher.registry import RegistryVerifier
from refresher.sandbox.aws import AwsStandIn, Role
from refresher.sandbox.http import full_port
from refresher.sandbox.registry import RegistryStandIn
from refresher.sources.aws import AwsSettings
from refresher.sources.ecr import EcrSource, parse_host
from tests import awsenv
from tests.scheduler.test_ticking import Run
from tests.script import Bench, Issuer

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)

#: Every reason for which a stage can fail while we go on.
FAILURES = (
    Unauthorized,
    Forbidden,
    NotFound,
    Throttled,
    Unavailable,
    TimedOut,
    TlsFailure,
    ClockSkewed,
    InvalidResponse,
    InvalidCredential,
    Misconfigured,
)


@pytest.fixture
def run(clock: ManualClock) -> Iterator[Run]:
    """A scheduler that ticks by hand, with peers that do as they are told."""
    run = Run(clock)
    yield run
    run.scheduler.stop(5)
    run.bench.store.close()


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """The same peers, and attempts that a test makes by itself."""
    bench = Bench(clock)
    yield bench
    bench.store.close()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AwsStandIn]:
    """AWS on loopback, and nothing of this machine."""
    awsenv.isolate(monkeypatch, tmp_path)
    with AwsStandIn() as aws:
        for name, value in aws.environ.items():
            monkeypatch.setenv(name, value)
        yield aws


def ecr(**settings: object) -> EcrSource:
    host = parse_host(awsenv.HOST)
    assert host is not None
    aws = AwsSettings(**settings)  # type: ignore[arg-type]
    return EcrSource(host, aws, clock=SystemClock(), skews=Skews())


def due(bench: Bench, target: Target) -> DueReason | None:
    """Why the target is due now."""
    status = bench.status(target)
    return policy.due(target, status, bench.held.hand(target, status), bench.clock.now())


# --- it stops ----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", ["source", "verify", "publish"])
@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: str(kind.reason))
def test_renewal_silently_stops_a_restart_fixes_it(
    run: Run, kind: type[Failure], stage: str
) -> None:
    """external-secrets #6053, cert-manager #3481 #4575, vault-secrets-operator #319, vault #16439,
    k8s-image-swapper (one failed renewal is never booked again): nothing ends the retries."""
    bench = run.bench
    run.keep(bench.target())
    run.settle()
    where: dict[str, object] = {"source": bench.issuer, "verify": bench.judge}
    if stage == "publish":
        bench.vault.failures["main"] = kind("away")
    else:
        where[stage].failure = kind("away")  # type: ignore[attr-defined]
    failed = run.pass_time(5 * HOUR, 5 * MINUTE)
    assert len([attempt for attempt in failed if attempt.outcome is Outcome.FAILED]) >= 5
    bench.issuer.failure = bench.judge.failure = None
    bench.vault.failures.clear()
    mended = run.pass_time(10 * MINUTE, MINUTE)
    assert Outcome.FAILED not in {attempt.outcome for attempt in mended}
    assert mended
    assert bench.standing() != "token-1"


def test_the_schedule_ignores_the_real_expiry(run: Run) -> None:
    """external-secrets #6690 #6743 #2184, registry-creds #68, gcp-auth-webhook #105: each
    credential is refreshed by a third of the life that came with it, also when that changes."""
    run.keep(run.bench.target())
    for life in (12 * HOUR, HOUR, 15 * MINUTE, 6 * HOUR):
        run.bench.issuer.life = life
        before = run.bench.issuer.issued
        while run.bench.issuer.issued == before:
            run.pass_time(MINUTE, MINUTE)
        issued_at = run.clock.now()
        while run.bench.issuer.issued == before + 1:
            run.pass_time(MINUTE, MINUTE)
        assert 0.29 * life <= run.clock.now() - issued_at <= life / 3 + MINUTE
        assert run.bench.standing() == f"token-{before + 2}"


def test_no_metric_no_alert_no_notice(run: Run, skews: Skews) -> None:
    """vault #8649 #26569, spire #3683 #6303, certbot #9723, certmate #417: metrics, API, notice
    and heartbeat all name the cause, and so they do for a loop that has stopped."""
    bench, clock = run.bench, run.clock
    target = bench.target()
    run.keep(target)
    metrics = Metrics(
        store=bench.store,
        targets=lambda: run.targets,
        health=run.health,
        skews=skews,
        clock=clock,
        version="1",
    )
    run.settle()
    bench.issuer.failure = Unavailable("AWS is away")
    for attempt in run.pass_time(10 * HOUR, 10 * MINUTE):
        metrics.observe(target, bench.status(target), attempt)
    status, now = bench.status(target), clock.now()
    exposed = b"".join(metrics.expose()[0]).decode()
    assert 'refresher_failures_total{reason="unavailable",stage="source",target="ecr"}' in exposed
    assert 'refresher_credential_expiry_timestamp_seconds{target="ecr"}' in exposed
    shown = view.target_view(target, status, now)["last_failure"]
    assert shown is not None
    assert (shown["stage"], shown["reason"]) == ("source", "unavailable")
    notice = notify.news(target, status, now)
    assert notice is not None
    assert "Cause: source/unavailable: AWS is away" in notice.text
    assert notify.troubles(run.targets, bench.store.statuses(), now)
    assert run.health.stuck(clock.monotonic() + TICK_LIMIT + 1) is not None


def test_reports_healthy_while_broken_or_broken_after_it_recovered(bench: Bench) -> None:
    """spiffe-helper #423, spire #1562, argocd-ecr-updater (`/healthz` always OK): what is said
    follows the last verdict of the registry, for the worse and for the better."""
    target = bench.target()
    bench.attempt(target)

    def said() -> tuple[bool | None, Condition | None, int]:
        status, now = bench.status(target), bench.clock.now()
        told = policy.valid(target, status, now), policy.condition(target, status, now)
        return *told, status.consecutive_failures

    assert said() == (True, Condition.GOOD, 0)
    bench.clock.advance(15 * MINUTE)
    bench.judge.refused = {"token-1"}
    bench.attempt(target, DueReason.CHECK)
    assert said() == (False, Condition.BAD, 1)
    bench.attempt(target, DueReason.REJECTED)
    assert said() == (True, Condition.GOOD, 0)
    assert bench.status(target).last_failure is None


# --- it does too much --------------------------------------------------------------------------


@pytest.mark.parametrize(("accepted_first", "most"), [(False, 9), (True, 33)])
def test_hot_loop_runaway_issuing(run: Run, accepted_first: bool, most: int) -> None:
    """consul-template #2166 (600 credentials a minute: each success reset the retry counter),
    vault #26382, step #523, external-secrets #6098: four hours of refusals cost a few tokens, and
    where each is accepted, published and then refused, one for each half of the life so learnt."""
    bench = run.bench
    run.keep(bench.target())
    run.settle()
    until = run.clock.now() + 4 * HOUR
    while run.clock.now() < until:
        refused = bench.issuer.issued + (0 if accepted_first else 1000)
        bench.judge.refused = {f"token-{number}" for number in range(1, refused + 1)}
        run.pass_time(MINUTE, 30 * SECOND)
    assert 2 <= bench.issuer.issued <= most


@pytest.mark.parametrize("value", ["", " ", "\n", "a\nb", "a\0b", "x" * 65536, "expired"])
def test_good_secret_destroyed(bench: Bench, value: str) -> None:
    """registry-creds #106 and minikube #10861 (an empty secret written over the good one),
    k8s-ecr-login-renew (delete, then create): what is no credential is never written."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(4 * HOUR)
    bench.issuer.value = value
    if value == "expired":
        bench.issuer.life = -SECOND
    attempt = bench.attempt(target, DueReason.STALE)
    assert attempt.failure is not None
    assert attempt.failure.reason is FailureReason.INVALID_CREDENTIAL
    assert bench.vault.writes == [("main", "token-1")]
    assert bench.standing() == "token-1"


def test_expired_token_served_the_real_error_hidden(bench: Bench) -> None:
    """amazon-ecr-credential-helper #7 #679, consul-template #695: once it has expired it is
    called so, the cause is the issuer's own, and no copy of it is written anywhere."""
    target = bench.target()
    bench.attempt(target)
    bench.issuer.failure = Unauthorized("the role fal-pull is gone")
    bench.clock.advance(13 * HOUR)
    attempt = bench.attempt(target, DueReason.EXPIRED)
    status, now = bench.status(target), bench.clock.now()
    assert policy.life(target, status, now) is Life.EXPIRED
    assert policy.valid(target, status, now) is False
    assert attempt.failure is not None
    assert attempt.failure.message == "the role fal-pull is gone"
    other = bench.attempt(bench.target("other", ("staging",)))
    assert other.outcome is Outcome.FAILED
    assert bench.vault.writes == [("main", "token-1")]


def test_gives_up_too_early_throttling_not_retried(run: Run) -> None:
    """kubernetes #41154 #37962, tbot (5 tries, then waits a whole interval): a hundred failures
    in a row, and still the next one comes within five minutes, or when the peer wants it."""
    bench = run.bench
    target = bench.target()
    run.keep(target)
    run.settle()
    run.pass_time(4 * HOUR, MINUTE)
    bench.issuer.failure = Throttled("slow down")
    failed: list[Attempt] = []
    while len(failed) < 100:
        failed += [a for a in run.pass_time(MINUTE, MINUTE) if a.outcome is Outcome.FAILED]
        wait = bench.status(target).next_attempt_at - run.clock.now()
        assert not failed or wait <= 5 * MINUTE
    bench.issuer.failure = Throttled("slow down", retry_after=10 * MINUTE)
    while bench.status(target).next_attempt_at - run.clock.now() <= 5 * MINUTE:
        run.pass_time(MINUTE, MINUTE)
    assert bench.status(target).next_attempt_at - run.clock.now() >= 9 * MINUTE
    bench.issuer.failure = None
    run.pass_time(15 * MINUTE, MINUTE)
    assert policy.life(target, bench.status(target), run.clock.now()) is Life.FRESH


# --- time --------------------------------------------------------------------------------------


@pytest.mark.parametrize("suspended", [MINUTE, 5 * HOUR, 20 * HOUR])
def test_suspend_clock_jump_skew(run: Run, suspended: timedelta) -> None:
    """cert-manager PR #8464, certificates #10, ztunnel #1481, boto3 #1252 (botocore corrects no
    skew): the first tick after it makes good what was missed; a clock set back silences nothing,
    and a peer's complaint about ours is retried."""
    bench, target = run.bench, run.bench.target()
    run.keep(target)
    run.settle()
    run.clock.jump(suspended)
    run.settle()
    assert policy.life(target, bench.status(target), run.clock.now()) is Life.FRESH
    run.clock.jump(-HOUR)
    before = bench.issuer.issued
    run.pass_time(6 * HOUR, 5 * MINUTE)
    assert bench.issuer.issued > before
    bench.issuer.failure = ClockSkewed("our clock is +400 s off that of AWS")
    failed = run.pass_time(5 * HOUR, 5 * MINUTE)
    reasons = {a.failure.reason for a in failed if a.failure is not None}
    assert reasons == {FailureReason.CLOCK_SKEW}
    assert due(bench, target) in (None, DueReason.RETRY)


def test_token_dies_before_expires_at(run: Run) -> None:
    """kubernetes PR #69141 (11 h 38 m), amazon-ecr-credential-helper #1027 (SSO, 8–10 h): it is
    replaced within one re-verify interval, and from then on before that age."""
    bench = run.bench
    target = bench.target()
    run.keep(target)
    run.settle()
    run.pass_time(2 * HOUR, MINUTE)
    bench.judge.refused = {"token-1"}
    died_at = run.clock.now()
    while bench.standing() == "token-1":
        run.pass_time(MINUTE, MINUTE)
    assert run.clock.now() - died_at <= target.policy.reverify_interval + MINUTE
    assert policy.valid(target, bench.status(target), run.clock.now()) is True
    replaced_at = run.clock.now()
    while bench.standing() == "token-2":
        run.pass_time(MINUTE, MINUTE)
    assert run.clock.now() - replaced_at <= 1.1 * HOUR + target.policy.reverify_interval


# --- others ------------------------------------------------------------------------------------


class Stuck(Issuer):
    """A source that answers once it is let go."""

    gate: threading.Event

    def obtain(self, now: datetime) -> Credential:
        self.gate.wait(20)
        raise Unavailable("let go")


def test_one_target_blocks_the_others(run: Run) -> None:
    """registry-creds #30, argocd-ecr-updater, external-secrets #4180: of thirty targets ten hang,
    ten are refused by fal, and the rest is published meanwhile."""
    bench = run.bench
    stuck = Stuck(run.clock, share_key="aws/dead")
    stuck.gate = threading.Event()
    bench.vault.failures["broken"] = Forbidden("no such key")
    hanging = [replace(bench.target(f"hanging{n}"), source=stuck) for n in range(10)]
    refused = [bench.target(f"refused{n}", ("broken",)) for n in range(10)]
    good = [
        replace(bench.target(f"good{n}"), secrets=(SecretRef("default", "main", f"GOOD_{n}"),))
        for n in range(10)
    ]
    run.keep(*hanging, *refused, *good)
    try:
        until = time.monotonic() + 10
        while len(bench.vault.values) < 10 and time.monotonic() < until:
            run.scheduler.tick()
            time.sleep(0.01)
        assert {name for _, name in bench.vault.values} == {f"GOOD_{n}" for n in range(10)}
    finally:
        stuck.gate.set()
    run.scheduler.drain()


def test_hangs_no_time_out(bench: Bench, skews: Skews) -> None:
    """k8s-ecr-login-renew #8, argocd-image-updater #657: where not even a connect ends, the
    attempt does, and says `timeout`. `test_fault_matrix` has every peer and every way to hang."""
    with (
        full_port() as port,
        RegistryVerifier(clock=bench.clock, skews=skews, call_seconds=0.3) as verifier,
    ):
        nowhere = RegistryRef("registry.test", f"http://127.0.0.1:{port}")
        began = time.monotonic()
        attempt = bench.attempt(bench.target(verifier=verifier, registry=nowhere))
    assert time.monotonic() - began < 3
    assert attempt.failure is not None
    assert (attempt.failure.stage, attempt.failure.reason) == (Stage.VERIFY, FailureReason.TIMEOUT)


def test_cross_account_chained_roles(aws: AwsStandIn) -> None:
    """amazon-ecr-credential-helper #258 #269, external-secrets #4775: the token is the far
    account's, assumed role by role, each time anew."""
    session = "arn:aws:sts::123456789012:assumed-role/fal-pull/refresher"
    aws.add_role(Role(awsenv.ROLE))
    aws.add_role(Role(awsenv.FAR_ROLE, trusts=frozenset({awsenv.ROLE, session})))
    source = ecr(role_arn=(awsenv.ROLE, awsenv.FAR_ROLE))
    for issues in (1, 2):
        credential = source.obtain(SystemClock().now())
        issued = aws.passwords.issued(credential.password.reveal())
        assert issued is not None
        assert issued.account == awsenv.FAR_ROLE.split(":")[4]
        assert aws.calls["AssumeRole"] == 2 * issues


def test_bursts_of_credential_checks_lock_the_account_out(bench: Bench) -> None:
    """docker/hub-feedback #814 #2201 #2217: ten targets with one dead token, each tried and then
    forced by a person, ask Docker Hub once in the hour."""
    bench.issuer.renewable, bench.issuer.value, bench.issuer.life = False, "dead", None
    bench.judge.refused = {"dead"}
    targets = [bench.target(f"hub{n}", kind="dockerhub", username="me") for n in range(10)]
    for target in targets:
        bench.attempt(target)
    bench.clock.advance(30 * MINUTE)
    for target in targets:
        bench.refresher.attempt(target, DueReason.FORCED, Actor.CLI, f"forced-{target.name}")
    assert bench.judge.calls == 1
    assert all(bench.status(t).consecutive_failures == 2 for t in targets)


def test_password_cut_at_its_second_colon(aws: AwsStandIn, bench: Bench) -> None:
    """Three ECR clients split on every `:`: all of it is obtained, proved and published."""
    password = "a:b::c:"
    aws.make_password = lambda _end: password
    with (
        RegistryStandIn(awsenv.HOST, {password: "good"}.__getitem__) as registry,
        RegistryVerifier(clock=SystemClock(), skews=Skews()) as verifier,
    ):
        here = RegistryRef(awsenv.HOST, registry.url)
        credential = ecr().obtain(SystemClock().now())
        assert verifier.verify(here, credential, None).verified_at is not None
    bench.issuer.value = credential.password.reveal()
    bench.attempt(bench.target())
    assert bench.standing() == password
