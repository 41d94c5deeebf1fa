"""What the checks look through. Each peer is asked a question once, however many targets ask it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from refresher.clock import Clock, Skews
from refresher.config import (
    Account,
    AnyTarget,
    Config,
    DockerHubTarget,
    GarTarget,
    OciTarget,
)
from refresher.doctor.checks import Check, bad, good, unknown
from refresher.errors import Failure, Misconfigured, StateError, StillRefused
from refresher.model import (
    Credential,
    HeldCredential,
    ListedSecret,
    Proof,
    Status,
    Target,
    check_publishable,
    fingerprint,
)
from refresher.publish.fal import FalPublisher
from refresher.references import Reference
from refresher.refresh import refused_until
from refresher.registry.reach import Reached, reach
from refresher.sources.ecr import EcrPublicSource, EcrSource
from refresher.state import SqlStore
from refresher.targets import Parts, build
from refresher.view import timestamp

T = TypeVar("T")


class _Memo:
    """Answers and failures by the question."""

    def __init__(self) -> None:
        self._answers: dict[Hashable, Any] = {}
        self._failures: dict[Hashable, Failure] = {}

    def ask(self, question: Hashable, call: Callable[[], T]) -> T:
        """What `call` returned or raised when this was first asked."""
        if question in self._failures:
            raise self._failures[question]
        if question not in self._answers:
            try:
                self._answers[question] = call()
            except Failure as failure:
                self._failures[question] = failure
                raise
        answer: T = self._answers[question]
        return answer


@dataclass(frozen=True, slots=True)
class Memory:
    """What the state remembers, read beside its owner and never written."""

    #: Whether it could be read.
    check: Check
    statuses: Mapping[str, Status]
    #: None where nothing is remembered.
    fingerprint_key: bytes | None = None


def recall(config: Config, environ: Mapping[str, str], clock: Clock) -> Memory:
    """What the state of a configuration remembers, which is nothing before the first run."""
    try:
        url = config.daemon.state_url(environ).reveal()
        given = config.daemon.fingerprint_key
        key = None if given is None else given.read(environ).reveal().encode()
    except Misconfigured as error:
        return Memory(bad("state", error.message, "correct [daemon]"), {})
    if url.startswith("sqlite:///") and not Path(url.removeprefix("sqlite:///")).exists():
        return Memory(unknown("state", "there is none yet: nothing was published from here"), {})
    try:
        store = SqlStore.open(url, clock=clock, fingerprint_key=key, read_only=True)
    except StateError as error:
        return Memory(bad("state", error.message, "correct daemon.state"), {})
    statuses, key, exposed = dict(store.statuses()), store.fingerprint_key, store.exposed()
    store.close()
    return Memory(_state(len(statuses), exposed), statuses, key)


def _state(count: int, exposed: Sequence[str]) -> Check:
    if exposed:
        causes, fixes = zip(*(line.split("; ", 1) for line in exposed), strict=True)
        return bad("state", "; ".join(causes), " && ".join(fixes))
    return good("state", f"remembers {count} target{'' if count == 1 else 's'}")


class Instruments:
    """Sources, verifiers and fal's lists, as the daemon would have them. Close it."""

    def __init__(
        self, config: Config, memory: Memory, *, clock: Clock, retry_refused: bool = False
    ) -> None:
        """`retry_refused`: also try a value again that the registry is known to have refused.

        Raises `Misconfigured` for a CA bundle or proxy that cannot be used.
        """
        self.config = config
        self.clock = clock
        self.skews = Skews()
        self.memory = memory
        self._retry_refused = retry_refused
        self._parts = Parts(config, clock, self.skews)
        self._memo = _Memo()
        self._publishers: dict[str, FalPublisher] = {}

    def build(self, config: Config) -> Mapping[str, Target]:
        """The targets of a part of the configuration. Raises `ConfigError`."""
        return build(config, self._parts)

    def reached(self, url: str, bundle: Path | None) -> Reached:
        return self._memo.ask(("reached", url, bundle), lambda: reach(url, bundle))

    def arn(self, source: EcrSource | EcrPublicSource) -> str:
        """Who AWS takes us for."""
        return self._memo.ask(("arn", source.share_key), source.arn)

    def token_uri(self, key: Reference) -> str:
        """Where a Google key is exchanged for a token."""
        return self._parts.google.parse_key(key.read().reveal()).token_uri

    def credential(self, target: Target) -> Credential:
        """One that could be published."""

        def obtain() -> Credential:
            credential = target.source.obtain(self.clock.now())
            check_publishable(credential, self.clock.now())
            return credential

        return self._memo.ask(("credential", target.source.share_key), obtain)

    def proof(self, target: Target) -> Proof:
        """That the registry accepts it; a value that it is known to refuse is not tried."""

        def prove() -> Proof:
            credential = self.credential(target)
            self._refuse_what_was_refused(target, credential)
            return target.verifier.verify(target.registry, credential, target.image)

        question = ("proof", target.source.share_key, target.registry.url, target.image)
        return self._memo.ask(question, prove)

    def _refuse_what_was_refused(self, target: Target, credential: Credential) -> None:
        """A few wrong logins lock a user out of Docker Hub, so a verdict is remembered."""
        key = self.memory.fingerprint_key
        if target.renewable or self._retry_refused or key is None:
            return
        held = HeldCredential(credential, fingerprint(key, credential.password))
        now = self.clock.now()
        for status in self.memory.statuses.values():
            until = refused_until(target, status, held)
            if until is not None and now < until:
                judged_at = until - target.policy.refused_wait
                raise StillRefused(
                    f"{target.registry.host} refused this value at {timestamp(judged_at)};"
                    f" not tried again before {timestamp(until)} without --retry-refused",
                    judged_at=judged_at,
                    retry_after=until - now,
                )

    def listed(self, account: str, environment: str) -> Mapping[str, ListedSecret]:
        """The secrets of a fal environment by name."""

        def ask() -> Mapping[str, ListedSecret]:
            listed = self._publisher(account).listed(environment)
            return {secret.name: secret for secret in listed}

        return self._memo.ask(("listed", account, environment), ask)

    def _publisher(self, name: str) -> FalPublisher:
        if name not in self._publishers:
            account = self.config.accounts[name]
            self._publishers[name] = FalPublisher(
                name,
                account.key,
                host=account.host,
                tls=account.tls,
                ca_bundle=self.config.daemon.ca_bundle,
                clock=self.clock,
            )
        return self._publishers[name]

    def close(self) -> None:
        self._parts.close()
        for publisher in self._publishers.values():
            publisher.close()


@dataclass(frozen=True, slots=True)
class Case:
    """One target while it is examined."""

    section: AnyTarget
    target: Target
    tools: Instruments

    @property
    def status(self) -> Status | None:
        """What the state remembers of it."""
        return self.tools.memory.statuses.get(self.target.name)

    @property
    def account(self) -> Account:
        return self.tools.config.accounts[self.section.account]

    @property
    def bundle(self) -> Path | None:
        return self.tools.config.daemon.ca_bundle

    @property
    def reference(self) -> str:
        """Where a person puts its credential."""
        section = self.section
        if isinstance(section, DockerHubTarget | OciTarget):
            return str(section.password)
        key = section.key if isinstance(section, GarTarget) else None
        return f"targets.{self.target.name}" if key is None else str(key)

    @property
    def words(self) -> Mapping[str, str]:
        """What fixes name."""
        return {
            "target": self.target.name,
            "reference": self.reference,
            "key": str(self.account.key),
        }
