"""The whole product against local stand-ins, with passwords that live half a minute."""

from __future__ import annotations

import base64
import http.client
import logging
import os
import socket
import threading
import time
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
from refresher.model import Attempt, Outcome, Status, Target
from refresher.sandbox.world import World, secret_name

#: How long the passwords of the demo live.
LIFE = timedelta(seconds=30)

_TARGET = "ecr"
_SECRET = secret_name(_TARGET)
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
    """Whether the secret held, at every moment, a password that the registry accepted.

    Also false where nothing was published, or no second time although half a life went by. Ends
    after `seconds`, where that is None with SIGINT or SIGTERM; so it must run in the main thread.
    The page is on `port`: 0 is a free one, None the usual one where that is free. `echo` gets
    each line of the story, from any thread. Raises `RefresherError` where the port is taken.
    """
    with World(token_life=life) as world, _inside(world), _quiet():
        policy = {"reverify_interval": f"{_reverify_seconds(life)}s"}
        listen = f"127.0.0.1:{_free_port() if port is None else port}"
        path = world.write_config(world.directory / "refresher.toml", listen=listen, policy=policy)
        story = _Story(echo, world, life)
        daemon = Daemon(lambda: load(path, os.environ), Options(path), observers=[story.attempt])
        story.begin(daemon.url, seconds)
        watch = Watch(world)
        with daemon.signals(), _beside(partial(watch.run, seconds, daemon.stop), watch.end):
            daemon.run()
        return story.end(watch)


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


class _Story:
    """Tells a person what happens, a line an event."""

    def __init__(self, echo: Callable[[str], None], world: World, life: timedelta) -> None:
        self._echo = echo
        self._world = world
        self._life = life
        self._started = time.monotonic()
        self._outcomes: list[Outcome] = []

    def begin(self, url: str, seconds: float | None) -> None:
        life = f"{self._life.total_seconds():g} s"
        self._echo("AWS, the registry and fal are local stand-ins inside this process.")
        self._echo("Nothing leaves this machine, and no credential of yours is used.")
        self._echo(f"Passwords live {life} instead of 12 h. Numbers are the defaults, except that")
        self._echo(f"re-verification comes every {_reverify_seconds(self._life)} s, not 15 min.")
        self._echo(f"Status page: {url}")
        ends = "Ctrl-C ends it" if seconds is None else f"ends after {seconds:g} s, or by Ctrl-C"
        self._echo(f"The demo {ends}.")
        self._echo("")

    def attempt(self, target: Target, status: Status, attempt: Attempt) -> None:
        """An observer of the daemon."""
        assert attempt.outcome is not None  # noqa: S101 - observers hear of finished attempts
        if attempt.failure is not None and attempt.failure.reason is FailureReason.INTERRUPTED:
            return  # the end of the demo cut it, which is no failure
        self._outcomes.append(attempt.outcome)
        passed = time.monotonic() - self._started
        self._echo(f"{passed:6.1f} s  {_happened(attempt)}; {_standing(target, status)}")

    def end(self, watch: Watch) -> bool:
        refreshes = self._outcomes.count(Outcome.REFRESHED)
        checks = self._outcomes.count(Outcome.CHECKED)
        passed = time.monotonic() - self._started
        enough = refreshes >= (2 if passed >= self._life.total_seconds() / 2 else 1)
        calls = self._world.aws.calls["GetAuthorizationToken"]
        self._echo("")
        self._echo(
            f"In {passed:.0f} s: {refreshes} refreshes, {checks} re-verifications,"
            f" {len(self._outcomes) - refreshes - checks} failures; {calls} calls to AWS."
        )
        self._echo(
            f"The secret was judged at {watch.moments.asked} moments, {watch.moments.bad} of them"
            f" bad, and by {watch.logins.asked} logins to the registry, {watch.logins.bad} refused."
        )
        self._echo(_verdict(watch, enough=enough))
        return watch.good and enough


def _happened(attempt: Attempt) -> str:
    if attempt.failure is not None:
        failure = attempt.failure
        return f"failed at {failure.stage} ({failure.reason}): {failure.message}"
    if attempt.outcome is Outcome.CHECKED:
        return "re-verified: the registry accepts it"
    return f"refreshed, because {attempt.reason}"


def _standing(target: Target, status: Status) -> str:
    """What stands in the secret, by its fingerprint."""
    secret = status.secret(target.secrets[0])
    if secret.fingerprint is None or secret.expires_at is None:
        return f"{secret.ref} is still empty"
    left = (secret.expires_at - datetime.now(UTC)).total_seconds()
    return f"{secret.ref} holds {secret.fingerprint}, good for {left:.1f} s"


def _verdict(watch: Watch, *, enough: bool) -> str:
    if not watch.began:
        return "Bad: nothing was published."
    if not watch.good:
        return "Bad: the secret did not hold a password that the registry accepts all the time."
    if not enough:
        return "Bad: the password was good, but was not refreshed when it was time."
    return "Good: at every moment the secret held a password that the registry accepts."


# --- surroundings ------------------------------------------------------------------------------


def _reverify_seconds(life: timedelta) -> int:
    """Often enough to be seen between two refreshes."""
    return max(1, round(life.total_seconds() / 8))


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
