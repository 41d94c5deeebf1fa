"""Several `refresher run` on one real PostgreSQL: killed, stopped, cut off, upgraded."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import psycopg
import pytest

from refresher.state import schema
from tests.fleet import REGIONS, Fleet, Replica, targets_of, until
from tests.peers import ROOT
from tests.test_migrations import change, make_first, put_as_first, revision

#: What an alert or a dashboard reads of a target.
OF_A_TARGET = re.compile(
    r"refresher_(credential|secret|last|next|consecutive|image|target)_\w+\{.*target="
)

#: A loop guard of a second, that doubles.
QUICK: dict[str, str | float] = {
    "unheld_after": "1s",
    "unheld_spread": "1s",
    "guard_ceiling": "1s",
    "guard_fraction": 0.01,
}

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def fleet_of(database: str) -> Iterator[MakeFleet]:
    """Makes a world with so many replicas on one database."""
    made: list[Fleet] = []

    def make(replicas: int, targets: int, **options: Any) -> Fleet:
        fleet = Fleet(database, replicas, targets_of(targets), **options)
        made.append(fleet.__enter__())
        return fleet

    yield make
    for fleet in made:
        fleet.__exit__()


def all_published(fleet: Fleet) -> bool:
    """Whether each secret holds a password that lives."""
    now = datetime.now(UTC)
    return all(dies_at is not None and dies_at > now for _, dies_at in fleet.standing())


def post(replica: Replica, path: str, body: dict[str, Any] | None = None) -> Any:
    """Ask a replica, and wait."""
    url = f"{replica.url}{path}?wait=30"
    return httpx.post(url, json=body or {}, timeout=40).json()


def of_targets(replica: Replica) -> set[str]:
    return {line for line in replica.metrics().splitlines() if OF_A_TARGET.match(line)}


def value_of(replica: Replica, metric: str) -> float:
    lines = replica.metrics().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(f"{metric} "))


def start(fleet: Fleet) -> None:
    """All replicas, until all is published and all of them know."""
    fleet.start()
    until(lambda: all_published(fleet), "the first publish of all")
    for replica in fleet.replicas:
        until(
            lambda each=replica: all(t["valid"] for t in each.targets().values()),
            "the record of all",
        )


def holders(replica: Replica) -> Counter[str]:
    return Counter(str(target["holder"]) for target in replica.targets().values())


# --- together ----------------------------------------------------------------------------------


def test_three_replicas_share_the_work_and_tell_the_same(fleet_of: MakeFleet) -> None:
    """Each target is attempted once; AWS is asked at most once for each principal and replica;
    whoever is scraped or asked, says the same; what is asked of one, any may do."""
    fleet = fleet_of(3, 24)
    fleet.start()
    until(lambda: all_published(fleet), "the first publish of all")
    assert Counter(write.name for write in fleet.writes) == Counter(
        {f"AWS_{name.upper()}_PASSWORD": 1 for name in fleet.targets}
    )
    assert len(fleet.issues) <= len(REGIONS) * 3

    before = len(fleet.issues)
    answer = post(fleet.replicas[0], "/api/v1/refresh")
    assert {attempt["outcome"] for attempt in answer["attempts"]} == {"refreshed"}
    assert len(answer["attempts"]) == len(fleet.writes) - 24 == 24
    assert len(fleet.issues) - before <= len(REGIONS) * 3

    def all_issued() -> bool:
        """Whoever is idle takes what is due, so one that starts late may find nothing left."""
        issued = {issue.replica for issue in fleet.issues}
        return len(issued) == 3 or not post(fleet.replicas[0], "/api/v1/refresh")

    until(all_issued, "an issue of each")

    one, *others = fleet.replicas
    until(lambda: value_of(one, "refresher_replicas") == 3, "all three")
    for other in others:
        until(lambda other=other: of_targets(other) == of_targets(one), "the same metrics")
        assert other.targets() == one.targets()
    assert len(of_targets(one)) > 24 * 8
    there = one.get("/api/v1/replicas")["replicas"]
    assert [each["alive"] for each in there] == [True] * 3
    assert sum(each["holds"] for each in there) == 24
    assert len({each["config"] for each in there}) == 1
    assert value_of(one, "refresher_replicas") == 3
    page = httpx.get(one.url).text
    assert all(each["id"] in page for each in there)
    assert not one.lines("replicas.differ")
    assert [replica.stop() for replica in fleet.replicas] == [0, 0, 0]


def test_status_shows_the_replicas_and_who_holds_what(fleet_of: MakeFleet) -> None:
    """Of all targets, and of one; as a table and as JSON."""
    fleet = fleet_of(2, 4)
    fleet.start()
    until(lambda: all_published(fleet), "the first publish of all")
    replica = fleet.replicas[0]

    def status(*arguments: str) -> str:
        command = [sys.executable, "-m", "refresher", "status", *arguments, "--url", replica.url]
        environ = {**replica.environ, "REFRESHER_CONFIG": str(replica.config)}
        return subprocess.run(
            command, env=environ, cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout

    until(lambda: value_of(replica, "refresher_replicas") == 2, "both")
    there = replica.get("/api/v1/replicas")["replicas"]
    table = status()
    assert all(f"{each['id']}  alive" in table for each in there)
    told = json.loads(status("--output", "json"))
    assert [each["id"] for each in told["replicas"]] == [each["id"] for each in there]
    assert told["targets"][0]["holder"] in {each["id"] for each in there}
    assert f"held by       {told['targets'][0]['holder']}" in status("t000")


def test_what_a_dead_replica_held_is_taken_over(fleet_of: MakeFleet) -> None:
    """Its heartbeat lapses, its targets are `unheld`, and the others replace what it published."""
    fleet = fleet_of(2, 8, lease=3.0, policy=QUICK, workers=2)
    start(fleet)
    one, two = fleet.replicas
    until(lambda: post(one, "/api/v1/refresh") and len(holders(two)) == 2, "two holders")
    dead = next(each for each in two.get("/api/v1/replicas")["replicas"] if each["pid"] == one.pid)
    held: list[str] = []

    def holds_some() -> bool:
        """Attempts of the last wish may still move them from one to the other."""
        held[:] = [name for name, each in two.targets().items() if each["holder"] == dead["id"]]
        return bool(held) or not post(one, "/api/v1/refresh")

    until(holds_some, "a share for the one that dies")
    one.kill()

    def taken_over() -> bool:
        found = two.targets()
        return all(found[name]["holder"] not in (None, dead["id"]) for name in held)

    until(taken_over, "the take-over")
    for name in held:
        attempts = two.get(f"/api/v1/targets/{name}/attempts")["attempts"]
        assert attempts[0]["reason"] == "unheld"
        assert attempts[0]["outcome"] == "refreshed"
    there = {each["id"]: each["alive"] for each in two.get("/api/v1/replicas")["replicas"]}
    assert there[dead["id"]] is False
    assert [line["replica"] for line in two.lines("replica.gone")] == [dead["id"]]


def hung_write(fleet: Fleet) -> threading.Event:
    """The first replica is at a write that fal does not take before this is set."""
    one = fleet.replicas[0]
    one.start()
    one.wait()
    until(lambda: one.targets()["t000"]["valid"], "the first publish")
    door = threading.Event()
    fleet.doors.append(door)
    httpx.post(f"{one.url}/api/v1/refresh", json={}, timeout=40)
    until(lambda: not fleet.doors, "the second write")
    return door


def test_an_attempt_that_a_dead_replica_was_at_is_taken_over(fleet_of: MakeFleet) -> None:
    """Killed while fal did not answer: closed as interrupted when the lease ends, and done."""
    fleet = fleet_of(2, 1, lease=3.0, policy=QUICK)
    door = hung_write(fleet)
    one, two = fleet.replicas
    two.start()
    two.wait()
    one.kill()
    killed = time.monotonic()
    until(lambda: len(fleet.issues) == 3, "the take-over")
    assert time.monotonic() - killed < 10
    assert (fleet.issues[2].at - fleet.issues[1].at).total_seconds() > 2.0  # the loop guard
    until(lambda: len(fleet.writes) == 2, "the publish")
    until(lambda: two.targets()["t000"]["consecutive_failures"] == 0, "the record")
    attempts = two.get("/api/v1/targets/t000/attempts")["attempts"]
    assert [attempt["outcome"] for attempt in attempts[:2]] == ["refreshed", "failed"]
    assert attempts[1]["failure"]["reason"] == "interrupted"
    door.set()


def test_an_older_value_over_a_newer_one_is_written_over_within_a_tick(
    fleet_of: MakeFleet,
) -> None:
    """A write that hung on its way arrives after another replica published something newer."""
    fleet = fleet_of(2, 1, lease=3.0, policy=QUICK)
    door = hung_write(fleet)
    one, two = fleet.replicas
    two.start()
    two.wait()
    until(lambda: len(fleet.writes) == 2, "the newer write of the other replica")
    assert [issue.replica for issue in fleet.issues] == [0, 0, 1]
    newer = fleet.writes[1].dies_at
    time.sleep(0.3)
    door.set()
    until(lambda: len(fleet.writes) >= 3, "the older write")
    assert fleet.writes[2].dies_at < newer
    took = until(lambda: len(fleet.writes) == 4, "the repair")
    assert took < 2.0
    assert fleet.writes[3].dies_at == newer
    assert len(fleet.issues) == 3  # what the other one holds was written again
    until(lambda: one.targets() == two.targets(), "the same knowledge")
    assert one.targets()["t000"]["secrets"][0]["drifted"] is False
    reasons = [a["reason"] for a in two.get("/api/v1/targets/t000/attempts")["attempts"]]
    assert reasons[0] == "drifted"


# --- the database away -------------------------------------------------------------------------


@pytest.mark.slow
def test_while_the_database_is_away_only_what_presses_is_refreshed(fleet_of: MakeFleet) -> None:
    """Metrics, page and log say so; the last snapshot is served; then it goes on together."""
    life = timedelta(seconds=30)
    fleet = fleet_of(2, 4, lease=3.0, life=life)
    start(fleet)
    one, two = fleet.replicas
    for replica in fleet.replicas:
        replica.relay.cut()
    cut = datetime.now(UTC)
    until(lambda: value_of(one, "refresher_state_up") == 0, "the metric")
    snapshot = of_targets(one)
    assert any(line.startswith("refresher_credential_expiry") for line in snapshot)
    page = httpx.get(one.url).text
    assert "The state cannot be reached." in page
    assert "only what is urgent or expired is refreshed" in page
    until(lambda: one.lines("state.down") and two.lines("state.down"), "the log of both")
    assert "urgent or expired" in one.lines("state.down")[0]["meanwhile"]
    until(lambda: datetime.now(UTC) - cut > life * 0.8, "the last quarter", 30)
    until(lambda: all_published(fleet), "what presses")
    since = [issue for issue in fleet.issues if issue.at > cut]
    # Nothing before three quarters of a life went by, though a third makes it stale.
    assert min(issue.at for issue in since) - min(i.at for i in fleet.issues) > life * 0.7
    for replica in fleet.replicas:
        replica.relay.mend()
    for replica in fleet.replicas:
        until(lambda each=replica: value_of(each, "refresher_state_up") == 1, "the way back")
        assert replica.lines("state.up")
    until(lambda: one.targets() == two.targets(), "the same knowledge")
    until(lambda: all(t["valid"] is True for t in one.targets().values()), "valid")
    assert all_published(fleet)


@pytest.mark.slow
def test_a_replica_that_is_cut_off_leaves_the_work_to_the_others(fleet_of: MakeFleet) -> None:
    """Its targets are refreshed in time by those that reach the database, and it learns of that."""
    life = timedelta(seconds=24)
    fleet = fleet_of(2, 4, lease=3.0, life=life, policy=QUICK)
    start(fleet)
    one, two = fleet.replicas
    one.relay.cut()
    cut = datetime.now(UTC)
    end = time.monotonic() + life.total_seconds() * 0.6
    while time.monotonic() < end:
        assert all_published(fleet)
        time.sleep(0.1)
    assert {issue.replica for issue in fleet.issues if issue.at > cut} == {1}
    one.relay.mend()
    until(lambda: one.targets() == two.targets(), "the same knowledge")


def test_a_verdict_on_a_value_is_everybodys(fleet_of: MakeFleet) -> None:
    """A Docker Hub token is tried by one replica, refused, and tried by none again: it locks out.
    A new one in its place is checked and published once."""
    fleet = fleet_of(3, 1, kinds=["dockerhub"])
    hub, asked = fleet.world.hub, Counter[str]()
    refuse = hub.refused_login

    def counted(username: str, password: str) -> Any:
        asked[password] += 1
        return refuse(username, password)

    hub.refused_login = counted  # type: ignore[method-assign]
    first = fleet.world.hub_token_file.read_text()
    fleet.world.expire_hub_token()
    fleet.start()
    for replica in fleet.replicas:
        until(
            lambda each=replica: each.targets()["dockerhub"]["source_value"] == "rejected",
            "the verdict",
        )
        post(replica, "/api/v1/targets/dockerhub/refresh")  # which asks no registry
    assert asked == {first: 1}
    fleet.world.replace_hub_token()
    second = fleet.world.hub_token_file.read_text()
    until(lambda: fleet.world.fal.value("main", "DOCKERHUB_TOKEN") == second, "the new value", 60)
    for replica in fleet.replicas:
        until(lambda each=replica: each.targets()["dockerhub"]["valid"] is True, "the good verdict")
    assert asked == {first: 1, second: 1}


# --- people ------------------------------------------------------------------------------------


class Inbox:
    """Where Apprise's JSON notifications arrive."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.titles.append(json.loads(body)["title"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)
        self.url = f"json://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Inbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def test_each_notice_is_sent_once(fleet_of: MakeFleet) -> None:
    """All replicas see a target turn bad and good again; one of them says so."""
    with Inbox() as inbox:
        fleet = fleet_of(3, 4, policy={"retry_permanent": "1s"})
        for replica in fleet.replicas:
            text = replica.config.read_text()
            named = text.replace("workers =", 'notify = [{ env = "INBOX" }]\nworkers =')
            replica.config.write_text(named)
            replica.environ = {**replica.environ, "INBOX": inbox.url}
        fleet.world.aws.error("AccessDeniedException", 403, "no")
        fleet.start()
        until(lambda: len(inbox.titles) >= 4, "the bad news")
        fleet.world.aws.mend()
        until(lambda: len(inbox.titles) >= 8, "the good news")
        time.sleep(1.5)
        subjects = Counter(title.split(":")[1].strip() for title in inbox.titles)
    assert sum(subjects.values()) == 8
    words = Counter(re.sub(r"t00\d", "T", subject) for subject in subjects)
    assert words == {"T is bad": 4, "T is good again": 4}


def test_replicas_with_different_configurations_are_reported(fleet_of: MakeFleet) -> None:
    """In the log, in `status` and on the page; and none touches what it does not know."""
    fleet = fleet_of(2, 4)
    one, two = fleet.replicas
    text = two.config.read_text()
    two.config.write_text(text[: text.index("[targets.t003]")])
    fleet.start()
    until(lambda: all_published(fleet), "the first publish of all")
    for replica in fleet.replicas:
        until(lambda each=replica: each.lines("replicas.differ"), "the log")
        assert "have different configurations" in httpx.get(replica.url).text
    assert len({each["config"] for each in one.get("/api/v1/replicas")["replicas"]}) == 2
    assert one.targets()["t003"]["valid"] is True
    assert "t003" not in two.targets()


@pytest.mark.slow
def test_the_newer_configuration_decides_where_two_differ(fleet_of: MakeFleet) -> None:
    """While replicas are restarted with another configuration, the older ones leave alone what it
    changes, and go on with all else; also one that comes back with the older one."""
    fleet = fleet_of(3, 4, lease=3.0, policy=QUICK)
    start(fleet)
    *older, newer = fleet.replicas
    newer.stop()
    text = newer.config.read_text()
    newer.config.write_text(text.replace("AWS_T000_PASSWORD", "RENAMED"))
    newer.start()
    newer.wait()
    until(lambda: fleet.world.fal.value("main", "RENAMED"), "the new secret")
    before = len(fleet.writes)
    older[0].kill()
    older[0].start()
    older[0].wait()
    post(older[1], "/api/v1/refresh")
    time.sleep(3)
    names = Counter(write.name for write in fleet.writes[before:])
    assert names["RENAMED"] > 0
    assert names["AWS_T000_PASSWORD"] == 0
    assert names["AWS_T001_PASSWORD"] > 0
    newer.stop()  # and the older one decides again, since there is no other
    until(lambda: any(w.name == "AWS_T000_PASSWORD" for w in fleet.writes[before:]), "the way back")


# --- upgrades ----------------------------------------------------------------------------------


def test_replicas_start_on_the_database_of_an_older_release_that_still_runs(
    fleet_of: MakeFleet, database: str
) -> None:
    """They migrate it together, once; what the older one writes meanwhile is kept and seen."""
    change(database, make_first)
    stopped = threading.Event()

    def older() -> None:
        while not stopped.wait(0.05):
            change(database, lambda connection: put_as_first(connection, "old"), locked=False)

    writer = threading.Thread(target=older)
    writer.start()
    try:
        fleet = fleet_of(3, 4)
        start(fleet)
    finally:
        stopped.set()
        writer.join()
    assert revision(database) == schema.HEAD
    with psycopg.connect(database) as raw:
        row = raw.execute("SELECT version FROM targets WHERE name = 'old'").fetchone()
    assert row is not None
    assert row[0] > 5
    assert [len(each.lines("state.down")) for each in fleet.replicas] == [0, 0, 0]


@pytest.mark.slow
def test_a_rolling_upgrade_leaves_no_gap(fleet_of: MakeFleet, database: str) -> None:
    """Replicas go and come one after the other while a newer release migrates the database
    beneath them, again and again; every secret is good at every moment."""
    life = timedelta(seconds=24)
    fleet = fleet_of(3, 6, lease=3.0, life=life, policy=QUICK)
    start(fleet)
    stopped = threading.Event()
    bad: list[datetime] = []

    def watch() -> None:
        while not stopped.wait(0.05):
            if not all_published(fleet):
                bad.append(datetime.now(UTC))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with psycopg.connect(database, autocommit=True) as newer:
            for number, replica in enumerate(fleet.replicas):
                newer.execute(f"ALTER TABLE targets ADD COLUMN of{number} TEXT DEFAULT 'new'")
                newer.execute(f"UPDATE alembic_version SET version_num = '009{number}'")
                assert replica.stop() == 0
                time.sleep(1)
                replica.start()
                replica.wait()
                time.sleep(life.total_seconds() / 4)
    finally:
        stopped.set()
        watcher.join()
    assert bad == []
    assert len(fleet.writes) > 12
    with psycopg.connect(database) as raw:
        assert raw.execute("SELECT version_num FROM alembic_version").fetchall() == [("0092",)]
    there = fleet.replicas[0].get("/api/v1/replicas")["replicas"]
    assert len(there) == 3  # those that stopped took their leave
