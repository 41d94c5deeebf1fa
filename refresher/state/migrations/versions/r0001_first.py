"""What the first release made, without Alembic: its databases are stamped with this revision."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "meta",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "targets",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("next_attempt_at", sa.Text, nullable=False),
        sa.Column("last_success_at", sa.Text),
        sa.Column("document", sa.JSON, nullable=False),
    )
    op.create_table(
        "attempts",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("actor", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("started_at", sa.Text, nullable=False),
        sa.Column("ended_at", sa.Text),
        sa.Column("outcome", sa.Text),
        sa.Column("failure", sa.JSON(none_as_null=True)),
        sa.Column("stages", sa.JSON, nullable=False),
        sa.Column("fingerprint_before", sa.Text),
        sa.Column("fingerprint_after", sa.Text),
        sa.Column("verified", sa.Boolean, nullable=False),
    )
    op.create_index("attempts_by_target", "attempts", ["target", "started_at"])
    op.create_index("attempts_by_start", "attempts", ["started_at"])
    op.create_index("attempts_by_end", "attempts", ["ended_at"])
