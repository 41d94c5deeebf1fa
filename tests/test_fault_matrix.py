"""Every peer in every kind of trouble: what becomes of the attempt, and that others go on."""

from __future__ import annotations

import io
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from random import Random

import pytest
import structlog

from refresher import logs
from refresher.clock import Skews, SystemClock
from refresher.control import Control
from refresher.deadline import CALL_SECONDS
from refresher.errors import Failure
from refresher.health import Health
from refresher.held import Held
from refresher.model import (
    Actor,
    Attempt,
    Outcome,
    Policy,
    Publisher,
    RegistryRef,
    SecretRef,
    SecretValue,
    Source,
    Stage,
    Target,
    Verifier,
)
from refresher.notify import TEST, Heartbeat, send
from refresher.notify.lane import Lane
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.refresh import Refresher
from refresher.registry import HubVerifier, RegistryVerifier
from refresher.sandbox.aws import ACCESS_KEY_ID, SECRET_ACCESS_KEY, AwsStandIn, Role
from refresher.sandbox.dockerhub import DockerHubStandIn, Login
from refresher.sandbox.fal import SANDBOX_KEY, FalStandIn
from refresher.sandbox.google import GarStandIn, GoogleStandIn
from refresher.sandbox.registry import BearerRegistryStandIn, RegistryStandIn
from refresher.scheduler import Scheduler, adopt
from refresher.sources.aws import AwsClients, AwsSettings
from refresher.sources.ecr import EcrSource, parse_host
from refresher.sources.gar import GarKeySource, GarKeyVerifier, Google
from refresher.sources.static import StaticSource
from refresher.state import SqlStore
from tests import awsenv, googleenv
from tests.faults import BadCertificates, Place, aws_in, fal_in, http_in, postgres_in

#: Apprise imports a module that Python 3.11 calls deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
]

# --- the specification -------------------------------------------------------------------------

#: The stage that a failure belongs to. The others are no part of an attempt: the state goes on in
#: memory, and notices and heartbeats are counted and logged.
STAGES = {
    "sts": Stage.SOURCE,
    "ecr": Stage.SOURCE,
    "registry": Stage.VERIFY,
    "token_service": Stage.VERIFY,
    "google": Stage.VERIFY,
    "docker_hub": Stage.VERIFY,
    "fal": Stage.PUBLISH,
}

#: What becomes of it: the reason, with the wait that is then kept where the peer asked for one;
#: `memory`: the state goes on in memory and says why; `ok`: the trouble does not matter;
#: `-`: there is no such thing, as `NO_SUCH_THING` says.
MATRIX = """
                     sts          ecr          registry     token_service google      docker_hub   fal          database notifier    heartbeat
refused              unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  memory   unavailable unavailable
reset                unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  memory   unavailable unavailable
hang_at_connect      timeout      timeout      timeout      timeout      timeout      timeout      timeout      memory   timeout     timeout
hang_at_headers      timeout      timeout      timeout      timeout      timeout      timeout      timeout      memory   timeout     timeout
hang_in_body         timeout      timeout      timeout      timeout      timeout      timeout      timeout      memory   timeout     ok
slow_drip            timeout      timeout      timeout      timeout      timeout      timeout      timeout      memory   timeout     ok
5xx                  unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  memory   unavailable unavailable
429                  throttled    throttled    throttled    throttled    throttled    throttled:1h throttled    -        unavailable unavailable
429_seconds          throttled:30s throttled:30s throttled:30s throttled:30s throttled:30s throttled:30s -      -        unavailable unavailable
429_date             throttled:30s throttled:30s throttled:30s throttled:30s throttled:30s throttled:30s -      -        unavailable unavailable
429_unix             throttled:30s throttled:30s throttled:30s throttled:30s throttled:30s throttled:30s -      -        unavailable unavailable
garbage              unavailable  unavailable  invalid_response invalid_response unavailable invalid_response unavailable memory unavailable unavailable
truncated            invalid_response invalid_response unavailable  unavailable  unavailable  unavailable  unavailable  memory   unavailable ok
wrong_tls_name       tls          tls          tls          tls          tls          tls          tls          memory   unavailable tls
expired_certificate  tls          tls          tls          tls          tls          tls          tls          memory   unavailable tls
dns_failure          unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  unavailable  memory   unavailable unavailable
enormous             invalid_response invalid_response invalid_response invalid_response invalid_response invalid_response invalid_response memory ok ok
"""  # noqa: E501 - a table

NO_SUCH_THING = {
    "fal": "gRPC has no Retry-After: RESOURCE_EXHAUSTED comes alone",
    "database": "PostgreSQL does not throttle: what it refuses to take on is a 5xx here",
}


def cells() -> dict[tuple[str, str], str]:
    """What is expected, by peer and fault."""
    header, *rows = (line.split() for line in MATRIX.strip().splitlines())
    assert all(len(row) == len(header) + 1 for row in rows)
    return {
        (peer, row[0]): expected
        for row in rows
        for peer, expected in zip(header, row[1:], strict=True)
    }


CELLS = cells()
PEERS = tuple(dict.fromkeys(peer for peer, _ in CELLS))
FAULTS = tuple(dict.fromkeys(fault for _, fault in CELLS))
REAL = [cell for cell, expected in CELLS.items() if expected != "-"]

#: Faults that last until the deadline.
ENDLESS = ("hang_at_connect", "hang_at_headers", "hang_in_body", "slow_drip")
#: Seconds that a call gets there, and where the peer does something by itself.
SHORT, LONG = 0.3, 5.0
#: Seconds by which a busy machine may be late.
SLACK = 2.0
#: Seconds within which a target of healthy peers is refreshed meanwhile.
PROMPTLY = 5.0
#: Cells at a time: they wait more than they work.
AT_ONCE = 6


def test_the_matrix_is_complete() -> None:
    """Ten peers, seventeen faults; what is left out has a reason."""
    assert len(PEERS) == 10
    assert len(FAULTS) == 17
    left_out = {peer for (peer, _), expected in CELLS.items() if expected == "-"}
    assert left_out == set(NO_SUCH_THING)


# --- the peers, all well -----------------------------------------------------------------------

USER = "somebody"
GAR_USER = "_json_key_base64"
STOOD = SecretValue("what stood before")
GOOD = SecretRef("good", "main", "GOOD")
CLOCK = SystemClock()

_PROFILE = """
[profile {name}]
region = eu-west-1
aws_access_key_id = {key}
aws_secret_access_key = {secret}
services = {name}

[services {name}]
sts =
    endpoint_url = {sts}
ecr =
    endpoint_url = {ecr}
"""


class Yard:
    """The peers, and the parts of a target that reach them."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self.directory = directory
        self.bad = BadCertificates.made(directory / "tls")
        self.aws = stack.enter_context(AwsStandIn())
        self.aws.add_role(Role(awsenv.ROLE))
        judge = self.aws.passwords.judge
        self.registry = stack.enter_context(
            RegistryStandIn(awsenv.HOST, lambda password: judge(password, CLOCK.now()))
        )
        self.google = stack.enter_context(GoogleStandIn())
        self.google.add_account(googleenv.EMAIL)
        self.key = self.google.add_key(googleenv.EMAIL)
        self.gar = stack.enter_context(GarStandIn(self.google.judge))
        self.hub = stack.enter_context(DockerHubStandIn({(USER, "password"): Login.GOOD}))
        self.fal = stack.enter_context(FalStandIn())
        self.verifier = stack.enter_context(RegistryVerifier(clock=CLOCK, skews=Skews()))
        self.publisher = publisher_at(Place(self.fal.host), CALL_SECONDS)
        stack.callback(self.publisher.close)
        self.password = self.written("password", "password")
        self._clients = AwsClients()
        self._profiles = ""
        self._lock = threading.Lock()
        self.add_profile("well")

    def written(self, name: str, text: str) -> Reference:
        """A file that holds it."""
        path = self.directory / name
        path.write_text(text)
        return Reference(file=path)

    def add_profile(self, name: str, **endpoints: str) -> None:
        """An AWS profile whose services are here, but for those named."""
        where = {"sts": self.aws.url, "ecr": self.aws.url, **endpoints}
        key, secret = ACCESS_KEY_ID, SECRET_ACCESS_KEY
        with self._lock:
            self._profiles += _PROFILE.format(name=name, key=key, secret=secret, **where)
            aside = self.directory / "config.new"
            aside.write_text(self._profiles)
            aside.replace(self.directory / "config")

    def ecr(self, settings: AwsSettings, seconds: float = CALL_SECONDS) -> Source:
        host = parse_host(awsenv.HOST)
        assert host is not None
        return EcrSource(
            host, settings, clock=CLOCK, skews=Skews(), clients=self._clients, call_seconds=seconds
        )


def publisher_at(place: Place, seconds: float) -> FalPublisher:
    """A publisher to fal where it is said to be."""
    return FalPublisher(
        "default",
        Reference(env="FAL_KEY"),
        host=place.host,
        tls=place.tls,
        ca_bundle=place.ca_file,
        clock=CLOCK,
        deadline=seconds,
        environ={"FAL_KEY": SANDBOX_KEY.reveal()},
    )


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    """All peers, with the environment of this machine shut out."""
    home = tmp_path_factory.mktemp("yard")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as stack:
        awsenv.isolate(patch, home)
        googleenv.isolate(patch, home)
        yard = Yard(home, stack)
        for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):  # else given with each call
            patch.setenv(name, str(yard.bad.bundle))
        yield yard


@pytest.fixture(scope="module", autouse=True)
def _quiet() -> Iterator[None]:
    """The log goes nowhere, also that of a notice which outlives its test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    logs.configure("json", stream=io.StringIO())
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# --- one of them in trouble --------------------------------------------------------------------


@dataclass
class Parts:
    """What a target is made of: all well, until one of its peers is put elsewhere."""

    yard: Yard
    stack: ExitStack
    #: Of the target and of its secret.
    name: str
    #: How long a call to the peer in trouble may take.
    seconds: float
    kind: str = "ecr"
    username: str = ""
    state: str = "sqlite://"
    #: Hears of each attempt.
    observer: Callable[..., None] = lambda *_: None
    #: What is called besides an attempt; its failure is the one to be judged.
    aside: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        yard = self.yard
        self.source: Source = yard.ecr(AwsSettings(profile="well", session_name=self.name))
        self.verifier: Verifier = yard.verifier
        self.publisher: Publisher = yard.publisher
        self.url = yard.registry.url

    @property
    def secret(self) -> SecretRef:
        return SecretRef("hurt", "main", self.name.upper())

    @property
    def held(self) -> list[str]:
        """Everything that the target's secret has held."""
        history = self.yard.fal.history("main", self.secret.name)
        return [held.value.reveal() if held.value else "" for held in history]

    def verifier_at(self, place: Place | None) -> RegistryVerifier:
        """One that trusts whom the place wants trusted."""
        if place is None:
            return self.yard.verifier
        return self.stack.enter_context(
            RegistryVerifier(
                clock=CLOCK, skews=Skews(), ca_bundle=place.ca_file, call_seconds=self.seconds
            )
        )

    def target(self) -> Target:
        return Target(
            name=self.name,
            kind=self.kind,
            registry=RegistryRef(awsenv.HOST if self.kind == "ecr" else "peer.test", self.url),
            image=None,
            secrets=(self.secret,),
            source=self.source,
            verifier=self.verifier,
            username=self.username,
            policy=Policy(),
            digest="v1",
        )


def use_sts(parts: Parts, place: Place | None) -> None:
    use_aws(parts, "sts", place, (awsenv.ROLE,))


def use_ecr(parts: Parts, place: Place | None) -> None:
    use_aws(parts, "ecr", place, ())


def use_aws(parts: Parts, service: str, place: Place | None, roles: tuple[str, ...]) -> None:
    parts.yard.add_profile(parts.name, **({service: place.url} if place else {}))
    parts.source = parts.yard.ecr(AwsSettings(profile=parts.name, role_arn=roles), parts.seconds)


def use_registry(parts: Parts, place: Place | None) -> None:
    parts.verifier = parts.verifier_at(place)
    parts.url = place.url if place else parts.yard.registry.url


def use_token_service(parts: Parts, place: Place | None) -> None:
    registry = parts.stack.enter_context(BearerRegistryStandIn("peer.test", {USER: "password"}))
    if place is not None:
        registry.realm = f"{place.url}/token"
    parts.kind, parts.username, parts.url = "oci", USER, registry.url
    parts.source = StaticSource(USER, parts.yard.password)
    parts.verifier = parts.verifier_at(place)


def use_google(parts: Parts, place: Place | None) -> None:
    yard = parts.yard
    token_uri = f"{place.url}/token" if place else yard.google.token_uri
    key = googleenv.written(yard.directory / parts.name, {**yard.key, "token_uri": token_uri})
    google = parts.stack.enter_context(
        Google(
            clock=CLOCK,
            skews=Skews(),
            token_uris=(token_uri,),
            certs_url=yard.google.certs_url,
            ca_bundle=place.ca_file if place else None,
            call_seconds=parts.seconds,
        )
    )
    parts.kind, parts.username, parts.url = "gar", GAR_USER, yard.gar.url
    parts.source = GarKeySource(Reference(file=key), GAR_USER, token_uris=(token_uri,))
    parts.verifier = GarKeyVerifier(yard.verifier, google, clock=CLOCK)


def use_docker_hub(parts: Parts, place: Place | None) -> None:
    hub = parts.yard.hub
    parts.kind, parts.username, parts.url = "dockerhub", USER, hub.url
    parts.source = StaticSource(USER, parts.yard.password)
    auth_url = f"{place.url}/token" if place else hub.auth_url
    parts.verifier = HubVerifier(parts.verifier_at(place).wire, auth_url=auth_url)


def use_fal(parts: Parts, place: Place | None) -> None:
    if place is not None:
        publisher = publisher_at(place, parts.seconds)
        parts.stack.callback(publisher.close)
        parts.publisher = publisher


def use_database(parts: Parts, place: Place | None) -> None:
    if place is not None:
        trust = f"?sslmode=verify-full&sslrootcert={place.ca_file}" if place.ca_file else ""
        parts.state = f"postgresql+psycopg://refresher@{place.host}/postgres{trust}"


def use_notifier(parts: Parts, place: Place | None) -> None:
    if place is None:
        return
    url = parts.yard.written(parts.name, f"{'jsons' if place.tls else 'json'}://{place.host}/")
    lane = Lane(url, lambda _: None, retry_seconds=())
    parts.stack.callback(lane.stop)
    parts.observer = lambda *_: lane.post(TEST)
    parts.aside = lambda: send(url, TEST, call_seconds=parts.seconds)


def use_heartbeat(parts: Parts, place: Place | None) -> None:
    if place is None:
        return
    url = parts.yard.written(parts.name, f"{place.url}/ping")
    heartbeat = Heartbeat(
        reference=lambda: url,
        troubles=list,
        count=lambda _: None,
        ca_bundle=place.ca_file,
        call_seconds=parts.seconds,
    )
    parts.aside = lambda: heartbeat.tell(url)


#: How a peer is put in a place; None is its own, where it is well.
USE: Mapping[str, Callable[[Parts, Place | None], None]] = {
    "sts": use_sts,
    "ecr": use_ecr,
    "registry": use_registry,
    "token_service": use_token_service,
    "google": use_google,
    "docker_hub": use_docker_hub,
    "fal": use_fal,
    "database": use_database,
    "notifier": use_notifier,
    "heartbeat": use_heartbeat,
}
TROUBLE = {"sts": aws_in, "ecr": aws_in, "fal": fal_in, "database": postgres_in}


@contextmanager
def hurt(yard: Yard, peer: str, fault: str | None, seconds: float) -> Iterator[Parts]:
    """The parts of a target whose peer is in trouble; None: it is well."""
    with ExitStack() as stack:
        place = fault and stack.enter_context(TROUBLE.get(peer, http_in)(fault, yard.bad))
        parts = Parts(yard, stack, f"{peer}_{fault}_{seconds * 10:.0f}", seconds)
        USE[peer](parts, place or None)
        yield parts


# --- what becomes of it ------------------------------------------------------------------------


@dataclass(frozen=True)
class Course:
    """How two targets fared that were refreshed at the same time."""

    hurt: Attempt
    good: Attempt
    #: From the end of the hurt one's attempt to its next.
    wait: timedelta
    #: Seconds until the good one was refreshed.
    good_seconds: float
    #: Why the state is in memory only.
    state_error: str | None

    @property
    def hurt_seconds(self) -> float:
        assert self.hurt.ended_at is not None
        return (self.hurt.ended_at - self.hurt.started_at).total_seconds()


def refreshed_together(parts: Parts) -> Course:
    """One process that is asked to refresh two targets now."""
    yard, stack = parts.yard, parts.stack
    store = SqlStore.open_or_memory(parts.state, clock=CLOCK, server_seconds=parts.seconds)
    stack.callback(store.close)
    target = parts.target()
    good = Parts(yard, stack, f"good_{parts.name}", CALL_SECONDS).target()
    targets = {target.name: target, good.name: replace(good, secrets=(GOOD,))}
    adopt(store, targets, CLOCK.now())
    scheduler = scheduler_of(parts, store, targets)
    stack.callback(lambda: scheduler.stop(5))
    asked = CLOCK.now()
    ids = Control(store, lambda: targets, CLOCK).refresh(list(targets), Actor.CLI)
    scheduler.run_once(ids, threading.Event())
    attempts, statuses = {a.target: a for a in store.attempts()}, store.statuses()
    ends = {name: attempts[name].ended_at or asked for name in targets}
    return Course(
        hurt=attempts[target.name],
        good=attempts[good.name],
        wait=statuses[target.name].next_attempt_at - ends[target.name],
        good_seconds=(ends[good.name] - asked).total_seconds(),
        state_error=store.last_error,
    )


def scheduler_of(parts: Parts, store: SqlStore, targets: Mapping[str, Target]) -> Scheduler:
    held = Held()
    return Scheduler(
        store=store,
        targets=lambda: targets,
        refresher=Refresher(
            store=store,
            held=held,
            publishers={"hurt": parts.publisher, "good": parts.yard.publisher},
            clock=CLOCK,
            rng=Random(7),
            stopping=threading.Event(),
            observers=[parts.observer],
        ),
        held=held,
        health=Health(4, CLOCK.monotonic()),
        clock=CLOCK,
        workers=4,
        deferred=lambda _target, _until: None,
    )


@dataclass(frozen=True)
class Fate:
    """What was seen of a cell."""

    course: Course
    #: What the hurt target's secret has held.
    held: list[str]
    #: What became of what is no part of an attempt, as the matrix has it.
    aside: str
    aside_seconds: float


def fate_of(yard: Yard, peer: str, fault: str | None) -> Fate:
    """Have something stand, then refresh with the peer in trouble."""
    seconds = seconds_for(peer, fault)
    with hurt(yard, peer, fault, seconds) as parts:
        yard.publisher.publish(parts.secret, STOOD, None)
        course = refreshed_together(parts)
        began = time.monotonic()
        aside = "memory" if course.state_error else reason_of(parts.aside)
        return Fate(course, parts.held, aside, time.monotonic() - began)


def seconds_for(peer: str, fault: str | None) -> float:
    """The deadline of a call: short only where nothing else would end it."""
    endless = fault in ENDLESS and CELLS[peer, fault] != "ok"
    return SHORT if endless else LONG


def reason_of(call: Callable[[], None] | None) -> str:
    try:
        if call is not None:
            call()
    except Failure as failure:
        return str(failure.reason)
    return "ok"


Cell = tuple[str, str | None]


class Fates:
    """What becomes of each cell, found out once."""

    def __init__(self, yard: Yard, pool: ThreadPoolExecutor) -> None:
        self._yard = yard
        self._pool = pool
        self._begun: dict[Cell, Future[Fate]] = {}

    def begin(self, cell: Cell) -> Future[Fate]:
        if cell not in self._begun:
            self._begun[cell] = self._pool.submit(fate_of, self._yard, *cell)
        return self._begun[cell]

    def __getitem__(self, cell: Cell) -> Fate:
        return self.begin(cell).result()


@pytest.fixture(scope="module")
def fates(yard: Yard, request: pytest.FixtureRequest) -> Iterator[Fates]:
    """Several are under way at once, unless several processes share them anyhow."""
    specs = (getattr(item, "callspec", None) for item in request.session.items)
    cells = [spec.params["cell"] for spec in specs if spec and "cell" in spec.params]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        fates = Fates(yard, pool)
        for cell in [] if "PYTEST_XDIST_WORKER" in os.environ else cells:
            fates.begin(cell)
        yield fates
        pool.shutdown(cancel_futures=True)


# --- the tests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", REAL, ids="-".join)
def test_trouble_ends_in_time_and_harms_nobody(fates: Fates, cell: tuple[str, str]) -> None:
    """Within the deadline, with its stage and reason; the secret stands, and others go on."""
    peer, fault = cell
    fate = fates[cell]
    expected, _, wait = CELLS[cell].partition(":")
    limit = seconds_for(peer, fault) + SLACK
    assert fate.course.good.outcome is Outcome.REFRESHED
    assert fate.course.good_seconds < PROMPTLY
    assert fate.course.hurt_seconds < limit
    assert fate.aside_seconds < limit
    if peer in STAGES:
        assert found(fate.course.hurt) == (STAGES[peer], expected)
        assert fate.held == [STOOD.reveal()]
        assert_waits(fate.course.wait, wait)
    else:
        assert fate.course.hurt.outcome is Outcome.REFRESHED
        assert fate.aside == expected


def found(attempt: Attempt) -> tuple[Stage, str] | None:
    """Where and why an attempt failed."""
    return None if attempt.failure is None else (attempt.failure.stage, attempt.failure.reason)


def assert_waits(kept: timedelta, wait: str) -> None:
    """That the next attempt comes when the peer wants it, or soon where it said nothing."""
    if not wait:
        assert kept <= timedelta(minutes=5)
        return
    asked = {"30s": timedelta(seconds=30), "1h": timedelta(hours=1)}[wait]
    assert asked - timedelta(seconds=5) <= kept <= asked * 1.25


@pytest.mark.parametrize("cell", [(peer, None) for peer in PEERS], ids=PEERS)
def test_without_trouble_the_same_target_is_refreshed(fates: Fates, cell: tuple[str, None]) -> None:
    """So it is the trouble that a cell shows, and not how it is set up."""
    fate = fates[cell]
    assert fate.course.hurt.outcome is Outcome.REFRESHED
    assert fate.course.hurt.verified
    assert fate.held[:-1] == [STOOD.reveal()]
    assert fate.aside == "ok"


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if CELLS["database", fault] != "-"])
def test_a_state_that_is_away_says_where_and_why(fates: Fates, fault: str) -> None:
    """In one line, which the alarm of `refresher_state_up` sends people to."""
    said = fates["database", fault].course.state_error
    assert said is not None
    assert said.startswith("state postgresql+psycopg://refresher@")
    assert said.endswith("; check that it is reachable and whole")
    assert "\n" not in said


def test_the_deadline_of_a_call_is_eight_seconds(yard: Yard) -> None:
    """Where nothing else is said: a drip, whose socket time-outs never strike, at each at once."""
    peers = [peer for peer in PEERS if CELLS[peer, "slow_drip"] == "timeout"]
    with ExitStack() as stack, ThreadPoolExecutor(len(peers)) as pool:
        parts = [stack.enter_context(hurt(yard, peer, "slow_drip", CALL_SECONDS)) for peer in peers]
        calls = [each.aside or partial(refreshed_together, each) for each in parts]
        taken = list(pool.map(seconds_of, calls))
    assert CALL_SECONDS == 8.0
    assert [round(seconds, 1) for seconds in taken if not 7.9 <= seconds < 8.0 + SLACK] == []


def seconds_of(call: Callable[[], object]) -> float:
    """How long a call took, whatever came of it."""
    began = time.monotonic()
    with suppress(Failure):
        call()
    return time.monotonic() - began
