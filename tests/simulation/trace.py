"""What happens to a fleet: who is away when, what dies when, what the machine does.

A trace is data and its questions are pure, so that every policy meets the very same world.
All times are seconds of true time since its start; no clock of anyone is involved.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from random import Random

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR

#: What an issuer returns.
TOKEN_LIFE = 12 * HOUR

#: How long what a person had put into fal before our first write goes on working.
HANDMADE_LIFE = 6 * HOUR


#: For how many days a principal is bound to sessions before a person mends it.
MENDED = 10.0
#: How long it takes a person to change the configuration after something was refused.
MENDING = 1 * DAY


class Kind(StrEnum):
    """How a peer that is in trouble answers."""

    UNAVAILABLE = "unavailable"
    TIMEOUT = "timeout"
    THROTTLED = "throttled"
    FORBIDDEN = "forbidden"
    #: A registry that refuses what is good.
    REFUSING = "refusing"


@dataclass(frozen=True, slots=True)
class Trouble:
    """A stretch in which a peer does not do its work."""

    #: `aws`, `aws/PRINCIPAL`, `registry/HOST` or `fal/ACCOUNT`.
    peer: str
    start: float
    end: float
    kind: Kind = Kind.UNAVAILABLE
    #: Seconds that a throttled answer asks for.
    retry_after: float = 0.0
    #: Share of the calls that fail.
    share: float = 1.0


class Happening(StrEnum):
    """What befalls the machine that refresher runs on."""

    CRASH = "crash"
    RESTART = "restart"
    SUSPEND = "suspend"
    JUMP = "jump"


@dataclass(frozen=True, slots=True)
class Machine:
    """One thing that befalls the machine."""

    at: float
    happening: Happening
    #: Seconds off, or for `JUMP` by how much the wall clock is stepped.
    seconds: float
    #: The boundary of a stage at which the process dies; None for right at `at`.
    boundary: str | None = None

    @property
    def off(self) -> float:
        return 0.0 if self.happening is Happening.JUMP else self.seconds


@dataclass(frozen=True, slots=True)
class Edition:
    """What a person put into a static source, from then on."""

    at: float
    value: str
    #: When the registry begins to refuse it; 0 for one that never worked.
    dies: float = math.inf


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time."""

    start: float
    end: float

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass(frozen=True, kw_only=True)
class Trace:
    """One year, or less, of one world."""

    seed: int = 0
    days: float
    troubles: Sequence[Trouble] = ()
    machine: Sequence[Machine] = ()
    #: Ends of the sessions of each principal whose tokens die with them.
    sessions: dict[str, Sequence[float]] = field(default_factory=dict)
    #: When a person changed the configuration of a principal.
    mended: dict[str, Sequence[float]] = field(default_factory=dict)
    #: When every token of a principal was revoked.
    revocations: dict[str, Sequence[float]] = field(default_factory=dict)
    #: What stood in each static source, in order.
    editions: dict[str, Sequence[Edition]] = field(default_factory=dict)

    @property
    def end(self) -> float:
        return self.days * DAY

    # --- peers ---------------------------------------------------------------------------------

    @cached_property
    def _by_peer(self) -> dict[str, tuple[list[float], list[Trouble]]]:
        found: dict[str, list[Trouble]] = defaultdict(list)
        for trouble in sorted(self.troubles, key=lambda trouble: trouble.start):
            found[trouble.peer].append(trouble)
        return {peer: ([t.start for t in those], those) for peer, those in found.items()}

    def trouble(self, peer: str, at: float) -> Trouble | None:
        """What is wrong with a peer; troubles of one peer do not overlap."""
        starts, troubles = self._by_peer.get(peer, ([], []))
        place = bisect_right(starts, at) - 1
        return troubles[place] if place >= 0 and at < troubles[place].end else None

    def up(self, peers: Iterable[str], at: float) -> bool:
        """Whether none of these peers is in trouble."""
        return all(self.trouble(peer, at) is None for peer in peers)

    # --- truth ---------------------------------------------------------------------------------

    def dies(self, principal: str, issued: float) -> float:
        """When the registry begins to refuse a token that was issued then."""
        ends = (self.sessions.get(principal, ()), self.revocations.get(principal, ()))
        return min(issued + TOKEN_LIFE, *(_next(times, issued) for times in ends))

    def edition(self, source: str, at: float) -> Edition:
        """What stands in a static source."""
        return [edition for edition in self.editions[source] if edition.at <= at][-1]

    def avoidable(self, source: str, dead: Span) -> Iterator[Span]:
        """The parts of a stretch with a dead value in which a good one was there to be had.

        Of a source that is not static there always is.
        """
        editions = self.editions.get(source)
        if editions is None:
            yield dead
            return
        successors = [edition.at for edition in editions[1:]] + [math.inf]
        for edition, replaced in zip(editions, successors, strict=True):
            start, end = max(dead.start, edition.at), min(dead.end, replaced, edition.dies)
            if start < end:
                yield Span(start, end)

    # --- machine -------------------------------------------------------------------------------

    @cached_property
    def off(self) -> list[Span]:
        """When nothing runs on the machine, whoever wrote it."""
        return [Span(m.at, m.at + m.off) for m in self.machine if m.off]

    @cached_property
    def _switched_off(self) -> list[float]:
        return [span.start for span in self.off]

    def running(self, at: float) -> bool:
        place = bisect_right(self._switched_off, at) - 1
        return place < 0 or self.off[place].end <= at

    def set_back(self, start: float, end: float) -> float:
        """By how many seconds in all the wall clock was set back within a span."""
        jumps = (m for m in self.machine if m.happening is Happening.JUMP)
        return sum(-jump.seconds for jump in jumps if start <= jump.at <= end and jump.seconds < 0)

    def impediments(self, peers: Iterable[str], off: Iterable[Span], gap: float) -> list[Span]:
        """When a target could not be served, with gaps too short for a retry closed."""
        wanted = set(peers)
        spans = [
            Span(t.start, t.end + 1.25 * t.retry_after) for t in self.troubles if t.peer in wanted
        ]
        return merge([*spans, *off], gap)


def _next(times: Sequence[float], after: float) -> float:
    """The first of these times, which are in order, that comes later."""
    place = bisect_right(times, after)
    return times[place] if place < len(times) else math.inf


def merge(spans: Iterable[Span], gap: float) -> list[Span]:
    """The union of spans, in order; two that are less than `gap` apart become one."""
    merged: list[Span] = []
    for span in sorted(spans, key=lambda span: span.start):
        if merged and span.start - merged[-1].end <= gap:
            last = merged.pop()
            span = Span(last.start, max(last.end, span.end))  # noqa: PLW2901 - grown
        merged.append(span)
    return merged


# --- drawing one -------------------------------------------------------------------------------

#: Where in an attempt a process may die.
BOUNDARIES = (
    "source:before",
    "source:after",
    "verify:before",
    "verify:after",
    "publish:before",
    "publish:after",
)


@dataclass(frozen=True, slots=True)
class Cast:
    """Who takes part."""

    principals: Sequence[str]
    #: Those whose tokens die with a session.
    session_bound: Sequence[str]
    registries: Sequence[str]
    accounts: Sequence[str]
    statics: Sequence[str]


def draw(seed: int, days: float, cast: Cast, *, longest: float = 10 * HOUR) -> Trace:
    """A trace of outages, deaths and mishaps. `longest`: no outage lasts longer."""
    rng = Random(f"trace {seed}")
    troubles = list(_troubles(rng, days, cast, longest))
    sessions = {name: _sessions(rng, min(days, MENDED)) for name in cast.session_bound}
    lasting = [name for name in cast.principals if name not in sessions]
    revocations = {name: list(_moments(rng, days, 90)) for name in lasting}
    return Trace(
        seed=seed,
        days=days,
        troubles=troubles,
        machine=_machine(rng, days),
        sessions=sessions,
        revocations=revocations,
        mended={
            name: _mended(
                name, troubles, [*sessions.get(name, ())[-1:], *revocations.get(name, ())]
            )
            for name in cast.principals
        },
        editions={name: _editions(rng, days, name) for name in cast.statics},
    )


def _mended(principal: str, troubles: Sequence[Trouble], deaths: Sequence[float]) -> list[float]:
    """A life that was learnt stands until the configuration changes: somebody sees to it."""
    registry = f"registry/{principal}"
    refused = [t.end for t in troubles if t.peer == registry and t.kind is Kind.REFUSING]
    return sorted(at + MENDING for at in [*refused, *deaths])


def _moments(rng: Random, days: float, mean_days: float) -> Iterable[float]:
    """Moments that know nothing of one another, this many days apart in the mean."""
    at = rng.expovariate(1 / (mean_days * DAY))
    while at < days * DAY:
        yield at
        at += rng.expovariate(1 / (mean_days * DAY))


_DURATIONS = (
    (2 * MINUTE, 0.5 * HOUR),
    (0.5 * HOUR, 3 * HOUR),
    (3 * HOUR, 7.5 * HOUR),
    (7.5 * HOUR, 10 * HOUR),
)


def _duration(rng: Random, longest: float) -> float:
    """Mostly minutes, at times a night."""
    (bounds,) = rng.choices(_DURATIONS, weights=[60, 28, 9, 3])
    return min(rng.uniform(*bounds), longest)


def _troubles(rng: Random, days: float, cast: Cast, longest: float) -> Iterable[Trouble]:
    plan = [
        ("aws", 12.0, (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.THROTTLED)),
        *((f"aws/{name}", 60.0, (Kind.FORBIDDEN, Kind.THROTTLED)) for name in cast.principals),
        *((f"registry/{name}", 40.0, _REGISTRY_KINDS) for name in cast.registries),
        *(
            (f"fal/{name}", 20.0, (Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.THROTTLED))
            for name in cast.accounts
        ),
    ]
    for peer, mean_days, kinds in plan:
        clear = 0.0
        for at in _moments(rng, days, mean_days):
            trouble = _trouble(rng, peer, at, rng.choice(kinds), longest)
            if at > clear:
                yield trouble
                clear = trouble.end


_REGISTRY_KINDS = (*(Kind.UNAVAILABLE, Kind.TIMEOUT, Kind.THROTTLED) * 3, Kind.REFUSING)


def _trouble(rng: Random, peer: str, at: float, kind: Kind, longest: float) -> Trouble:
    if kind is Kind.REFUSING:
        return Trouble(peer, at, at + rng.uniform(5, 40) * MINUTE, kind)
    asked = rng.choice((0.0, MINUTE, 5 * MINUTE, 20 * MINUTE)) if kind is Kind.THROTTLED else 0.0
    share = rng.choice((1.0, 1.0, 1.0, 0.5))
    return Trouble(peer, at, at + _duration(rng, longest), kind, asked, share)


def _machine(rng: Random, days: float) -> list[Machine]:
    """One thing at a time, each a quarter of a day clear of the next."""
    found: list[Machine] = []
    for at in _moments(rng, days, 4):
        if found and at < found[-1].at + found[-1].off + 6 * HOUR:
            continue
        found += _mishap(rng, at)
    return found


def _mishap(rng: Random, at: float) -> list[Machine]:
    what = rng.choices(("crash", "cut", "restart", "suspend", "jump", "drift"), (4, 8, 4, 2, 2, 1))
    if what == ["crash"]:
        return [Machine(at, Happening.CRASH, rng.choice((5.0, 90.0, rng.uniform(0, 3 * HOUR))))]
    if what == ["cut"]:
        return [Machine(at, Happening.CRASH, rng.choice((5.0, 90.0)), rng.choice(BOUNDARIES))]
    if what == ["restart"]:
        return [Machine(at, Happening.RESTART, rng.choice((5.0, 60.0)))]
    if what == ["suspend"]:
        return [Machine(at, Happening.SUSPEND, rng.uniform(0.2, 7) * HOUR)]
    if what == ["jump"]:
        by = rng.choice((HOUR, -HOUR))
        right = at + rng.uniform(0.1, 5) * HOUR
        return [Machine(at, Happening.JUMP, by), Machine(right, Happening.JUMP, -by)]
    return [
        *(Machine(at + n * 20 * MINUTE, Happening.JUMP, 30.0) for n in range(10)),
        Machine(at + 4 * HOUR, Happening.JUMP, -300.0),
    ]


def _sessions(rng: Random, days: float) -> list[float]:
    """Single sign-on: 8 to 10 hours, then the next one."""
    ends = [rng.uniform(0, 10 * HOUR)]
    while ends[-1] < days * DAY:
        ends.append(ends[-1] + rng.uniform(8, 10) * HOUR)
    return ends


def _editions(rng: Random, days: float, source: str) -> list[Edition]:
    """A person rotates the value: with an overlap, after a slip of the hand, or too late."""
    editions = [Edition(0.0, f"{source}-v0")]
    for number, at in enumerate(_moments(rng, days, 30), 1):
        if at > editions[-1].at + 4 * DAY:
            editions += _rotation(rng, at, f"{source}-v{number}", editions.pop())
    return editions


def _rotation(rng: Random, at: float, value: str, old: Edition) -> list[Edition]:
    way = rng.choice(("overlap", "slip", "late"))
    if way == "overlap":
        dies = at + rng.uniform(1, 48) * HOUR
        return [Edition(old.at, old.value, dies), Edition(at, value)]
    mended = at + rng.uniform(0.2, 9) * HOUR
    if way == "late":
        return [Edition(old.at, old.value, at), Edition(mended, value)]
    dies = mended + rng.uniform(1, 48) * HOUR
    return [
        Edition(old.at, old.value, dies),
        Edition(at, f"{value}-slip", 0.0),
        Edition(mended, value),
    ]
