"""The schema is migrated by Alembic, once, and releases run side by side while it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Connection, create_engine, inspect
from sqlalchemy.pool import NullPool

from refresher.clock import ManualClock
from refresher.errors import StateError
from refresher.state import SqlStore, schema
from tests.peers import ROOT, free_port
from tests.postgres import Cluster, url
from tests.test_state import blank, run_attempt, started

KEY = "ab" * 32


def change(place: str, work: Callable[[Connection], None], *, locked: bool = True) -> None:
    """One transaction in a database of any kind."""
    engine = create_engine(place.replace("postgresql:", "postgresql+psycopg:"), poolclass=NullPool)
    with engine.begin() as connection:
        if locked:
            schema.begin_to_change(connection)
        work(connection)
    engine.dispose()


def make_first(connection: Connection) -> None:
    """A database as the first release left it: no Alembic, one target."""
    schema.migrate(connection, to=schema.FIRST)
    connection.exec_driver_sql("DROP TABLE alembic_version")
    connection.exec_driver_sql(
        f"INSERT INTO meta VALUES ('schema_version', '1'), ('fingerprint_key', '{KEY}')"
    )
    put_as_first(connection, "old")


def put_as_first(connection: Connection, name: str) -> None:
    """The upsert of the first release."""
    connection.exec_driver_sql(
        "INSERT INTO targets (name, digest, next_attempt_at, last_success_at, document) VALUES"
        f" ('{name}', 'd1', '2026-11-23T12:00:00.000000Z', NULL, '{{\"name\": \"{name}\","
        ' "digest": "d1", "secrets": [], "next_attempt_at": "2026-11-23T12:00:00.000000Z"}\')'
        " ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, document = excluded.document"
    )


def layout(place: str) -> dict[str, object]:
    """Tables with their columns and indexes."""
    found: dict[str, object] = {}

    def read(connection: Connection) -> None:
        inspector = inspect(connection)
        for table in inspector.get_table_names():
            columns = {
                c["name"]: (str(c["type"]), c["nullable"], str(c["default"]).partition("::")[0])
                for c in inspector.get_columns(table)
            }
            indexes = {str(i["name"]): i["column_names"] for i in inspector.get_indexes(table)}
            found[table] = (
                columns,
                indexes,
                inspector.get_pk_constraint(table)["constrained_columns"],
            )

    change(place, read)
    # Alembic makes its own table, with a length that we do not state.
    return {name: parts for name, parts in found.items() if name != "alembic_version"}


def revision(place: str) -> str:
    """Where Alembic says that a database is."""
    found: list[str] = []
    change(
        place,
        lambda connection: found.append(
            connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
        ),
    )
    return found[0]


def test_all_migrations_together_make_what_a_new_database_gets(
    tmp_path: Path, clock: ManualClock
) -> None:
    """Both ways to the newest schema lead to the same tables, and the data are kept."""
    old, new = f"sqlite:///{tmp_path / 'old.db'}", f"sqlite:///{tmp_path / 'new.db'}"
    change(old, make_first)
    (tmp_path / "old.db").chmod(0o600)
    with closing(SqlStore.open(old, clock=clock)) as store:
        assert store.statuses().keys() == {"old"}
        assert store.fingerprint_key.hex() == KEY
        run_attempt(store, started("a1", "old"))
    SqlStore.open(new, clock=clock).close()
    assert layout(old) == layout(new)
    assert revision(old) == revision(new) == schema.HEAD


def test_head_is_the_newest_revision() -> None:
    """What `create` marks a new database with is what Alembic calls the head."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - as lazily as the product

    scripts = ScriptDirectory(str(schema.MIGRATIONS))
    assert scripts.get_heads() == [schema.HEAD]
    assert {r.revision for r in scripts.walk_revisions()} == {*schema.OLDER, schema.HEAD}


def test_alembic_is_loaded_for_a_migration_only(tmp_path: Path) -> None:
    """It would cost every start a tenth of a second and 12 MB."""
    script = (
        "import sys\n"
        "from refresher.clock import SystemClock\n"
        "from refresher.state import SqlStore\n"
        f"SqlStore.open('sqlite:///{tmp_path / 'new.db'}', clock=SystemClock()).close()\n"
        "assert 'alembic' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


def test_a_migration_that_fails_changes_nothing(tmp_path: Path, clock: ManualClock) -> None:
    """It is one transaction: the older release can go on with what it had."""
    place = f"sqlite:///{tmp_path / 'old.db'}"
    change(place, make_first)
    (tmp_path / "old.db").chmod(0o600)
    change(place, lambda c: c.exec_driver_sql("CREATE TABLE replicas (mine INTEGER)") and None)
    before = layout(place)
    with pytest.raises(StateError, match="already exists"):
        SqlStore.open(place, clock=clock)
    assert layout(place) == before


def test_a_reader_does_not_migrate(tmp_path: Path, clock: ManualClock) -> None:
    """`status` beside an older daemon reads what is there and changes nothing."""
    place = f"sqlite:///{tmp_path / 'old.db'}"
    change(place, make_first)
    before = layout(place)
    with closing(SqlStore.open(place, clock=clock, read_only=True)) as store:
        assert store.statuses().keys() == {"old"}
    assert layout(place) == before


def test_two_replicas_that_start_together_migrate_once(
    cluster: Cluster, clock: ManualClock
) -> None:
    """An advisory lock of PostgreSQL lets one of them do it, and the other finds it done; an
    empty database is filled once likewise."""
    port = free_port()
    with cluster.running(port):
        for prepare in (make_first, None):
            change(url(port), lambda c: c.exec_driver_sql("DROP SCHEMA public CASCADE") and None)
            change(url(port), lambda c: c.exec_driver_sql("CREATE SCHEMA public") and None)
            if prepare is not None:
                change(url(port), prepare)
            with ThreadPoolExecutor(4) as pool:
                opened = [pool.submit(SqlStore.open, url(port), clock=clock) for _ in range(4)]
                stores = [each.result() for each in opened]
            assert len({store.fingerprint_key for store in stores}) == 1
            for store in stores:
                store.close()
            assert revision(url(port)) == schema.HEAD


def test_an_older_release_goes_on_beside_a_newer_one(cluster: Cluster, clock: ManualClock) -> None:
    """What it writes marks the change, so that replicas see it; its database takes the newer."""
    port = free_port()
    with cluster.running(port):
        change(url(port), make_first)
        with closing(SqlStore.open(url(port), clock=clock)) as store:
            store.update("new", lambda _: blank("new"))
            change(url(port), lambda c: put_as_first(c, "old"))
            change(url(port), lambda c: put_as_first(c, "older"))
        marks: dict[str, int] = {}

        def read(connection: Connection) -> None:
            rows = connection.exec_driver_sql("SELECT name, version, revision FROM targets")
            marks.update({name: version for name, version, mark in rows if mark})

        change(url(port), read)
        assert marks == {"new": 1, "old": 1, "older": 1}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_newer_schema_is_used_until_it_says_otherwise(
    kind: str, cluster: Cluster, tmp_path: Path, clock: ManualClock
) -> None:
    """This release beside one with a later revision; `schema_version` ends that, in one line."""
    port = free_port()
    with cluster.running(port):
        place = url(port) if kind == "postgresql" else f"sqlite:///{tmp_path / 'state.db'}"
        SqlStore.open(place, clock=clock).close()
        for statement in (
            "ALTER TABLE targets ADD COLUMN colour TEXT NOT NULL DEFAULT 'green'",
            "CREATE TABLE colours (name TEXT PRIMARY KEY)",
            "UPDATE alembic_version SET version_num = '0099'",
        ):
            change(place, lambda c, s=statement: c.exec_driver_sql(s) and None)
        with closing(SqlStore.open(place, clock=clock)) as store:
            store.update("ecr", lambda _: blank())
            run_attempt(store, started("a1"))
        assert revision(place) == "0099"
        change(
            place,
            lambda c: (
                c.exec_driver_sql("UPDATE meta SET value = '2' WHERE key = 'schema_version'")
                and None
            ),
        )
        with pytest.raises(StateError, match="written by a newer refresher") as told:
            SqlStore.open(place, clock=clock)
        assert "\n" not in told.value.message


def test_each_revision_is_a_file_of_the_package() -> None:
    """Alembic reads them where the package lies."""
    assert (schema.MIGRATIONS / "env.py").is_file()
    assert len(list((schema.MIGRATIONS / "versions").glob("r*.py"))) == len(schema.OLDER) + 1
