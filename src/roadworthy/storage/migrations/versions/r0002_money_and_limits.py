"""The priced ledger, budgets, reservations, rate limits and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Add to the ledger, create the rest."""
    _price_the_ledger()
    op.create_index(
        "runs_unfinished",
        "runs",
        ["tenant", "owner", "key_id"],
        sqlite_where=sa.text("status IN ('pending', 'running')"),
        postgresql_where=sa.text("status IN ('pending', 'running')"),
    )
    _create_budgets()
    _create_reservations()
    op.create_table(
        "rate_limits",
        sa.Column("tenant", _TEXT, primary_key=True),
        sa.Column("scope", _TEXT, primary_key=True),
        sa.Column("subject", _TEXT, primary_key=True),
        sa.Column("kind", _TEXT, primary_key=True),
        sa.Column("most", sa.BigInteger, nullable=False),
    )
    _create_audit()
    op.add_column("api_keys", sa.Column("replaced_at", sa.BigInteger))


def downgrade() -> None:
    """Not supported: restore a backup."""
    raise NotImplementedError


def _price_the_ledger() -> None:
    op.add_column("model_calls", sa.Column("cache_write_1h_tokens", sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("model_calls", sa.Column("cost_nanos", sa.BigInteger))
    op.add_column("model_calls", sa.Column("price_version", _TEXT, nullable=False, server_default=""))
    op.drop_index("model_calls_of_owner", "model_calls")
    op.create_index("model_calls_of_owner", "model_calls", ["tenant", "owner", "started_at"])
    op.create_index("model_calls_of_tenant", "model_calls", ["tenant", "started_at"])
    op.create_index("model_calls_of_key", "model_calls", ["tenant", "key_id", "started_at"])
    _append_only("model_calls", "the ledger")


def _create_budgets() -> None:
    op.create_table(
        "budgets",
        sa.Column("budget_id", _TEXT, primary_key=True),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("scope", _TEXT, nullable=False),
        sa.Column("subject", _TEXT, nullable=False),
        sa.Column("time_window", _TEXT, nullable=False),
        sa.Column("limit_nanos", sa.BigInteger),
        sa.Column("soft_nanos", sa.BigInteger),
        sa.Column("time_zone", _TEXT, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
    )
    op.create_index("budgets_by_place", "budgets", ["tenant", "scope", "subject", "time_window"], unique=True)
    op.create_table(
        "budget_periods",
        sa.Column("budget_id", _TEXT, primary_key=True),
        sa.Column("subject", _TEXT, primary_key=True),
        sa.Column("starts_at", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("spent_nanos", sa.BigInteger, nullable=False),
        sa.Column("reserved_nanos", sa.BigInteger, nullable=False),
        sa.Column("topped_up_nanos", sa.BigInteger, nullable=False),
    )


def _create_reservations() -> None:
    op.create_table(
        "reservations",
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
        sa.Column("nanos", sa.BigInteger, nullable=False),
        sa.Column("periods", _TEXT, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
    )
    op.create_index("reservations_by_age", "reservations", ["started_at"])


def _create_audit() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("tenant", _TEXT, nullable=False),
        sa.Column("actor", _TEXT, nullable=False),
        sa.Column("request_id", _TEXT, nullable=False),
        sa.Column("action", _TEXT, nullable=False),
        sa.Column("target", _TEXT, nullable=False),
        sa.Column("before", _TEXT),
        sa.Column("after", _TEXT),
        sqlite_autoincrement=True,
    )
    op.create_index("audit_of_tenant", "audit", ["tenant", "seq"])
    _append_only("audit", "the audit log")


def _append_only(table: str, name: str) -> None:
    if op.get_context().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{name} is append-only'); END"
            )
        return
    # For each statement, so that one that finds no row is refused too, as TRUNCATE is.
    op.execute(
        f"CREATE FUNCTION {table}_refuses() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{name} is append-only' USING ERRCODE = 'integrity_constraint_violation'; END $$"
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        f"FOR EACH STATEMENT EXECUTE FUNCTION {table}_refuses()"
    )
