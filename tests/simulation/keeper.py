"""Refresher in the simulation: the real policy, refresh, record, state and scheduler.

One thing is not as in life. A year of 15-minute proofs of fifty targets is 1.7 million attempts,
and all but a few find what the simulation knew: nothing changed. So the targets run under a
policy with a longer interval, and under the real one from a quarter of an hour before anything
that a proof, a backoff or a restart could notice until half an hour after it. `attentive=True`
runs the real one throughout, which a test does for a week.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random

from refresher import policy, record
from refresher.health import Health
from refresher.held import Held
from refresher.model import Policy, Status, Target, fingerprint
from refresher.refresh import Refresher
from refresher.scheduler import TICK_SECONDS, Scheduler, adopt, resume
from refresher.sharing import Sharing
from refresher.state import SqlStore
from tests.simulation import fleet
from tests.simulation.fleet import Member
from tests.simulation.invariants import Watch
from tests.simulation.loop import Crash, Loop, Pool, VirtualClock
from tests.simulation.peers import Registry, Vault, World
from tests.simulation.trace import HOUR, MINUTE, Happening, Machine, Span, Trace, merge

START = datetime(2026, 1, 1, tzinfo=UTC)

#: Seconds between two looks at the files of static sources, as the daemon's.
VALUE_SECONDS = 20.0
#: Seconds that running attempts get after SIGTERM, as the daemon's.
STOP_SECONDS = 9.0
#: How far ahead of an event the real policy takes over: 15 min, and up to 15 more, so that the
#: phase of the proofs has nothing to do with the event.
AHEAD, PHASE, AFTER = 15 * MINUTE, 15 * MINUTE, 30 * MINUTE
#: How long attempts are kept.
HISTORY = timedelta(days=1)

#: Seconds between two looks at whether any target was forgotten.
INSPECTION = 30 * MINUTE

#: Changes that are written in one transaction.
BATCH = 1_000


class BatchedStore(SqlStore):
    """Writes many changes in one transaction; `write_all` first, and a crash loses nothing more
    than it would in life."""

    #: How many there were so far.
    changes = 0

    def _flush(self) -> None:
        self.changes += 1
        if self.changes % BATCH == 0:
            self.write_all()

    def write_all(self) -> None:
        super()._flush()


class Process:
    """One life of the daemon, as far as it keeps targets."""

    def __init__(self, keeper: Keeper) -> None:
        world, clock = keeper.world, keeper.world.loop.clock
        self.store = BatchedStore.open(f"sqlite:///{keeper.path}", clock=clock)
        self.held = Held()
        self.stopping = threading.Event()
        self.refresher = keeper.refresher_class(
            store=self.store,
            held=self.held,
            publishers={account: Vault(world, account) for account in fleet.ACCOUNTS},
            clock=clock,
            rng=keeper.rng,
            stopping=self.stopping,
            observers=[
                keeper.watch.attempted,
                Sharing(store=self.store, held=self.held, targets=lambda: keeper.targets),
            ],
        )
        self.scheduler = Scheduler(
            store=self.store,
            targets=lambda: keeper.targets,
            refresher=self.refresher,
            held=self.held,
            health=Health(8, clock.monotonic()),
            clock=clock,
            workers=8,
            deferred=keeper.watch.deferred,
            pool=Pool(world.loop),
        )
        adopt(self.store, keeper.targets, clock.now())
        resume(self.store, keeper.targets, clock.now())

    def watch_values(self, targets: Mapping[str, Target]) -> None:
        """What the engine does every 20 s."""
        clock = self.store._clock
        for target in targets.values():
            status = self.store.status(target.name)
            if target.renewable or status is None:
                continue
            value = target.source.obtain(clock.now()).password
            if fingerprint(self.store.fingerprint_key, value) != status.source_fingerprint:
                self.store.update(target.name, partial(_changed, status, clock.now()))

    def tidy(self) -> None:
        """What the engine does every minute."""
        statuses = self.store.statuses().values()
        secrets = (secret for status in statuses for secret in status.secrets)
        self.held.keep_only({secret.fingerprint for secret in secrets if secret.fingerprint})

    def end(self) -> None:
        """Let go of the state as it stands."""
        self.store.write_all()
        self.store.close()


def _changed(known: Status, now: datetime, old: Status | None) -> Status:
    return record.value_changed(old or known, now)


class Keeper:
    """Runs a trace."""

    def __init__(
        self,
        trace: Trace,
        directory: Path,
        *,
        policy: Policy | None = None,
        attentive: bool = False,
        members: list[Member] | None = None,
        registry: Callable[[World], Registry] = Registry,
        refresher_class: type[Refresher] = Refresher,
    ) -> None:
        self.trace = trace
        self.path = directory / "refresher.db"
        self.rng = Random(f"keeper {trace.seed}")
        self.loop = Loop(VirtualClock(START))
        self.world = World(trace, self.loop, self.rng, boundary=self._boundary)
        self.members = fleet.members() if members is None else members
        self.refresher_class = refresher_class
        self._busy = fleet.targets(
            self.world, self.members, policy or Policy(), registry(self.world)
        )
        self._quiet = {name: fleet.quiet(target) for name, target in self._busy.items()}
        self.targets: Mapping[str, Target] = self._busy if attentive else dict(self._quiet)
        self._laxest = self._busy if attentive else self._quiet
        self.watch = Watch(self.world, self.members, self._status)
        self.world.observers.append(self.watch)
        self.process: Process | None = None
        #: How often the process ended.
        self.deaths = 0
        self._armed: Machine | None = None
        self._ticked = -1.0
        self._jumps = 0
        #: Whether the wall clock was stepped since the last tick.
        self._stepped = False
        self._coming: tuple[object, float] = (None, math.inf)
        self.loop.wake, self.loop.tick = self._wake, self._tick
        self._script(attentive)

    def run(self) -> Watch:
        """The whole trace; what was seen."""
        for member in self.members:
            self.world.put_by_hand(member.ref)
        self._start()
        self.loop.run(self.trace.end)
        self.loop.kill()
        if self.process is not None:
            self.process.end()
        self.watch.finish(self.loop.errors)
        return self.watch

    def _status(self, name: str) -> Status | None:
        return self.process.store.status(name) if self.process is not None else None

    # --- script --------------------------------------------------------------------------------

    def _script(self, attentive: bool) -> None:
        at = self.loop.at
        for machine in self.trace.machine:
            at(machine.at, partial(self._befall, machine))
        for name, editions in self.trace.editions.items():
            for edition in editions[1:]:
                noticed = edition.at + self.rng.uniform(0, VALUE_SECONDS)
                at(noticed, partial(self._look_at_values, name))
        for hour in range(0, int(self.trace.days * 24), 6):
            at(hour * HOUR, self._tidy)
        for n in range(1, int(self.trace.end / INSPECTION)):
            at(n * INSPECTION, self._inspect)
        for name, moments in self.trace.mended.items():
            for number, moment in enumerate(moments, 2):
                at(moment, partial(self._mend, name, f"v{number}"))
        if not attentive:
            for member in self.members:
                self._attend(member)

    def _attend(self, member: Member) -> None:
        for span in self._windows(member):
            self.loop.at(span.start, lambda: self._use(self._busy[member.name]))
            self.loop.at(span.end, lambda: self._use(self._quiet[member.name]))

    def _windows(self, member: Member) -> list[Span]:
        trace = self.trace
        peers = set(member.peers) | {member.origin}
        events = [Span(t.start, t.end) for t in trace.troubles if t.peer in peers]
        events += [Span(m.at, m.at + m.off) for m in trace.machine]
        deaths = [*trace.sessions.get(member.origin, ()), *trace.revocations.get(member.origin, ())]
        for edition in trace.editions.get(member.origin, ()):
            deaths += [at for at in (edition.at, edition.dies) if 0 < at < math.inf]
        events += [Span(at, at) for at in deaths]
        lead = AHEAD + self.rng.uniform(0, PHASE)
        return merge([Span(max(0.0, e.start - lead), e.end + AFTER) for e in events], 0.0)

    def _use(self, target: Target) -> None:
        """A configuration with another interval, and the next look as that one books it."""
        self.targets = {**self.targets, target.name: target}
        process, status = self.process, self._status(target.name)
        if process is None or status is None or not self._at_rest(status):
            return
        look = policy.next_look(target, status, process.held.hand(target, status))
        process.store.update(target.name, lambda old: replace(old or status, next_attempt_at=look))

    def _mend(self, origin: str, digest: str) -> None:
        """The configuration of these targets changed."""
        for name in self._of(origin):
            self._busy[name] = replace(self._busy[name], digest=digest)
            self._quiet[name] = replace(self._quiet[name], digest=digest)
            self.targets = {**self.targets, name: replace(self.targets[name], digest=digest)}
        if self.process is not None:
            adopt(self.process.store, self.targets, self.loop.clock.now())

    def _at_rest(self, status: Status) -> bool:
        """Whether its next look is the one that a success booked, and lies ahead."""
        if status.consecutive_failures or status.attempt or not status.secrets[0].fingerprint:
            return False
        return status.next_attempt_at > self.loop.clock.now()

    # --- daemon --------------------------------------------------------------------------------

    def _start(self) -> None:
        self.process = Process(self)
        self._armed = None
        self.loop.at(self.world.now + self.rng.uniform(0, VALUE_SECONDS), self._look_at_values)

    def _tick(self) -> None:
        assert self.process is not None
        self._ticked, self._stepped = self.world.now, False
        self.process.scheduler.tick()

    def _wake(self) -> float:
        """When a tick finds something to do; the real one ticks in between and finds nothing."""
        process = self.process
        if process is None or process.stopping.is_set():
            return math.inf
        scheduler = process.scheduler
        if len(scheduler._queue) and not scheduler._running:
            return self._ticked + TICK_SECONDS
        state = (process.store.changes, self._ticked, id(self.targets), self._jumps)
        if self._coming[0] != state:
            self._coming = (state, self._next_tick(process))
        return self._coming[1]

    def _next_tick(self, process: Process) -> float:
        clock, statuses = self.loop.clock, process.store.statuses()
        now, scheduler = clock.now(), process.scheduler
        # What waits for a worker starts when one is free, with no tick.
        taken = {*scheduler._running, *(ready.name for ready in scheduler._queue)}
        booked = {name: statuses[name] for name in self.targets if name not in taken}
        if not booked:
            return math.inf
        look = min(status.next_attempt_at for status in booked.values())
        if look <= now or self._stepped:
            look = min(self._look(process, name, status, now) for name, status in booked.items())
        at = math.ceil(clock.when(look) / TICK_SECONDS) * TICK_SECONDS
        return max(at, self._ticked + TICK_SECONDS)

    def _look(self, process: Process, name: str, status: Status, now: datetime) -> datetime:
        """When a tick may find this target due; the last one left alone what was not."""
        if policy.resting(status, now):
            return status.next_attempt_at
        if self._ticked < self.world.now:
            return now
        target = self.targets[name]
        hand = process.held.hand(target, status)
        if policy.due(target, status, hand, now) is not None:
            return now
        return max(policy.next_look(target, status, hand), now + timedelta(seconds=5))

    def _look_at_values(self, name: str | None = None) -> None:
        if self.process is not None:
            these = self.targets if name is None else self._of(name)
            self.process.watch_values(these)

    def _of(self, origin: str) -> Mapping[str, Target]:
        return {m.name: self.targets[m.name] for m in self.members if m.origin == origin}

    def _tidy(self) -> None:
        if self.process is not None:
            self.process.tidy()
            self.process.store.prune(self.loop.clock.now() - HISTORY)

    def _inspect(self) -> None:
        if self.process is not None:
            self.watch.inspect(self._laxest)

    # --- mishaps -------------------------------------------------------------------------------

    def _befall(self, machine: Machine) -> None:
        if machine.happening is Happening.JUMP:
            self._jump(machine.seconds)
        elif machine.happening is Happening.SUSPEND:
            self.watch.was_off(machine.seconds)
            self.loop.clock.suspend(machine.seconds)
        elif machine.happening is Happening.RESTART:
            self._stop(machine)
        elif machine.boundary is None:
            self._die(machine)
        else:
            self._armed = machine

    def _jump(self, seconds: float) -> None:
        self._jumps += 1
        self._stepped = True
        self.watch.jumped(seconds)
        self.loop.clock.jump(timedelta(seconds=seconds))
        if self.process is not None:
            self.process.scheduler.mind_the_clock()

    def _boundary(self, where: str) -> None:
        if self._armed is None or self._armed.boundary != where:
            return
        machine, self._armed = self._armed, None
        self.loop.at(self.world.now, partial(self._die, machine))
        raise Crash

    def _die(self, machine: Machine) -> None:
        """kill -9: what was in memory is gone, and so are all attempts."""
        if self.process is None:
            return
        self.deaths += 1
        self.watch.was_off(machine.seconds)
        process, self.process = self.process, None
        process.scheduler._pool.shutdown()
        self.loop.kill()
        process.end()
        self.loop.at(self.world.now + machine.seconds, self._start)

    def _stop(self, machine: Machine) -> None:
        """SIGTERM: no new stage starts; what still runs after 9 s is cut."""
        if self.process is None:
            return
        self.process.stopping.set()
        self.process.scheduler.stop(0)
        later = replace(machine, boundary=None)
        self.loop.at(self.world.now + STOP_SECONDS, partial(self._die, later))
