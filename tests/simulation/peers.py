"""AWS, registries and fal as the trace scripts them, and the truth that only they know."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from random import Random
from typing import Protocol

from refresher.errors import Failure, Forbidden, Throttled, TimedOut, Unauthorized, Unavailable
from refresher.model import (
    Credential,
    ImageRef,
    ListedSecret,
    Proof,
    RegistryRef,
    SecretRef,
    SecretValue,
)
from tests.simulation.loop import Loop
from tests.simulation.trace import HANDMADE_LIFE, TOKEN_LIFE, Kind, Trace, Trouble

#: Seconds that a peer that answers takes, and one that does not.
ANSWER = (0.1, 0.6)
SILENCE = 8.0

#: Share of the writes that time out and came to pass all the same.
SILENT_WRITES = 0.3


class Observer(Protocol):
    """Sees what the peers see."""

    def issued(self, target: str) -> None: ...

    def proved(self, value: str) -> None: ...

    def written(self, ref: SecretRef, old: str, new: str) -> None: ...


@dataclass
class World:
    """The peers' side of everything."""

    trace: Trace
    loop: Loop
    rng: Random
    observers: list[Observer] = field(default_factory=list)
    #: When each value dies, in seconds of true time.
    dies: dict[str, float] = field(default_factory=dict)
    #: When each token was issued.
    born: dict[str, float] = field(default_factory=dict)
    #: What stands in fal.
    standing: dict[SecretRef, str] = field(default_factory=dict)
    issues: int = 0
    writes: int = 0
    #: Called at each boundary of a stage; raises `Crash` where the process is to die there.
    boundary: Callable[[str], None] = lambda _where: None

    def __post_init__(self) -> None:
        for editions in self.trace.editions.values():
            self.dies |= {edition.value: edition.dies for edition in editions}

    @property
    def now(self) -> float:
        return self.loop.clock.true

    def accepts(self, value: str, at: float) -> bool:
        """The truth about a credential."""
        return at < self.dies.get(value, -math.inf)

    def put_by_hand(self, ref: SecretRef) -> None:
        """What a person had put into fal before refresher came."""
        value = f"by hand in {ref}"
        self.dies[value] = HANDMADE_LIFE
        self.standing[ref] = value

    def issue(self, principal: str) -> str:
        """A new token."""
        self.issues += 1
        value = f"{principal}#{self.issues}"
        self.born[value], self.dies[value] = self.now, self.trace.dies(principal, self.now)
        return value

    def call(self, *peers: str) -> None:
        """A call that is answered, unless one of these peers is in trouble."""
        trouble = self.in_the_way(*peers)
        self.loop.spend(SILENCE if _silent(trouble) else self.rng.uniform(*ANSWER))
        if trouble is not None and trouble.kind is not Kind.REFUSING:
            raise _failure(trouble)

    def in_the_way(self, *peers: str) -> Trouble | None:
        """The trouble that this call meets."""
        found = (self.trace.trouble(peer, self.now) for peer in peers)
        trouble = next((trouble for trouble in found if trouble is not None), None)
        if trouble is None or trouble.share == 1.0 or self.rng.random() < trouble.share:
            return trouble
        return None


def _silent(trouble: Trouble | None) -> bool:
    return trouble is not None and trouble.kind is Kind.TIMEOUT


def _failure(trouble: Trouble) -> Failure:
    words = f"{trouble.peer} is in trouble"
    if trouble.kind is Kind.THROTTLED:
        asked = timedelta(seconds=trouble.retry_after) if trouble.retry_after else None
        return Throttled(words, retry_after=asked)
    if trouble.kind is Kind.TIMEOUT:
        return TimedOut(words)
    return Forbidden(words) if trouble.kind is Kind.FORBIDDEN else Unavailable(words)


@dataclass
class Issuer:
    """AWS, for one target."""

    world: World
    target: str
    principal: str
    quota: str | None = None
    renewable: bool = True

    @property
    def share_key(self) -> str:
        return f"aws/{self.principal}"

    def obtain(self, now: datetime) -> Credential:
        world = self.world
        world.boundary("source:before")
        world.call("aws", self.share_key)
        value = world.issue(self.principal)
        for observer in world.observers:
            observer.issued(self.target)
        world.boundary("source:after")
        ends = world.loop.clock.now() + timedelta(seconds=TOKEN_LIFE)
        return Credential("AWS", SecretValue(value), issued_at=now, expires_at=ends)


@dataclass
class StaticFile:
    """What a person keeps in a file."""

    world: World
    name: str
    #: What its issuer shows of its end.
    expires_at: datetime | None = None
    quota: str | None = None
    renewable: bool = False

    @property
    def share_key(self) -> str:
        return f"static/{self.name}"

    def obtain(self, now: datetime) -> Credential:
        value = self.world.trace.edition(self.name, self.world.now).value
        return Credential(self.name, SecretValue(value), issued_at=now, expires_at=self.expires_at)


@dataclass
class Registry:
    """Registries, truthful while they are not in trouble."""

    world: World

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        world, value = self.world, credential.password.reveal()
        world.boundary("verify:before")
        peer = f"registry/{registry.host}"
        world.call(peer)
        trouble = world.trace.trouble(peer, world.now)
        refusing = trouble is not None and trouble.kind is Kind.REFUSING
        if refusing or not self.accepts(value):
            raise Unauthorized(f"{registry.host} refused the credential")
        for observer in world.observers:
            observer.proved(value)
        world.boundary("verify:after")
        return Proof(world.loop.clock.now())

    def accepts(self, value: str) -> bool:
        return self.world.accepts(value, self.world.now)


@dataclass
class Vault:
    """One account of fal."""

    world: World
    account: str

    def publish(self, ref: SecretRef, value: SecretValue, default_exposed: bool | None) -> None:
        self.world.boundary("publish:before")
        try:
            self.world.call(f"fal/{self.account}")
        except TimedOut:
            if self.world.rng.random() < SILENT_WRITES:
                self._write(ref, value.reveal())
            raise
        self._write(ref, value.reveal())
        self.world.boundary("publish:after")

    def listed(self, environment: str) -> Sequence[ListedSecret]:
        return []

    def _write(self, ref: SecretRef, new: str) -> None:
        world, old = self.world, self.world.standing[ref]
        world.writes += 1
        world.standing[ref] = new
        for observer in world.observers:
            observer.written(ref, old, new)
