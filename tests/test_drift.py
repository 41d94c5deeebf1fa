"""Whoever else writes our secrets: what fal's lists tell of it, what is done, and how often."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from refresher import config, listing, policy, record
from refresher.clock import ManualClock, SystemClock
from refresher.engine import Engine
from refresher.errors import FailureReason
from refresher.model import (
    DueReason,
    FailureRecord,
    ListedSecret,
    Outcome,
    SecretRef,
    SecretStatus,
    SecretValue,
    Stage,
    Status,
)
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.sandbox.aws import AwsStandIn
from refresher.sandbox.fal import SANDBOX_KEY, FalStandIn
from refresher.sandbox.registry import RegistryStandIn
from refresher.sandbox.world import REGION, REGISTRY
from tests.awsenv import isolate
from tests.conftest import NOON

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
ECR = SecretRef("default", "main", "AWS_ECR_PASSWORD")
STATIC = SecretRef("default", "main", "GHCR_TOKEN")
THEIRS = "by-another"


class Life:
    """An engine and its peers on one hand-moved clock, and somebody else with a key of fal's."""

    def __init__(self, clock: ManualClock, folder: Path, stack: ExitStack, *, moves: bool) -> None:
        self.clock = clock
        self.aws = stack.enter_context(AwsStandIn(clock=clock))
        self.aws.tolerance = None  # botocore signs by the machine's clock
        self.registry = stack.enter_context(RegistryStandIn(REGISTRY, self._judge))
        self.fal = stack.enter_context(FalStandIn(clock=clock, created_time_moves=moves))
        self.token = folder / "token"
        self.token.write_text("static-token")
        self.path = folder / "refresher.toml"
        self.path.write_text(f"""
            [daemon]
            state = "sqlite:///{folder / "refresher.db"}"
            [fal]
            host = "{self.fal.host}"
            tls = false
            [targets.ecr]
            source = "ecr"
            registry = "{REGISTRY}"
            registry_url = "{self.registry.url}"
            secret = "{ECR.name}"
            [targets.static]
            source = "oci"
            registry = "{REGISTRY}"
            registry_url = "{self.registry.url}"
            username = "AWS"
            password = {{ file = "{self.token}" }}
            secret = "{STATIC.name}"
        """)
        self.environ = {
            **self.aws.environ,
            "AWS_REGION": REGION,
            "FAL_KEY": SANDBOX_KEY.reveal(),
        }
        self.engine: Engine
        self.log: list[dict[str, object]] = []

    def _judge(self, password: str) -> str:
        known = password == "static-token"
        return "good" if known else self.aws.passwords.judge(password, self.clock.now())

    def start(self) -> None:
        self.engine = Engine(config.load(self.path, self.environ), clock=self.clock)
        self.engine.take_up()
        self.look()

    def look(self) -> None:
        """What happens every 15 min, and whatever is due then."""
        with capture_logs() as log:
            self.engine.find_drift()
        self.log += log
        self.settle()

    def settle(self) -> None:
        """Tick until nothing more is due."""
        last = None
        while last is None or last != self.engine.store.attempts(limit=1):
            last = self.engine.store.attempts(limit=1)
            self.engine.scheduler.tick()
            assert self.engine.scheduler.drain()

    def go_on(self, by: timedelta) -> None:
        """Let time pass, with a look every 15 min."""
        until = self.clock.now() + by
        while self.clock.now() < until:
            self.clock.advance(min(15 * MINUTE, until - self.clock.now()))
            self.look()

    def learn(self) -> None:
        """Live through the second refresh, and the look after it."""
        self.go_on(4 * HOUR + 15 * MINUTE)

    def overwrite(self, ref: SecretRef = ECR, value: str = THEIRS) -> None:
        """As a cron job that somebody forgot does."""
        self.clock.advance(MINUTE)
        key = Reference(env="FAL_KEY")
        other = FalPublisher(
            "default",
            key,
            host=self.fal.host,
            tls=False,
            clock=SystemClock(),
            environ=self.environ,
        )
        other.publish(ref, SecretValue(value), None)
        other.close()

    def secret(self, ref: SecretRef = ECR) -> SecretStatus:
        target = "ecr" if ref == ECR else "static"
        return self.engine.store.statuses()[target].secret(ref)

    def standing(self, ref: SecretRef = ECR) -> str | None:
        return self.fal.value(ref.environment, ref.name)

    def reasons(self, target: str = "ecr") -> list[DueReason]:
        """Why there was each attempt, the newest first."""
        return [attempt.reason for attempt in self.engine.store.attempts(target, 1000)]

    def lines(self, event: str) -> list[dict[str, object]]:
        return [line for line in self.log if line["event"] == event]


@pytest.fixture
def live(
    clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Life]]:
    """Starts a life; `moves`: whether this fal moves `created_time` with a write."""
    isolate(monkeypatch, tmp_path)
    with ExitStack() as stack:

        def start(*, moves: bool = True) -> Life:
            life = Life(clock, tmp_path, stack, moves=moves)
            for name, value in life.environ.items():
                monkeypatch.setenv(name, value)
            life.start()
            stack.callback(lambda: life.engine.close(5))
            return life

        yield start


# --- what is learnt ----------------------------------------------------------------------------


def test_our_own_writes_are_no_drift(live: Callable[..., Life]) -> None:
    """A day of refreshes moves `created_time` often, and every time it was us."""
    life = live()
    life.go_on(24 * HOUR)
    assert len(life.fal.history("main", ECR.name)) >= 6
    assert life.secret().created_time_moves is True
    assert DueReason.DRIFTED not in life.reasons()
    assert life.log == []


def test_created_time_is_not_trusted_before_two_writes_gave_two_values(
    live: Callable[..., Life],
) -> None:
    """With one write of ours nobody knows what a change of it means."""
    life = live()
    life.go_on(15 * MINUTE)
    life.overwrite()
    life.go_on(2 * HOUR)
    assert life.secret().created_time_moves is None
    assert not life.secret().drifted
    assert life.standing() == THEIRS


def test_a_fal_that_does_not_move_it_gives_no_drift(live: Callable[..., Life]) -> None:
    """Learnt from our own writes as well; a write by another cannot be seen then."""
    life = live(moves=False)
    life.learn()
    life.overwrite()
    life.go_on(HOUR)
    assert life.secret().created_time_moves is False
    assert not life.secret().drifted
    assert life.log == []


def test_a_day_of_one_account_costs_a_list_every_15_minutes(live: Callable[..., Life]) -> None:
    """However many targets it has."""
    life = live()
    before = sum(call.method.endswith("/ListSecrets") for call in life.fal.calls)
    life.go_on(24 * HOUR)
    lists = sum(call.method.endswith("/ListSecrets") for call in life.fal.calls) - before
    assert lists == 24 * 4


# --- rewritten by another ----------------------------------------------------------------------


def test_what_another_wrote_is_written_over_once(live: Callable[..., Life]) -> None:
    """The next look sees it, says so, and the target is due."""
    life = live()
    life.learn()
    ours = life.standing()
    life.overwrite()
    assert life.standing() == THEIRS
    life.go_on(15 * MINUTE)
    assert life.reasons()[0] is DueReason.DRIFTED
    assert life.standing() == ours
    assert not life.secret().drifted
    (line,) = life.lines("secret.rewritten")
    assert (line["target"], line["secret"]) == ("ecr", str(ECR))
    assert line["will_be_written_again"] is True


def test_a_second_time_in_an_interval_is_only_reported(live: Callable[..., Life]) -> None:
    """Two writers that fight help nobody: one line for each change, and the status shows it."""
    life = live()
    life.learn()
    life.overwrite()
    life.go_on(30 * MINUTE)
    writes = len(life.fal.writes)
    life.overwrite()
    life.go_on(HOUR)
    assert life.secret().drifted
    assert life.standing() == THEIRS
    assert [line["will_be_written_again"] for line in life.lines("secret.rewritten")] == [
        True,
        False,
    ]
    life.overwrite(value="and-again")
    life.go_on(HOUR)
    assert len(life.lines("secret.rewritten")) == 3
    assert len(life.fal.writes) == writes + 2  # theirs
    assert life.reasons().count(DueReason.DRIFTED) == 1


def test_the_next_refresh_writes_over_it(live: Callable[..., Life]) -> None:
    """A new credential goes out at its time, whoever wrote before it."""
    life = live()
    life.learn()
    life.overwrite()
    life.go_on(30 * MINUTE)
    life.overwrite()
    life.go_on(15 * MINUTE)
    assert life.secret().drifted
    life.go_on(4 * HOUR)
    assert DueReason.STALE in life.reasons()[:20]
    assert life.standing() not in (THEIRS, None)
    assert not life.secret().drifted


def test_a_fight_costs_a_write_an_interval(live: Callable[..., Life]) -> None:
    """A cron job that writes every half hour for a day, and our refreshes go on as they do."""
    life = live()
    life.learn()
    for _ in range(48):
        life.overwrite(value=f"at {life.clock.now()}")
        life.go_on(29 * MINUTE)
    ended = [a for a in life.engine.store.attempts("ecr", 1000) if a.outcome is Outcome.REFRESHED]
    over = [attempt.started_at for attempt in ended if attempt.reason is DueReason.DRIFTED]
    gaps = [later - earlier for earlier, later in itertools.pairwise(sorted(over))]
    assert over
    assert min(gaps, default=4 * HOUR) >= 3.6 * HOUR
    assert len(ended) - len(over) <= 1 + (life.clock.now() - NOON) / (3.6 * HOUR)


def test_what_only_a_person_renews_waits_for_its_check_interval(live: Callable[..., Life]) -> None:
    """It has no refresh; and what one secret of an account taught holds for all of it."""
    life = live()
    life.learn()
    assert life.secret(STATIC).created_time_moves is None
    life.overwrite(STATIC)
    life.go_on(15 * MINUTE)
    assert life.standing(STATIC) == "static-token"
    life.go_on(15 * MINUTE)
    life.overwrite(STATIC)
    life.go_on(30 * MINUTE)
    assert life.standing(STATIC) == THEIRS
    life.go_on(15 * MINUTE)
    assert life.standing(STATIC) == "static-token"
    assert life.reasons("static").count(DueReason.DRIFTED) == 2


# --- vanished ----------------------------------------------------------------------------------


def test_a_deleted_secret_is_written_at_once_also_while_contested(
    live: Callable[..., Life],
) -> None:
    """Nothing stands there, so nothing of anybody's is written over."""
    life = live()
    life.learn()
    ours = life.standing()
    life.overwrite()
    life.go_on(15 * MINUTE)
    for _ in range(2):
        life.fal.secrets.pop(("main", ECR.name))
        life.go_on(15 * MINUTE)
        assert life.standing() == ours
    assert len(life.lines("secret.vanished")) == 2


def test_one_that_comes_back_without_us_is_anothers(live: Callable[..., Life]) -> None:
    """Even where `created_time` can never be trusted: we did not make it."""
    life = live(moves=False)
    life.go_on(15 * MINUTE)
    life.fal.fail(grpc.StatusCode.PERMISSION_DENIED, method="SetSecret")
    life.fal.secrets.pop(("main", ECR.name))
    life.go_on(15 * MINUTE)
    assert life.secret().vanished
    life.fal.mend()
    life.overwrite()
    life.engine.find_drift()
    assert life.secret().drifted
    assert not life.secret().vanished
    life.go_on(HOUR)
    assert life.standing() not in (THEIRS, None)
    assert not life.secret().drifted


def test_making_it_anew_teaches_nothing(live: Callable[..., Life]) -> None:
    """Any server gives a new secret a new `created_time`."""
    life = live(moves=False)
    life.go_on(15 * MINUTE)
    life.fal.secrets.pop(("main", ECR.name))
    life.go_on(HOUR)
    assert life.standing() is not None
    assert life.secret().created_time_moves is None


# --- what says nothing -------------------------------------------------------------------------


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED])
def test_a_write_of_ours_that_may_have_been_applied_is_not_anothers(
    live: Callable[..., Life], code: grpc.StatusCode
) -> None:
    """fal carried it out and its answer was lost."""
    life = live()
    life.learn()
    life.fal.apply_then_fail(code)
    life.go_on(4 * HOUR)
    assert life.secret().last_failure is not None
    life.fal.mend()
    life.go_on(HOUR)
    assert life.secret().last_failure is None
    assert life.lines("secret.rewritten") == []


def test_a_write_cut_by_the_death_of_the_process_is_not_anothers() -> None:
    """Whether it was applied is not known; the next list is the new beginning."""
    secret = SecretStatus(ref=ECR, fingerprint="a", created_time=NOON, created_time_before=NOON)
    status = replace(status_with(secret), attempt="1")
    failure = FailureRecord(NOON, Stage.STATE, FailureReason.INTERRUPTED, "died")
    (after,) = record.interrupted(status, "1", failure).secrets
    assert (after.created_time, after.created_time_before) == (None, None)


def status_with(secret: SecretStatus) -> Status:
    """A target with one secret."""
    return Status(name="ecr", digest="", secrets=(secret,), next_attempt_at=NOON + HOUR)


def look_at(*secrets: ListedSecret, at: datetime = NOON) -> listing.Look:
    """A look at one environment of an account that can be trusted."""
    by_name = {secret.name: secret for secret in secrets}
    return listing.Look(at, {("default", "main"): by_name}, frozenset({"default"}))


PUBLISHED = SecretStatus(
    ref=ECR, fingerprint="a", published_at=NOON - HOUR, created_time=NOON - HOUR
)
REWRITTEN = look_at(ListedSecret("main", ECR.name, NOON - MINUTE))
GONE = look_at()


@pytest.mark.parametrize("look", [REWRITTEN, GONE], ids=["rewritten", "gone"])
@pytest.mark.parametrize(
    "status",
    [
        replace(status_with(PUBLISHED), attempt="1"),
        status_with(replace(PUBLISHED, published_at=NOON + MINUTE)),
        status_with(
            replace(
                PUBLISHED,
                last_failure=FailureRecord(NOON, Stage.PUBLISH, FailureReason.TIMEOUT, ""),
            )
        ),
        status_with(replace(PUBLISHED, fingerprint=None)),
    ],
    ids=["attempt under way", "written since", "tried since", "never written"],
)
def test_a_list_older_than_our_write_says_nothing(status: Status, look: listing.Look) -> None:
    """It may have been made before the write or after it."""
    assert listing.noted(status, look) == status


def test_a_list_that_shows_no_times_says_nothing_of_writers() -> None:
    """`created_time` is optional in fal's protocol."""
    status = status_with(PUBLISHED)
    assert listing.noted(status, look_at(ListedSecret("main", ECR.name, None))) == status


@pytest.mark.parametrize("look", [REWRITTEN, GONE], ids=["rewritten", "gone"])
def test_a_target_that_fails_keeps_its_pace(look: listing.Look) -> None:
    """Drift never calls earlier than what a peer asked for; the retry writes it, too."""
    status = replace(status_with(PUBLISHED), consecutive_failures=1)
    noted = listing.noted(status, look)
    assert noted.secrets[0].drifted
    assert noted.next_attempt_at == status.next_attempt_at
    assert listing.noted(replace(status, consecutive_failures=0), look).next_attempt_at == NOON


def test_a_contested_secret_is_due_when_its_interval_is_over() -> None:
    """Not before, and not later either."""
    secret = replace(PUBLISHED, contested_until=NOON + 30 * MINUTE)
    noted = listing.noted(status_with(secret), REWRITTEN)
    assert noted.next_attempt_at == NOON + 30 * MINUTE
    assert not policy.to_be_reasserted(noted.secrets[0], NOON + 29 * MINUTE)
    assert policy.to_be_reasserted(noted.secrets[0], NOON + 30 * MINUTE)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({}, {}, False),
        ({}, {"drifted": True}, True),
        ({"drifted": True}, {"drifted": True}, False),
        ({"drifted": True}, {"drifted": True, "created_time": NOON}, True),
        ({"drifted": True}, {"drifted": True, "vanished": True}, True),
        ({"drifted": True, "vanished": True}, {"drifted": True, "vanished": True}, False),
        ({"drifted": True, "vanished": True}, {"drifted": True}, True),
        (
            {"drifted": True, "created_time": None},
            {"drifted": True, "created_time": NOON},
            False,
        ),
    ],
)
def test_each_change_is_news_once(
    old: dict[str, object], new: dict[str, object], told: bool
) -> None:
    """What was known before a look is not told again after it."""
    before: Sequence[SecretStatus] = [replace(PUBLISHED, **old)]  # type: ignore[arg-type]
    after: Sequence[SecretStatus] = [replace(PUBLISHED, **new)]  # type: ignore[arg-type]
    assert bool(list(listing.news(before, after))) is told
