"""Prometheus metrics: gauges read off the state at scrape, counters fed by finished attempts.

Each series speaks of a configured target and is gone once its target is.
"""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)

from refresher import policy, view
from refresher.clock import Clock, Skews
from refresher.errors import FailureReason
from refresher.health import Health
from refresher.model import (
    Attempt,
    Outcome,
    Policy,
    SecretStatus,
    Stage,
    Status,
    Store,
    Target,
)
from refresher.state import SharedStore

#: Upper bounds in seconds: three stages of at most 8 s each, usually well under one.
DURATION_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0)

#: What became of a notification.
NOTIFICATION_OUTCOMES = ("sent", "failed", "dropped")

#: A target, what stands, and its labels, which many samples share.
_Row = tuple[Target, Status, dict[str, str]]

#: Whether a family of this name was asked for.
Wanted = Callable[[str], bool]


def _epoch(at: datetime | None) -> float | None:
    return None if at is None else at.timestamp()


# --- gauges of a target ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _TargetGauge:
    """One gauge of every target; its series is absent where `value` is None."""

    name: str
    help: str
    value: Callable[[Target, Status, datetime], float | None]


_TARGET_GAUGES = (
    _TargetGauge(
        "refresher_credential_expiry_timestamp_seconds",
        "When the first of the target's published credentials ends.",
        lambda target, status, _: _epoch(view.expires_at(target, status)),
    ),
    _TargetGauge(
        "refresher_credential_issued_timestamp_seconds",
        "When the oldest of the target's published credentials was issued.",
        lambda target, status, _: _epoch(view.issued_at(target, status)),
    ),
    _TargetGauge(
        "refresher_credential_valid",
        "Whether what was published works; absent while nobody can tell.",
        policy.valid,
    ),
    _TargetGauge(
        "refresher_image_pullable",
        "Whether the target's image can be pulled; absent while nobody can tell.",
        lambda _target, status, _: status.image_pullable,
    ),
    _TargetGauge(
        "refresher_last_success_timestamp_seconds",
        "When an attempt last refreshed the credential; when static, or checked it.",
        lambda _target, status, _: _epoch(status.last_success_at),
    ),
    _TargetGauge(
        "refresher_last_attempt_timestamp_seconds",
        "When the last attempt began.",
        lambda _target, status, _: _epoch(status.last_attempt_at),
    ),
    _TargetGauge(
        "refresher_next_attempt_timestamp_seconds",
        "When the target is looked at again; absent while it is parked.",
        lambda target, status, _: _epoch(view.next_attempt_at(target, status)),
    ),
    _TargetGauge(
        "refresher_consecutive_failures",
        "Attempts that failed since the last one that did not.",
        lambda _target, status, _: status.consecutive_failures,
    ),
    _TargetGauge(
        "refresher_registry_pulls_remaining",
        "Pulls that the registry still allowed when last asked; absent where it does not tell.",
        lambda _target, status, _: status.pulls_remaining,
    ),
    _TargetGauge(
        "refresher_registry_pulls_limit",
        "Pulls that the registry allows in its window; absent where it does not tell.",
        lambda _target, status, _: status.pulls_limit,
    ),
)


@dataclass(frozen=True, slots=True)
class _SecretGauge:
    """One gauge of every fal secret; its series is absent where `value` is None."""

    name: str
    help: str
    value: Callable[[SecretStatus, Status], float | None]


_SECRET_GAUGES = (
    _SecretGauge(
        "refresher_secret_expiry_timestamp_seconds",
        "When the credential that stands in the fal secret ends.",
        lambda secret, status: _epoch(view.secret_expires_at(secret, status)),
    ),
    _SecretGauge(
        "refresher_secret_published_timestamp_seconds",
        "When fal last accepted a value for the secret.",
        lambda secret, _: _epoch(secret.published_at),
    ),
    _SecretGauge(
        "refresher_secret_proved",
        "Whether the registry has ever accepted what stands in the fal secret.",
        lambda secret, _: _proved(secret),
    ),
    _SecretGauge(
        "refresher_secret_drift",
        "Whether someone else wrote or deleted the fal secret; absent while nobody can tell.",
        lambda secret, _: _drift(secret),
    ),
)


def _proved(secret: SecretStatus) -> bool | None:
    """What was published unproved counts as proved once a check succeeded."""
    return None if secret.fingerprint is None else secret.verified_at is not None


def _drift(secret: SecretStatus) -> bool | None:
    listed = secret.created_time or secret.created_time_before
    return None if listed is None and not secret.drifted else secret.drifted


def _target_families(rows: Sequence[_Row], now: datetime, wanted: Wanted) -> Iterator[Metric]:
    for gauge in _TARGET_GAUGES:
        if not wanted(gauge.name):
            continue
        family = GaugeMetricFamily(gauge.name, gauge.help, labels=("target",))
        for target, status, labels in rows:
            value = gauge.value(target, status, now)
            if value is not None:
                family.add_sample(gauge.name, labels, value)
        yield family


def _secret_families(rows: Sequence[_Row], wanted: Wanted) -> Iterator[Metric]:
    for gauge in _SECRET_GAUGES:
        if not wanted(gauge.name):
            continue
        family = GaugeMetricFamily(
            gauge.name, gauge.help, labels=("target", "environment", "secret")
        )
        for target, status, _ in rows:
            for ref in target.secrets:
                value = gauge.value(status.secret(ref), status)
                if value is not None:
                    family.add_metric((target.name, ref.environment, ref.name), value)
        yield family


def _last_failure(rows: Iterable[_Row]) -> Metric:
    """The present cause: a counter cannot tell it after a restart, nor of the first failure."""
    family = GaugeMetricFamily(
        "refresher_last_failure_timestamp_seconds",
        "When the last attempt failed, with its stage and reason; absent once one succeeded.",
        labels=("target", "stage", "reason"),
    )
    for target, status, _ in rows:
        failure = status.last_failure
        if failure is not None:
            family.add_metric((target.name, failure.stage, failure.reason), failure.at.timestamp())
    return family


def _target_info(targets: Iterable[Target]) -> Metric:
    family = InfoMetricFamily("refresher_target", "What a target is.", labels=("target",))
    for target in targets:
        about = {
            "source": target.kind,
            "registry": target.registry.host,
            "renewable": "true" if target.renewable else "false",
        }
        family.add_metric((target.name,), about)
    return family


# --- counters ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Durations:
    """A histogram: how many attempts ended up in each bucket, the last one without a bound."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(DURATION_BUCKETS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.counts[bisect_left(DURATION_BUCKETS, seconds)] += 1
        self.seconds += seconds

    def cumulative(self) -> list[tuple[str, float]]:
        bounds = [*map(str, DURATION_BUCKETS), "+Inf"]
        return list(zip(bounds, itertools.accumulate(self.counts), strict=True))


class _Tally:
    """What the attempts of this process came to."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._attempts: Counter[tuple[str, Outcome]] = Counter()
        self._failures: Counter[tuple[str, Stage, FailureReason]] = Counter()
        self._durations: defaultdict[str, _Durations] = defaultdict(_Durations)
        self._notifications: Counter[str] = Counter()

    def add(self, target: Target, attempt: Attempt) -> None:
        with self._lock:
            if attempt.outcome is not None:
                self._attempts[target.name, attempt.outcome] += 1
            if attempt.failure is not None:
                failure = attempt.failure
                self._failures[target.name, failure.stage, failure.reason] += 1
            # Of a monotonic clock, unlike the attempt's start and end.
            self._durations[target.kind].add(sum(stage.seconds for stage in attempt.stages))

    def add_notification(self, outcome: str) -> None:
        with self._lock:
            self._notifications[outcome] += 1

    def families(self, targets: Mapping[str, Target]) -> list[Metric]:
        """The counters of these targets; those of any other are forgotten."""
        with self._lock:
            for name, outcome in [key for key in self._attempts if key[0] not in targets]:
                del self._attempts[name, outcome]
            for failure in [key for key in self._failures if key[0] not in targets]:
                del self._failures[failure]
            return [
                self._attempts_total(targets),
                self._failures_total(),
                self._attempt_duration({target.kind for target in targets.values()}),
                self._notifications_total(),
            ]

    def _attempts_total(self, names: Iterable[str]) -> Metric:
        family = CounterMetricFamily(
            "refresher_attempts_total", "Attempts that ended.", labels=("target", "outcome")
        )
        for name, outcome in itertools.product(names, Outcome):
            family.add_metric((name, outcome), self._attempts[name, outcome])
        return family

    def _failures_total(self) -> Metric:
        """Only what did happen: every stage with every reason would be 48 series a target."""
        family = CounterMetricFamily(
            "refresher_failures_total",
            "Attempts that failed, by the stage that did and the reason.",
            labels=("target", "stage", "reason"),
        )
        for labels, count in self._failures.items():
            family.add_metric(labels, count)
        return family

    def _attempt_duration(self, kinds: Iterable[str]) -> Metric:
        family = HistogramMetricFamily(
            "refresher_attempt_duration_seconds",
            "Time that an attempt spent in its stages.",
            labels=("source",),
        )
        for kind in sorted(kinds):
            durations = self._durations[kind]
            family.add_metric((kind,), durations.cumulative(), durations.seconds)
        return family

    def _notifications_total(self) -> Metric:
        family = CounterMetricFamily(
            "refresher_notifications_total", "Notifications, by outcome.", labels=("outcome",)
        )
        for outcome in NOTIFICATION_OUTCOMES:
            family.add_metric((outcome,), self._notifications[outcome])
        return family


# --- the process -------------------------------------------------------------------------------


def _gauge(name: str, help: str, value: float | None) -> Metric:
    """A gauge without labels, and without a sample where the value is None."""
    family = GaugeMetricFamily(name, help)
    if value is not None:
        family.add_metric((), value)
    return family


def _by_label(name: str, help: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, help, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    return family


def _replica_families(shared: SharedStore) -> Iterator[Metric]:
    yield _gauge(
        "refresher_replicas",
        "Replicas that live, as this one last saw them; absent where the state is not shared.",
        sum(replica.alive for replica in shared.there()),
    )
    claims = CounterMetricFamily(
        "refresher_claims_total",
        "Targets that this replica asked for: granted, or taken by another one.",
        labels=("answer",),
    )
    claims.add_metric(("granted",), shared.claims.granted)
    claims.add_metric(("taken",), shared.claims.taken)
    yield claims


def _build_info(version: str) -> Metric:
    return InfoMetricFamily("refresher_build", "What runs.", value={"version": version})


def _reverify_interval(targets: Iterable[Target]) -> float:
    """The longest in use, in seconds: what an alert on `valid` must be patient for."""
    intervals = [target.policy.reverify_interval for target in targets if target.renewable]
    return max(intervals, default=Policy().reverify_interval).total_seconds()


def _full_name(family: Metric) -> str:
    """As it is exposed; the library keeps the ending apart."""
    return family.name + {"counter": "_total", "info": "_info"}.get(family.type, "")


@dataclass(frozen=True, slots=True)
class _Alone:
    """One family, as the library wants to be given many."""

    family: Metric

    def collect(self) -> Iterable[Metric]:
        return (self.family,)


@dataclass(frozen=True, slots=True)
class _Reload:
    """The last time that the configuration was read."""

    at: datetime
    successful: bool


class Metrics:
    """All metrics of one process; nothing is kept outside of this object."""

    def __init__(
        self,
        *,
        store: Store,
        targets: Callable[[], Mapping[str, Target]],
        health: Health,
        skews: Skews,
        clock: Clock,
        version: str,
        shared: SharedStore | None = None,
    ) -> None:
        """`shared`: the store, where other replicas use it, too."""
        self._shared = shared
        self._store = store
        self._targets = targets
        self._health = health
        self._skews = skews
        self._clock = clock
        self._version = version
        self._tally = _Tally()
        self._reload: _Reload | None = None

    def observe(self, target: Target, _status: Status, attempt: Attempt) -> None:
        """Count an attempt that ended: an `Observer`."""
        self._tally.add(target, attempt)

    def notified(self, outcome: str) -> None:
        """Count what became of a notification, one of `NOTIFICATION_OUTCOMES`."""
        self._tally.add_notification(outcome)

    def config_read(self, at: datetime, *, successful: bool) -> None:
        """The configuration was read, at start or again."""
        self._reload = _Reload(at, successful)

    def expose(self, names: Collection[str] = ()) -> tuple[Iterator[bytes], str]:
        """A scrape in parts and its content type: the classic text format, which every scraper
        reads; of these families alone where there are `names`.

        OpenMetrics would say no more here and take the library twice as long. One family is in
        memory at a time: of ten thousand targets all would take 80 MB.
        """
        parts = (generate_latest(_Alone(family)) for family in self.collect(names))
        return parts, CONTENT_TYPE_PLAIN_0_0_4

    def collect(self, names: Collection[str] = ()) -> Iterator[Metric]:
        """All families, from one reading of clock, configuration and state, or those `names`."""

        def wanted(name: str) -> bool:
            return not names or name in names

        return (family for family in self._families(wanted) if wanted(_full_name(family)))

    def _families(self, wanted: Wanted) -> Iterator[Metric]:
        now, targets = self._clock.now(), self._targets()
        known = view.with_status(targets, self._store.statuses(), now)
        rows = [(target, status, {"target": target.name}) for target, status in known]
        yield from self._process_families(targets)
        yield from self._tally.families(targets)
        yield _target_info(targets.values())
        yield from _target_families(rows, now, wanted)
        yield _last_failure(rows)
        yield from _secret_families(rows, wanted)

    def _process_families(self, targets: Mapping[str, Target]) -> Iterator[Metric]:
        yield _build_info(self._version)
        yield _gauge("refresher_state_up", "Whether the state can be written.", self._store.up)
        if self._shared is not None:
            yield from _replica_families(self._shared)
        yield from self._scheduler_families()
        yield from self._config_families()
        yield _gauge(
            "refresher_reverify_interval_seconds",
            "How often a published renewable credential is proved again; the longest in use.",
            _reverify_interval(targets.values()),
        )
        yield _by_label(
            "refresher_clock_skew_seconds",
            "How far a peer's clock is ahead of ours.",
            "peer",
            self._skews.seconds(),
        )

    def _scheduler_families(self) -> Iterator[Metric]:
        tick = self._health.last_tick
        yield _gauge(
            "refresher_scheduler_last_tick_timestamp_seconds",
            "When the scheduler last looked at what is due.",
            None if tick is None else tick.at.timestamp(),
        )
        yield _gauge(
            "refresher_scheduler_lag_seconds",
            "How late the most overdue target was at the last tick; who awaits a peer is left out.",
            None if tick is None else tick.lag_seconds,
        )

    def _config_families(self) -> Iterator[Metric]:
        reload = self._reload
        yield _gauge(
            "refresher_config_last_reload_successful",
            "Whether the configuration was good when it was last read.",
            None if reload is None else reload.successful,
        )
        yield _gauge(
            "refresher_config_last_reload_timestamp_seconds",
            "When the configuration was last read.",
            None if reload is None else reload.at.timestamp(),
        )
