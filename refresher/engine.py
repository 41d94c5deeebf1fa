"""The parts of one process put together: targets, state, peers, refresher and scheduler."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from random import Random

from refresher import listing, logs, policy, record
from refresher.clock import Clock, Skews
from refresher.config import Account, Config, references
from refresher.control import Control
from refresher.errors import Failure
from refresher.health import Health
from refresher.held import Held
from refresher.model import (
    ListedSecret,
    Observer,
    Publisher,
    Replica,
    Replicas,
    SecretRef,
    SecretStatus,
    SecretValue,
    SourceValue,
    Status,
    Target,
    fingerprint,
)
from refresher.publish.fal import FalPublisher
from refresher.references import stamp
from refresher.refresh import Refresher
from refresher.replicas import Alone, config_digest
from refresher.scheduler import Scheduler, adopt, close_orphans, resume, take_over
from refresher.sharing import Sharing
from refresher.state import LEASE_SECONDS, SharedStore, SqlStore, is_shared
from refresher.targets import Parts, build


class Engine:
    """Everything that keeps targets, without a face to the outside.

    Close it, or use it as a context manager.
    """

    def __init__(
        self,
        config: Config,
        *,
        clock: Clock,
        observers: Sequence[Observer] = (),
        dry_run: bool = False,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        """`dry_run`: publish nothing and remember nothing; `lease_seconds`: how long another
        replica leaves alone what this one is at.

        Raises `ConfigError`, or `StateError` where another process owns the state.
        """
        self.clock = clock
        self.skews = Skews()
        self.stopping = threading.Event()
        self._dry_run = dry_run
        self._parts = Parts(config, clock, self.skews)
        self.targets: Mapping[str, Target] = build(config, self._parts)
        #: The files that hold credentials, and how they were when they were last looked at.
        self._files = _files(config)
        self._stamps = {path: stamp(path) for path in self._files}
        self._publishers: dict[str, Publisher] = {}
        self._accounts: dict[str, Account] = {}
        self._channels: list[FalPublisher] = []
        self._use_accounts(config)
        self.store = _open_store(config, clock, dry_run, lease_seconds)
        #: The state as replicas share it; None where nobody else can use it.
        self.shared = self.store if isinstance(self.store, SharedStore) else None
        self.replicas: Replicas = self.shared or Alone()
        self._seen = Seen()
        self.announce_config()
        self.held = Held(self.replicas)
        self.health = Health(config.daemon.workers, clock.monotonic())
        sharing = Sharing(store=self.store, held=self.held, targets=lambda: self.targets)
        self.control = Control(self.store, lambda: self.targets, clock)
        self.scheduler = Scheduler(
            store=self.store,
            targets=lambda: self.targets,
            refresher=Refresher(
                store=self.store,
                held=self.held,
                publishers=self._publishers,
                clock=clock,
                rng=Random(),  # noqa: S311 - jitter, not cryptography
                stopping=self.stopping,
                observers=[logs.attempt, *observers, sharing],
                replicas=self.replicas,
            ),
            held=self.held,
            health=self.health,
            clock=clock,
            workers=config.daemon.workers,
            deferred=_log_deferred,
            replicas=self.replicas,
        )

    def take_up(self) -> None:
        """Pick up where an earlier process stopped, and say what a first publish overwrites."""
        for line in self.store.exposed():
            logs.warning("state.permissions_wide", message=line)
        self.watch_state()
        self.replicas.look()
        now = self.clock.now()
        adopt(self.store, self.targets, now)
        if self.shared is None:
            resume(self.store, self.targets, now)
        else:
            self.watch_replicas()
        self.announce_overwrites()

    def watch_state(self) -> None:
        """Try a state that is away once more; say what is wrong with it, and when it is back."""
        self.store.retry()
        for trouble in self.store.changes():
            if trouble is not None:
                logs.error("state.down", message=trouble, meanwhile=self._meanwhile)
                continue
            logs.event("state.up")
            close_orphans(self.store, self.clock.now())

    def watch_replicas(self) -> None:
        """Take up what a replica left behind that is gone, and say who came and went."""
        if self.shared is None or not self.store.up:
            return
        now = self.clock.now()
        close_orphans(self.store, now)
        take_over(self.store, self.targets, self.shared.abandoned(), now)
        self._seen.look(self.shared.there(), self.shared.replica)

    def announce_config(self) -> None:
        """Let the other replicas know what this one keeps and how."""
        if self.shared is not None:
            self.shared.config = config_digest(self.targets)

    @property
    def _meanwhile(self) -> str:
        """What goes on while the state is away."""
        if self.shared is None:
            return "the targets are kept, and what is new is in memory only"
        return "only what is urgent or expired is refreshed"

    def use(self, config: Config) -> None:
        """Keep the targets of another configuration from now on.

        Raises `ConfigError`; then everything stays as it was.
        """
        targets = build(config, self._parts)
        self._use_accounts(config)
        adopt(self.store, targets, self.clock.now())
        self.targets = targets
        self._files = _files(config)

    def announce_overwrites(self) -> None:
        """Log what stands in fal and was not written by us, before the first publish."""
        found = listing.overwrites(self._publishers, self.targets.values(), self.store.statuses())
        for overwrite in found:
            logs.warning(
                "secret.will_be_overwritten",
                target=overwrite.target,
                secret=str(overwrite.ref),
                present_since=_date(overwrite.found.created_time),
            )

    def find_drift(self) -> None:
        """Make due what fal does not list any more, or lists as written by another."""
        at = self.clock.now()
        statuses = self.store.statuses()
        kept = [statuses[name] for name in self.targets if name in statuses]
        refs = [secret.ref for status in kept for secret in status.secrets]
        there = listing.read(self._publishers, [r for r in refs if r.account in self._publishers])
        look = listing.Look(at, there, listing.moving(kept))
        changed = [status for status in kept if listing.noted(status, look) != status]
        self._note_drift(changed, look)

    def _note_drift(self, changed: Sequence[Status], look: listing.Look) -> None:
        seen: list[tuple[str, SecretStatus]] = []

        def change(known: Status, old: Status | None) -> Status:
            before = old or known
            after = listing.noted(before, look)
            seen.extend((known.name, each) for each in listing.news(before.secrets, after.secrets))
            return after

        self.store.update_many({known.name: partial(change, known) for known in changed})
        for name, secret in seen:
            _log_drift(name, secret, self.clock.now())

    def watch_values(self) -> None:
        """Make due what has another value than was last read; a bad one waits for its retry."""
        for target, status in self._static():
            mark = self._mark(target)
            unread = mark is None and status.last_failure is None
            if unread or (mark is not None and mark != status.source_fingerprint):
                change = partial(_value_changed, status, mark, self.clock.now())
                self.store.update(target.name, change)

    def watch_files(self) -> None:
        """Make due what failed for want of a file that has changed or come since."""
        before, self._stamps = self._stamps, {path: stamp(path) for path in self._files}
        if all(before.get(path, seen) == seen for path, seen in self._stamps.items()):
            return
        now, statuses = self.clock.now(), self.store.statuses()
        known = [statuses[name] for name in self.targets if name in statuses]
        mended = [status for status in known if record.file_changed(status, now) != status]
        self.store.update_many(
            {status.name: partial(_file_changed, status, now) for status in mended}
        )

    def _static(self) -> list[tuple[Target, Status]]:
        statuses = self.store.statuses()
        return [
            (target, statuses[name])
            for name, target in self.targets.items()
            if target.enabled and not target.renewable and name in statuses
        ]

    def _mark(self, target: Target) -> str | None:
        """Fingerprint of what the source holds now; None where it holds nothing usable."""
        try:
            credential = target.source.obtain(self.clock.now())
        except Failure:
            return None
        return fingerprint(self.store.fingerprint_key, credential.password)

    def tidy(self, config: Config) -> None:
        """Forget what is not needed any more, and write what could not be written."""
        statuses = self.store.statuses()
        secrets = (secret for name in self.targets for secret in statuses[name].secrets)
        self.held.keep_only({secret.fingerprint for secret in secrets if secret.fingerprint})
        self.store.retry()
        self.store.prune(self.clock.now() - config.daemon.history)

    def close(self, seconds: float = 30.0) -> bool:
        """Start no new stage, wait for running ones, let go of everything; whether all ended."""
        self.stopping.set()
        ended = self.scheduler.stop(seconds)
        self.store.close()
        self._parts.close()
        for channel in self._channels:
            channel.close()
        return ended

    def _use_accounts(self, config: Config) -> None:
        for name, account in config.accounts.items():
            if self._accounts.get(name) == account:
                continue
            self._accounts[name] = account
            channel = FalPublisher(
                name,
                account.key,
                host=account.host,
                tls=account.tls,
                ca_bundle=config.daemon.ca_bundle,
                clock=self.clock,
            )
            self._channels.append(channel)
            self._publishers[name] = _Rehearsal(channel) if self._dry_run else channel


class Seen:
    """Says which replicas came and went, and when not all of them do the same."""

    def __init__(self) -> None:
        self._alive: dict[str, Replica] = {}
        self._differ = False

    def look(self, there: Sequence[Replica], me: str) -> None:
        """Log what changed since the last look."""
        alive = {each.id: each for each in there if each.alive}
        if me not in alive:
            return  # nobody was looked at yet
        for name in alive.keys() - self._alive.keys() - {me}:
            logs.event("replica.joined", replica=name, release=alive[name].release)
        lapsed = {each.id for each in there} - alive.keys()
        for name in self._alive.keys() - alive.keys() - {me}:
            if name in lapsed:
                logs.warning("replica.gone", replica=name)
            else:
                logs.event("replica.left", replica=name)
        others = [name for name, each in alive.items() if each.config != alive[me].config]
        if others and not self._differ:
            logs.warning(
                "replicas.differ",
                replicas=others,
                message="they keep other targets, or keep them in another way; start all of them"
                " with the same configuration",
            )
        self._alive, self._differ = alive, bool(others)


@contextmanager
def running(engine: Engine) -> Iterator[Engine]:
    """The engine, closed with the block."""
    try:
        yield engine
    finally:
        engine.close()


class _Rehearsal:
    """A publisher that says what it would write."""

    def __init__(self, channel: FalPublisher) -> None:
        self._channel = channel

    def publish(self, ref: SecretRef, _value: SecretValue, default_exposed: bool | None) -> None:
        """Write nothing."""
        logs.event("dry_run.would_publish", secret=str(ref), exposed=default_exposed)

    def listed(self, environment: str) -> Sequence[ListedSecret]:
        return self._channel.listed(environment)


def _open_store(config: Config, clock: Clock, dry_run: bool, lease_seconds: float) -> SqlStore:
    url = "sqlite://" if dry_run else config.daemon.state_url(os.environ).reveal()
    reference = config.daemon.fingerprint_key
    key = None if reference is None else reference.read().reveal().encode()
    if not is_shared(url):
        return SqlStore.open_or_memory(url, clock=clock, fingerprint_key=key)
    return SharedStore.open_or_memory(
        url, clock=clock, fingerprint_key=key, lease_seconds=lease_seconds
    )


def _value_changed(known: Status, mark: str | None, now: datetime, old: Status | None) -> Status:
    """Another replica may have read the value since, or be about to."""
    status = old or known
    waits = status.attempt is not None or status.next_attempt_at <= now
    seen = status.source_value is SourceValue.CHANGED and waits
    if seen or (mark is not None and mark == status.source_fingerprint):
        return status
    return record.value_changed(status, now)


def _file_changed(known: Status, now: datetime, old: Status | None) -> Status:
    return record.file_changed(old or known, now)


def _files(config: Config) -> frozenset[Path]:
    return frozenset(reference.file for _, reference in references(config) if reference.file)


def _log_drift(target: str, secret: SecretStatus, now: datetime) -> None:
    name = "secret.vanished" if secret.vanished else "secret.rewritten"
    fields = {} if secret.vanished else {"since": _date(secret.created_time)}
    again = policy.to_be_reasserted(secret, now)
    logs.warning(name, target=target, secret=str(secret.ref), will_be_written_again=again, **fields)


def _log_deferred(target: Target, until: datetime) -> None:
    logs.warning("issue.deferred_by_loop_guard", target=target.name, until=_date(until))


def _date(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat(timespec="seconds")
