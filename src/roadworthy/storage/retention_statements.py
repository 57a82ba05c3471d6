"""Statements of the pruner, and of what is told about one user. Written and compiled as those of ``statements.py`` are.

Used by ``retention.py`` and ``users.py``.
"""

import sqlalchemy as sa

# PostgreSQL's INSERT … ON CONFLICT; SQLAlchemy renders it for SQLite too.
from sqlalchemy.dialects.postgresql import insert

from roadworthy.domain.run import RunStatus
from roadworthy.storage.parameters import INT, ONE, ZERO, param
from roadworthy.storage.tables import PRUNED, events, idempotency, model_calls, retention, runs, threads

# --- positions -------------------------------------------------------------------------------------------------------

GET_POSITION = sa.select(retention.c.position).where(retention.c.name == param("name"))
_new_position = insert(retention).values(name=param("name"), position=param("position", INT))
SET_POSITION = _new_position.on_conflict_do_update(
    index_elements=[retention.c.name], set_={"position": _new_position.excluded.position}
)

# --- threads ---------------------------------------------------------------------------------------------------------

_idle = threads.c.active_run.is_(None)
_ref = (threads.c.tenant, threads.c.owner, threads.c.thread_id)
_named = (
    (threads.c.tenant == param("tenant"))
    & (threads.c.owner == param("owner"))
    & (threads.c.thread_id == param("thread_id"))
)
UNUSED_THREADS = (
    sa.select(*_ref)
    .where(threads.c.updated_at < param("before", INT), _idle, threads.c.pending == ZERO)
    .order_by(threads.c.updated_at)
    .limit(param("limit", INT))
)
USED_THREADS = (
    sa.select(*_ref, threads.c.updated_at, threads.c.next_ord, threads.c.outputs_from)
    .where(
        threads.c.updated_at >= param("since", INT),
        sa.tuple_(threads.c.updated_at, *_ref)
        > sa.tuple_(
            param("since", INT),
            param("tenant"),
            param("owner"),
            param("thread_id"),
            types=[INT(), sa.Text(), sa.Text(), sa.Text()],
        ),
        _idle,
    )
    .order_by(threads.c.updated_at, *_ref)
    .limit(param("limit", INT))
)
# A run that waits may be the rollback of the latest one, or about to begin.
IDLE_THREAD = sa.select(ONE).where(_named, _idle, threads.c.pending == ZERO)
# A new thread of the same name has not come as far.
LOCK_IDLE_THREAD = IDLE_THREAD.where(threads.c.next_ord >= param("next_ord", INT)).with_for_update()
SET_OUTPUTS_FROM = sa.update(threads).where(_named).values(outputs_from=param("ord", INT))

# --- runs ------------------------------------------------------------------------------------------------------------

RESULTS_OF_THREAD = (
    sa.select(runs.c.seq, runs.c.ord, runs.c.finished_at, runs.c.result)
    .where(
        runs.c.tenant == param("tenant"),
        runs.c.owner == param("owner"),
        runs.c.thread_id == param("thread_id"),
        runs.c.ord >= param("first", INT),
        runs.c.ord < param("behind", INT),
    )
    .order_by(runs.c.ord)
    .limit(param("limit", INT))
)
SET_RESULT = sa.update(runs).where(runs.c.seq == param("run_seq", INT)).values(result=param("result"))

# --- events ----------------------------------------------------------------------------------------------------------

_some_ends = (
    sa.select(runs.c.finished_at)
    .where(runs.c.finished_at > param("behind", INT), runs.c.finished_at < param("before", INT))
    .order_by(runs.c.finished_at)
    .limit(param("limit", INT))
    .subquery()
)
# The latest of the next few ends; null when there is none.
NEXT_ENDS = sa.select(sa.func.max(_some_ends.c.finished_at))
_ended = (runs.c.finished_at > param("behind", INT)) & (runs.c.finished_at <= param("to", INT))
# The first event names the run and its thread, which are known anyway.
_first = (events.c.attempt == ONE) & (events.c.n == ONE)
_later = events.alias("later")
_later_in_run = sa.exists().where(_later.c.run_seq == events.c.run_seq)
# Two questions, so that each is one look into the key.
_not_last = sa.or_(
    _later_in_run.where(_later.c.attempt == events.c.attempt, _later.c.n > events.c.n),
    _later_in_run.where(_later.c.attempt > events.c.attempt),
)
_old_events = (
    sa.select(events.c.run_seq, events.c.attempt, events.c.n)
    .join_from(runs, events, events.c.run_seq == runs.c.seq)
    .where(_ended, ~_first, _not_last)
    .limit(param("limit", INT))
)
PRUNE_EVENTS = sa.delete(events).where(sa.tuple_(events.c.run_seq, events.c.attempt, events.c.n).in_(_old_events))
BLANK_EVENTS = (
    sa.update(events)
    .where(events.c.run_seq.in_(sa.select(runs.c.seq).where(_ended)), ~_first)
    .values(type=sa.literal_column(f"'{PRUNED}'"), body=sa.literal_column("'{}'"))
)

# --- one user --------------------------------------------------------------------------------------------------------

_mine = (runs.c.tenant == param("tenant")) & (runs.c.owner == param("owner"))
_status = [sa.literal_column(f"'{status.value}'") for status in (RunStatus.PENDING, RunStatus.RUNNING)]
UNFINISHED_RUNS_OF = sa.select(*runs.c).where(_mine, runs.c.status.in_(_status)).order_by(runs.c.seq + ZERO)
COUNT_RUNS_OF = sa.select(sa.func.count()).select_from(runs).where(_mine)
KEYS_SENT_BY = (
    sa.select(idempotency.c.key, idempotency.c.run_id, idempotency.c.thread_id, idempotency.c.created_at)
    .where(
        idempotency.c.tenant == param("tenant"),
        idempotency.c.owner == param("owner"),
        idempotency.c.key > param("after"),
    )
    .order_by(idempotency.c.key)
    .limit(param("limit", INT))
)
_call = (model_calls.c.started_at, model_calls.c.run_id, model_calls.c.call_id)
CALLS_OF = (
    sa.select(
        model_calls.c.run_id,
        model_calls.c.thread_id,
        model_calls.c.agent,
        model_calls.c.key_id,
        model_calls.c.call_id,
        model_calls.c.node,
        model_calls.c.provider,
        model_calls.c.model,
        model_calls.c.input_tokens,
        model_calls.c.output_tokens,
        model_calls.c.cache_read_tokens,
        model_calls.c.cache_write_tokens,
        model_calls.c.cache_write_1h_tokens,
        model_calls.c.reasoning_tokens,
        model_calls.c.estimated,
        model_calls.c.outcome,
        model_calls.c.cost_nanos,
        model_calls.c.price_version,
        model_calls.c.started_at,
        model_calls.c.finished_at,
    )
    .where(
        model_calls.c.tenant == param("tenant"),
        model_calls.c.owner == param("owner"),
        model_calls.c.started_at >= param("since", INT),
        sa.tuple_(*_call)
        > sa.tuple_(param("since", INT), param("run_id"), param("call_id"), types=[INT(), sa.Text(), sa.Text()]),
    )
    .order_by(*_call)
    .limit(param("limit", INT))
)
