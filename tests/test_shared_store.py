"""Several stores on one PostgreSQL: leases, order, and what becomes of it while that is away."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from refresher import record
from refresher.clock import SystemClock
from refresher.errors import FailureReason, Interrupted
from refresher.model import Actor, Attempt, SecretStatus, Status, Trigger
from refresher.scheduler import close_orphans
from refresher.state import SqlStore
from refresher.state.shared import SharedStore
from tests.publish.relay import Relay
from tests.test_state import blank, count_failure, ended, run_attempt, started
from tests.world import wait_for

LEASE = 1.0

Open = Callable[..., SharedStore]


@pytest.fixture
def opened(database: str) -> Iterator[Open]:
    """Opens replicas of one database, with a lease of a second; all are closed at the end."""
    stores: list[SharedStore] = []

    def open_one(url: str = database, lease: float = LEASE) -> SharedStore:
        store = SharedStore.open_or_memory(url, clock=SystemClock(), lease_seconds=lease)
        stores.append(store)
        store.look()
        return store

    yield open_one
    for store in stores:
        store.close()


def known(store: SharedStore, *names: str) -> None:
    """Make targets known."""
    store.update_many({name: lambda old, name=name: old or blank(name) for name in names})


def claim(store: SharedStore, *names: str, pressing: Collection[str] = ()) -> list[str]:
    """Ask for targets as they are known."""
    return list(store.claim([store.statuses()[name] for name in names], pressing))


def one_that_publishes(name: str, store: SharedStore, mark: str, issued_at: datetime) -> Status:
    """What a status becomes when a replica publishes."""
    secret = SecretStatus(ref=blank().secrets[0].ref, fingerprint=mark, issued_at=issued_at)
    return replace(blank(name), secrets=(secret,), holder=store.replica, last_attempt_at=issued_at)


# --- leases ------------------------------------------------------------------------------------


def test_a_target_is_claimed_by_one_replica_until_its_lease_ends(opened: Open) -> None:
    """By the clock of the database; the end of an attempt ends the lease, too."""
    one, two = opened(), opened()
    known(one, "ecr")
    two.look()
    assert claim(one, "ecr") == ["ecr"]
    two.look()
    assert not claim(two, "ecr")
    one.look()
    assert claim(one, "ecr") == ["ecr"]  # it is its own
    time.sleep(LEASE + 0.1)
    two.look()
    assert claim(two, "ecr") == ["ecr"]
    run_attempt(two, started("a1"))
    one.look()
    assert claim(one, "ecr") == ["ecr"]
    assert (one.claims.granted, two.claims.granted, two.claims.taken) == (3, 1, 1)


def test_what_changed_since_the_last_look_is_looked_at_first(opened: Open) -> None:
    """A replica acts on the newest status or not at all."""
    one, two = opened(), opened()
    known(one, "ecr")
    two.look()
    one.update("ecr", count_failure)
    assert not claim(two, "ecr")
    two.look()
    assert two.statuses()["ecr"].consecutive_failures == 1
    assert claim(two, "ecr") == ["ecr"]


def test_what_was_decided_on_an_older_status_is_not_claimed(opened: Open) -> None:
    """A look may come between a decision and its claim."""
    one = opened()
    known(one, "ecr")
    before = one.statuses()["ecr"]
    one.update("ecr", count_failure)
    assert not one.claim([before], [])
    assert claim(one, "ecr") == ["ecr"]


def test_no_two_replicas_get_the_same_target(opened: Open) -> None:
    """Four replicas that ask for the same 200 targets at once get each of them once."""
    stores = [opened(lease=30) for _ in range(4)]
    names = [f"t{n:03}" for n in range(200)]
    known(stores[0], *names)
    for store in stores:
        store.look()
    with ThreadPoolExecutor(4) as pool:
        asked = [
            pool.submit(claim, store, *names[n : n + 10])
            for n in range(0, 200, 10)
            for store in stores
        ]
        got = Counter(name for each in asked for name in each.result())
    assert got == Counter(names)


def test_a_lease_that_ended_permits_nothing(opened: Open) -> None:
    """Neither a call, nor the beginning of an attempt, nor a write to fal."""
    one, two = opened(), opened()
    known(one, "ecr")
    two.look()
    with pytest.raises(Interrupted):
        one.assure("ecr")  # never claimed
    claim(one, "ecr")
    one.assure("ecr")
    one.begin(started("a1"), lambda s: replace(s or blank(), attempt="a1"))
    assert one.intend(started("a1"), "f1", pressing=False) == 1
    time.sleep(LEASE + 0.1)
    with pytest.raises(Interrupted):
        one.assure("ecr")
    with pytest.raises(Interrupted):
        one.begin(started("a2"), lambda s: s or blank())
    assert one.intend(started("a1"), "f1", pressing=False) == 2  # nobody took it over
    time.sleep(LEASE + 0.1)
    two.look()
    assert claim(two, "ecr") == []  # what was left open is closed first
    close_orphans(two, datetime.now(UTC))
    assert claim(two, "ecr") == ["ecr"]
    with pytest.raises(Interrupted):
        one.intend(started("a1"), "f1", pressing=False)
    two.begin(started("b1"), lambda s: replace(s or blank(), attempt="b1"))
    assert two.intend(started("b1"), "f2", pressing=False) == 3
    status = two.status("ecr")
    assert status is not None
    assert (status.generation, status.intent) == (3, "f2")


def test_the_attempt_of_a_replica_that_died_is_closed_once_its_lease_ended(opened: Open) -> None:
    """And not before; its target is due at once then."""
    one, two = opened(), opened()
    known(one, "ecr")
    claim(one, "ecr")
    begun = started("a1", at=datetime.now(UTC))
    one.begin(begun, lambda s: record_opened(s, begun))
    two.look()
    assert two.orphans() == []
    time.sleep(LEASE + 0.1)
    assert [orphan.id for orphan in two.orphans()] == ["a1"]
    now = datetime.now(UTC)
    close_orphans(two, now)
    assert two.orphans() == []
    attempt, status = two.attempt("a1"), two.status("ecr")
    assert attempt is not None
    assert attempt.failure is not None
    assert attempt.failure.reason is FailureReason.INTERRUPTED
    assert status is not None
    assert (status.attempt, status.next_attempt_at) == (None, now)
    assert claim(two, "ecr") == ["ecr"]


def record_opened(status: Status | None, attempt: Attempt) -> Status:
    at = attempt.started_at
    return replace(
        status or blank(), attempt=attempt.id, next_attempt_at=at + timedelta(seconds=60)
    )


def test_another_replicas_orphan_ends_no_lease_of_ours(opened: Open) -> None:
    """A target that we are at stays ours while what a dead replica left there is closed."""
    one, two, three = opened(), opened(), opened()
    known(one, "ecr")
    claim(one, "ecr")
    one.begin(started("a1"), lambda s: replace(s or blank(), attempt="a1"))
    time.sleep(LEASE + 0.1)
    found = three.orphans()
    two.look()
    close_orphans(two, datetime.now(UTC))
    claim(two, "ecr")
    two.begin(started("b1"), lambda s: replace(s or blank(), attempt="b1"))
    for orphan in found:
        three.finish(ended(orphan), lambda s: s or blank())
    three.look()
    assert not claim(three, "ecr")
    two.assure("ecr")
    status = two.status("ecr")
    assert status is not None
    assert status.attempt == "b1"


# --- one state ---------------------------------------------------------------------------------


def test_no_change_is_lost_among_replicas(opened: Open) -> None:
    """Four replicas that count in one status lose none; each sees all after a look."""
    stores = [opened() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        done = [pool.submit(s.update, "ecr", count_failure) for _ in range(50) for s in stores]
        for each in done:
            each.result()
    for store in stores:
        store.look()
        assert store.statuses()["ecr"].consecutive_failures == 200


def test_a_look_misses_nothing_that_was_committed_late(opened: Open, database: str) -> None:
    """A transaction that began first and ended last is found, though others came after it."""
    one, two = opened(), opened()
    known(one, "early", "late")
    two.look()
    with psycopg.connect(database) as slow:
        slow.execute("UPDATE targets SET digest = digest WHERE name = 'late'")
        slow.execute(
            "UPDATE targets SET document = jsonb_set(document::jsonb, '{paused}', 'true')"
            " WHERE name = 'late'"
        )
        one.update("early", count_failure)
        two.look()
        assert two.statuses()["early"].consecutive_failures == 1
        assert not two.statuses()["late"].paused
    two.look()
    assert two.statuses()["late"].paused


def test_a_wish_reaches_the_replica_that_serves_it(opened: Open) -> None:
    """Made at one, answered at another, and seen so by the first."""
    one, two = opened(), opened()
    known(one, "ecr")
    wish = Trigger("w1", datetime.now(UTC), Actor.HTTP)
    one.update("ecr", lambda s: record.forced(s or blank(), wish))
    two.look()
    assert two.due(datetime.now(UTC)) == ["ecr"]
    claim(two, "ecr")
    begun = started("w1")
    two.begin(begun, lambda s: replace(s or blank(), attempt="w1"))
    two.finish(ended(begun), lambda s: replace(s or blank(), attempt=None, trigger=None))
    one.look()
    assert one.statuses()["ecr"].trigger is None
    answer = one.attempt("w1")
    assert answer is not None
    assert answer.outcome == "failed"


def test_an_unchanged_status_keeps_its_identity_and_its_row(opened: Open, database: str) -> None:
    """A change that changes nothing writes nothing, and no other replica reads it again."""
    one = opened()
    known(one, "ecr")
    before = one.status("ecr")
    one.update("ecr", lambda s: replace(s or blank()))
    one.look()
    assert one.status("ecr") is before
    with psycopg.connect(database) as raw:
        assert raw.execute("SELECT version FROM targets").fetchall() == [(1,)]


def test_rows_of_targets_that_a_replica_does_not_know_stay(opened: Open, database: str) -> None:
    """A replica with another configuration never deletes or changes them."""
    with closing(SqlStore.open(database, clock=SystemClock())) as other:
        theirs = other.update("theirs", lambda _: blank("theirs"))
    one = opened()
    known(one, "ours")
    one.prune(datetime.now(UTC))
    one.close()
    with closing(SqlStore.open(database, clock=SystemClock(), read_only=True)) as reader:
        assert reader.statuses().keys() == {"ours", "theirs"}
        assert reader.statuses()["theirs"] == theirs


# --- who is there ------------------------------------------------------------------------------


def test_replicas_see_each_other_and_what_the_dead_held(opened: Open) -> None:
    """A heartbeat that lapsed leaves its targets to the oldest that lives; a stop says so."""
    one, two, three = opened(), opened(), opened()
    now = datetime.now(UTC)
    for store, name in ((one, "a"), (two, "b"), (three, "c")):
        store.update(name, lambda _, s=store, n=name: one_that_publishes(n, s, n, now))
    until = time.monotonic() + 0.6 * LEASE
    while time.monotonic() < until:
        one.look()
        two.look()
        time.sleep(0.02)
    assert [r.id for r in one.there()] == [one.replica, two.replica, three.replica]
    assert one.elsewhere(one.status("b"))
    assert not one.elsewhere(one.status("a"))
    assert one.abandoned() == []
    three.close()
    wait_for(lambda: one.look() or one.abandoned() == ["c"], "the stop")
    two.look()
    assert two.abandoned() == []  # the oldest does it

    def lapsed() -> bool:
        two.look()
        return two.abandoned() == ["a", "c"]

    wait_for(lapsed, "the lapse of the oldest")
    assert not two.elsewhere(two.status("a"))
    assert [r.id for r in two.there() if not r.alive] == [one.replica]


def test_a_replica_that_joined_since_the_last_heartbeat_is_not_taken_for_gone(
    opened: Open,
) -> None:
    """What it publishes is seen before itself is."""
    one = opened(lease=60)
    two = opened(lease=60)
    two.update("b", lambda _: one_that_publishes("b", two, "f1", datetime.now(UTC)))
    one.look()
    assert [each.id for each in one.there()] == [one.replica]
    assert one.elsewhere(one.status("b"))
    assert one.abandoned() == []


# --- the database away -------------------------------------------------------------------------


def through(relay: Relay, database: str) -> str:
    return f"postgresql://refresher@{relay.host}/{database.rpartition('/')[2]}"


def back(store: SharedStore) -> None:
    """Until it has found the database again."""
    wait_for(lambda: store.retry() or store.up, "the database")
    store.look()


def test_without_the_database_only_what_is_pressing_is_attempted(
    opened: Open, database: str, server: int
) -> None:
    """A double issue is harmless, and a dead secret is not; all else waits, and is still shown."""
    with Relay(f"127.0.0.1:{server}") as relay:
        one = opened(through(relay, database))
        known(one, "calm", "urgent")
        relay.cut()
        assert claim(one, "calm", "urgent", pressing=["urgent"]) == ["urgent"]
        assert not one.up
        assert one.statuses().keys() == {"calm", "urgent"}
        begun = started("a1", "urgent")
        one.begin(begun, lambda s: replace(s or blank("urgent"), attempt="a1"))
        assert one.intend(begun, "f1", pressing=True) == 1
        one.finish(ended(begun), lambda s: replace(s or blank("urgent"), attempt=None))
        relay.mend()
        back(one)
        two = opened()
        assert two.statuses()["urgent"].generation == 1
        assert [attempt.id for attempt in two.attempts()] == ["a1"]


def test_a_write_that_cannot_be_announced_is_not_made_unless_it_presses(
    opened: Open, database: str, server: int
) -> None:
    """The database went away in the middle of an attempt."""
    with Relay(f"127.0.0.1:{server}") as relay:
        one = opened(through(relay, database), lease=30)
        known(one, "ecr")
        claim(one, "ecr")
        begun = started("a1")
        one.begin(begun, lambda s: replace(s or blank(), attempt="a1"))
        relay.cut()
        with pytest.raises(Interrupted, match="can wait"):
            one.intend(begun, "f1", pressing=False)
        assert one.intend(begun, "f1", pressing=True) == 1
        relay.mend()


def test_what_both_sides_of_an_outage_did_is_merged(
    opened: Open, database: str, server: int
) -> None:
    """A pause here and a wish there are both kept; of two values the newer is taken, and written
    again at once, since nobody can tell which of them stands."""
    now = datetime.now(UTC)
    with Relay(f"127.0.0.1:{server}") as relay:
        one, two = opened(through(relay, database)), opened()
        known(one, "asked", "both", "mine", "theirs")
        two.look()
        relay.cut()
        one.look()
        older, newer = now - timedelta(seconds=2), now - timedelta(seconds=1)
        for store, mark, at in ((one, "f1", older), (two, "f2", newer)):
            store.update(
                "both", lambda _, s=store, m=mark, t=at: one_that_publishes("both", s, m, t)
            )
        one.update("asked", lambda s: replace(s or blank("asked"), paused=True))
        two.update("asked", lambda s: record.forced(s or blank("asked"), wish(now)))
        one.update("mine", lambda _: one_that_publishes("mine", one, "f3", older))
        two.update("theirs", lambda _: one_that_publishes("theirs", two, "f4", newer))
        one.update("new", lambda _: blank("new"))
        assert not one.up
        relay.mend()
        back(one)
        two.look()
        assert one.statuses() == two.statuses()
        asked, both = one.statuses()["asked"], one.statuses()["both"]
        assert asked.paused
        assert asked.trigger == wish(now)
        assert both.secrets[0].fingerprint == "f2"
        assert both.secrets[0].drifted
        assert both.next_attempt_at <= datetime.now(UTC)
        assert both.generation == 1
        for name, mark in (("mine", "f3"), ("theirs", "f4")):
            secret = one.statuses()[name].secrets[0]
            assert (secret.fingerprint, secret.drifted) == (mark, False)


def wish(at: datetime) -> Trigger:
    return Trigger("w1", at, Actor.HTTP)


def test_a_replica_that_began_without_the_database_takes_over_what_it_holds(
    opened: Open, database: str, server: int
) -> None:
    """Its fingerprint key, above all, and every target of which it knew nothing."""
    other = opened()
    published = one_that_publishes("ecr", other, "f1", datetime.now(UTC))
    other.update("ecr", lambda _: published)
    with Relay(f"127.0.0.1:{server}") as relay:
        relay.cut()
        one = opened(through(relay, database))
        assert not one.up
        one.update("ecr", lambda old: old or blank())
        relay.mend()
        back(one)
        assert one.fingerprint_key == other.fingerprint_key
        status = one.status("ecr")
        assert status is not None
        assert status.secrets == published.secrets
        other.look()
        assert other.status("ecr") == status


def test_a_database_that_comes_back_empty_is_filled_from_memory(
    opened: Open, database: str, server: int
) -> None:
    """Somebody dropped all tables: what replicas know is there again."""
    with Relay(f"127.0.0.1:{server}") as relay:
        one = opened(through(relay, database))
        known(one, "ecr")
        relay.cut()
        one.look()
        with psycopg.connect(database, autocommit=True) as raw:
            raw.execute("DROP SCHEMA public CASCADE")
            raw.execute("CREATE SCHEMA public")
        relay.mend()
        back(one)
        two = opened()
        assert two.statuses().keys() == {"ecr"}
