"""Who is told what, once, and that telling never stands in the way."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import httpx
import pytest
import structlog

from refresher import logs, notify
from refresher.clock import ManualClock
from refresher.config import Config, parse
from refresher.errors import (
    ConfigError,
    Failure,
    Forbidden,
    InvalidCredential,
    Misconfigured,
    Unauthorized,
    Unavailable,
)
from refresher.model import Condition, DueReason, Outcome, Status, Target
from refresher.notify import Heartbeat, Kind, Notice, Notifier, news, send, told
from refresher.notify.lane import LONGEST_QUEUE, RETRY_SECONDS, Lane
from refresher.references import Reference
from refresher.refresh import Refresher
from refresher.sandbox.certificates import authority
from refresher.sandbox.http import Fault, Request, Response, StandIn
from refresher.state import SqlStore
from tests.conftest import NOON
from tests.script import Bench
from tests.world import World, wait_for

#: Apprise imports a module that Python 3.11 calls deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

CANARY = "canary-5f0c"
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


class Receiver(StandIn):
    """Takes what Apprise's `json://` and a heartbeat send."""

    def handle(self, request: Request) -> Response:
        return Response(200)

    @property
    def notify_url(self) -> str:
        """An Apprise URL with a credential in each part that can hold one."""
        return f"json://{CANARY}:{CANARY}@127.0.0.1:{self.port}/{CANARY}?+X-Token={CANARY}"

    @property
    def notices(self) -> list[dict[str, str]]:
        """What arrived from Apprise."""
        return [json.loads(r.body) for r in self.requests if r.path == f"/{CANARY}"]

    @property
    def titles(self) -> list[str]:
        return [notice["title"] for notice in self.notices]

    @property
    def beats(self) -> list[tuple[str, str]]:
        """Method and path of each heartbeat."""
        return [(r.method, r.path) for r in self.requests if r.path.startswith("/ping")]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A service that takes notices, on loopback."""
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged, set up as `refresher run --debug` does."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = list(root.handlers), root.level
    logs.configure("json", debug=True, stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@dataclass
class Told:
    """A bench whose notifier tells through real URLs."""

    bench: Bench
    references: list[Reference]
    retry_seconds: Sequence[float] = (0.01, 0.01)
    counts: Counter[str] = field(default_factory=Counter)
    targets: dict[str, Target] = field(default_factory=dict)

    def __post_init__(self) -> None:
        bench = self.bench
        self.notifier = Notifier(
            store=bench.store,
            targets=lambda: self.targets,
            references=lambda: self.references,
            clock=bench.clock,
            count=self.count,
            retry_seconds=self.retry_seconds,
        )
        bench.refresher = Refresher(
            store=bench.store,
            held=bench.held,
            publishers={"default": bench.vault},
            clock=bench.clock,
            rng=Random(7),
            stopping=bench.stopping,
            observers=[self.notifier.observe],
        )

    def count(self, outcome: str) -> None:
        self.counts[outcome] += 1

    def keep(self, target: Target) -> Target:
        self.targets[target.name] = target
        return target

    def flush(self) -> None:
        """Wait until all that was told has been sent or given up."""
        self.notifier.close(10)


@pytest.fixture
def bench(clock: ManualClock) -> Iterator[Bench]:
    """Scripted peers and a store in memory."""
    bench = Bench(clock)
    yield bench
    bench.store.close()


def reference(path: Path, url: str) -> Reference:
    """A file that holds a URL."""
    path.write_text(url)
    return Reference(file=path)


@pytest.fixture
def arriving(bench: Bench, receiver: Receiver, tmp_path: Path) -> Iterator[Told]:
    """A notifier whose one URL is the receiver's."""
    arriving = Told(bench, [reference(tmp_path / "url", receiver.notify_url)])
    yield arriving
    receiver.stop()  # lets go of what hangs, so that no thread outlives its test
    arriving.notifier.close(5)


# --- what there is to tell ---------------------------------------------------------------------


def kind_of(target: Target, status: Status, clock: ManualClock) -> Kind | None:
    notice = news(target, status, clock.now())
    return None if notice is None else notice.kind


def test_a_good_target_is_no_news(bench: Bench) -> None:
    """Neither before its first publish nor after it."""
    target = bench.target()
    assert news(target, bench.adopt(target), bench.clock.now()) is None
    bench.attempt(target)
    assert news(target, bench.status(target), bench.clock.now()) is None


def test_a_refused_credential_is_bad(bench: Bench) -> None:
    """The notice says what, since when, why, and what to do."""
    target = bench.target(environments=("main", "staging"))
    bench.attempt(target)
    bench.judge.refused = {"token-1"}
    bench.clock.advance(15 * MINUTE)
    bench.attempt(target, DueReason.CHECK)
    notice = news(target, bench.status(target), bench.clock.now())
    assert notice == Notice(
        target="ecr",
        kind=Kind.BAD,
        title="refresher: ecr is bad: registry.test refuses its credential",
        text="Secrets: AWS_ECR_PASSWORD (main), AWS_ECR_PASSWORD (staging), for registry.test.\n"
        "State: expired. Ends: 2026-11-23 12:15 UTC.\n"
        "Last success: 2026-11-23 12:00 UTC.\n"
        "Last accepted by the registry: 2026-11-23 12:00 UTC.\n"
        "Last failure: 2026-11-23 12:15 UTC, 1 in a row.\n"
        "Cause: verify/unauthorized: the registry refused the credential\n"
        "What to do: Nothing, unless it is not good again within minutes: it is renewed by itself.",
    )


@pytest.mark.parametrize(
    ("hours", "failing", "kind", "words"),
    [
        (8.9, False, None, None),
        (8.9, True, None, None),
        (9.1, False, Kind.URGENT, "is urgent: its credential ends at 2026-11-24 00:00 UTC"),
        (9.1, True, Kind.BAD, "attempts fail and its credential ends at 2026-11-24 00:00 UTC"),
        (12.1, False, Kind.BAD, "is bad: its credential expired at 2026-11-24 00:00 UTC"),
    ],
)
def test_a_dying_credential_is_urgent_then_bad(
    bench: Bench, hours: float, failing: bool, kind: Kind | None, words: str | None
) -> None:
    """Urgent in the last quarter of its life; bad once attempts fail in it, or it is over."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(timedelta(hours=hours))
    bench.issuer.failure = Unavailable("AWS is away") if failing else None
    if failing:
        bench.attempt(target, DueReason.STALE)
    status, now = bench.status(target), bench.clock.now()
    notice = news(target, status, now)
    assert (notice.kind if notice else None) is kind
    if notice is not None and words is not None:
        assert words in notice.title
        assert news(target, told(target, status, now), now) is None


def test_what_nobody_can_judge_is_neither_good_nor_bad(bench: Bench) -> None:
    """A bad target whose new credential is not proved yet is not called good."""
    target = bench.target()
    bench.attempt(target)
    bad = replace(bench.status(target), told=Condition.BAD)
    assert kind_of(target, bad, bench.clock) is Kind.GOOD
    bench.clock.advance(HOUR)  # four re-verify intervals
    assert kind_of(target, bad, bench.clock) is None
    assert told(target, bad, bench.clock.now()) is bad


def test_a_parked_target_is_no_news(bench: Bench) -> None:
    """`enabled = false`: a person took it out of our hands; `pause` says what to do."""
    target = bench.target()
    bench.attempt(target)
    bench.clock.advance(13 * HOUR)
    status, now = bench.status(target), bench.clock.now()
    assert news(replace(target, enabled=False), status, now) is None
    assert told(replace(target, enabled=False), status, now) is status
    notice = news(target, replace(status, paused=True), now)
    assert notice is not None
    assert "refresher resume ecr" in notice.text


# --- what never began --------------------------------------------------------------------------


def test_a_beginning_that_fails_is_told(bench: Bench) -> None:
    """What only a person can mend at once: nobody else would ever hear that nothing stands."""
    target = bench.target(environments=("main", "staging"))
    bench.issuer.failure = Forbidden("GetAuthorizationToken refused")
    bench.attempt(target)
    notice = news(target, bench.status(target), bench.clock.now())
    assert notice == Notice(
        target="ecr",
        kind=Kind.BAD,
        title="refresher: ecr is bad: nothing was ever published to AWS_ECR_PASSWORD (main),"
        " AWS_ECR_PASSWORD (staging): its attempts fail",
        text="Secrets: AWS_ECR_PASSWORD (main), AWS_ECR_PASSWORD (staging), for registry.test.\n"
        "State: unknown. Ends: unknown.\n"
        "Last success: none.\n"
        "Last accepted by the registry: never.\n"
        "Last failure: 2026-11-23 12:00 UTC, 1 in a row.\n"
        "Cause: source/forbidden: GetAuthorizationToken refused\n"
        "What to do: Mend what the cause names; it is then picked up by itself.",
    )


def test_a_beginning_that_may_pass_by_itself_is_told_after_minutes(bench: Bench) -> None:
    """A network that comes up late is no news, one that stays away is."""
    target = bench.target()
    bench.issuer.failure = Unavailable("AWS is away")
    began = bench.clock.now()
    kinds = []
    for _ in range(10):
        bench.attempt(target, DueReason.RETRY)
        kinds.append(kind_of(target, bench.status(target), bench.clock))
        last = bench.clock.now()
        bench.clock.advance(bench.status(target).next_attempt_at - last)
    assert kinds == [None] * 9 + [Kind.BAD]
    assert MINUTE < last - began < 5 * MINUTE


def test_a_cause_that_changes_is_not_told_anew(bench: Bench) -> None:
    """Neither as bad nor as good: only a credential that stands is."""
    target = bench.target()
    bench.issuer.failure = Forbidden("refused")
    bench.attempt(target)
    bench.store.update(target.name, lambda old: told(target, old or bench.adopt(target), NOON))
    bench.issuer.failure = Unavailable("AWS is away")
    bench.attempt(target, DueReason.RETRY)
    assert bench.status(target).told is Condition.BAD
    assert news(target, bench.status(target), bench.clock.now()) is None
    bench.issuer.failure = None
    bench.attempt(target, DueReason.RETRY)
    assert kind_of(target, bench.status(target), bench.clock) is Kind.GOOD


def test_one_environment_that_never_began_is_told(bench: Bench) -> None:
    """The other one is good, and the notice names the one that is not."""
    target = bench.target(environments=("main", "staging"))
    bench.vault.failures["staging"] = Forbidden("environment staging is not yours")
    bench.attempt(target)
    notice = news(target, bench.status(target), bench.clock.now())
    assert notice is not None
    assert "nothing was ever published to AWS_ECR_PASSWORD (staging)" in notice.title
    assert notify.troubles({"ecr": target}, {"ecr": bench.status(target)}, NOON) == [
        "ecr: nothing was ever published to AWS_ECR_PASSWORD (staging): its attempts fail"
    ]


@pytest.mark.parametrize(
    ("failure", "words"),
    [
        (Unauthorized("wrong password"), "Make a new credential"),
        (InvalidCredential("is cut off"), "Make a new credential"),
        (Misconfigured("cannot read token: No such file"), "Mend what the cause names"),
        (Unavailable("DNS"), "Nothing, unless it lasts"),
    ],
)
def test_what_a_person_gave_is_doubted_only_where_it_is_at_fault(
    bench: Bench, failure: Failure, words: str
) -> None:
    """Of a token that was never tried nobody says that it is to be made anew."""
    bench.issuer.renewable = False
    bench.issuer.failure = failure
    target = bench.target()
    for _ in range(10):
        bench.attempt(target, DueReason.RETRY)
    notice = news(target, bench.status(target), bench.clock.now())
    assert notice is not None
    assert f"What to do: {words}" in notice.text


# --- once --------------------------------------------------------------------------------------


def test_a_bad_day_is_two_notices(arriving: Told, receiver: Receiver) -> None:
    """Bad, failing on and on, good again: told twice in all."""
    bench, clock = arriving.bench, arriving.bench.clock
    target = arriving.keep(bench.target())
    bench.attempt(target)
    clock.advance(9.5 * HOUR)
    bench.issuer.failure = Unavailable("AWS is away")
    for _ in range(5):
        bench.attempt(target, DueReason.URGENT)
        clock.advance(10 * MINUTE)
        arriving.notifier.look()
    clock.advance(2 * HOUR)
    arriving.notifier.look()  # expired by now: still bad
    bench.issuer.failure = None
    bench.attempt(target, DueReason.EXPIRED)
    arriving.notifier.look()
    arriving.flush()
    assert receiver.titles == [
        "refresher: ecr is bad: its attempts fail and its credential ends at 2026-11-24 00:00 UTC",
        "refresher: ecr is good again",
    ]
    assert [notice["type"] for notice in receiver.notices] == ["failure", "success"]
    assert arriving.counts == {"sent": 2}


def test_a_restart_does_not_repeat_what_was_told(
    bench: Bench, receiver: Receiver, tmp_path: Path
) -> None:
    """What was told stands in the state's file; the next process tells only what is new."""
    urls = [reference(tmp_path / "url", receiver.notify_url)]
    bench.store.close()
    for life in range(3):
        bench.store = SqlStore.open(f"sqlite:///{tmp_path / 'state.db'}", clock=bench.clock)
        process = Told(bench, urls)
        target = process.keep(bench.target())
        if life == 0:
            bench.attempt(target)
            bench.clock.advance(13 * HOUR)
        if life == 2:
            bench.attempt(target, DueReason.EXPIRED)
        process.notifier.look()
        process.flush()
        bench.store.close()
    assert receiver.titles == [
        "refresher: ecr is bad: its credential expired at 2026-11-24 00:00 UTC",
        "refresher: ecr is good again",
    ]


def test_it_is_remembered_before_it_is_sent(arriving: Told, receiver: Receiver) -> None:
    """A crash in between loses a notice rather than telling it at each start."""
    bench = arriving.bench
    target = arriving.keep(bench.target())
    bench.attempt(target)
    bench.clock.advance(13 * HOUR)
    receiver.fail(Fault.hang())
    arriving.notifier.look()
    assert bench.status(target).told is Condition.BAD
    assert arriving.counts == {}


def test_many_threads_tell_once(arriving: Told, receiver: Receiver) -> None:
    """A worker and the look of the minute find the same news at the same moment."""
    bench = arriving.bench
    for n in range(20):
        bench.attempt(arriving.keep(bench.target(f"t{n}")))
    bench.clock.advance(13 * HOUR)
    barrier = threading.Barrier(4)

    def look() -> None:
        barrier.wait()
        arriving.notifier.look()

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    arriving.flush()
    assert len(receiver.notices) == 20


def test_the_end_of_a_static_credential_is_told_in_steps(
    arriving: Told, receiver: Receiver
) -> None:
    """30, 14, 7 and 1 days ahead, the third with the turn to urgent in one notice; then bad."""
    bench, days = arriving.bench, []
    bench.issuer.life, bench.issuer.renewable, bench.issuer.value = 40 * DAY, False, "value"
    target = arriving.keep(bench.target("hub", kind="dockerhub", username="me"))
    bench.attempt(target)
    for day in range(42):
        before = bench.status(target)
        arriving.notifier.look()
        if bench.status(target) != before:
            days.append(day)
        bench.clock.advance(DAY)
    arriving.flush()
    assert days == [10, 26, 33, 39, 40]
    assert receiver.titles == [
        "refresher: hub expires in 30 days",
        "refresher: hub expires in 14 days",
        "refresher: hub is urgent: its credential ends at 2027-01-02 12:00 UTC",
        "refresher: hub expires in 1 day",
        "refresher: hub is bad: its credential expired at 2027-01-02 12:00 UTC",
    ]
    assert all("Make a new credential" in notice["message"] for notice in receiver.notices)


def test_writing_the_same_value_again_repeats_no_warning(
    arriving: Told, receiver: Receiver
) -> None:
    """A forced refresh publishes what stands; a new value with a later end is warned of anew."""
    bench = arriving.bench
    bench.issuer.renewable, bench.issuer.value = False, "value"
    target = arriving.keep(bench.target("hub", kind="dockerhub", username="me"))
    for value, life in (("value", 20 * DAY), ("value", 20 * DAY), ("new", 90 * DAY)):
        bench.issuer.value, bench.issuer.life = value, life
        bench.store.update("hub", lambda old: replace(old or bench.adopt(target), digest="another"))
        assert bench.attempt(target, DueReason.CONFIG_CHANGED).outcome is Outcome.REFRESHED
    assert bench.status(target).warned is None
    bench.clock.advance(65 * DAY)
    arriving.notifier.look()
    arriving.flush()
    assert receiver.titles == [
        "refresher: hub expires in 20 days",
        "refresher: hub expires in 25 days",
    ]


# --- sending -----------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", [Fault.hang(), Fault.drip(), Fault.reset(), Response(500)])
def test_a_failing_notifier_never_delays_a_refresh(
    arriving: Told, receiver: Receiver, trouble: Fault | Response
) -> None:
    """The attempt that finds the news, and the next one, end at once."""
    bench = arriving.bench
    receiver.fail(trouble)
    target = arriving.keep(bench.target())
    bench.attempt(target)
    bench.clock.advance(13 * HOUR)
    bench.issuer.failure = Unavailable("AWS is away")
    began = time.monotonic()
    bench.attempt(target, DueReason.EXPIRED)
    bench.issuer.failure = None
    assert bench.attempt(target, DueReason.EXPIRED).outcome is Outcome.REFRESHED
    assert time.monotonic() - began < 1


def test_a_dead_url_does_not_hold_up_another(
    bench: Bench, receiver: Receiver, tmp_path: Path
) -> None:
    """Each has its own thread and queue."""
    with Receiver() as dead:
        dead.fail(Fault.hang())
        urls = (("dead", dead.notify_url), ("good", receiver.notify_url))
        process = Told(bench, [reference(tmp_path / name, url) for name, url in urls])
        bench.attempt(process.keep(bench.target()))
        bench.clock.advance(13 * HOUR)
        process.notifier.look()
        wait_for(lambda: receiver.notices, "the notice at the good URL", 2)
        dead.stop()
        process.flush()


def test_a_notice_is_retried_and_counted_once(arriving: Told, receiver: Receiver) -> None:
    """Two answers of 503, then it is taken: one `sent`."""
    bench = arriving.bench
    bench.attempt(arriving.keep(bench.target()))
    bench.clock.advance(13 * HOUR)
    receiver.fail(Response(503), times=2)
    arriving.notifier.look()
    wait_for(lambda: arriving.counts, "the outcome")
    assert arriving.counts == {"sent": 1}
    assert len(receiver.notices) == 3


def test_a_notice_is_given_up_after_the_last_retry(arriving: Told, receiver: Receiver) -> None:
    """One `failed`, however often it was tried; the next notice is tried again."""
    bench = arriving.bench
    bench.attempt(arriving.keep(bench.target()))
    bench.clock.advance(13 * HOUR)
    receiver.fail(Response(503), times=3)
    arriving.notifier.look()
    wait_for(lambda: arriving.counts, "the outcome")
    assert arriving.counts == {"failed": 1}
    bench.attempt(arriving.targets["ecr"], DueReason.EXPIRED)
    arriving.flush()
    assert arriving.counts == {"failed": 1, "sent": 1}
    assert receiver.titles[-1] == "refresher: ecr is good again"


def test_the_wait_for_a_retry_ends_with_the_process(
    receiver: Receiver, tmp_path: Path, log: io.StringIO
) -> None:
    """The retries last a quarter of an hour, and none is slept through."""
    counts: Counter[str] = Counter()
    receiver.fail(Response(503))
    lane = Lane(
        reference(tmp_path / "url", receiver.notify_url),
        lambda o: counts.update([o]),
        RETRY_SECONDS,
    )
    lane.post(notify.TEST)
    wait_for(lambda: receiver.notices, "the first try")
    wait_for(lambda: "notification.failed" in log.getvalue(), "its failure")
    began = time.monotonic()
    lane.close(5)
    assert time.monotonic() - began < 1
    assert counts == {"failed": 1}


def test_what_the_queue_does_not_take_is_dropped_and_counted(
    receiver: Receiver, tmp_path: Path
) -> None:
    """A service that is away for long costs no memory."""
    counts: Counter[str] = Counter()
    receiver.fail(Fault.hang())
    lane = Lane(reference(tmp_path / "url", receiver.notify_url), lambda o: counts.update([o]))
    lane.post(notify.TEST)
    wait_for(lambda: receiver.notices, "the first try")
    for _ in range(LONGEST_QUEUE + 5):
        lane.post(notify.TEST)
    assert counts == {"dropped": 5}
    lane.close(0)
    assert counts["dropped"] == LONGEST_QUEUE + 5
    receiver.stop()
    lane.close(5)


def test_after_a_reload_the_new_url_alone_is_told(
    arriving: Told, receiver: Receiver, tmp_path: Path
) -> None:
    """`notify` is read from the present configuration, and each URL anew."""
    bench = arriving.bench
    target = arriving.keep(bench.target())
    bench.attempt(target)
    bench.clock.advance(13 * HOUR)
    arriving.notifier.look()
    wait_for(lambda: arriving.counts["sent"] == 1, "the first notice")
    with Receiver() as other:
        arriving.references[:] = [reference(tmp_path / "other", other.notify_url)]
        bench.attempt(target, DueReason.EXPIRED)
        arriving.flush()
        assert other.titles == ["refresher: ecr is good again"]
    assert len(receiver.notices) == 1


def test_once_closed_nothing_more_is_claimed(arriving: Told) -> None:
    """What an attempt finds while the process stops is told by the next process."""
    bench = arriving.bench
    target = arriving.keep(bench.target())
    bench.attempt(target)
    bench.clock.advance(13 * HOUR)
    arriving.flush()
    arriving.notifier.look()
    assert bench.status(target).told is Condition.GOOD


def test_without_urls_the_log_is_told(bench: Bench, log: io.StringIO) -> None:
    """Once, at a level that fits."""
    process = Told(bench, [])
    bench.attempt(process.keep(bench.target()))
    bench.clock.advance(9.5 * HOUR)
    process.notifier.look()
    bench.clock.advance(3 * HOUR)
    process.notifier.look()
    process.notifier.look()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    events = [(line["event"], line["level"]) for line in lines]
    assert events == [("target.urgent", "warning"), ("target.bad", "error")]


BAD_URLS = {
    "refused": "{url}",
    "unknown service": f"nope://{CANARY}",
    "no URL": CANARY,
    "incomplete": f"slack://{CANARY}",
}


@pytest.mark.parametrize("name", BAD_URLS)
def test_no_part_of_a_url_is_logged(
    bench: Bench, receiver: Receiver, tmp_path: Path, log: io.StringIO, name: str
) -> None:
    """Apprise URLs hold secrets: the log has the scheme, and where the URL is kept."""
    receiver.fail(Response(403))
    url = BAD_URLS[name].format(url=receiver.notify_url)
    process = Told(bench, [reference(tmp_path / "url", url)])
    bench.attempt(process.keep(bench.target()))
    bench.clock.advance(13 * HOUR)
    process.notifier.look()
    process.flush()
    assert process.counts == {"failed": 1}
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    failed = next(line for line in lines if line["event"] == "notification.failed")
    assert failed["scheme"] == (url.split(":")[0] if "://" in url else "?")
    assert failed["notifier"] == f"file {tmp_path / 'url'}"
    assert CANARY not in log.getvalue()


def test_a_notice_holds_no_credential(arriving: Told, receiver: Receiver) -> None:
    """Nor does any header or query."""
    bench = arriving.bench
    bench.issuer.value = f"password-{CANARY}"
    bench.attempt(arriving.keep(bench.target()))
    bench.judge.failure = Unauthorized("the registry refused the credential")
    bench.clock.advance(13 * HOUR)
    bench.attempt(arriving.targets["ecr"], DueReason.EXPIRED)
    arriving.flush()
    (request,) = receiver.requests
    assert b"ecr is bad" in request.body
    assert CANARY.encode() not in request.body


CONFIG = """
[daemon]
state = "sqlite://"
notify = [{ env = "NOTIFY_URL" }]
[fal]
key = { env = "FAL_KEY" }
[targets.ecr]
source = "ecr"
registry = "123456789012.dkr.ecr.us-east-1.amazonaws.com"
secret = "AWS_ECR_PASSWORD"
"""


def config(text: str = CONFIG) -> Config:
    environ = {"FAL_KEY": "id:secret", "NOTIFY_URL": "json://x", "BEAT": "x"}
    return parse(text, "refresher.toml", environ)


def test_without_the_extra_a_configured_url_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names the key and what to install; without URLs nothing is missed."""
    notify.require(config())
    monkeypatch.setitem(sys.modules, "apprise", None)
    with pytest.raises(ConfigError) as refused:
        notify.require(config())
    assert str(refused.value) == (
        "refresher.toml: daemon.notify: needs Apprise, which is not installed;"
        ' install "refresher[notify]"'
    )
    notify.require(config(CONFIG.replace("notify =", "#notify =")))


def test_an_authority_of_ones_own_is_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, clock: ManualClock
) -> None:
    """The bundle of the configuration goes before the variable; without either, nobody is."""
    certificates = authority(tmp_path / "tls", datetime.now(UTC))
    other = authority(tmp_path / "other", datetime.now(UTC))
    with Receiver(certificates=certificates) as receiver:
        url = reference(tmp_path / "url", receiver.notify_url.replace("json:", "jsons:"))
        monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
        with pytest.raises(Unavailable):
            send(url, notify.TEST)
        send(url, notify.TEST, ca_bundle=certificates.ca_file)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca_file))
        send(url, notify.TEST)
        assert receiver.titles == [notify.TEST.title] * 2
        with pytest.raises(Unavailable):
            send(url, notify.TEST, ca_bundle=other.ca_file)
        assert len(receiver.titles) == 2


@pytest.mark.slow
def test_a_send_ends_within_its_deadline(receiver: Receiver, tmp_path: Path) -> None:
    """A service that drips a byte at a time is cut off after 8 s."""
    receiver.fail(Fault.drip())
    began = time.monotonic()
    with pytest.raises(Exception, match="did not answer within 8 s"):
        send(reference(tmp_path / "url", receiver.notify_url), notify.TEST)
    assert time.monotonic() - began < 9


# --- heartbeat ---------------------------------------------------------------------------------


@dataclass
class Beating:
    """A heartbeat that asks a receiver."""

    url: Path
    troubles: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.heartbeat = Heartbeat(
            reference=lambda: Reference(file=self.url),
            troubles=lambda: self.troubles,
            count=lambda outcome: self.counts.update([outcome]),
        )

    def beat(self) -> None:
        self.heartbeat.beat()


@pytest.fixture
def beating(receiver: Receiver, tmp_path: Path, log: io.StringIO) -> Beating:
    """A heartbeat whose URL is the receiver's."""
    url = tmp_path / "heartbeat"
    url.write_text(f"{receiver.url}/ping/{CANARY}?rid=1")
    return Beating(url)


def test_all_is_well_and_then_not(beating: Beating, receiver: Receiver) -> None:
    """GET at the URL; POST at its /fail with what is wrong; the query stays."""
    beating.beat()
    beating.troubles = ["ecr: its credential expired", "hub: registry.test refuses its credential"]
    beating.beat()
    assert receiver.beats == [("GET", f"/ping/{CANARY}"), ("POST", f"/ping/{CANARY}/fail")]
    assert {request.query for request in receiver.requests} == {"rid=1"}
    assert receiver.requests[1].body.decode().splitlines() == beating.troubles
    assert beating.counts == {}


def test_without_a_url_nobody_is_asked() -> None:
    """Nor are the targets looked at."""

    def never() -> list[str]:
        raise AssertionError("asked")

    Heartbeat(reference=lambda: None, troubles=never, count=lambda _: None).beat()


TROUBLES: dict[str, Callable[[Receiver], Fault | Response]] = {
    "answered 503": lambda _: Response(503),
    "answered 302": lambda receiver: Response(302, headers={"Location": f"{receiver.url}/x"}),
    "ConnectionResetError": lambda _: Fault.reset(),
    "BadStatusLine": lambda _: Fault.garbage(),
}


@pytest.mark.parametrize("words", TROUBLES)
def test_a_failure_is_logged_once_and_counted_each_time(
    beating: Beating, receiver: Receiver, log: io.StringIO, words: str
) -> None:
    """So is its end; the URL is in no line, and no redirect is followed."""
    receiver.fail(TROUBLES[words](receiver))
    for _ in range(3):
        beating.beat()
    receiver.mend()
    for _ in range(2):
        beating.beat()
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["heartbeat.failed", "heartbeat.restored"]
    assert words in lines[0]["message"]
    assert beating.counts == {"failed": 3}
    assert CANARY not in log.getvalue()
    assert all(path.startswith("/ping") for path in (r.path for r in receiver.requests))


@pytest.mark.parametrize(
    "url",
    [CANARY, f"file:///{CANARY}", f"http:///{CANARY}", f"http://[{CANARY}", f"http://a b/{CANARY}"],
)
def test_what_is_no_url_is_a_failure_that_shows_nothing_of_it(
    beating: Beating, log: io.StringIO, url: str
) -> None:
    """A pasted token, a file, a broken host."""
    beating.url.write_text(url)
    beating.beat()
    assert beating.counts == {"failed": 1}
    assert "heartbeat.failed" in log.getvalue()
    assert CANARY not in log.getvalue()


def test_a_missing_file_is_a_failure_until_it_comes(
    beating: Beating, receiver: Receiver, log: io.StringIO
) -> None:
    """The URL is read anew at each beat."""
    url = beating.url.read_text()
    beating.url.unlink()
    beating.beat()
    assert "cannot read" in log.getvalue()
    beating.url.write_text(url)
    beating.beat()
    assert len(receiver.beats) == 1


def test_the_troubles_are_those_of_bad_targets(bench: Bench) -> None:
    """Expired, refused, urgent and failing; not urgent alone, not parked."""
    targets = {name: bench.target(name) for name in ("fine", "expired", "refused", "parked")}
    for target in targets.values():
        bench.attempt(target)
    targets["parked"] = replace(targets["parked"], enabled=False)
    clock = bench.clock
    for name in ("expired", "parked"):
        status = bench.status(targets[name])
        secrets = tuple(replace(s, expires_at=clock.now()) for s in status.secrets)
        bench.store.update(name, lambda old, s=secrets: replace(old, secrets=s))
    bench.judge.refused = {"token-1"}
    bench.clock.advance(15 * MINUTE)
    bench.attempt(targets["refused"], DueReason.CHECK)
    assert notify.troubles(targets, bench.store.statuses(), clock.now()) == [
        "expired: its credential expired at 2026-11-23 12:00 UTC",
        "refused: registry.test refuses its credential",
    ]


# --- the daemon --------------------------------------------------------------------------------


def test_a_daemon_tells_of_a_refusal_and_of_its_end() -> None:
    """The real process, over TLS: revoked, replaced, told twice; with a heartbeat and counted."""
    with ExitStack() as stack:
        world = stack.enter_context(World(token_life=timedelta(seconds=40)))
        receiver = stack.enter_context(Receiver(certificates=world.certificates))
        world.configure(policy={"reverify_interval": "1s"})
        text = world.config.read_text()
        keys = 'notify = [{ env = "NOTIFY_URL" }]\nheartbeat_url = { env = "HEARTBEAT_URL" }'
        world.config.write_text(text.replace("[daemon]", f"[daemon]\n{keys}"))
        world.extra = {
            "NOTIFY_URL": receiver.notify_url.replace("json:", "jsons:"),
            "HEARTBEAT_URL": f"{receiver.url}/ping/{CANARY}",
        }
        with world.daemon() as run:
            wait_for(lambda: world.secret is not None, "the first publish")
            first = world.secret
            assert first is not None
            world.aws.passwords.revoke(first)
            wait_for(lambda: len(receiver.notices) == 2, "two notices")
            assert receiver.beats[0] == ("GET", f"/ping/{CANARY}")
            assert run.lines("target.bad")
            assert run.lines("target.good")
            metrics = httpx.get(f"{run.url}/metrics").text
            assert run.stop() == 0
        kinds = [notice["type"] for notice in receiver.notices]
        assert kinds == ["failure", "success"]
        assert 'refresher_notifications_total{outcome="sent"} 2.0' in metrics
        assert CANARY not in run.log.read_text()


@pytest.mark.parametrize(
    ("url", "doubtful"),
    [
        ("http://beats.test/x", True),
        ("http://192.168.1.7:8000/x", True),
        ("HTTP://beats.test/x", True),
        ("https://beats.test/x", False),
        ("http://127.0.0.1:1/x", False),
        ("http://[::1]/x", False),
        ("http://localhost/x", False),
        ("http://[/x", False),
        ("", False),
        (None, False),
    ],
)
def test_a_heartbeat_that_others_can_read_is_doubtful(url: str | None, doubtful: bool) -> None:
    """Plain HTTP beyond this machine; what is no URL at all each beat tells."""
    environ = {} if url is None else {"BEAT": url}
    beating = config(CONFIG.replace("notify =", 'heartbeat_url = { env = "BEAT" }\n#notify ='))
    assert bool(notify.warnings(beating, environ)) is doubtful
