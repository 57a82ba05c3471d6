"""Model providers that the servers of a database leave alone for a while."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "circuits",
        sa.Column("provider", _TEXT, primary_key=True),
        sa.Column("open_until", sa.BigInteger, nullable=False),
        sa.Column("openings", sa.Integer, nullable=False),
    )


def downgrade() -> None:
    """Not supported: restore a backup."""
    raise NotImplementedError
