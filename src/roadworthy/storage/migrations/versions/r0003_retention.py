"""What the pruner needs to find old threads, events and outputs, and to know how far it has come."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add to threads and runs, create the rest."""
    op.add_column("threads", sa.Column("outputs_from", sa.Integer, nullable=False, server_default="1"))
    op.create_index("threads_by_age", "threads", ["updated_at"])
    op.create_index(
        "runs_by_end",
        "runs",
        ["finished_at"],
        sqlite_where=sa.text("finished_at IS NOT NULL"),
        postgresql_where=sa.text("finished_at IS NOT NULL"),
    )
    op.create_table(
        "retention",
        sa.Column("name", _TEXT, primary_key=True),
        sa.Column("position", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Not supported: restore a backup."""
    raise NotImplementedError
