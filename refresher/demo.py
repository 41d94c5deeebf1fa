"""The whole product against local stand-ins: short-lived passwords, a token that expires."""

from __future__ import annotations

import base64
import http.client
import logging
import os
import socket
import textwrap
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from refresher import logs
from refresher.config import load
from refresher.daemon import Daemon, Options
from refresher.errors import FailureReason
from refresher.model import Attempt, Outcome, Stage, Status, Target
from refresher.sandbox.world import STATIC_SECRETS, World, secret_name

#: How long the passwords of the demo live.
LIFE = timedelta(seconds=30)
#: How long its Google key lives: not long enough to go without a warning.
_KEY_LIFE = timedelta(days=20)

_TARGET = "ecr"
_SECRET = secret_name(_TARGET)
#: The target whose credential expires.
_EXPIRING = "dockerhub"
_ENVIRONMENT = "main"
_USUAL_PORT = 9478

#: Seconds between two looks at the secret, and how many looks lie between two real logins.
_LOOK_SECONDS = 0.05
_LOOKS_PER_LOGIN = 10
#: Seconds until something must stand in the secret.
_FIRST_SECONDS = 10.0


def run(
    seconds: float | None,
    port: int | None,
    echo: Callable[[str], None],
    *,
    life: timedelta = LIFE,
) -> bool:
    """Whether ECR's secret held, at every moment, a password that the registry accepted.

    Also false where nothing was published, or no second time although half a life went by, and
    where anything failed but the Docker Hub token that expires by plan. Ends after `seconds`,
    where that is None with SIGINT or SIGTERM; so it must run in the main thread. The page is on
    `port`: 0 is a free one, None the usual one where that is free. `echo` gets each line of the
    story, from any thread. Raises `RefresherError` where the port is taken.
    """
    pace = Pace(life.total_seconds())
    with World(token_life=life, key_life=_KEY_LIFE) as world, _inside(world), _quiet():
        listen = f"127.0.0.1:{_free_port() if port is None else port}"
        path = world.directory / "refresher.toml"
        world.write_config(path, kinds=STATIC_SECRETS, listen=listen, policy=pace.policy)
        story = _Story(echo, pace)
        watched = Options(watched=lambda: [path])
        daemon = Daemon(lambda: load(path, os.environ), watched, observers=[story.attempt])
        story.begin(daemon.url, seconds)
        watch, expiry = Watch(world), Expiry(world, pace, story.aside)
        watching = partial(watch.run, seconds, daemon.stop)
        with daemon.signals(), _beside(expiry.run, expiry.end), _beside(watching, watch.end):
            daemon.run()
        return story.end(watch, expiry.times)


@dataclass(frozen=True, slots=True)
class Pace:
    """When what happens, in seconds; all of it follows from how long the passwords live."""

    life: float

    @property
    def reverify(self) -> int:
        """Often enough to be seen between two refreshes."""
        return max(1, round(self.life / 8))

    @property
    def check(self) -> int:
        """Of what only a person can replace."""
        return max(1, round(self.life / 5))

    @property
    def expires(self) -> float:
        """From the beginning of a round."""
        return self.life * 0.3

    @property
    def replaced(self) -> float:
        """Likewise, once a check has found it; with the usual life shortly before the daemon looks
        at files again."""
        return max(self.life * 0.6, self.expires + self.check + 1)

    @property
    def round(self) -> float:
        """Until the same begins again."""
        return self.life * 4 / 3

    @property
    def policy(self) -> dict[str, str | float]:
        """What the configuration says besides the defaults."""
        return {"reverify_interval": f"{self.reverify}s", "check_interval": f"{self.check}s"}


# --- expiring ----------------------------------------------------------------------------------


class Expiry:
    """Lets the Docker Hub token expire and be replaced, round by round."""

    def __init__(self, world: World, pace: Pace, tell: Callable[[str], None]) -> None:
        self._world = world
        self._pace = pace
        self._tell = tell
        self._ended = threading.Event()
        #: How often it expired.
        self.times = 0

    def run(self) -> None:
        """Until `end`."""
        pace = self._pace
        while not self._ended.wait(pace.expires):
            self.times += 1
            self._tell("from now on Docker Hub refuses the token: it expired")
            self._world.expire_hub_token()
            if self._ended.wait(pace.replaced - pace.expires):
                return
            self._tell("a person puts a new token into its file")
            self._world.replace_hub_token()
            if self._ended.wait(pace.round - pace.replaced):
                return

    def end(self) -> None:
        self._ended.set()


# --- watching ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Tally:
    """How often something was asked, and how often the answer was bad."""

    asked: int = 0
    bad: int = 0

    def count(self, *, good: bool) -> None:
        self.asked += 1
        self.bad += not good


class Watch:
    """Looks at the secret from its first value on, and logs in to the registry with it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ended = threading.Event()
        self._seen: datetime | None = None
        self._value: str | None = None
        #: Moments at which the secret was judged; both ends of each value's time are among them.
        self.moments = Tally()
        #: Real requests to the registry.
        self.logins = Tally()

    @property
    def began(self) -> bool:
        """Whether anything was ever published."""
        return self._seen is not None

    @property
    def good(self) -> bool:
        """Whether something was published, and it was good whenever it was looked at."""
        return self.began and not self.moments.bad and not self.logins.bad

    def run(self, seconds: float | None, over: Callable[[], None]) -> None:
        """Watch until `end`; call `over` after `seconds`, or where nothing is published."""
        started = time.monotonic()
        looks = 0
        try:
            while not self._ended.wait(_LOOK_SECONDS):
                self.look()
                if looks % _LOOKS_PER_LOGIN == 0:
                    self.log_in()
                looks += 1
                if self._enough(time.monotonic() - started, seconds):
                    over()
        finally:
            over()  # without a watch the demo would show nothing

    def _enough(self, passed: float, seconds: float | None) -> bool:
        if not self.began and passed >= _FIRST_SECONDS:
            return True
        return seconds is not None and passed >= seconds

    def end(self) -> None:
        self._ended.set()

    def look(self) -> None:
        """Judge what stands there now, and what came and went since the last look.

        A password that is good at both ends of its time in the secret was good throughout.
        """
        now = datetime.now(UTC)
        for held in self._world.fal.history(_ENVIRONMENT, _SECRET):
            if self._seen is not None and held.since <= self._seen:
                continue
            self._judge(held.since)
            self._seen = held.since
            self._value = None if held.value is None else held.value.reveal()
            self._judge(held.since)
        self._judge(now)

    def log_in(self) -> None:
        """Ask the registry about the present value, as a container engine does."""
        if self._value is not None:
            status = _login(self._world.registry.port, self._value)
            self.logins.count(good=status == 200)

    def _judge(self, at: datetime) -> None:
        if not self.began:
            return
        value = self._value
        good = value is not None and self._world.aws.passwords.judge(value, at) == "good"
        self.moments.count(good=good)


def _login(port: int, password: str) -> int:
    """The registry's status for a login; 0 where it does not answer."""
    pair = base64.b64encode(f"AWS:{password}".encode()).decode()
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
        try:
            connection.request("GET", "/v2/", headers={"Authorization": f"Basic {pair}"})
            return connection.getresponse().status
        except OSError:
            return 0


# --- telling -----------------------------------------------------------------------------------

#: Columns of a terminal.
_COLUMNS = 80


def _introduction(pace: Pace) -> list[str]:
    return [
        *textwrap.wrap(
            "AWS, Google, Docker Hub, the registries and fal are local stand-ins inside this"
            " process. Nothing leaves this machine, and no credential of yours is used.",
            _COLUMNS,
        ),
        "",
        f"ecr        a password that lives {pace.life:g} s, not 12 h; refresher issues new ones",
        f"gar        a service-account key, which ends in {_KEY_LIFE.days} days",
        "dockerhub  an access token in a file, which expires; then a person replaces it",
        "oci        a token for a registry in the manner of GHCR",
        "",
        *textwrap.wrap(
            "All other numbers are the defaults, except that ecr is proved again every"
            f" {pace.reverify} s, not 15 min, and the others every {pace.check} s, not 1 h or 6 h;"
            " of their good checks only the first is shown. What a secret holds is shown by its"
            " fingerprint.",
            _COLUMNS,
        ),
        "",
    ]


class _Story:
    """Tells a person what happens, an event at a time."""

    def __init__(self, echo: Callable[[str], None], pace: Pace) -> None:
        self._echo = echo
        self._pace = pace
        self._started = time.monotonic()
        self._lock = threading.Lock()
        #: How often each outcome came, by target.
        self._outcomes: Counter[tuple[str, Outcome]] = Counter()
        #: How often the token that expires was refused.
        self._refused = 0

    def begin(self, url: str, seconds: float | None) -> None:
        after = "" if seconds is None else f"after {seconds:g} s, or "
        for line in _introduction(self._pace):
            self._echo(line)
        self._echo(f"Status page: {url}")
        self._echo(f"It ends {after}with Ctrl-C.")
        self._echo("")

    def aside(self, text: str) -> None:
        """Something that refresher did not do."""
        self._tell("", text)

    def attempt(self, target: Target, status: Status, attempt: Attempt) -> None:
        """An observer of the daemon."""
        assert attempt.outcome is not None  # noqa: S101 - observers hear of finished attempts
        if attempt.failure is not None and attempt.failure.reason is FailureReason.INTERRUPTED:
            return  # the end of the demo cut it, which is no failure
        with self._lock:
            self._outcomes[target.name, attempt.outcome] += 1
            self._refused += _refused(target, attempt)
            times = self._outcomes[target.name, Outcome.CHECKED]
        if target.renewable or attempt.outcome is not Outcome.CHECKED or times == 1:
            self._tell(target.name, *_told(target, status, attempt))

    def _tell(self, who: str, *texts: str) -> None:
        """Each text on lines of its own, as many as it takes."""
        head = f"{time.monotonic() - self._started:6.1f} s  {who:<9}  "
        wrap = partial(textwrap.wrap, break_on_hyphens=False, subsequent_indent=" " * len(head))
        with self._lock:
            for text in texts:
                for line in wrap(text, _COLUMNS, initial_indent=head):
                    self._echo(line)
                head = " " * len(head)

    def end(self, watch: Watch, expired: int) -> bool:
        """The verdict; `expired`: how often a credential was to be refused."""
        passed = time.monotonic() - self._started
        refreshes = self._outcomes[_TARGET, Outcome.REFRESHED]
        enough = refreshes >= (2 if passed >= self._pace.life / 2 else 1)
        planned = min(self._refused, expired)
        failures = self._count(Outcome.FAILED) - planned
        self._echo("")
        self._echo(
            f"In {passed:.0f} s: {self._count(Outcome.REFRESHED)} refreshes,"
            f" {self._count(Outcome.CHECKED)} checks,"
            f" {failures} failures besides {planned} planned."
        )
        self._echo(
            f"ECR's secret: judged at {watch.moments.asked} moments, {watch.moments.bad} of them"
            f" bad; {watch.logins.asked} logins, {watch.logins.bad} refused."
        )
        self._echo(_verdict(watch, enough=enough, failures=failures))
        return watch.good and enough and not failures

    def _count(self, outcome: Outcome) -> int:
        return sum(times for (_, each), times in self._outcomes.items() if each is outcome)


def _refused(target: Target, attempt: Attempt) -> bool:
    """Whether it is what an expired token leads to."""
    failure = attempt.failure
    if failure is None or target.name != _EXPIRING:
        return False
    return failure.stage is Stage.VERIFY and failure.reason is FailureReason.UNAUTHORIZED


def _told(target: Target, status: Status, attempt: Attempt) -> Iterator[str]:
    """What happened, and what stands in the secret by the beginning of its fingerprint."""
    secret = status.secret(target.secrets[0])
    holds = "is still empty" if secret.fingerprint is None else f"holds {secret.fingerprint[:8]}"
    failure = attempt.failure
    if failure is not None:
        yield f"failed at {failure.stage} ({failure.reason}): {failure.message}"
        yield f"{secret.ref} {holds}, as before"
        return
    checked = attempt.outcome is Outcome.CHECKED
    did = "re-verified" if checked else f"refreshed, because {attempt.reason}"
    yield f"{did}; {holds}{_lasting(target, secret.expires_at)}"


def _lasting(target: Target, expires_at: datetime | None) -> str:
    if expires_at is None:
        return ""
    left = expires_at - datetime.now(UTC)
    if target.renewable:
        return f", {left.total_seconds():.1f} s left"
    return f", {round(left / timedelta(days=1))} days left"


def _verdict(watch: Watch, *, enough: bool, failures: int) -> str:
    if not watch.began:
        return "Bad: nothing was published."
    if not watch.good:
        return "Bad: ECR's secret did not always hold a password that the registry accepts."
    if not enough:
        return "Bad: the password was good, but was not refreshed when it was time."
    if failures:
        return "Bad: the password was good, but something else failed that should not."
    return "Good: at every moment it held a password that the registry accepts."


# --- surroundings ------------------------------------------------------------------------------


def _free_port() -> int:
    """The usual port where it is free, else 0."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", _USUAL_PORT))
        except OSError:
            return 0
    return _USUAL_PORT


@contextmanager
def _beside(work: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Run `work` in a thread during the block, then `end` it; raises what it raised."""
    with ThreadPoolExecutor(1, thread_name_prefix="demo-watch") as pool:
        future = pool.submit(work)
        try:
            yield
        finally:
            end()
        future.result()


@contextmanager
def _inside(world: World) -> Iterator[None]:
    """This process in the world: boto3 and gRPC look at its environment only."""
    before = dict(os.environ)
    _become(world.over(before))
    try:
        yield
    finally:
        _become(before)


def _become(environ: Mapping[str, str]) -> None:
    for name in os.environ.keys() - environ.keys():
        del os.environ[name]
    os.environ.update(environ)


@contextmanager
def _quiet() -> Iterator[None]:
    """The daemon's log goes nowhere: the story tells it in plainer words."""
    logs.configure()
    log = logging.getLogger("refresher")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)
