"""Whose turn it is: no source, registry or fal account may take all workers, dead ones least."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from refresher.errors import FailureReason
from refresher.model import Attempt, Stage, Target

#: After one of these the next attempt on the same lane may take as long in vain.
_NO_ANSWER = frozenset({FailureReason.TIMEOUT, FailureReason.UNAVAILABLE})

#: The prefix of the lanes that each stage runs on.
_LANE_OF = {Stage.SOURCE: "source:", Stage.VERIFY: "registry:", Stage.PUBLISH: "fal:"}

Lane = str


def lanes_of(target: Target) -> tuple[Lane, ...]:
    """What a target shares with others whose trouble may slow it down."""
    accounts = {ref.account for ref in target.secrets}
    return (
        f"source:{target.source.share_key}",
        f"registry:{target.registry.url}",
        *(f"fal:{account}" for account in sorted(accounts)),
    )


class Lanes:
    """Which workers are busy on what.

    A lane gets half of the pool, or all of it where every target is on it. One that did not
    answer gets one worker until it does, and all such lanes together get half of the pool.
    """

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._half = max(1, workers // 2)
        self._of: dict[str, tuple[Lane, ...]] = {}
        self._everyones: frozenset[Lane] = frozenset()
        self._busy: Counter[Lane] = Counter()
        self._running: dict[str, tuple[Lane, ...]] = {}
        self._silent: set[Lane] = set()

    def know(self, targets: Mapping[str, Target]) -> None:
        """These are the targets from now on."""
        names: dict[Lane, Lane] = {}  # a thousand targets share one string
        self._of = {
            name: tuple(names.setdefault(lane, lane) for lane in lanes_of(target))
            for name, target in targets.items()
        }
        on = Counter(lane for lanes in self._of.values() for lane in lanes)
        self._everyones = frozenset(lane for lane, many in on.items() if many == len(targets))
        self._silent &= on.keys()

    @property
    def full(self) -> bool:
        """Whether no worker is free."""
        return len(self._running) >= self._workers

    def silent(self, name: str) -> bool:
        """Whether a lane of the target did not answer when it was last asked."""
        return not self._silent.isdisjoint(self._of.get(name, ()))

    def room(self, name: str) -> bool:
        """Whether the target may take a worker now."""
        if self.full:
            return False
        lanes = self._of.get(name, ())
        if any(self._busy[lane] >= self._limit(lane) for lane in lanes):
            return False
        return not self.silent(name) or self._busy_in_vain() < self._half

    def enter(self, name: str) -> None:
        """A worker takes the target up."""
        self._running[name] = self._of.get(name, ())
        self._busy.update(self._running[name])

    def leave(self, name: str, attempt: Attempt | None) -> None:
        """The worker is free again; `attempt` is what became of it, None for a bug of ours."""
        lanes = self._running.pop(name, ())
        self._busy.subtract(lanes)
        if attempt is not None:
            self._learn(lanes, attempt)

    def _limit(self, lane: Lane) -> int:
        if lane in self._silent:
            return 1
        return self._workers if lane in self._everyones else self._half

    def _busy_in_vain(self) -> int:
        return sum(not self._silent.isdisjoint(lanes) for lanes in self._running.values())

    def _learn(self, lanes: Iterable[Lane], attempt: Attempt) -> None:
        """Whatever was asked has answered, but for the stage that failed for want of an answer."""
        failure = attempt.failure
        dead = {failure.stage} if failure is not None and failure.reason in _NO_ANSWER else set()
        answered = {time.stage for time in attempt.stages} - dead
        self._silent -= set(_on(lanes, answered))
        self._silent |= set(_on(lanes, dead))


def _on(lanes: Iterable[Lane], stages: Iterable[Stage]) -> list[Lane]:
    prefixes = tuple(_LANE_OF[stage] for stage in stages if stage in _LANE_OF)
    return [lane for lane in lanes if prefixes and lane.startswith(prefixes)]
