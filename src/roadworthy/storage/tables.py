"""The schema, once for every database. ``statements.py`` is written over it; ``migrations`` must lead to the same.

Only column types that need no conversion on their way in or out, so that an executor hands values straight to its
driver: text, integers, bytes. Moments are microseconds since 1970 (``rows.py`` maps them).
"""

import sqlalchemy as sa

metadata = sa.MetaData()

_MOMENT = sa.BigInteger
# Compared and sorted by code points in every database. A language's order would differ between databases, and changes
# under an index when the system's is updated.
_TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
# SQLite knows a growing key only as INTEGER.
_SERIAL = sa.BigInteger().with_variant(sa.Integer, "sqlite")

# Stands as ``active_run`` of a thread whose runs are gone and whose checkpoints are not yet: who wants the thread finds
# it busy, without another look. No run is called so.
ERASING = "erasing"

# ``pending`` counts the thread's pending runs: whether the thread is free is then known from one locked row.
threads = sa.Table(
    "threads",
    metadata,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("owner", _TEXT, primary_key=True),
    sa.Column("thread_id", _TEXT, primary_key=True),
    sa.Column("agent", _TEXT, nullable=False),
    sa.Column("next_ord", sa.Integer, nullable=False),
    sa.Column("active_run", _TEXT),
    sa.Column("pending", sa.Integer, nullable=False),
    sa.Column("created_at", _MOMENT, nullable=False),
    sa.Column("updated_at", _MOMENT, nullable=False),
    # The lowest ordinal of a run that may still have its whole output.
    sa.Column("outputs_from", sa.Integer, nullable=False, server_default="1"),
    sa.Index("threads_by_use", "tenant", "owner", "updated_at", "thread_id"),
    sa.Index("threads_by_age", "updated_at"),
)
sa.Index(
    "threads_erasing",
    threads.c.tenant,
    threads.c.owner,
    threads.c.thread_id,
    sqlite_where=sa.text(f"active_run = '{ERASING}'"),
    postgresql_where=sa.text(f"active_run = '{ERASING}'"),
)

# ``seq`` is the order of arrival. It never comes back (autoincrement), because events refer to it. ``lease_until``, by
# Postgres's clock, is of a running run there. It is in no index, so that a renewal changes none: ``runs_running`` finds
# the rows.
runs = sa.Table(
    "runs",
    metadata,
    sa.Column("seq", _SERIAL, primary_key=True, autoincrement=True),
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
    sa.Column("created_at", _MOMENT, nullable=False),
    sa.Column("deadline_at", _MOMENT, nullable=False),
    sa.Column("started_at", _MOMENT),
    sa.Column("finished_at", _MOMENT),
    sa.Column("lease_until", _MOMENT),
    sa.Index("runs_of_thread", "tenant", "owner", "thread_id", "ord", unique=True),
    sa.Index("runs_of_tenant", "tenant", "seq"),
    sqlite_autoincrement=True,
)
# The belt: two running runs on one thread cannot be stored. Also the list of what runs.
sa.Index(
    "runs_running",
    runs.c.tenant,
    runs.c.owner,
    runs.c.thread_id,
    unique=True,
    sqlite_where=sa.text("status = 'running'"),
    postgresql_where=sa.text("status = 'running'"),
)
sa.Index(
    "runs_pending",
    runs.c.tenant,
    runs.c.owner,
    runs.c.thread_id,
    runs.c.ord,
    sqlite_where=sa.text("status = 'pending'"),
    postgresql_where=sa.text("status = 'pending'"),
)

# Whom unfinished runs belong to: limits of runs at once count them.
sa.Index(
    "runs_unfinished",
    runs.c.tenant,
    runs.c.owner,
    runs.c.key_id,
    sqlite_where=sa.text("status IN ('pending', 'running')"),
    postgresql_where=sa.text("status IN ('pending', 'running')"),
)

# Runs that have ended, by when: their events go in this order. It holds all that is asked, so that no row with its long
# texts is read for it.
sa.Index(
    "runs_by_end",
    runs.c.finished_at,
    sqlite_where=sa.text("finished_at IS NOT NULL"),
    postgresql_where=sa.text("finished_at IS NOT NULL"),
)

idempotency = sa.Table(
    "idempotency",
    metadata,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("owner", _TEXT, primary_key=True),
    sa.Column("key", _TEXT, primary_key=True),
    sa.Column("body_hash", _TEXT, nullable=False),
    sa.Column("run_id", _TEXT, nullable=False),
    sa.Column("thread_id", _TEXT, nullable=False),
    sa.Column("created_at", _MOMENT, nullable=False),
    sa.Index("idempotency_of_thread", "tenant", "owner", "thread_id"),
    sa.Index("idempotency_by_age", "created_at"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", _TEXT, primary_key=True),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("owner", _TEXT, nullable=False),
    sa.Column("name", _TEXT, nullable=False),
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("scopes", _TEXT, nullable=False),
    sa.Column("agents", _TEXT),
    sa.Column("created_at", _MOMENT, nullable=False),
    sa.Column("expires_at", _MOMENT),
    sa.Column("revoked_at", _MOMENT),
    sa.Column("last_used_at", _MOMENT),
    sa.Column("replaced_at", _MOMENT),
)

# Keyed by the run's ``seq``: the key's index stays small and dense, so that a flush of many runs' events touches few
# pages. Measured with 200 streams at 50 events a second: 32 pages a flush, against 400 with the run's random id as the
# clustered key.
events = sa.Table(
    "events",
    metadata,
    sa.Column("run_seq", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("attempt", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("type", _TEXT, nullable=False),
    sa.Column("body", _TEXT, nullable=False),
)

# The type of an event of which only its place is left: it is a run's last one, behind which the run's end is numbered.
PRUNED = "pruned"

# The ledger. Append-only; rows outlive their thread. ``cost_nanos`` null: nobody knows the model's price.
model_calls = sa.Table(
    "model_calls",
    metadata,
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
    sa.Column("cache_write_1h_tokens", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("estimated", sa.Integer, nullable=False),
    sa.Column("outcome", _TEXT, nullable=False),
    sa.Column("cost_nanos", sa.BigInteger),
    sa.Column("price_version", _TEXT, nullable=False, server_default=""),
    sa.Column("started_at", _MOMENT, nullable=False),
    sa.Column("finished_at", _MOMENT, nullable=False),
    sa.Index("model_calls_of_owner", "tenant", "owner", "started_at"),
    sa.Index("model_calls_of_tenant", "tenant", "started_at"),
    sa.Index("model_calls_of_key", "tenant", "key_id", "started_at"),
)

# ``subject`` is empty for a budget that each subject has of its own.
budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("budget_id", _TEXT, primary_key=True),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("scope", _TEXT, nullable=False),
    sa.Column("subject", _TEXT, nullable=False),
    sa.Column("time_window", _TEXT, nullable=False),
    sa.Column("limit_nanos", sa.BigInteger),
    sa.Column("soft_nanos", sa.BigInteger),
    sa.Column("time_zone", _TEXT, nullable=False),
    sa.Column("created_at", _MOMENT, nullable=False),
    sa.Column("updated_at", _MOMENT, nullable=False),
    sa.Index("budgets_by_place", "tenant", "scope", "subject", "time_window", unique=True),
)

# What was spent of a budget by one subject in one window, and what calls in flight hold of it.
budget_periods = sa.Table(
    "budget_periods",
    metadata,
    sa.Column("budget_id", _TEXT, primary_key=True),
    sa.Column("subject", _TEXT, primary_key=True),
    sa.Column("starts_at", _MOMENT, primary_key=True, autoincrement=False),
    sa.Column("spent_nanos", sa.BigInteger, nullable=False),
    sa.Column("reserved_nanos", sa.BigInteger, nullable=False),
    sa.Column("topped_up_nanos", sa.BigInteger, nullable=False),
)

# One row per call in flight that a budget applies to. ``periods``: a JSON list of the keys in ``budget_periods`` that
# hold ``nanos`` for it. The rest makes a ledger row of it when its worker dies.
reservations = sa.Table(
    "reservations",
    metadata,
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
    sa.Column("started_at", _MOMENT, nullable=False),
    sa.Index("reservations_by_age", "started_at"),
)

# ``subject`` is empty for a limit that each subject has of its own.
rate_limits = sa.Table(
    "rate_limits",
    metadata,
    sa.Column("tenant", _TEXT, primary_key=True),
    sa.Column("scope", _TEXT, primary_key=True),
    sa.Column("subject", _TEXT, primary_key=True),
    sa.Column("kind", _TEXT, primary_key=True),
    sa.Column("most", sa.BigInteger, nullable=False),
)

# Append-only: triggers refuse to change or delete a row.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("seq", _SERIAL, primary_key=True, autoincrement=True),
    sa.Column("at", _MOMENT, nullable=False),
    sa.Column("tenant", _TEXT, nullable=False),
    sa.Column("actor", _TEXT, nullable=False),
    sa.Column("request_id", _TEXT, nullable=False),
    sa.Column("action", _TEXT, nullable=False),
    sa.Column("target", _TEXT, nullable=False),
    sa.Column("before", _TEXT),
    sa.Column("after", _TEXT),
    sa.Index("audit_of_tenant", "tenant", "seq"),
    sqlite_autoincrement=True,
)

# How far the pruner has come, one row for each thing that it goes through in order.
retention = sa.Table(
    "retention",
    metadata,
    sa.Column("name", _TEXT, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
)

# Providers that the fleet leaves alone, until a moment of Postgres's clock. ``openings``: how often in a row.
circuits = sa.Table(
    "circuits",
    metadata,
    sa.Column("provider", _TEXT, primary_key=True),
    sa.Column("open_until", _MOMENT, nullable=False),
    sa.Column("openings", sa.Integer, nullable=False),
)
