"""The tables, and how a database comes to have them.

Alembic owns the schema. A new database gets the tables of `metadata` at once and is marked with
the newest revision; an older one is migrated, and only then is Alembic loaded. Migrations add and
never take away, so that releases run side by side during an upgrade. `meta.schema_version` names
the oldest release's schema that may use the database: it rises only with a change that an older
release could not live with.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    event,
    inspect,
    select,
    text,
)

#: What this release can read: a database whose `meta.schema_version` is higher is refused.
SCHEMA_VERSION = 1

#: The newest revision in `migrations/versions`.
HEAD = "0002"

#: The revision of databases that were made before Alembic owned the schema.
FIRST = "0001"

#: The revisions before the newest one.
OLDER = (FIRST,)

MIGRATIONS = Path(__file__).parent / "migrations"

#: Taken while tables are made or changed: two replicas that start together do it once.
_LOCK = 0x7265667265736872

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

#: `document` is the whole status; the columns repeat of it what a person asks for.
targets = Table(
    "targets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("digest", Text, nullable=False),
    Column("next_attempt_at", Text, nullable=False),
    Column("last_success_at", Text),
    Column("document", JSON, nullable=False),
    # What replicas need; SQLite has one owner and leaves them as they are.
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("revision", BigInteger, nullable=False, server_default="0"),
    Column("replica", Text),
    Column("leased_until", DateTime(timezone=True)),
    Index("targets_by_revision", "revision"),
)

#: One column for each field of `Attempt`.
attempts = Table(
    "attempts",
    metadata,
    Column("id", Text, primary_key=True),
    Column("target", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("started_at", Text, nullable=False),
    Column("ended_at", Text),
    Column("outcome", Text),
    Column("failure", JSON(none_as_null=True)),
    Column("stages", JSON, nullable=False),
    Column("fingerprint_before", Text),
    Column("fingerprint_after", Text),
    Column("verified", Boolean, nullable=False),
    Index("attempts_by_target", "target", "started_at"),
    Index("attempts_by_start", "started_at"),
    Index("attempts_by_end", "ended_at"),
)

#: Who runs on this database; all times are of the database's clock.
replicas = Table(
    "replicas",
    metadata,
    Column("id", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    Column("release", Text, nullable=False),
    Column("config", Text, nullable=False),
    Column("configured_at", DateTime(timezone=True), nullable=False),
    Column("started_at", DateTime(timezone=True), nullable=False),
    Column("alive_until", DateTime(timezone=True), nullable=False),
)

_revision = Table("alembic_version", metadata, Column("version_num", Text, primary_key=True))

#: Whoever changes a row, be it an older release or a person, moves its `version`, which tells the
#: newer of two readings, and its `revision`, the transaction by which others find what changed.
MARK_CHANGES = (
    """
    CREATE OR REPLACE FUNCTION refresher_mark_change() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.revision := pg_current_xact_id()::text::bigint;
        NEW.version := CASE TG_OP WHEN 'INSERT' THEN 1 ELSE OLD.version + 1 END;
        RETURN NEW;
    END $$
    """,
    """
    CREATE TRIGGER mark_change BEFORE INSERT OR UPDATE ON targets
    FOR EACH ROW EXECUTE FUNCTION refresher_mark_change()
    """,
)


@event.listens_for(targets, "after_create")
def _mark_changes(_table: Table, connection: Connection, **_: object) -> None:
    if connection.dialect.name == "postgresql":
        for statement in MARK_CHANGES:
            connection.exec_driver_sql(statement)


def begin_to_change(connection: Connection) -> None:
    """Nobody else makes or changes tables until this transaction ends."""
    if connection.dialect.name == "sqlite":
        # The driver begins no transaction for CREATE by itself.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    else:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


def create(connection: Connection) -> None:
    """Make all tables in an empty database, as all migrations together would."""
    metadata.create_all(connection)
    connection.execute(_revision.insert().values(version_num=HEAD))


def table_names(connection: Connection) -> frozenset[str]:
    return frozenset(inspect(connection).get_table_names())


def is_current(connection: Connection, tables: frozenset[str]) -> bool:
    """Whether there is nothing to migrate: the schema is ours, or of a newer release."""
    return _revision_of(connection, tables) not in (None, *OLDER)


def _revision_of(connection: Connection, tables: frozenset[str]) -> str | None:
    if _revision.name not in tables:
        return None
    found: str | None = connection.scalar(select(_revision.c.version_num))
    return found


def migrate(connection: Connection, to: str = "head") -> None:
    """Bring an older database up to date. `begin_to_change` comes first."""
    # They take a tenth of a second and 12 MB, once in the life of a database.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    tables = table_names(connection)
    if tables and _revision_of(connection, tables) is None:
        command.stamp(config, FIRST)
    command.upgrade(config, to)
