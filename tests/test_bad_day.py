"""One bad day, hour by hour: what every way of looking at the product says.

The daemon's own parts, wired as `refresher run` wires them, with the sandbox's peers around them
over loopback. Only the clock is moved by hand, a minute at a time, and with it all that the
daemon does at intervals. What is scraped at each minute becomes the input of promtool, so that
the alerts are those of the shipped rules.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from refresher import config
from refresher.clock import Clock, ManualClock
from refresher.daemon import Daemon, Options
from refresher.model import Attempt
from refresher.sandbox.aws import ACCOUNT, AwsStandIn, Role
from refresher.sandbox.fal import SANDBOX_KEY, FalStandIn
from refresher.sandbox.http import Fault, Request, Response, StandIn
from refresher.sandbox.registry import RegistryStandIn
from refresher.sandbox.world import REGION, REGISTRY
from tests.alerts.test_rules import RULES, promtool
from tests.awsenv import isolate
from tests.world import wait_for

#: Apprise imports a module that Python 3.11 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ROLE = f"arn:aws:iam::{ACCOUNT}:role/fal-pull"
SECRET = "AWS_ECR_PASSWORD"

#: A metric and its labels, sorted.
Series = tuple[str, tuple[tuple[str, str], ...]]


# --- the day -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hour:
    """What is to be seen at half past an hour."""

    #: Of the API and of /readyz.
    state: str
    valid: bool
    #: Stage and reason of the last failure: of API, metrics, /readyz and history.
    cause: str | None
    #: The word for the target on the status page.
    page: str
    #: Status of `/readyz?strict=1`; without `strict` it is 200 all day, and so is /livez.
    strict: int
    #: Where the heartbeat goes.
    beat: str
    #: Kind of the notice that people got since half past the hour before.
    told: str | None
    #: What fires, by the rules that are shipped.
    alerts: tuple[str, ...] = ()


GOOD = Hour("fresh", True, None, "fresh", 200, "/beat", None)
TRYING, SOON = "RefresherRefreshFailing", "RefresherCredentialExpiresSoon"
EXPIRED, UNPUBLISHED = "RefresherCredentialExpired", "RefresherPublishFailing"

DAY = (
    # 0: the first publish; the password lives 12 hours.
    GOOD,
    # 1: AWS is down, for 5 hours. Nobody needs it yet, and what stands is good.
    GOOD,
    GOOD,
    GOOD,
    # 4: since a third of its life has passed, each try fails; what stands is proved all the same.
    Hour("stale", True, "source/unavailable", "failing", 200, "/beat", None, (TRYING,)),
    Hour("stale", True, "source/unavailable", "failing", 200, "/beat", None, (TRYING,)),
    # 6: AWS is back and refuses the role.
    Hour("stale", True, "source/forbidden", "failing", 200, "/beat", None, (TRYING,)),
    Hour("stale", True, "source/forbidden", "failing", 200, "/beat", None, (TRYING,)),
    Hour("stale", True, "source/forbidden", "failing", 200, "/beat", None, (TRYING,)),
    # 9: the last quarter of its life; it still works.
    Hour("urgent", True, "source/forbidden", "urgent", 200, "/beat/fail", "failure",
         (SOON, TRYING)),
    # 10: the registry revokes it, two hours early. People know already that it is bad.
    Hour("expired", False, "source/forbidden", "expired", 503, "/beat/fail", None,
         (EXPIRED, TRYING)),
    # 11: AWS lets the role in again, and now fal rejects the key.
    Hour("expired", False, "publish/unauthorized", "expired", 503, "/beat/fail", None,
         (EXPIRED, UNPUBLISHED, TRYING)),
    Hour("expired", False, "publish/unauthorized", "expired", 503, "/beat/fail", None,
         (EXPIRED, UNPUBLISHED, TRYING)),
    # 13: fal takes the key again.
    Hour("fresh", True, None, "fresh", 200, "/beat", "success"),
    GOOD,
    # 15: it was refreshed at its time, as on any other day.
    GOOD,
)  # fmt: skip


def aws_goes_down(peers: Peers) -> None:
    peers.aws.fail(Fault.reset())


def aws_refuses_the_role(peers: Peers) -> None:
    peers.aws.mend()
    words = f"User is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
    peers.aws.error("AccessDenied", 403, words, operation="AssumeRole")


def the_registry_revokes_what_stands(peers: Peers) -> None:
    standing = peers.fal.value("main", SECRET)
    assert standing is not None
    peers.aws.passwords.revoke(standing)


def fal_rejects_the_key(peers: Peers) -> None:
    peers.fal.revoke(SANDBOX_KEY)
    peers.aws.mend()


def fal_takes_the_key_again(peers: Peers) -> None:
    peers.fal.allow(SANDBOX_KEY)


EVENTS: dict[int, Callable[[Peers], None]] = {
    1: aws_goes_down,
    6: aws_refuses_the_role,
    10: the_registry_revokes_what_stands,
    11: fal_rejects_the_key,
    13: fal_takes_the_key_again,
}


# --- the peers ---------------------------------------------------------------------------------


class DatedRegistry(RegistryStandIn):
    """A registry whose `Date` is that of the moved clock."""

    def __init__(self, clock: Clock, judge: Callable[[str], str]) -> None:
        super().__init__(REGISTRY, judge)
        self._clock = clock

    def handle(self, request: Request) -> Response:
        answer = super().handle(request)
        date = {"Date": format_datetime(self._clock.now(), usegmt=True)}
        return Response(answer.status, answer.body, {**answer.headers, **date})


class Receiver(StandIn):
    """Takes notices from Apprise, and heartbeats."""

    def handle(self, request: Request) -> Response:
        return Response(200)

    @property
    def told(self) -> list[str]:
        """The kind of each notice."""
        return [json.loads(r.body)["type"] for r in self.requests if r.path == "/people"]

    def await_notices(self, expected: Sequence[str]) -> None:
        """These came, in this order, and no others; they are sent by a thread of their own."""
        wait_for(lambda: len(self.told) >= len(expected), f"notice {len(expected)}", 10)
        assert self.told == expected

    @property
    def beats(self) -> list[str]:
        return [r.path for r in self.requests if r.path.startswith("/beat")]


class Peers:
    """AWS, its registry, fal and who is told, all by one clock."""

    def __init__(self, clock: Clock, stack: ExitStack) -> None:
        self._clock = clock
        self.aws = stack.enter_context(AwsStandIn(clock=clock))
        self.aws.tolerance = None  # botocore signs by the machine's clock
        self.aws.add_role(Role(ROLE))
        self.registry = stack.enter_context(DatedRegistry(clock, self._judge))
        self.fal = stack.enter_context(FalStandIn(clock=clock))
        self.receiver = stack.enter_context(Receiver())

    def _judge(self, password: str) -> str:
        return self.aws.passwords.judge(password, self._clock.now())

    @property
    def environ(self) -> dict[str, str]:
        return {
            **self.aws.environ,
            "AWS_REGION": REGION,
            "FAL_KEY": SANDBOX_KEY.reveal(),
            "NOTIFY_URL": f"json://127.0.0.1:{self.receiver.port}/people",
            "HEARTBEAT_URL": f"{self.receiver.url}/beat",
        }

    def write_config(self, path: Path) -> Path:
        path.write_text(f"""
            [daemon]
            listen = "127.0.0.1:0"
            state = "sqlite:///{path.with_name("refresher.db")}"
            notify = [{{ env = "NOTIFY_URL" }}]
            heartbeat_url = {{ env = "HEARTBEAT_URL" }}
            [fal]
            host = "{self.fal.host}"
            tls = false
            [targets.ecr]
            source = "ecr"
            registry = "{REGISTRY}"
            registry_url = "{self.registry.url}"
            secret = "{SECRET}"
            aws = {{ role_arn = "{ROLE}" }}
        """)
        return path


# --- the daemon --------------------------------------------------------------------------------


@dataclass
class Life:
    """The parts of a daemon, whose intervals pass when a test says so."""

    daemon: Daemon
    clock: ManualClock
    http: httpx.Client
    #: Every attempt that ended, as observers hear of them.
    attempts: Sequence[Attempt]
    #: What each minute's scrape said.
    scrapes: list[dict[Series, float]] = field(default_factory=list)

    def minute(self) -> None:
        """All that a daemon does in a minute, and a scrape at its end."""
        engine = self.daemon._engine
        self._settle()
        engine.tidy(self.daemon._config)
        engine.watch_values()
        if len(self.scrapes) % 15 == 0:
            engine.find_drift()
        self.daemon._notifier.look()
        self.daemon._heartbeat.beat()
        self.scrapes.append(parse(self.http.get("/metrics").text))

    def _settle(self) -> None:
        """Tick until nothing runs and nothing more is due."""
        scheduler, count = self.daemon._engine.scheduler, -1
        while count != len(self.attempts):
            count = len(self.attempts)
            scheduler.tick()
            assert scheduler.drain()

    def get(self, path: str) -> Any:
        return self.http.get(path).json()

    def history(self) -> list[dict[str, Any]]:
        """Every attempt, the oldest first."""
        attempts: list[dict[str, Any]] = self.get("/api/v1/targets/ecr/attempts?limit=1000")[
            "attempts"
        ]
        return attempts[::-1]


def parse(scrape: str) -> dict[Series, float]:
    """The value of each series."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(scrape)
        for sample in family.samples
    }


@pytest.fixture
def clock() -> ManualClock:
    """A clock that stands at midnight."""
    return ManualClock(MIDNIGHT)


@pytest.fixture
def peers(clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peers]:
    """The peers, and an environment that leads to them."""
    isolate(monkeypatch, tmp_path)
    with ExitStack() as stack:
        peers = Peers(clock, stack)
        for name, value in peers.environ.items():
            monkeypatch.setenv(name, value)
        yield peers


@pytest.fixture
def life(clock: ManualClock, peers: Peers, tmp_path: Path) -> Iterator[Life]:
    """A daemon that serves and has not ticked yet; it does what it is told to."""
    path = peers.write_config(tmp_path / "refresher.toml")
    attempts: list[Attempt] = []
    daemon = Daemon(
        lambda: config.load(path, os.environ),
        Options(watched=lambda: [path]),
        clock,
        observers=[lambda _target, _status, attempt: attempts.append(attempt)],
    )
    daemon._server.start()
    try:
        daemon._engine.take_up()
        with httpx.Client(base_url=daemon.url) as http:
            yield Life(daemon, clock, http, attempts)
    finally:
        daemon._end()


# --- what is to be seen ------------------------------------------------------------------------


def assert_hour(life: Life, peers: Peers, hour: Hour) -> None:
    """Each way of looking says the same."""
    assert_api(life, hour)
    assert_probes(life, hour)
    assert_metrics(life, hour)
    assert_page(life, hour)
    assert peers.receiver.beats[-1] == hour.beat


def assert_api(life: Life, hour: Hour) -> None:
    """The target and the newest attempt of its history."""
    target = life.get("/api/v1/targets/ecr")
    assert (target["state"], target["valid"]) == (hour.state, hour.valid)
    assert cause_of(target["last_failure"]) == hour.cause
    (newest,) = life.get("/api/v1/targets/ecr/attempts?limit=1")["attempts"]
    seen = (newest["reason"], newest["outcome"], cause_of(newest["failure"]))
    assert seen == (("retry", "failed", hour.cause) if hour.cause else ("check", "checked", None))


def cause_of(failure: dict[str, str] | None) -> str | None:
    return None if failure is None else f"{failure['stage']}/{failure['reason']}"


def assert_probes(life: Life, hour: Hour) -> None:
    """No outage is a reason to restart or to take a pod out of service."""
    reason = hour.cause.split("/")[1] if hour.cause else None
    shown = [{"name": "ecr", "state": hour.state, "valid": hour.valid, "reason": reason}]
    assert life.http.get("/livez").status_code == 200
    plain, strict = life.http.get("/readyz"), life.http.get("/readyz?strict=1")
    assert (plain.status_code, strict.status_code) == (200, hour.strict)
    assert plain.json()["targets"] == strict.json()["targets"] == shown


def assert_metrics(life: Life, hour: Hour) -> None:
    """The gauges say what the API does, and the counters what the history does."""
    scrape, now = life.scrapes[-1], life.clock.now().timestamp()
    of_ecr = {name: v for (name, labels), v in scrape.items() if labels == (("target", "ecr"),)}
    assert of_ecr["refresher_credential_valid"] == hour.valid
    assert (of_ecr["refresher_consecutive_failures"] > 0) == (hour.cause is not None)
    ended = of_ecr["refresher_credential_expiry_timestamp_seconds"] <= now
    assert ended == (hour.state == "expired")
    assert scrape["refresher_scheduler_last_tick_timestamp_seconds", ()] == now
    assert scrape["refresher_state_up", ()] == 1
    present = [dict(labels) for name, labels in scrape if "_last_failure_" in name]
    assert [cause_of(labels) for labels in present] == ([hour.cause] if hour.cause else [])
    assert counted(scrape, "refresher_attempts_total") == Counter(
        attempt["outcome"] for attempt in life.history()
    )
    assert counted(scrape, "refresher_failures_total") == Counter(
        cause_of(attempt["failure"]) for attempt in life.history() if attempt["failure"]
    )


def counted(scrape: dict[Series, float], name: str) -> Counter[str | None]:
    """A counter by outcome, or by cause."""
    series = {key: value for key, value in scrape.items() if key[0] == name and value}
    labels = {key: dict(key[1]) for key in series}
    return Counter(
        {labels[k].get("outcome") or cause_of(labels[k]): int(v) for k, v in series.items()}
    )


def assert_page(life: Life, hour: Hour) -> None:
    """The headline, the word and its colour, and the cause in words."""
    page = life.http.get("/").text
    headline, tone = HEADLINES[hour.page]
    assert f"<h1>{headline}</h1>" in page
    assert re.findall(r'class="badge (\w+)"><svg.*?</svg>(\w+)<', page) == [(tone, hour.page)]
    shown = re.findall(r'<div class="failure \w+">\s*<p><strong>(.*?)</strong>', page)
    assert shown == ([CAUSES[hour.cause]] if hour.cause else [])


#: What the page says above a word for the target, and the tone of that word.
HEADLINES = {
    "fresh": ("The target is fine", "fine"),
    "failing": ("1 of 1 target in trouble", "warn"),
    "urgent": ("1 of 1 target in trouble", "warn"),
    "expired": ("1 of 1 target in trouble", "bad"),
}
CAUSES = {
    "source/unavailable": "Getting a credential: unavailable",
    "source/forbidden": "Getting a credential: forbidden",
    "publish/unauthorized": "Publishing to fal: unauthorized",
}


# --- alerts ------------------------------------------------------------------------------------


def assert_alerts(scrapes: Sequence[dict[Series, float]], path: Path) -> None:
    """What fires at half past each hour, by promtool and the shipped rules."""
    test = {
        "interval": "1m",
        "input_series": [
            {"series": named(series), "values": values(series, scrapes)}
            for series in sorted(set().union(*scrapes))
        ],
        "promql_expr_test": [firing(number, hour) for number, hour in enumerate(DAY)],
    }
    document = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}
    path.write_text(json.dumps(document))
    tested = promtool("test", "rules", str(path))
    assert tested.returncode == 0, (tested.stdout + tested.stderr).decode()


def named(series: Series) -> str:
    """A series as Prometheus names it once it has scraped it."""
    name, labels = series
    shown = (("job", "refresher"), ("instance", "a:9478"), *labels)
    return f"{name}{{{', '.join(f'{label}={json.dumps(value)}' for label, value in shown)}}}"


def values(series: Series, scrapes: Sequence[dict[Series, float]]) -> str:
    """Its value at each minute; promtool's time begins at 0, so the day's midnight is that."""
    start = MIDNIGHT.timestamp() if series[0].endswith("_timestamp_seconds") else 0.0
    told: list[str] = []
    for before, scrape in zip(({}, *scrapes), scrapes, strict=False):
        gone = "stale" if series in before else "_"
        told.append(f"{scrape[series] - start:.3f}" if series in scrape else gone)
    return " ".join(told)


def firing(number: int, hour: Hour) -> dict[str, Any]:
    """That exactly these alerts fire at half past the hour."""
    labels = (f'{{alertname="{alert}", target="ecr"}}' for alert in hour.alerts)
    return {
        "expr": 'count by (alertname, target) (ALERTS{alertstate="firing"})',
        "eval_time": f"{number}h30m",
        "exp_samples": [{"labels": each, "value": 1} for each in labels],
    }


# --- the test ----------------------------------------------------------------------------------


def test_a_bad_day(life: Life, peers: Peers, tmp_path: Path) -> None:
    """AWS away, the role refused, the token revoked, the key rejected, and all good again."""
    for number, hour in enumerate(DAY):
        if number in EVENTS:
            EVENTS[number](peers)
        for minute in range(60):
            life.minute()
            if minute == 30:
                peers.receiver.await_notices([each.told for each in DAY[: number + 1] if each.told])
                assert_hour(life, peers, hour)
            life.clock.advance(MINUTE)
    assert_audit(life.history())
    assert_alerts(life.scrapes, tmp_path / "day.yaml")


def assert_audit(attempts: Sequence[dict[str, Any]]) -> None:
    """Three passwords stood, each attempt found what the one before it left."""
    stood = None
    for attempt in attempts:
        assert attempt["actor"] == "schedule"
        assert attempt["fingerprint_before"] == stood
        assert (attempt["fingerprint_after"] != stood) == (attempt["outcome"] == "refreshed")
        assert attempt["stages"]
        stood = attempt["fingerprint_after"]
    refreshed = [attempt["reason"] for attempt in attempts if attempt["outcome"] == "refreshed"]
    assert refreshed == ["missing", "retry", "stale"]
