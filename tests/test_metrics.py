"""Names, labels and values of the metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from refresher.clock import ManualClock, Skews
from refresher.errors import Interrupted, Unavailable
from refresher.health import Health, Tick
from refresher.metrics import Metrics
from refresher.model import ImageRef, Policy, SecretStatus, Status, Target, Verdict
from refresher.state import SharedStore
from tests.conftest import NOON
from tests.script import Bench

#: The promise to dashboards and alerts: every name with its type and labels.
NAMES = {
    "refresher_attempt_duration_seconds": ("histogram", {"source"}),
    "refresher_attempts_total": ("counter", {"target", "outcome"}),
    "refresher_build_info": ("gauge", {"version"}),
    "refresher_claims_total": ("counter", {"answer"}),
    "refresher_clock_skew_seconds": ("gauge", {"peer"}),
    "refresher_config_last_reload_successful": ("gauge", set()),
    "refresher_config_last_reload_timestamp_seconds": ("gauge", set()),
    "refresher_consecutive_failures": ("gauge", {"target"}),
    "refresher_credential_expiry_timestamp_seconds": ("gauge", {"target"}),
    "refresher_credential_issued_timestamp_seconds": ("gauge", {"target"}),
    "refresher_credential_valid": ("gauge", {"target"}),
    "refresher_failures_total": ("counter", {"target", "stage", "reason"}),
    "refresher_image_pullable": ("gauge", {"target"}),
    "refresher_last_attempt_timestamp_seconds": ("gauge", {"target"}),
    "refresher_last_failure_timestamp_seconds": ("gauge", {"target", "stage", "reason"}),
    "refresher_last_success_timestamp_seconds": ("gauge", {"target"}),
    "refresher_next_attempt_timestamp_seconds": ("gauge", {"target"}),
    "refresher_notifications_total": ("counter", {"outcome"}),
    "refresher_registry_pulls_limit": ("gauge", {"target"}),
    "refresher_registry_pulls_remaining": ("gauge", {"target"}),
    "refresher_replicas": ("gauge", set()),
    "refresher_reverify_interval_seconds": ("gauge", set()),
    "refresher_scheduler_lag_seconds": ("gauge", set()),
    "refresher_scheduler_last_tick_timestamp_seconds": ("gauge", set()),
    "refresher_secret_drift": ("gauge", {"target", "environment", "secret"}),
    "refresher_secret_expiry_timestamp_seconds": ("gauge", {"target", "environment", "secret"}),
    "refresher_secret_proved": ("gauge", {"target", "environment", "secret"}),
    "refresher_secret_published_timestamp_seconds": ("gauge", {"target", "environment", "secret"}),
    "refresher_state_up": ("gauge", set()),
    "refresher_target_info": ("gauge", {"target", "source", "registry", "renewable"}),
}


class Scraped:
    """The metrics around a bench, as a scraper sees them."""

    def __init__(self, clock: ManualClock, skews: Skews) -> None:
        self.bench = Bench(clock)
        self.targets: dict[str, Target] = {}
        self.health = Health(8, clock.monotonic())
        self.skews = skews
        self.metrics = Metrics(
            store=self.bench.store,
            targets=lambda: self.targets,
            health=self.health,
            skews=skews,
            clock=clock,
            version="1.2.3",
            shared=SharedStore("postgresql://database.test/refresher", clock=clock),
        )

    def add(self, target: Target) -> Target:
        self.targets[target.name] = target
        return target

    def attempt(self, target: Target) -> None:
        """One attempt, of which the metrics hear as from the refresher."""
        attempt = self.bench.attempt(target)
        self.metrics.observe(target, self.bench.status(target), attempt)

    def fail(self, target: Target) -> None:
        """One attempt that must issue and cannot."""
        self.bench.issuer.failure = Unavailable("ecr.test answered 503")
        self.change(target, fresh_after=NOON + timedelta(seconds=1))
        self.attempt(target)

    def change(self, target: Target, **changes: object) -> None:
        self.bench.store.update(
            target.name,
            lambda old: replace(old, **changes),  # type: ignore[type-var,arg-type]
        )

    def change_secret(self, target: Target, **changes: object) -> None:
        (secret,) = self.bench.status(target).secrets
        self.change(target, secrets=(replace(secret, **changes),))  # type: ignore[arg-type]

    def families(self) -> list[Metric]:
        parts, content_type = self.metrics.expose()
        body = b"".join(parts)
        assert content_type == "text/plain; version=0.0.4; charset=utf-8"
        return list(text_string_to_metric_families(body.decode()))

    def value(self, name: str, **labels: str) -> float | None:
        """The value of one series; None where it is absent."""
        found = [
            sample.value
            for family in self.families()
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        assert len(found) <= 1
        return found[0] if found else None


@pytest.fixture
def scraped(clock: ManualClock, skews: Skews) -> Iterator[Scraped]:
    """Metrics of a process with no target yet."""
    scraped = Scraped(clock, skews)
    yield scraped
    scraped.bench.store.close()


def test_every_name_has_its_type_and_labels(scraped: Scraped) -> None:
    """With every series filled, the names are the promised ones, and each has a help text."""
    target = scraped.add(scraped.bench.target(image=ImageRef("team/app", "latest")))
    scraped.attempt(target)
    scraped.change_secret(target, created_time=NOON)
    scraped.change(target, pulls_remaining=99, pulls_limit=100)
    scraped.fail(target)
    scraped.health.tick(Tick(NOON, 0.5), 0.0)
    scraped.skews.observe("registry.test", NOON, "Mon, 23 Nov 2026 12:00:07 GMT")
    scraped.metrics.config_read(NOON, successful=True)

    seen = {}
    for family in scraped.families():
        assert family.documentation.endswith(".")
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        assert family.samples, f"{name} has no series"
        seen[name] = (family.type, labels)
    assert seen == NAMES


def test_a_published_credential_is_told_in_absolute_times(scraped: Scraped) -> None:
    """Times are seconds since 1970, of the credential and of each secret."""
    target = scraped.add(scraped.bench.target(environments=("main", "staging")))
    scraped.attempt(target)
    noon, midnight = NOON.timestamp(), (NOON + timedelta(hours=12)).timestamp()

    assert scraped.value("refresher_credential_issued_timestamp_seconds", target="ecr") == noon
    assert scraped.value("refresher_credential_expiry_timestamp_seconds", target="ecr") == midnight
    assert scraped.value("refresher_last_success_timestamp_seconds", target="ecr") == noon
    assert scraped.value("refresher_last_attempt_timestamp_seconds", target="ecr") == noon
    assert scraped.value("refresher_next_attempt_timestamp_seconds", target="ecr") == noon + 900
    for environment in ("main", "staging"):
        secret = {"target": "ecr", "environment": environment, "secret": "AWS_ECR_PASSWORD"}
        assert scraped.value("refresher_secret_expiry_timestamp_seconds", **secret) == midnight
        assert scraped.value("refresher_secret_published_timestamp_seconds", **secret) == noon


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"verdict": Verdict.UNAUTHORIZED}, 0),
        ({"verified_at": NOON - timedelta(hours=1)}, None),
    ],
)
def test_valid_is_absent_while_nobody_can_tell(
    scraped: Scraped, changes: dict[str, object], expected: float | None
) -> None:
    """One, zero, or no series at all."""
    target = scraped.add(scraped.bench.target())
    scraped.attempt(target)
    scraped.change_secret(target, **changes)
    assert scraped.value("refresher_credential_valid", target="ecr") == expected


@pytest.mark.parametrize(("pullable", "expected"), [(True, 1), (False, 0), (None, None)])
def test_an_image_is_pullable_or_not_or_unknown(
    scraped: Scraped, pullable: bool | None, expected: float | None
) -> None:
    """The pull proof of `image`."""
    target = scraped.add(scraped.bench.target())
    scraped.bench.adopt(target)
    scraped.change(target, image_pullable=pullable)
    assert scraped.value("refresher_image_pullable", target="ecr") == expected


@pytest.mark.parametrize(
    ("created", "drifted", "expected"),
    [(None, False, None), (NOON, False, 0), (NOON, True, 1), (None, True, 1)],
)
def test_drift_is_absent_where_the_key_may_not_list(
    scraped: Scraped, created: datetime | None, drifted: bool, expected: float | None
) -> None:
    """Nobody claims that a secret is as we left it who cannot look."""
    target = scraped.add(scraped.bench.target())
    scraped.attempt(target)
    scraped.change_secret(target, created_time=created, drifted=drifted)
    secret = {"target": "ecr", "environment": "main", "secret": "AWS_ECR_PASSWORD"}
    assert scraped.value("refresher_secret_drift", **secret) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 1),
        ({"proved": False, "verified_at": None}, 0),
        ({"proved": False, "verified_at": NOON}, 1),
        ({"fingerprint": None, "proved": False, "verified_at": None}, None),
    ],
)
def test_what_was_published_unproved_counts_as_proved_once_a_check_succeeded(
    scraped: Scraped, changes: dict[str, object], expected: float | None
) -> None:
    """An alert on it must end when the registry accepts the credential."""
    target = scraped.add(scraped.bench.target())
    scraped.attempt(target)
    scraped.change_secret(target, **changes)
    secret = {"target": "ecr", "environment": "main", "secret": "AWS_ECR_PASSWORD"}
    assert scraped.value("refresher_secret_proved", **secret) == expected


def test_the_last_failure_names_its_cause_until_an_attempt_succeeds(scraped: Scraped) -> None:
    """One series a target, with the time of the failure as its value."""
    target = scraped.add(scraped.bench.target())
    scraped.attempt(target)
    name, cause = "refresher_last_failure_timestamp_seconds", {"target": "ecr"}
    assert not _with_samples(scraped, name)

    scraped.fail(target)
    cause |= {"stage": "source", "reason": "unavailable"}
    assert scraped.value(name, **cause) == NOON.timestamp()

    scraped.bench.issuer.failure = None
    scraped.attempt(target)
    assert not _with_samples(scraped, name)


def _with_samples(scraped: Scraped, name: str) -> bool:
    return any(family.name == name and family.samples for family in scraped.families())


def test_pulls_are_told_where_the_registry_tells_them(scraped: Scraped) -> None:
    """Docker Hub does; for the others there is no series."""
    scraped.attempt(scraped.add(scraped.bench.target("told")))
    scraped.attempt(scraped.add(scraped.bench.target("untold")))
    scraped.change(scraped.targets["told"], pulls_remaining=7, pulls_limit=200)
    assert scraped.value("refresher_registry_pulls_remaining", target="told") == 7
    assert scraped.value("refresher_registry_pulls_limit", target="told") == 200
    assert scraped.value("refresher_registry_pulls_remaining", target="untold") is None
    assert scraped.value("refresher_registry_pulls_limit", target="untold") is None


def test_a_new_target_has_its_counters_at_zero(scraped: Scraped) -> None:
    """`increase()` needs a series before the first attempt; what is unknown has none."""
    scraped.add(scraped.bench.target())
    for outcome in ("refreshed", "checked", "failed"):
        labels = {"target": "ecr", "outcome": outcome}
        assert scraped.value("refresher_attempts_total", **labels) == 0
    assert scraped.value("refresher_consecutive_failures", target="ecr") == 0
    assert scraped.value("refresher_attempt_duration_seconds_count", source="ecr") == 0
    assert scraped.value("refresher_credential_expiry_timestamp_seconds", target="ecr") is None
    assert scraped.value("refresher_last_attempt_timestamp_seconds", target="ecr") is None


def test_attempts_and_failures_are_counted(scraped: Scraped) -> None:
    """By outcome, and those that failed by stage and reason."""
    target = scraped.add(scraped.bench.target())
    scraped.attempt(target)
    scraped.fail(target)
    scraped.fail(target)

    count = {"target": "ecr", "outcome": "refreshed"}
    assert scraped.value("refresher_attempts_total", **count) == 1
    assert scraped.value("refresher_attempts_total", **{**count, "outcome": "failed"}) == 2
    failure = {"target": "ecr", "stage": "source", "reason": "unavailable"}
    assert scraped.value("refresher_failures_total", **failure) == 2
    assert scraped.value("refresher_consecutive_failures", target="ecr") == 2


def test_an_interrupted_attempt_counts_as_a_failure_of_that_reason(scraped: Scraped) -> None:
    """It is no consecutive failure, yet it is not hidden."""
    target = scraped.add(scraped.bench.target())
    scraped.bench.issuer.failure = Interrupted("refresher was told to stop")
    scraped.attempt(target)

    failure = {"target": "ecr", "stage": "source", "reason": "interrupted"}
    assert scraped.value("refresher_failures_total", **failure) == 1
    assert scraped.value("refresher_attempts_total", target="ecr", outcome="failed") == 1
    assert scraped.value("refresher_consecutive_failures", target="ecr") == 0


def test_durations_are_those_of_the_stages(scraped: Scraped, clock: ManualClock) -> None:
    """A histogram by source, of a clock that nobody sets."""
    target = scraped.add(scraped.bench.target())
    obtain = scraped.bench.issuer.obtain

    class Slow:
        """A source that takes two seconds, in which NTP steps the wall clock."""

        share_key, renewable = "slow", True

        def obtain(self, now: datetime) -> object:
            clock.advance(timedelta(seconds=2))
            clock.jump(timedelta(seconds=-1))
            return obtain(now)

    scraped.attempt(replace(target, source=Slow()))  # type: ignore[arg-type]

    name = "refresher_attempt_duration_seconds"
    assert scraped.value(f"{name}_sum", source="ecr") == 2
    assert scraped.value(f"{name}_bucket", source="ecr", le="1.0") == 0
    assert scraped.value(f"{name}_bucket", source="ecr", le="2.5") == 1
    assert scraped.value(f"{name}_bucket", source="ecr", le="+Inf") == 1


def test_series_go_with_their_target(scraped: Scraped) -> None:
    """A target that was removed leaves no series, also when it comes back by the same name."""
    gone = scraped.add(scraped.bench.target("gone"))
    scraped.add(scraped.bench.target("stays"))
    scraped.attempt(gone)
    scraped.fail(gone)

    del scraped.targets["gone"]
    about = [
        sample.labels["target"]
        for family in scraped.families()
        for sample in family.samples
        if "target" in sample.labels
    ]
    assert set(about) == {"stays"}

    scraped.add(gone)
    assert scraped.value("refresher_attempts_total", target="gone", outcome="failed") == 0


def test_a_parked_target_has_no_next_attempt(scraped: Scraped) -> None:
    """An alert on overdue attempts must not fire for what a person paused."""
    target = scraped.add(scraped.bench.target())
    scraped.attempt(target)
    scraped.change(target, paused=True)
    assert scraped.value("refresher_next_attempt_timestamp_seconds", target="ecr") is None


def test_target_info_says_what_a_target_is(scraped: Scraped) -> None:
    """Labels that other series are joined with."""
    scraped.add(scraped.bench.target())
    labels = {
        "target": "ecr",
        "source": "ecr",
        "registry": "registry.test",
        "renewable": "true",
    }
    assert scraped.value("refresher_target_info", **labels) == 1


def test_the_process_tells_of_itself(scraped: Scraped) -> None:
    """Version, state, tick, clock and configuration."""
    assert scraped.value("refresher_build_info", version="1.2.3") == 1
    assert scraped.value("refresher_state_up") == 1
    assert scraped.value("refresher_reverify_interval_seconds") == 900
    for name in ("scheduler_last_tick_timestamp_seconds", "config_last_reload_successful"):
        assert scraped.value(f"refresher_{name}") is None

    scraped.health.tick(Tick(NOON, 2.5), 0.0)
    scraped.skews.observe("ecr.test", NOON, "Mon, 23 Nov 2026 12:01:30 GMT")
    scraped.metrics.config_read(NOON, successful=False)
    assert scraped.value("refresher_scheduler_last_tick_timestamp_seconds") == NOON.timestamp()
    assert scraped.value("refresher_scheduler_lag_seconds") == 2.5
    assert scraped.value("refresher_clock_skew_seconds", peer="ecr.test") == 90
    assert scraped.value("refresher_config_last_reload_successful") == 0
    name = "refresher_config_last_reload_timestamp_seconds"
    assert scraped.value(name) == NOON.timestamp()


def test_the_reverify_interval_is_the_longest_in_use(scraped: Scraped) -> None:
    """An alert that is patient for the slowest target is patient for all."""
    scraped.add(scraped.bench.target("a", policy=Policy(reverify_interval=timedelta(minutes=1))))
    scraped.add(scraped.bench.target("b", policy=Policy(reverify_interval=timedelta(minutes=2))))
    assert scraped.value("refresher_reverify_interval_seconds") == 120


def test_two_processes_in_one_interpreter_do_not_share_metrics(
    scraped: Scraped, clock: ManualClock, skews: Skews
) -> None:
    """Nothing is registered globally."""
    other = Scraped(clock, skews)
    target = scraped.add(scraped.bench.target())
    other.add(target)
    scraped.attempt(target)
    other.bench.store.close()

    assert other.value("refresher_attempts_total", target="ecr", outcome="refreshed") == 0


def test_ten_thousand_targets_are_scraped_within_a_scrape_timeout(scraped: Scraped) -> None:
    """About a second on one core; the bound leaves room for a busy machine."""
    first = scraped.bench.target("t0")
    scraped.attempt(first)
    pattern = scraped.bench.status(first)
    statuses = {f"t{n}": _copy(pattern, f"t{n}") for n in range(10_000)}
    scraped.targets = {name: replace(first, name=name) for name in statuses}
    metrics = Metrics(
        store=_Snapshot(statuses),  # type: ignore[arg-type]
        targets=lambda: scraped.targets,
        health=scraped.health,
        skews=scraped.skews,
        clock=scraped.bench.clock,
        version="1.2.3",
    )

    started = time.process_time()
    parts, _ = metrics.expose()
    body = b"".join(parts)
    assert time.process_time() - started < 4
    assert body.count(b"\nrefresher_credential_valid{") == 10_000


class _Snapshot:
    """As much of a store as a scrape reads."""

    up = True

    def __init__(self, statuses: dict[str, Status]) -> None:
        self._statuses = statuses

    def statuses(self) -> dict[str, Status]:
        return self._statuses


def _copy(pattern: Status, name: str) -> Status:
    secrets: tuple[SecretStatus, ...] = tuple(replace(secret) for secret in pattern.secrets)
    return replace(pattern, name=name, secrets=secrets)


def test_only_the_families_that_were_asked_for(scraped: Scraped) -> None:
    """`?name[]=`, as other exporters have it: a look at one number is not one at ten thousand."""
    scraped.attempt(scraped.add(scraped.bench.target()))
    wanted = {"refresher_target_info", "refresher_attempts_total", "refresher_credential_valid"}
    parts, _ = scraped.metrics.expose(wanted)
    found = {line.split("{")[0] for line in b"".join(parts).decode().splitlines() if line[0] != "#"}
    assert found == wanted
    assert b"".join(scraped.metrics.expose({"no_such"})[0]) == b""
