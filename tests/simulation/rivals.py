"""What people use today, on the same trace: each as small as a model can be and still fair.

A rival meets the same peers at the same moments, answers in no time and is never cut in the
middle of a try. None of them proves a credential before it writes it, or afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from tests.simulation.fleet import Member
from tests.simulation.trace import HANDMADE_LIFE, HOUR, TOKEN_LIFE, Span, Trace, merge


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a policy made of a trace."""

    name: str
    stale_seconds: float
    #: The longest that one secret was stale.
    longest: float
    #: How many times a secret went stale.
    spells: int
    #: Writes of a value that its registry refused over one that it accepted.
    destroyed: int
    issues: int


@dataclass(frozen=True, slots=True)
class Stood:
    """A value that stood in a fal secret."""

    start: float
    #: When its registry begins to refuse it.
    dies: float


@dataclass(frozen=True, slots=True)
class Rival:
    """A policy: when it tries, and how often at each time."""

    name: str
    #: Seconds between two runs.
    every: float
    #: Tries in one run, and the seconds between them.
    tries: int = 1
    pause: float = 10.0
    #: Age at which a held token is replaced; on an error the old one is handed out all the same.
    cached_for: float = 0.0


RIVALS = (
    Rival("cron, every 6 h", 6 * HOUR),
    Rival("cron, every 11 h", 11 * HOUR),
    Rival("ticker, 60 min, three tries", HOUR, tries=3),
    Rival("half-life, cached on error", HOUR, cached_for=TOKEN_LIFE / 2),
)


def play(rival: Rival, trace: Trace, members: Sequence[Member]) -> Outcome:
    """Run a rival through a trace."""
    found: list[Span] = []
    issues = destroyed = 0
    for member in members:
        run = _Run(rival, trace, member)
        stood = [Stood(0.0, HANDMADE_LIFE), *run.values()]
        issues += run.issues
        destroyed += _destroyed(stood)
        found += _spells(trace, member, stood)
    return summary(rival.name, found, destroyed, issues)


def summary(name: str, found: Sequence[Span], destroyed: int, issues: int) -> Outcome:
    """The figures of a policy."""
    seconds = [span.seconds for span in found]
    return Outcome(name, sum(seconds), max(seconds, default=0.0), len(seconds), destroyed, issues)


def table(outcomes: Sequence[Outcome]) -> str:
    """The figures side by side."""
    head = (
        f"{'policy':<30}{'stale s':>12}{'longest s':>11}{'spells':>8}{'destroyed':>11}{'issues':>9}"
    )
    rows = (
        f"{o.name:<30}{o.stale_seconds:>12,.0f}{o.longest:>11,.0f}{o.spells:>8,}"
        f"{o.destroyed:>11,}{o.issues:>9,}"
        for o in outcomes
    )
    return "\n".join([head, *rows])


def _spells(trace: Trace, member: Member, stood: Sequence[Stood]) -> list[Span]:
    """When a secret held what its registry refused, and need not have."""
    ends = [value.start for value in stood[1:]] + [trace.end]
    dead = [Span(max(v.start, v.dies), end) for v, end in zip(stood, ends, strict=True)]
    found = merge((stretch for stretch in dead if stretch.seconds > 0), gap=0.0)
    return [span for stretch in found for span in trace.avoidable(member.origin, stretch)]


def _destroyed(stood: Sequence[Stood]) -> int:
    """How often a value that works was replaced with one that does not."""
    return sum(new.dies <= new.start < old.dies for old, new in pairwise(stood))


class _Run:
    """One rival at one target."""

    def __init__(self, rival: Rival, trace: Trace, member: Member) -> None:
        self.issues = 0
        self._rival = rival
        self._trace = trace
        self._member = member
        self._rng = Random(f"rival {trace.seed} {member.name}")
        self._dies: float | None = None
        self._renew_at = -math.inf

    def values(self) -> Iterator[Stood]:
        """What it writes, in order."""
        at = self._rng.uniform(0, min(self._rival.every, HANDMADE_LIFE))
        while at < self._trace.end:
            written = self._run(at)
            if written is not None:
                yield written
            at += self._rival.every

    def _run(self, at: float) -> Stood | None:
        """One run: it tries as often as it does and then waits for its next turn."""
        for number in range(self._rival.tries):
            now = at + number * self._rival.pause
            dies = self._obtain(now) if self._trace.running(now) else None
            if dies is not None and self._answers((f"fal/{self._member.account}",), now):
                return Stood(now, dies)
        return None

    def _obtain(self, at: float) -> float | None:
        """When the value that it gets now will die; None where it gets none."""
        member = self._member
        if not member.renewable:
            return self._trace.edition(member.origin, at).dies
        if at < self._renew_at:
            return self._dies
        if not self._answers(("aws", f"aws/{member.origin}"), at):
            return self._dies if self._rival.cached_for else None
        self.issues += 1
        self._dies, self._renew_at = (
            self._trace.dies(member.origin, at),
            at + self._rival.cached_for,
        )
        return self._dies

    def _answers(self, peers: Iterable[str], at: float) -> bool:
        troubles = (self._trace.trouble(peer, at) for peer in peers)
        return all(t is None or self._rng.random() >= t.share for t in troubles)
