"""The first schema: threads, runs, idempotency records, keys, events and the ledger of model calls."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create everything."""
    _create_threads()
    _create_runs()
    op.create_table(
        "idempotency",
        sa.Column("tenant", _TEXT, primary_key=True),
        sa.Column("owner", _TEXT, primary_key=True),
        sa.Column("key", _TEXT, primary_key=True),
        sa.Column("body_hash", _TEXT, nullable=False),
        sa.Column("run_id", _TEXT, nullable=False),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    op.create_index("idempotency_of_thread", "idempotency", ["tenant", "owner", "thread_id"])
    op.create_index("idempotency_by_age", "idempotency", ["created_at"])
    op.create_table(
        "api_keys",
        sa.Column("key_id", _TEXT, primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("name", _TEXT, nullable=False),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("scopes", _TEXT, nullable=False),
        sa.Column("agents", _TEXT),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.Column("last_used_at", sa.BigInteger),
    )
    op.create_table(
        "events",
        sa.Column("run_seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("type", _TEXT, nullable=False),
        sa.Column("body", _TEXT, nullable=False),
    )
    _create_ledger()


def downgrade() -> None:
    """Not supported: restore a backup."""
    raise NotImplementedError


def _create_threads() -> None:
    op.create_table(
        "threads",
        sa.Column("tenant", _TEXT, primary_key=True),
        sa.Column("owner", _TEXT, primary_key=True),
        sa.Column("thread_id", _TEXT, primary_key=True),
        sa.Column("agent", _TEXT, nullable=False),
        sa.Column("next_ord", sa.Integer, nullable=False),
        sa.Column("active_run", _TEXT),
        sa.Column("pending", sa.Integer, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("threads_by_use", "threads", ["tenant", "owner", "updated_at", "thread_id"])
    erasing = sa.text("active_run = 'erasing'")
    op.create_index(
        "threads_erasing",
        "threads",
        ["tenant", "owner", "thread_id"],
        sqlite_where=erasing,
        postgresql_where=erasing,
    )


def _create_runs() -> None:
    op.create_table(
        "runs",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("run_id", _TEXT, nullable=False, unique=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("ord", sa.Integer, nullable=False),
        sa.Column("agent", _TEXT, nullable=False),
        sa.Column("status", _TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("losses", sa.Integer, nullable=False),
        sa.Column("progress_mark", _TEXT),
        sa.Column("resume_mark", _TEXT),
        sa.Column("rollback_of", _TEXT),
        sa.Column("cancel_requested", _TEXT),
        sa.Column("request", _TEXT, nullable=False),
        sa.Column("result", _TEXT),
        sa.Column("request_id", _TEXT, nullable=False),
        sa.Column("key_id", _TEXT),
        sa.Column("worker", _TEXT),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("deadline_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sqlite_autoincrement=True,
    )
    op.create_index("runs_of_thread", "runs", ["tenant", "owner", "thread_id", "ord"], unique=True)
    op.create_index("runs_of_tenant", "runs", ["tenant", "seq"])
    running, pending = sa.text("status = 'running'"), sa.text("status = 'pending'")
    op.create_index(
        "runs_running",
        "runs",
        ["tenant", "owner", "thread_id"],
        unique=True,
        sqlite_where=running,
        postgresql_where=running,
    )
    op.create_index(
        "runs_pending",
        "runs",
        ["tenant", "owner", "thread_id", "ord"],
        sqlite_where=pending,
        postgresql_where=pending,
    )


def _create_ledger() -> None:
    op.create_table(
        "model_calls",
        sa.Column("run_id", _TEXT, primary_key=True),
        sa.Column("call_id", _TEXT, primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("owner", _TEXT, nullable=False),
        sa.Column("key_id", _TEXT),
        sa.Column("thread_id", _TEXT, nullable=False),
        sa.Column("agent", _TEXT, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("node", _TEXT, nullable=False),
        sa.Column("provider", _TEXT, nullable=False),
        sa.Column("model", _TEXT, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("estimated", sa.Integer, nullable=False),
        sa.Column("outcome", _TEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("finished_at", sa.BigInteger, nullable=False),
    )
    op.create_index("model_calls_of_owner", "model_calls", ["tenant", "owner", "finished_at"])
