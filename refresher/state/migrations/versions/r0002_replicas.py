"""Several processes on one PostgreSQL: leases, what changed since, and who is there."""

import sqlalchemy as sa
from alembic import op

from refresher.state.schema import MARK_CHANGES

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "targets", sa.Column("version", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column(
        "targets", sa.Column("revision", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column("targets", sa.Column("replica", sa.Text))
    op.add_column("targets", sa.Column("leased_until", sa.DateTime(timezone=True)))
    op.create_index("targets_by_revision", "targets", ["revision"])
    op.create_table(
        "replicas",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("release", sa.Text, nullable=False),
        sa.Column("config", sa.Text, nullable=False),
        sa.Column("configured_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("alive_until", sa.DateTime(timezone=True), nullable=False),
    )
    if op.get_context().dialect.name == "postgresql":
        for statement in MARK_CHANGES:
            op.execute(statement)
