"""What the checks look through. Each peer is asked a question once, however many targets ask it."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from refresher.clock import Clock, Skews
from refresher.config import AnyTarget, Config
from refresher.doctor.checks import Check, bad, good, unknown
from refresher.errors import ConfigError, Failure, Misconfigured, StateError, StillRefused
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
from refresher.refresh import refused_until
from refresher.registry.reach import Reached, reach
from refresher.sources.ecr import EcrPublicSource, EcrSource
from refresher.state import SqlStore
from refresher.targets import Parts, build

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


def _state(count: int, exposed: object) -> Check:
    if exposed:
        assert isinstance(exposed, list | tuple)  # noqa: S101
        return bad("state", "; ".join(exposed), "take the rights of others away")
    return good("state", f"remembers {count} target{'' if count == 1 else 's'}")
