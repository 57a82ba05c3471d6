"""The statements, written once in SQLAlchemy Core. Executors compile them at start; repositories name them.

Those over the ledger are in ``ledger_statements.py``, those over limits in ``policy_statements.py``.

Parameters of a WHERE clause and of a SET clause share one name space, so a compare-and-set calls the expected value
``…_was``. Statuses are spelled into the text, because partial indexes are found only so. Changes that take a thread
lock it first, then the run.
"""

from collections.abc import Sequence

import sqlalchemy as sa

# PostgreSQL's INSERT … ON CONFLICT; SQLAlchemy renders it for SQLite too.
from sqlalchemy.dialects.postgresql import insert

from roadworthy.domain.run import RunStatus
from roadworthy.storage import ledger_statements, policy_statements, retention_statements
from roadworthy.storage.parameters import INT, ONE, ZERO, BulkInsertOf, param, values_of
from roadworthy.storage.tables import ERASING, PRUNED, api_keys, events, idempotency, runs, threads
from roadworthy.storage.transaction import Statement


def _is(status: RunStatus) -> sa.ColumnElement[bool]:
    return runs.c.status == sa.literal_column(f"'{status.value}'")


# An expression, so that SQLite takes the few rows of a partial index and sorts them, instead of reading every run in
# the order of the key.
_by_arrival = runs.c.seq + ZERO

# --- accept ----------------------------------------------------------------------------------------------------------

# ``pending`` is 0 with ``active_run`` set to claim the thread for the new run, else 1 with ``active_run`` null.
_new_thread = insert(threads).values(
    {**values_of(threads), "next_ord": sa.literal_column("2", sa.Integer), "outputs_from": ONE}
)
_free = threads.c.active_run.is_(None) & (threads.c.pending == ZERO)
ENTER_THREAD = _new_thread.on_conflict_do_update(
    index_elements=[threads.c.tenant, threads.c.owner, threads.c.thread_id],
    set_={
        "next_ord": threads.c.next_ord + ONE,
        "active_run": sa.case((_free, _new_thread.excluded.active_run), else_=threads.c.active_run),
        "pending": threads.c.pending + sa.case((_free, _new_thread.excluded.pending), else_=ONE),
        "updated_at": _new_thread.excluded.updated_at,
    },
).returning(threads.c.next_ord, threads.c.active_run, threads.c.pending, threads.c.agent)

_set_by_database = ("seq", "lease_until")
INSERT_RUN = insert(runs).values(
    {name: value for name, value in values_of(runs).items() if name not in _set_by_database}
)
COUNT_PENDING = sa.select(sa.func.count()).select_from(runs).where(_is(RunStatus.PENDING))
# All of them, and a user's own.
COUNT_PENDING_OF = COUNT_PENDING.add_columns(
    sa.func.count().filter(runs.c.tenant == param("tenant"), runs.c.owner == param("owner"))
)

INSERT_IDEMPOTENCY = insert(idempotency).values(values_of(idempotency)).on_conflict_do_nothing()
_old_records = (
    sa.select(idempotency.c.tenant, idempotency.c.owner, idempotency.c.key)
    .where(idempotency.c.created_at < param("before", INT))
    .order_by(idempotency.c.created_at)
    .limit(param("limit", INT))
)
PRUNE_IDEMPOTENCY = sa.delete(idempotency).where(
    sa.tuple_(idempotency.c.tenant, idempotency.c.owner, idempotency.c.key).in_(_old_records)
)
GET_IDEMPOTENCY = sa.select(idempotency.c.body_hash, idempotency.c.run_id).where(
    idempotency.c.tenant == param("tenant"), idempotency.c.owner == param("owner"), idempotency.c.key == param("key")
)

# --- claim -----------------------------------------------------------------------------------------------------------

# A pending run whose cancellation was requested will never run: it neither starts nor holds up the next one.
_startable = _is(RunStatus.PENDING) & runs.c.cancel_requested.is_(None)
_earlier = runs.alias("earlier")
_first_of_thread = ~sa.exists().where(
    _earlier.c.tenant == runs.c.tenant,
    _earlier.c.owner == runs.c.owner,
    _earlier.c.thread_id == runs.c.thread_id,
    _earlier.c.status == sa.literal_column("'pending'"),
    _earlier.c.cancel_requested.is_(None),
    _earlier.c.ord < runs.c.ord,
)

# Within a thread, order of arrival is the order of ordinals: a user's oldest startable run is its thread's first.
_oldest = (
    sa.select(sa.func.min(runs.c.seq))
    .join_from(
        runs,
        threads,
        (threads.c.tenant == runs.c.tenant)
        & (threads.c.owner == runs.c.owner)
        & (threads.c.thread_id == runs.c.thread_id),
    )
    .where(_startable, threads.c.active_run.is_(None))
    .group_by(runs.c.tenant, runs.c.owner)
)
WAITING = (
    sa.select(runs.c.tenant, runs.c.owner, runs.c.agent, runs.c.run_id, runs.c.losses)
    .where(runs.c.seq.in_(_oldest))
    .order_by("seq")
)

_claimed_thread = sa.select(runs.c.tenant, runs.c.owner, runs.c.thread_id).where(
    runs.c.run_id == param("run_id"), _startable
)
TAKE_THREAD = (
    sa.update(threads)
    .where(
        sa.tuple_(threads.c.tenant, threads.c.owner, threads.c.thread_id).in_(_claimed_thread),
        threads.c.active_run.is_(None),
    )
    .values(active_run=param("run_id"), pending=threads.c.pending - ONE)
)
START_RUN = (
    sa.update(runs)
    .where(runs.c.run_id == param("run_id"), _startable, _first_of_thread)
    .values(
        status=RunStatus.RUNNING.value,
        attempt=runs.c.attempt + ONE,
        worker=param("worker"),
        started_at=sa.func.coalesce(runs.c.started_at, param("now", INT)),
    )
    .returning(*runs.c)
)

# What fleet caps count: all, those of a tenant and those of an agent; and all of them by both.
RUNNING = sa.select(
    sa.func.count(),
    sa.func.count().filter(runs.c.tenant == param("tenant")),
    sa.func.count().filter(runs.c.agent == param("agent")),
).where(_is(RunStatus.RUNNING))
RUNNING_BY = (
    sa.select(runs.c.tenant, runs.c.agent, sa.func.count())
    .where(_is(RunStatus.RUNNING))
    .group_by(runs.c.tenant, runs.c.agent)
)

# --- finish, release, reap -------------------------------------------------------------------------------------------

_mine = (runs.c.tenant == param("tenant")) & (runs.c.owner == param("owner")) & (runs.c.run_id == param("run_id"))
_running = _mine & _is(RunStatus.RUNNING) & (runs.c.attempt == param("attempt_was", INT))
_thread_of_run = (
    (threads.c.tenant == param("tenant"))
    & (threads.c.owner == param("owner"))
    & (threads.c.thread_id == sa.select(runs.c.thread_id).where(_mine).scalar_subquery())
)

# ``back``: 1 when the run returns to the waiting ones, else 0.
LEAVE_THREAD = (
    sa.update(threads)
    .where(_thread_of_run, threads.c.active_run == param("run_id"))
    .values(active_run=sa.null(), pending=threads.c.pending + param("back", INT), updated_at=param("now", INT))
)
FINISH_RUN = (
    sa.update(runs)
    .where(_running)
    .values(status=param("status"), result=param("result"), finished_at=param("now", INT))
    .returning(*runs.c)
)
# The next attempt's number goes to the ending itself: the lost worker is fenced off, and the terminal event's id is one
# that the dead attempt cannot have shown for something else.
END_ORPHAN = (
    sa.update(runs)
    .where(_running)
    .values(
        status=param("status"),
        result=param("result"),
        finished_at=param("now", INT),
        attempt=param("attempt_was", INT) + ONE,
    )
    .returning(*runs.c)
)
_return = (
    sa.update(runs).where(_running).values(status=RunStatus.PENDING.value, worker=sa.null(), lease_until=sa.null())
)
RELEASE_RUN = _return.returning(*runs.c)
REAP_RUN = _return.values(losses=param("losses", INT), progress_mark=param("progress_mark")).returning(*runs.c)
DROP_PENDING = sa.update(threads).where(_thread_of_run).values(pending=threads.c.pending - ONE)
END_PENDING = (
    sa.update(runs)
    .where(_mine, _is(RunStatus.PENDING), runs.c.attempt == param("attempt_was", INT))
    .values(
        status=param("status"),
        result=param("result"),
        finished_at=param("now", INT),
        attempt=sa.case((runs.c.attempt == ZERO, ZERO), else_=runs.c.attempt + ONE),
    )
    .returning(*runs.c)
)
ORPHANS = sa.select(*runs.c).where(_is(RunStatus.RUNNING)).order_by(_by_arrival)

# --- cancel, marks, deadlines ----------------------------------------------------------------------------------------

REQUEST_CANCEL = (
    sa.update(runs)
    .where(_mine, _is(RunStatus.RUNNING) | _is(RunStatus.PENDING))
    .values(cancel_requested=sa.func.coalesce(runs.c.cancel_requested, param("reason")))
    .returning(*runs.c)
)
NOTE_RESUME_MARK = sa.update(runs).where(_running).values(resume_mark=param("mark"))
EXPIRED = (
    sa.select(*runs.c)
    .where(_is(RunStatus.PENDING), (runs.c.deadline_at <= param("moment", INT)) | runs.c.cancel_requested.is_not(None))
    .order_by(_by_arrival)
)
CANCEL_REQUESTS = sa.select(runs.c.run_id, runs.c.cancel_requested).where(
    _is(RunStatus.RUNNING), runs.c.worker == param("worker"), runs.c.cancel_requested.is_not(None)
)

# --- runs ------------------------------------------------------------------------------------------------------------

_of_thread = (
    (runs.c.tenant == param("tenant")) & (runs.c.owner == param("owner")) & (runs.c.thread_id == param("thread_id"))
)
GET_RUN = sa.select(*runs.c).where(_mine)
FIND_RUN = sa.select(*runs.c).where(runs.c.run_id == param("run_id"))
RUN_SEQ = sa.select(runs.c.seq).where(runs.c.run_id == param("run_id"))
# No later attempt begins before the transaction ends.
LOCK_ATTEMPT = RUN_SEQ.where(runs.c.attempt == param("attempt", INT)).with_for_update(read=True)
RUN_STATE = sa.select(runs.c.status, runs.c.attempt).where(runs.c.run_id == param("run_id"))
RUNS_OF_THREAD = (
    sa.select(*runs.c)
    .where(_of_thread, runs.c.ord < param("before", INT))
    .order_by(runs.c.ord.desc())
    .limit(param("limit", INT))
)
_listed = (
    sa.select(*runs.c)
    .where(runs.c.seq < param("before", INT), param("status").is_(None) | (runs.c.status == param("status")))
    .order_by(runs.c.seq.desc())
    .limit(param("limit", INT))
)
RUNS_OF_ALL = _listed
RUNS_OF_TENANT = _listed.where(runs.c.tenant == param("tenant"))

# --- threads ---------------------------------------------------------------------------------------------------------

_named = (
    (threads.c.tenant == param("tenant"))
    & (threads.c.owner == param("owner"))
    & (threads.c.thread_id == param("thread_id"))
)
_erasing = threads.c.active_run == sa.literal_column(f"'{ERASING}'")
_kept = threads.c.active_run.is_(None) | ~_erasing
GET_THREAD = sa.select(*threads.c).where(_named, _kept)
LOCK_THREAD = sa.select(threads.c.active_run, threads.c.pending).where(_named).with_for_update()
THREADS_OF_OWNER = (
    sa.select(*threads.c)
    .where(
        threads.c.tenant == param("tenant"),
        threads.c.owner == param("owner"),
        _kept,
        sa.tuple_(threads.c.updated_at, threads.c.thread_id)
        < sa.tuple_(param("before", INT), param("before_id"), types=[INT(), sa.Text()]),
    )
    .order_by(threads.c.updated_at.desc(), threads.c.thread_id.desc())
    .limit(param("limit", INT))
)
LAST_USE = sa.select(threads.c.updated_at).where(_named)
# The thread's first runs, with their events before them: so no transaction is longer than ``limit`` rows and ``runs``.
_first_runs = sa.select(runs.c.seq).where(_of_thread).order_by(runs.c.ord).limit(param("runs", INT))
_some_events = (
    sa.select(events.c.run_seq, events.c.attempt, events.c.n)
    .where(events.c.run_seq.in_(_first_runs))
    .limit(param("limit", INT))
)
ERASE_EVENTS = sa.delete(events).where(sa.tuple_(events.c.run_seq, events.c.attempt, events.c.n).in_(_some_events))
ERASE_RUNS = sa.delete(runs).where(runs.c.seq.in_(_first_runs))
_some_records = (
    sa.select(idempotency.c.tenant, idempotency.c.owner, idempotency.c.key)
    .where(
        idempotency.c.tenant == param("tenant"),
        idempotency.c.owner == param("owner"),
        idempotency.c.thread_id == param("thread_id"),
    )
    .limit(param("limit", INT))
)
ERASE_IDEMPOTENCY = sa.delete(idempotency).where(
    sa.tuple_(idempotency.c.tenant, idempotency.c.owner, idempotency.c.key).in_(_some_records)
)
ERASE_THREAD = sa.update(threads).where(_named).values(active_run=ERASING)
FORGET_THREAD = sa.delete(threads).where(_named, _erasing)
UNFINISHED_ERASURES = sa.select(threads.c.tenant, threads.c.owner, threads.c.thread_id).where(_erasing)

# --- keys ------------------------------------------------------------------------------------------------------------

INSERT_KEY = insert(api_keys).values(values_of(api_keys)).on_conflict_do_nothing()
FIND_KEY = sa.select(*api_keys.c).where(api_keys.c.key_id == param("key_id"))
LOCK_KEY = FIND_KEY.with_for_update()
ALL_KEYS = sa.select(*api_keys.c).order_by(api_keys.c.created_at, api_keys.c.key_id)
KEYS_OF_TENANT = ALL_KEYS.where(api_keys.c.tenant == param("tenant"))
_any_tenant = param("tenant").is_(None) | (api_keys.c.tenant == param("tenant"))
# A key's end only ever comes nearer.
END_KEY = (
    sa.update(api_keys)
    .where(api_keys.c.key_id == param("key_id"), _any_tenant)
    .values(
        revoked_at=sa.func.coalesce(api_keys.c.revoked_at, param("revoke_at", INT)),
        expires_at=sa.case(
            (param("expire_at", INT).is_(None), api_keys.c.expires_at),
            (api_keys.c.expires_at < param("expire_at", INT), api_keys.c.expires_at),
            else_=param("expire_at", INT),
        ),
    )
)
REPLACED_KEY = (
    sa.update(api_keys)
    .where(api_keys.c.tenant == param("tenant"), api_keys.c.key_id == param("key_id"))
    .values(replaced_at=sa.func.coalesce(api_keys.c.replaced_at, param("replaced_at", INT)))
)
TOUCH_KEY = (
    sa.update(api_keys)
    .where(
        api_keys.c.tenant == param("tenant"),
        api_keys.c.key_id == param("key_id"),
        api_keys.c.last_used_at.is_(None) | (api_keys.c.last_used_at < param("used_at", INT)),
    )
    .values(last_used_at=param("used_at", INT))
)
ANY_KEY = sa.select(ONE).select_from(api_keys).limit(ONE)

# --- events ----------------------------------------------------------------------------------------------------------

_event = (events.c.attempt, events.c.n, events.c.type, events.c.body)
_of_run = events.c.run_seq == sa.select(runs.c.seq).where(runs.c.run_id == param("run_id")).scalar_subquery()
_place = sa.tuple_(events.c.attempt, events.c.n)
EVENTS_BETWEEN = (
    sa.select(*_event)
    .where(
        _of_run,
        events.c.type != sa.literal_column(f"'{PRUNED}'"),
        _place > sa.tuple_(param("attempt", INT), param("n", INT), types=[INT(), INT()]),
        _place <= sa.tuple_(param("to_attempt", INT), param("to_n", INT), types=[INT(), INT()]),
    )
    .order_by(events.c.attempt, events.c.n)
    .limit(param("limit", INT))
)
LAST_EVENT = (
    sa.select(events.c.attempt, events.c.n)
    .where(_of_run)
    .order_by(events.c.attempt.desc(), events.c.n.desc())
    .limit(ONE)
)
INSERT_EVENTS = BulkInsertOf(events)

# --- the schema itself, in the table of Alembic ----------------------------------------------------------------------

SCHEMA_REVISION = sa.select(sa.column("version_num")).select_from(sa.table("alembic_version"))


def every_statement() -> Sequence[Statement]:
    """What an executor compiles at start."""
    modules = (globals(), vars(ledger_statements), vars(policy_statements), vars(retention_statements))
    return [
        value
        for names in modules
        for name, value in names.items()
        if name.isupper() and isinstance(value, (sa.SelectBase, sa.UpdateBase))
    ]
