"""The nouns, frozen, and the seams between the parts that act."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NoReturn, Protocol

from refresher.errors import Failure, FailureReason, InvalidCredential, Layer


class SecretValue:
    """A credential's value. It shows itself only to whoever calls `reveal`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "SecretValue('**********')"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SecretValue):
            return NotImplemented
        return hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret value is not serialised")


class Stage(StrEnum):
    """The part of an attempt that failed."""

    SOURCE = "source"
    VERIFY = "verify"
    PUBLISH = "publish"
    STATE = "state"


class DueReason(StrEnum):
    """Why a target is due."""

    MISSING = "missing"
    STALE = "stale"
    URGENT = "urgent"
    EXPIRED = "expired"
    REJECTED = "rejected"
    UNHELD = "unheld"
    CHECK = "check"
    CONFIG_CHANGED = "config_changed"
    VALUE_CHANGED = "value_changed"
    DRIFTED = "drifted"
    FORCED = "forced"
    RETRY = "retry"


class Outcome(StrEnum):
    """How an attempt ended."""

    REFRESHED = "refreshed"
    CHECKED = "checked"
    FAILED = "failed"


class Actor(StrEnum):
    """Who asked for an attempt."""

    SCHEDULE = "schedule"
    CLI = "cli"
    HTTP = "http"
    SIGNAL = "signal"


class Life(StrEnum):
    """Where a credential stands in its life."""

    FRESH = "fresh"
    STALE = "stale"
    URGENT = "urgent"
    EXPIRED = "expired"
    UNKNOWN = "unknown"


class Condition(StrEnum):
    """How a target stands, as people are told of it."""

    GOOD = "good"
    URGENT = "urgent"
    #: Expired, refused, urgent and failing, or never published and failing.
    BAD = "bad"


class Verdict(StrEnum):
    """What the registry last said of a published credential."""

    ACCEPTED = "accepted"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"


class SourceValue(StrEnum):
    """What became of the present value of a static source."""

    #: The registry accepted it.
    OK = "ok"
    #: The registry refused it.
    REJECTED = "rejected"
    #: It is what stands in fal, and nobody could judge it since it was read.
    UNCHANGED = "unchanged"
    #: Another value was seen and waits for its attempt.
    CHANGED = "changed"


class Pull(StrEnum):
    """What became of the pull proof of `image`."""

    OK = "ok"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SecretRef:
    """One fal secret: the place that a credential is published to."""

    #: Name of the fal account in our configuration.
    account: str
    #: fal environment; each is written on its own, none falls back to another.
    environment: str
    #: Name of the secret, which is the environment variable that a fal app sees.
    name: str

    def __str__(self) -> str:
        where = (
            self.environment if self.account == "default" else f"{self.account}/{self.environment}"
        )
        return f"{self.name} ({where})"


@dataclass(frozen=True, slots=True)
class ImageRef:
    """An image in a target's registry."""

    #: Repository path below the registry, such as `team/app`.
    repository: str
    #: Tag or digest.
    reference: str

    def __str__(self) -> str:
        return f"{self.repository}{'@' if ':' in self.reference else ':'}{self.reference}"


@dataclass(frozen=True, slots=True)
class RegistryRef:
    """A registry and how it is reached."""

    #: Host as images name it, lower case, with a port where it has one.
    host: str
    #: Base URL without a trailing slash; `https://{host}` unless configured otherwise.
    url: str


@dataclass(frozen=True, slots=True)
class Credential:
    """A username and a password as a source gave them."""

    username: str
    #: Exactly what is published and what fal will send.
    password: SecretValue
    #: When the issuer made it, by our clock; for a static one, when it was read.
    issued_at: datetime
    #: The end of its life as the issuer told it; None where it does not tell.
    expires_at: datetime | None = None


#: fal states no limit; Linux refuses one environment string of 128 KiB, and we stay well below.
MAX_VALUE_BYTES = 64 * 1024


def check_publishable(credential: Credential, now: datetime) -> None:
    """Refuse what must never stand in a fal secret.

    Raises `InvalidCredential` for a value that is empty, holds a line break or NUL, is not
    encodable, is 64 KiB or longer, or has no life left at `now`.
    """
    value = credential.password.reveal()
    if not value.strip():
        raise InvalidCredential("the source gave an empty password; nothing was published")
    if any(character in value for character in "\r\n\0"):
        raise InvalidCredential(
            "the password holds a line break or NUL, which none may; nothing was published"
        )
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        # Not chained: the error's object holds the password.
        raise InvalidCredential(
            "the password is not valid Unicode; nothing was published"
        ) from None
    if size >= MAX_VALUE_BYTES:
        raise InvalidCredential(
            f"the password is {size} bytes long, 64 KiB or more; nothing was published"
        )
    if credential.expires_at is not None and credential.expires_at <= now:
        raise InvalidCredential(
            f"the credential expired at {credential.expires_at:%Y-%m-%dT%H:%M:%SZ};"
            " nothing was published"
        )


def fingerprint(key: bytes, value: SecretValue) -> str:
    """The first 16 hex digits of HMAC-SHA-256 over the published bytes."""
    return hmac.new(key, value.reveal().encode(), hashlib.sha256).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Proof:
    """That a credential was used against its registry, and what came of it."""

    #: When the registry accepted the login.
    verified_at: datetime
    #: What became of the pull proof; None where the target names no image.
    pull: Pull | None = None
    #: The reason in words where `pull` is not ok.
    pull_message: str | None = None
    #: The end of the credential's life, where only the verification could tell it.
    expires_at: datetime | None = None
    #: Pulls that the registry still allows in its window, and how many that window has.
    pulls_remaining: int | None = None
    pulls_limit: int | None = None
    #: The steps of the verification and what each of them said.
    layers: tuple[Layer, ...] = ()


@dataclass(frozen=True, slots=True)
class HeldCredential:
    """A credential in the memory of this process."""

    credential: Credential
    fingerprint: str
    #: When it becomes stale; drawn once. None for a static credential.
    refresh_at: datetime | None = None
    #: The registry refused it.
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Hand:
    """What this process holds for one target."""

    #: The credential that stands in all of the target's secrets, if it is held.
    standing: HeldCredential | None = None
    #: The newest one of the target's share key.
    newest: HeldCredential | None = None
    #: Whether another live replica holds what stands: to prove and to reassert it is that one's.
    elsewhere: bool = False
    #: Whether another live replica has a newer configuration, which decides where they differ.
    behind: bool = False


@dataclass(frozen=True, slots=True)
class FailureRecord:
    """A failure as it is stored and shown."""

    at: datetime
    stage: Stage
    reason: FailureReason
    #: One line for a person; never a response body, never a credential.
    message: str

    @classmethod
    def of(cls, failure: Failure, stage: Stage, at: datetime) -> FailureRecord:
        return cls(at=at, stage=stage, reason=failure.reason, message=failure.message)


@dataclass(frozen=True, slots=True)
class Trigger:
    """A person's wish that a target be refreshed now."""

    #: Identifier of the attempt that will answer it.
    id: str
    at: datetime
    actor: Actor
    #: Whether a static value that the registry refused may be tried again before its hour.
    retry_refused: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretStatus:
    """What we know of one fal secret of a target."""

    ref: SecretRef
    #: Fingerprint of what we published; None before the first time.
    fingerprint: str | None = None
    #: When the published credential was issued.
    issued_at: datetime | None = None
    #: When the published credential ends, as its issuer told.
    expires_at: datetime | None = None
    #: When the published credential becomes stale; drawn once per credential.
    refresh_at: datetime | None = None
    #: When fal accepted the write.
    published_at: datetime | None = None
    #: Whether the registry had accepted the credential before it was written.
    proved: bool = False
    #: What the registry last said of the published credential; None before it was asked.
    verdict: Verdict | None = None
    #: When the registry last accepted the published credential.
    verified_at: datetime | None = None
    #: The last write that failed; None after one that succeeded.
    last_failure: FailureRecord | None = None
    #: `created_time` that fal showed after our last write; None until fal listed the secret.
    created_time: datetime | None = None
    #: What fal showed after our write before that one; None where nothing can be learnt from it.
    created_time_before: datetime | None = None
    #: Whether our last two writes gave two values; None before both were listed.
    created_time_moves: bool | None = None
    #: Whether someone else wrote or deleted the secret since.
    drifted: bool = False
    #: Whether it is gone from fal.
    vanished: bool = False
    #: Until when what another wrote is only reported: we wrote over it once in this interval.
    contested_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What we know of one target: all of it is stored."""

    name: str
    #: Identity of what is kept fresh; a different one makes the target due.
    digest: str
    #: One entry for each fal secret.
    secrets: tuple[SecretStatus, ...]
    #: When the tick looks at the target again; never None, so none can be forgotten.
    next_attempt_at: datetime
    #: A person asked for a refresh that has not been answered.
    trigger: Trigger | None = None
    #: Nothing issued before this serves: a person asked, the registry refused, the config changed.
    fresh_after: datetime | None = None
    #: Parked by a person.
    paused: bool = False
    last_attempt_at: datetime | None = None
    #: `refreshed` for renewable; `refreshed` or `checked` for static.
    last_success_at: datetime | None = None
    consecutive_failures: int = 0
    last_failure: FailureRecord | None = None
    #: Whether `image` could be pulled; None while unknown or not configured.
    image_pullable: bool | None = None
    #: The life that the credential turned out to have, where a registry ended it early.
    learnt_life: timedelta | None = None
    #: When the issuer last gave this target a credential, or may have.
    last_issue_at: datetime | None = None
    #: The life that the issuer returned then.
    last_issue_life: timedelta | None = None
    #: Issues since the last planned one, each of which doubles the guard.
    unplanned_issues: int = 0
    #: Static targets: what became of the source's present value.
    source_value: SourceValue | None = None
    #: Fingerprint of that value, and the user name that it was judged with.
    source_fingerprint: str | None = None
    source_username: str | None = None
    #: When the registry last judged that value.
    source_judged_at: datetime | None = None
    #: The steps of the last verification, whether it succeeded or not.
    layers: tuple[Layer, ...] = ()
    #: Pulls that the registry still allowed when it was last asked, and out of how many.
    pulls_remaining: int | None = None
    pulls_limit: int | None = None
    #: The condition that people were last told of.
    told: Condition = Condition.GOOD
    #: The last expiry warning that was given: how far ahead it is due.
    warned: timedelta | None = None
    #: Attempt that is under way; found at start it was interrupted.
    attempt: str | None = None
    #: Replica that holds in memory what stands; None where no others share the state.
    holder: str | None = None
    #: Count of the writes to fal that replicas announced, and the fingerprint of the last one.
    generation: int = 0
    intent: str | None = None

    def secret(self, ref: SecretRef) -> SecretStatus:
        """The entry for `ref`, a blank one where there is none."""
        for secret in self.secrets:
            if secret.ref is ref or secret.ref == ref:
                return secret
        return SecretStatus(ref=ref)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Every number that decides when; the defaults are the design's."""

    #: Share of the returned life after which a renewable credential is stale.
    refresh_fraction: float = 1 / 3
    #: Share of that time by which a refresh may come earlier, drawn once per credential.
    jitter: float = 0.1
    #: How often a published renewable credential is proved again with the copy in memory.
    reverify_interval: timedelta = timedelta(minutes=15)
    #: How long after its last success a credential that no live process holds may become due.
    unheld_after: timedelta = timedelta(minutes=5)
    #: Over how long such targets are spread where they are many.
    unheld_spread: timedelta = timedelta(minutes=15)
    #: Last share of its life in which a renewable credential is urgent.
    urgent_fraction: float = 1 / 4
    #: How long ahead of its end a static credential is urgent.
    urgent_static: timedelta = timedelta(days=7)
    #: First retry delay; it doubles with each failure.
    retry_first: timedelta = timedelta(seconds=5)
    #: Longest retry delay.
    retry_cap: timedelta = timedelta(minutes=5)
    #: Longest retry delay with no life left or none known.
    retry_cap_urgent: timedelta = timedelta(seconds=30)
    #: Retry delay of a failure that only a person can mend.
    retry_permanent: timedelta = timedelta(minutes=5)
    #: How long a static value that the registry refused is left alone.
    refused_wait: timedelta = timedelta(hours=1)
    #: Share of the returned life that must pass between two issues.
    guard_fraction: float = 0.1
    #: Shortest time between two issues.
    guard_floor: timedelta = timedelta(seconds=1)
    #: Longest time between two issues before it doubles.
    guard_ceiling: timedelta = timedelta(seconds=60)
    #: How old an issued credential may be and still serve another due target.
    share_for: timedelta = timedelta(seconds=60)
    #: How old a proof may be and still allow a write.
    proof_for: timedelta = timedelta(seconds=60)
    #: How often a static credential is verified.
    check_interval: timedelta = timedelta(hours=1)
    #: How far ahead the end of a static credential is announced.
    expiry_warnings: tuple[timedelta, ...] = (
        timedelta(days=30),
        timedelta(days=14),
        timedelta(days=7),
        timedelta(days=1),
    )


@dataclass(frozen=True, slots=True)
class StageTime:
    """How long one stage of an attempt took."""

    stage: Stage
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One try at one target, as history keeps it."""

    id: str
    target: str
    actor: Actor
    reason: DueReason
    started_at: datetime
    ended_at: datetime | None = None
    #: None while it runs.
    outcome: Outcome | None = None
    failure: FailureRecord | None = None
    stages: tuple[StageTime, ...] = ()
    #: Of the first secret of the target, before and after.
    fingerprint_before: str | None = None
    fingerprint_after: str | None = None
    #: Whether what was published or checked had been proved.
    verified: bool = False


class Source(Protocol):
    """Where a target's credential comes from."""

    #: Credentials of sources with equal keys can stand in for one another.
    share_key: str
    #: Issues of sources with equal ones count against one quota of the issuer's; None where it
    #: has none that we could reach.
    quota: str | None
    #: Whether `obtain` issues a new credential; a static one is only read.
    renewable: bool

    def obtain(self, now: datetime) -> Credential:
        """A newly issued credential, or a static one read anew.

        Raises a `Failure`. `InvalidCredential` means that the issuer did answer with something,
        which counts as an issue.
        """
        ...


class Verifier(Protocol):
    """Proves a credential by using it."""

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        """That the registry accepted the login.

        Raises a `Failure` where it did not, or could not be asked. A missing pull proof is in
        the answer, not an error.
        """
        ...


@dataclass(frozen=True, slots=True)
class ListedSecret:
    """A secret as fal lists it: no value is ever shown."""

    environment: str
    name: str
    created_time: datetime | None
    #: Whether fal shows it to apps that do not ask; None where the account's default decides.
    default_exposed: bool | None = None


class Publisher(Protocol):
    """Writes to the secrets of one fal account."""

    def publish(self, ref: SecretRef, value: SecretValue, default_exposed: bool | None) -> None:
        """Return once fal accepted the value. Raises a `Failure`."""
        ...

    def listed(self, environment: str) -> Sequence[ListedSecret]:
        """The secrets of one environment. Raises a `Failure`, `Forbidden` for a write-only key."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One credential that is kept fresh."""

    name: str
    #: `ecr`, `ecr-public`, `gar`, `dockerhub` or `oci`.
    kind: str
    registry: RegistryRef
    image: ImageRef | None
    secrets: tuple[SecretRef, ...]
    source: Source
    verifier: Verifier
    policy: Policy
    #: User name that fal sends along with the secret.
    username: str = ""
    #: Identity of source, registry, principal, username, secret, environments and account.
    digest: str
    #: Never publish what could not be proved, whatever stands in fal.
    verify_always: bool = False
    #: fal's `default_exposed`; None leaves what fal holds.
    default_exposed: bool | None = None
    enabled: bool = True

    @property
    def renewable(self) -> bool:
        return self.source.renewable


class Store(Protocol):
    """What is remembered: status, history and the fingerprint key. Never a value."""

    @property
    def up(self) -> bool:
        """False while the state cannot be written and lives in memory only."""
        ...

    @property
    def fingerprint_key(self) -> bytes: ...

    def statuses(self) -> Mapping[str, Status]:
        """A snapshot of all targets, also of those not configured now."""
        ...

    def status(self, name: str) -> Status | None: ...

    def due(self, now: datetime) -> Sequence[str]:
        """The targets whose `next_attempt_at` has come, or for which a trigger waits; all of them
        while the wall clock shows less than it did at an attempt."""
        ...

    def update_many(self, changes: Mapping[str, Callable[[Status | None], Status]]) -> None:
        """Change many statuses together; one whose change returns it as it was is not stored."""
        ...

    def update(self, name: str, change: Callable[[Status | None], Status]) -> Status:
        """Change one status atomically; what `change` returns is stored."""
        ...

    def begin(self, attempt: Attempt, change: Callable[[Status | None], Status]) -> Status:
        """Open an attempt in the history, together with a change of its target's status."""
        ...

    def finish(self, attempt: Attempt, change: Callable[[Status | None], Status]) -> Status:
        """Close it, likewise together."""
        ...

    def attempt(self, id: str) -> Attempt | None: ...

    def attempts(self, target: str | None = None, limit: int = 100) -> Sequence[Attempt]:
        """The history, newest first."""
        ...

    def orphans(self) -> Sequence[Attempt]:
        """Attempts that were opened and never closed: their process died."""
        ...

    def prune(self, before: datetime) -> int:
        """Forget attempts that ended before; how many went."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """A process that shares the state; its times are of the state's clock."""

    #: Its name: unique for each process that ever was.
    id: str
    host: str
    pid: int
    #: The release of refresher that it runs.
    release: str
    #: Digest of what it keeps and how: replicas with different ones do not do the same.
    config: str
    #: When that configuration was first seen.
    configured_at: datetime
    started_at: datetime
    #: Whether its heartbeat was in time when this was read.
    alive: bool


class Replicas(Protocol):
    """How replicas share the targets of one state. `Alone` grants everything and costs nothing."""

    @property
    def replica(self) -> str | None:
        """The name of this replica; None where no others can be."""
        ...

    def look(self) -> None:
        """Learn what the others did since the last look. Never raises."""
        ...

    def claim(self, due: Collection[Status], pressing: Collection[str]) -> Collection[str]:
        """The names of the targets that this replica may attempt now and no other.

        `due`: by what they were found due; one that changed since is to be looked at first.
        `pressing`: those that are urgent or expired, which may be attempted without the others'
        knowledge while the state is away.
        """
        ...

    def assure(self, name: str) -> None:
        """Raise `Interrupted` where another replica may have taken the target over by now."""
        ...

    def intend(self, attempt: Attempt, fingerprint: str, *, pressing: bool) -> int | None:
        """Announce a write to fal; its generation, None where there is nobody to tell.

        `pressing`: what stands is urgent or expired, so it is written even while the state is
        away. Raises `Interrupted` where another replica took the target over.
        """
        ...

    def elsewhere(self, status: Status | None) -> bool:
        """Whether another live replica holds what stands."""
        ...

    def rank(self, name: str, share_key: str) -> int:
        """Which targets to begin with, 0 first, so that replicas seldom ask for the same."""
        ...

    @property
    def behind(self) -> bool:
        """Whether another live replica has a newer configuration than this one."""
        ...


#: Hears of every finished attempt, with the status that it left.
Observer = Callable[[Target, Status, Attempt], None]
