"""What must hold at every step, judged by the truth that only the simulation knows."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache

from refresher.errors import FailureReason
from refresher.model import Attempt, Outcome, SecretRef, SourceValue, Status, Target
from tests.simulation.fleet import Member
from tests.simulation.peers import World
from tests.simulation.trace import DAY, HOUR, MINUTE, TOKEN_LIFE, Span

#: The longest outage that costs nothing.
PATIENCE = 7.75 * HOUR
#: One attempt: three calls of 8 s, and its turn among those of its principal.
ATTEMPT = MINUTE
#: Retries come at most this far apart, unless the peer asks for more.
RETRY = 5 * MINUTE
#: Two impediments that are closer to each other are one: no retry is sure to fall in between.
GAP = RETRY + 2 * ATTEMPT
#: The re-verify interval, and how soon a changed value of a static source is noticed.
REVERIFY, NOTICED = 15 * MINUTE, 20.0
#: How old a proof may be at the write that it allows, with the time of the write itself.
PROOF = 60.0 + 20.0
#: The loop guard of a token of 12 hours: the least between two issues, less what a call takes,
#: and the most that doubling leaves room for in one refresh interval.
SPACING, INTERVAL, MOST_UNPLANNED = 59.0, 4 * HOUR, 10


@dataclass(frozen=True, slots=True)
class Spell:
    """A stretch in which a fal secret held what its registry refused, and need not have."""

    member: Member
    span: Span
    #: The value died before the end that its issuer had told, or a person had put in another.
    early: bool
    #: Since when that value had stood there.
    since: float

    def __str__(self) -> str:
        kind = "died early" if self.early else "expired"
        return (
            f"{self.member.name}: stale for {self.span.seconds:.0f} s from {self.span.start:.0f},"
            f" put there at {self.since:.0f}, {kind}"
        )


class Watch:
    """Sees all that the peers see and keeps what should not have been."""

    def __init__(
        self, world: World, members: Sequence[Member], status: Callable[[str], Status | None]
    ) -> None:
        self.violations: list[str] = []
        self.spells: list[Spell] = []
        self.outcomes: Counter[Outcome] = Counter()
        #: Writes of a value that its registry refuses over one that it accepts.
        self.destroyed = 0
        self.off: list[Span] = []
        self._world = world
        self._members = members
        self._of = {member.ref: member for member in members}
        self._status = status
        self._since = dict.fromkeys(self._of, 0.0)
        self._proofs: dict[str, float] = {}
        self._issues: dict[str, list[float]] = defaultdict(list)
        self._unplanned: dict[str, list[float]] = defaultdict(list)
        self._ahead: list[float] = [-math.inf]
        self._attempted = dict.fromkeys((member.name for member in members), 0.0)
        self._put_off: dict[str, datetime] = {}

    # --- seen ----------------------------------------------------------------------------------

    def issued(self, target: str) -> None:
        """The guard: never too soon after the last, and never too many that were not planned."""
        now, before = self._world.now, self._issues[target]
        if before and now - before[-1] < SPACING and self._ahead[-1] <= before[-1]:
            self._blame("rate", f"{target}: two issues within {now - before[-1]:.0f} s")
        before.append(now)
        if not self._planned(target, before):
            self._unplanned[target].append(now)
            recent = [at for at in self._unplanned[target] if at > now - INTERVAL]
            if len(recent) > MOST_UNPLANNED:
                self._blame("rate", f"{target}: {len(recent)} unplanned issues in 4 h")

    def _planned(self, target: str, issues: list[float]) -> bool:
        status = self._status(target)
        if status is None or len(issues) == 1 or issues[-1] - issues[-2] >= INTERVAL:
            return True
        mark, wall = status.secrets[0].refresh_at, self._world.loop.clock.now()
        return mark is not None and mark <= wall

    def proved(self, value: str) -> None:
        """A registry accepted it."""
        self._proofs[value] = self._world.now

    def written(self, ref: SecretRef, old: str, new: str) -> None:
        """Never worse, never unproved over what works, never older."""
        world, now, name = self._world, self._world.now, self._of[ref].name
        if old == new:
            return
        works = world.accepts(old, now)
        if works and not world.accepts(new, now):
            self.destroyed += 1
            self._blame("worse", f"{name}: {new} replaced {old}, which works")
        if works and now - self._proofs.get(new, -math.inf) > PROOF:
            self._blame("unproved", f"{name}: {new} replaced {old}, which works")
        if world.born.get(new, math.inf) < world.born.get(old, -math.inf):
            self._blame("older", f"{name}: {new} replaced {old}, which is younger")
        self._judge(ref, old)
        self._since[ref] = now

    def attempted(self, target: Target, status: Status, attempt: Attempt) -> None:
        """An attempt has ended."""
        self._attempted[target.name] = self._world.now
        if attempt.outcome is not None:
            self.outcomes[attempt.outcome] += 1

    def deferred(self, target: Target, until: datetime) -> None:
        """The loop guard put an issue off."""
        self._put_off[target.name] = until

    def jumped(self, seconds: float) -> None:
        """The wall clock was stepped."""
        if seconds > 0:
            self._ahead.append(self._world.now)

    def was_off(self, seconds: float) -> None:
        """Nothing runs from now on for so long."""
        self.off.append(Span(self._world.now, self._world.now + seconds))

    def inspect(self, targets: Mapping[str, Target]) -> None:
        """No target is forgotten: its next look is near, and its last one not too long ago."""
        now, wall = self._world.now, self._world.loop.clock.now()
        on_since = max((span.end for span in self.off), default=0.0)
        # A credential's times are of the clock that stood when it was issued.
        interval = INTERVAL + self._world.trace.set_back(now - DAY, now)
        for name, target in targets.items():
            status = self._status(name)
            if status is None:
                self._blame("forgotten", f"{name}: has no status")
                continue
            longest = self._longest(target, status, wall, interval)
            ahead = (status.next_attempt_at - wall).total_seconds()
            ago = now - max(self._attempted[name], on_since)
            if ahead > longest or ago > longest + 2 * ATTEMPT + 15 * MINUTE:
                self._blame(
                    "forgotten",
                    f"{name}: last attempt {ago:.0f} s ago, next in {ahead:.0f} s,"
                    f" of at most {longest:.0f} s ({status.last_failure})",
                )

    def _longest(self, target: Target, status: Status, wall: datetime, interval: float) -> float:
        """The longest that a target in this state is to be left alone."""
        failure = status.last_failure
        if self._put_off.get(target.name, wall) > wall:
            return interval
        if not status.consecutive_failures or failure is None:
            return interval if target.renewable else target.policy.check_interval.total_seconds()
        if not target.renewable and status.source_value is SourceValue.REJECTED:
            return 1.25 * HOUR
        return 25 * MINUTE if failure.reason is FailureReason.THROTTLED else RETRY

    def finish(self, errors: Sequence[BaseException]) -> None:
        """The trace has ended."""
        for error in errors:
            self._blame("error", repr(error))
        for ref, value in self._world.standing.items():
            self._judge(ref, value)
        for spell in self.spells:
            if spell.span.end > self._deadline(spell):
                self._blame("stale", str(spell), spell.span.start)

    # --- staleness -----------------------------------------------------------------------------

    @property
    def stale_seconds(self) -> float:
        return sum(spell.span.seconds for spell in self.spells)

    def _judge(self, ref: SecretRef, value: str) -> None:
        """Keep the time for which a value stood there that its registry refused."""
        member, world = self._of[ref], self._world
        dead = Span(max(world.dies[value], self._since[ref]), world.now)
        if dead.seconds <= 0:
            return
        told = world.born.get(value, -math.inf) + TOKEN_LIFE
        early = not member.renewable or world.dies[value] < told
        self.spells += [
            Spell(member, span, early, self._since[ref])
            for span in world.trace.avoidable(member.origin, dead)
        ]

    def _deadline(self, spell: Spell) -> float:
        """Until when a spell is what the promises allow."""
        start = spell.span.start
        if spell.early:
            noticed = REVERIFY if spell.member.renewable else NOTICED
            return self._served_by(spell.member, start, start + noticed + ATTEMPT)
        patience = PATIENCE - self._world.trace.set_back(spell.since, spell.span.start)
        for span in self._impediments(spell.member):
            if span.start + patience <= start <= span.end + RETRY + ATTEMPT:
                return span.end + RETRY + ATTEMPT
        return start

    def _served_by(self, member: Member, start: float, by: float) -> float:
        """When what was to be done by then is done at the latest, given what is in the way."""
        for span in self._impediments(member):
            if span.start < by and span.end + RETRY + ATTEMPT > start:
                by = max(by, span.end + RETRY + ATTEMPT)
        return by

    def _impediments(self, member: Member) -> list[Span]:
        return self._all_impediments()[member.name]

    def _blame(self, what: str, words: str, at: float | None = None) -> None:
        at = self._world.now if at is None else at
        self.violations.append(f"{what} at {at:.0f} s (day {at / 86400:.2f}): {words}")

    @cache  # noqa: B019 - asked only once the trace has ended
    def _all_impediments(self) -> dict[str, list[Span]]:
        trace = self._world.trace
        return {m.name: trace.impediments(m.peers, self.off, GAP) for m in self._members}
