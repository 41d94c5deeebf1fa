"""Peers that do what a test says: the small ends of the Source, Verifier and Publisher seams."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from random import Random

from refresher import record
from refresher.clock import ManualClock
from refresher.errors import Failure, Unauthorized
from refresher.held import Held
from refresher.model import (
    Actor,
    Attempt,
    Credential,
    DueReason,
    ImageRef,
    ListedSecret,
    Observer,
    Policy,
    Proof,
    Pull,
    RegistryRef,
    SecretRef,
    SecretValue,
    Status,
    Target,
)
from refresher.refresh import Refresher
from refresher.state import SqlStore


@dataclass
class Issuer:
    """A source that issues `token-1`, `token-2`, …"""

    clock: ManualClock
    life: timedelta | None = timedelta(hours=12)
    share_key: str = "aws/us-east-1"
    quota: str | None = None
    renewable: bool = True
    failure: Failure | None = None
    issued: int = 0
    #: A fixed value makes it a static source.
    value: str | None = None
    #: What the values begin with.
    prefix: str = "token"

    def obtain(self, now: datetime) -> Credential:
        if self.failure is not None:
            raise self.failure
        self.issued += 1
        value = self.value if self.value is not None else f"{self.prefix}-{self.issued}"
        expires_at = now + self.life if self.life is not None else None
        return Credential("AWS", SecretValue(value), now, expires_at)


@dataclass
class Judge:
    """A registry that accepts everything but what it is told to refuse."""

    clock: ManualClock
    failure: Failure | None = None
    refused: set[str] = field(default_factory=set)
    pull: Pull = Pull.OK
    calls: int = 0

    def verify(
        self, registry: RegistryRef, credential: Credential, image: ImageRef | None
    ) -> Proof:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        if credential.password.reveal() in self.refused:
            raise Unauthorized("the registry refused the credential")
        return Proof(self.clock.now(), None if image is None else self.pull)


@dataclass
class Vault:
    """The secrets of one fal account."""

    failures: dict[str, Failure] = field(default_factory=dict)
    values: dict[tuple[str, str], str] = field(default_factory=dict)
    writes: list[tuple[str, str]] = field(default_factory=list)

    def publish(self, ref: SecretRef, value: SecretValue, default_exposed: bool | None) -> None:
        if ref.environment in self.failures:
            raise self.failures[ref.environment]
        self.values[ref.environment, ref.name] = value.reveal()
        self.writes.append((ref.environment, value.reveal()))

    def listed(self, environment: str) -> Sequence[ListedSecret]:
        return [ListedSecret(env, name, None) for env, name in self.values if env == environment]


class Bench:
    """A refresher with scripted peers, a hand-moved clock and a store in memory."""

    def __init__(
        self,
        clock: ManualClock,
        earlier: Bench | None = None,
        observers: Callable[[Bench], Sequence[Observer]] = lambda _bench: (),
    ) -> None:
        """`earlier` is a process that died: its store and the peers are still there."""
        self.clock = clock
        self.store = earlier.store if earlier else SqlStore.open("sqlite://", clock=clock)
        self.held = Held()
        self.issuer = earlier.issuer if earlier else Issuer(clock)
        self.judge = earlier.judge if earlier else Judge(clock)
        self.vault = earlier.vault if earlier else Vault()
        self.stopping = threading.Event()
        self.observed: list[Attempt] = []
        self.ids = map(str, itertools.count(1))
        self.refresher = Refresher(
            store=self.store,
            held=self.held,
            publishers={"default": self.vault},
            clock=clock,
            rng=Random(7),
            stopping=self.stopping,
            observers=[
                lambda _target, _status, attempt: self.observed.append(attempt),
                *observers(self),
            ],
        )

    def target(
        self, name: str = "ecr", environments: Sequence[str] = ("main",), **changes: object
    ) -> Target:
        target = Target(
            name=name,
            kind="ecr",
            registry=RegistryRef("registry.test", "https://registry.test"),
            image=None,
            secrets=tuple(SecretRef("default", env, "AWS_ECR_PASSWORD") for env in environments),
            source=self.issuer,
            verifier=self.judge,
            policy=Policy(),
            digest="v1",
        )
        return replace(target, **changes)  # type: ignore[arg-type]

    def adopt(self, target: Target) -> Status:
        now = self.clock.now()
        return self.store.update(target.name, lambda old: record.adopted(target, old, now))

    def attempt(self, target: Target, reason: DueReason = DueReason.MISSING) -> Attempt:
        """One attempt at a target that is adopted first where it is not known."""
        if self.store.status(target.name) is None:
            self.adopt(target)
        return self.refresher.attempt(target, reason, Actor.SCHEDULE, next(self.ids))

    def status(self, target: Target) -> Status:
        status = self.store.status(target.name)
        assert status is not None
        return status

    def standing(self, environment: str = "main") -> str | None:
        """What stands in the fal secret."""
        return self.vault.values.get((environment, "AWS_ECR_PASSWORD"))
