"""What the saver asks LangGraph's own tables on Postgres. ``postgres_checkpoints`` executes it.

Those that write are the rest of a ``WITH fence AS (…)``, see ``PostgresDatabase.write``: one statement is one trip and
one transaction. The others mark their parameters with ``?``.
"""

from typing import Final

# A checkpoint with the blobs that are new in it.
PUT: Final = (
    "blobs AS (INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob) "
    "SELECT %(thread)s, %(namespace)s, blob.* FROM fence, "
    "unnest(%(channels)s::text[], %(versions)s::text[], %(types)s::text[], %(values)s::bytea[]) AS blob "
    "ON CONFLICT DO NOTHING), "
    "checkpoint AS (INSERT INTO checkpoints "
    "(thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata) "
    "SELECT %(thread)s, %(namespace)s, %(id)s, %(parent)s, %(checkpoint)s::jsonb, %(metadata)s::jsonb "
    "FROM fence ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET "
    "checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata)"
)

_PUT_WRITES = (
    "written AS (INSERT INTO checkpoint_writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, "
    "channel, type, blob) SELECT %(thread)s, %(namespace)s, %(id)s, %(task)s, %(path)s, one.* FROM fence, "
    "unnest(%(indexes)s::int[], %(channels)s::text[], %(types)s::text[], %(values)s::bytea[]) AS one "
    "ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO "
)
ADD_WRITES: Final = _PUT_WRITES + "NOTHING)"
REPLACE_WRITES: Final = (
    _PUT_WRITES + "UPDATE SET channel = EXCLUDED.channel, type = EXCLUDED.type, blob = EXCLUDED.blob)"
)

LATEST_RUN: Final = (
    "SELECT metadata ->> 'run_id' FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' "
    "ORDER BY checkpoint_id DESC LIMIT 1"
)
BEFORE_RUN: Final = (
    "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' "
    "AND metadata ->> 'run_id' IS DISTINCT FROM ? ORDER BY checkpoint_id DESC LIMIT 1"
)
NEWEST: Final = "SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = ?"
OPEN_WRITES: Final = (
    "SELECT w.checkpoint_ns, w.task_id, w.channel, w.type, CASE WHEN w.channel = '__interrupt__' THEN w.blob END "
    "FROM checkpoint_writes w JOIN (SELECT checkpoint_ns AS ns, max(checkpoint_id) AS id FROM checkpoints "
    "WHERE thread_id = ? GROUP BY checkpoint_ns) l ON w.checkpoint_ns = l.ns AND w.checkpoint_id = l.id "
    "WHERE w.thread_id = ?"
)
THREADS_OF_RUN: Final = "SELECT DISTINCT thread_id FROM checkpoints WHERE metadata ->> 'run_id' = ?"
FOR_PRUNING: Final = (
    "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata ->> 'run_id', metadata -> 'parents' ->> '', "
    "metadata -> 'counters_since_delta_snapshot' IS NOT NULL FROM checkpoints WHERE thread_id = ? "
    "ORDER BY checkpoint_id DESC"
)

# Checkpoints with what was written on them, by namespaces and ids.
DELETE: Final = (
    "WITH going AS MATERIALIZED (SELECT * FROM unnest(?::text[], ?::text[]) AS one (ns, id)), "
    "writes AS (DELETE FROM checkpoint_writes WHERE thread_id = ? "
    "AND (checkpoint_ns, checkpoint_id) IN (SELECT ns, id FROM going)) "
    "DELETE FROM checkpoints WHERE thread_id = ? AND (checkpoint_ns, checkpoint_id) IN (SELECT ns, id FROM going)"
)
DELETE_RUN: Final = (
    "WITH going AS MATERIALIZED (DELETE FROM checkpoints WHERE thread_id = ? AND metadata ->> 'run_id' = ? "
    "RETURNING checkpoint_ns AS ns, checkpoint_id AS id) "
    "DELETE FROM checkpoint_writes WHERE thread_id = ? AND (checkpoint_ns, checkpoint_id) IN (SELECT ns, id FROM going)"
)
# Blobs that no checkpoint of the thread refers to any more, up to a limit.
SWEEP: Final = (
    "DELETE FROM checkpoint_blobs WHERE ctid = ANY (ARRAY (SELECT b.ctid FROM checkpoint_blobs b WHERE b.thread_id = ? "
    "AND NOT EXISTS (SELECT FROM checkpoints c WHERE c.thread_id = b.thread_id AND c.checkpoint_ns = b.checkpoint_ns "
    "AND c.checkpoint -> 'channel_versions' ->> b.channel = b.version) LIMIT ?))"
)
# All rows of a thread in one table, up to a limit.
DELETE_SOME: Final = tuple(
    f"DELETE FROM {table} WHERE ctid = ANY (ARRAY (SELECT ctid FROM {table} WHERE thread_id = ? LIMIT ?))"  # noqa: S608 -- constants
    for table in ("checkpoint_writes", "checkpoints", "checkpoint_blobs")
)
COPIES: Final = tuple(
    f"INSERT INTO {table} (thread_id, {columns}) SELECT ?, {columns} FROM {table} WHERE thread_id = ? "  # noqa: S608 -- constants
    "ON CONFLICT DO NOTHING"
    for table, columns in (
        ("checkpoints", "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"),
        ("checkpoint_blobs", "checkpoint_ns, channel, version, type, blob"),
        ("checkpoint_writes", "checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob"),
    )
)
# Fails on a server that cannot be written to.
TOUCH: Final = "SELECT pg_current_xact_id()::text"
