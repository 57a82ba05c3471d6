"""Until when a worker may execute a run, where several share a database."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add to runs."""
    op.add_column("runs", sa.Column("lease_until", sa.BigInteger))


def downgrade() -> None:
    """Not supported: restore a backup."""
    raise NotImplementedError
