"""Several replicas on one PostgreSQL, with peers that answer in 200 ms.

1, 2 and 4 replicas refresh the same targets, each with few workers, so that waiting for peers is
what takes the time and not the CPU. It takes 2 minutes.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import psycopg

from refresher.sandbox.aws import ACCOUNT
from tests.fleet import Fleet, Replica
from tests.peers import free_port
from tests.postgres import new_cluster, new_database

#: Seconds until a peer answers.
ANSWER_SECONDS = 0.2
#: Attempts at a time of one replica.
WORKERS = 4
#: Each with a principal of its own: none shares another's password.
TARGETS = {f"t{n:03}": f"{ACCOUNT}.dkr.ecr.us-east-{n + 1}.amazonaws.com" for n in range(192)}

REPLICAS = (1, 2, 4)
GOAL = 3.5

_STATEMENT = re.compile(rb"LOG:  (statement|execute [^:]*):")


@dataclass(frozen=True, slots=True)
class Result:
    """One pass over all targets."""

    replicas: int
    seconds: float
    #: Claims that another replica had been faster with, each of one target.
    conflicts: float
    statements: float
    transactions: float

    @property
    def rate(self) -> float:
        return len(TARGETS) / self.seconds

    def each(self, count: float) -> float:
        """So many for each refresh."""
        return count / len(TARGETS)


def measure(replicas: int) -> Result:
    """All targets refreshed once more, as one trigger, once all were published."""
    port = free_port()
    log = ("-c", "log_statement=all")
    with new_cluster() as cluster, cluster.running(port, *log):
        database = new_database(port)
        with Fleet(database, replicas, TARGETS, workers=WORKERS, lease=60.0) as fleet:
            fleet.start()
            _wait_for(fleet, len(TARGETS))
            fleet.delay = ANSWER_SECONDS
            before = _counts(fleet, database, cluster.data.parent / "log")
            began = time.monotonic()
            httpx.post(f"{fleet.replicas[0].url}/api/v1/refresh", json={}, timeout=60)
            _wait_for(fleet, 2 * len(TARGETS))
            seconds = time.monotonic() - began
            time.sleep(1)
            after = _counts(fleet, database, cluster.data.parent / "log")
    conflicts, statements, transactions = (b - a for a, b in zip(before, after, strict=True))
    return Result(replicas, seconds, conflicts, statements, transactions)


def _wait_for(fleet: Fleet, writes: int) -> None:
    until = time.monotonic() + 180
    while len(fleet.writes) < writes:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(fleet.writes)} of {writes} writes in 180 s")
        time.sleep(0.01)


def _counts(fleet: Fleet, database: str, log: Path) -> tuple[float, float, float]:
    """Claims in vain, statements and transactions so far."""
    time.sleep(1)  # until PostgreSQL has told its statistics
    with psycopg.connect(database, autocommit=True) as raw:
        row = raw.execute(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        ).fetchone()
    taken = sum(_taken(replica) for replica in fleet.replicas)
    return taken, len(_STATEMENT.findall(log.read_bytes())), row[0] if row else 0


def _taken(replica: Replica) -> float:
    found = re.search(r'refresher_claims_total\{answer="taken"\} (\S+)', replica.metrics())
    return float(found[1]) if found else 0.0
