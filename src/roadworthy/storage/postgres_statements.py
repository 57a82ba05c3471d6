"""The few statements that need other words on Postgres, where many transactions write at once, and several workers
execute runs under leases (``docs/adr/0019-leases-by-the-databases-clock.md``).

Compiled in place of those of ``statements.py``, with the same parameters and the same answer; leases need some more.
What else differs is that SQLite leaves out ``FOR UPDATE``, as it has one writer.
"""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from roadworthy.domain.run import RunStatus
from roadworthy.storage import ledger_statements
from roadworthy.storage import statements as sql
from roadworthy.storage.parameters import INT, ONE, ZERO, param, values_of
from roadworthy.storage.tables import circuits, reservations, runs, threads
from roadworthy.storage.transaction import Statement

# A thread that somebody else is taking just now is passed over, not waited for: who claims has others to look at.
_free_thread = (
    sa.select(threads.c.tenant, threads.c.owner, threads.c.thread_id)
    .join_from(
        threads,
        runs,
        (runs.c.tenant == threads.c.tenant)
        & (runs.c.owner == threads.c.owner)
        & (runs.c.thread_id == threads.c.thread_id),
    )
    .where(
        runs.c.run_id == param("run_id"),
        runs.c.status == sa.literal_column(f"'{RunStatus.PENDING.value}'"),
        runs.c.cancel_requested.is_(None),
        threads.c.active_run.is_(None),
    )
    .with_for_update(of=threads, skip_locked=True)
)
TAKE_THREAD = (
    sa.update(threads)
    .where(sa.tuple_(threads.c.tenant, threads.c.owner, threads.c.thread_id).in_(_free_thread))
    .values(active_run=param("run_id"), pending=threads.c.pending - ONE)
)

# --- leases ----------------------------------------------------------------------------------------------------------

# The clock itself, not the transaction's beginning: a unit may have waited for a lock.
NOW = sa.literal_column("(extract(epoch FROM clock_timestamp()) * 1000000)::bigint", INT)
_lease_end = NOW + param("lease", INT)
_running = runs.c.status == sa.literal_column(f"'{RunStatus.RUNNING.value}'")
# A running row without a lease is nobody's.
_lapsed = sa.func.coalesce(runs.c.lease_until, ZERO) <= NOW

# ``lease``: in microseconds; null for a run that waits.
INSERT_RUN = sql.INSERT_RUN.values(lease_until=_lease_end)
START_RUN = sql.START_RUN.values(lease_until=_lease_end)
ORPHANS = sql.ORPHANS.where(_lapsed)
# Looked at again when the row is locked: its worker may have renewed the lease meanwhile.
REAP_RUN = sql.REAP_RUN.where(_lapsed)
END_ORPHAN = sql.END_ORPHAN.where(_lapsed)

# A lease that has expired is not brought back: its worker has given the run up. Rows are locked in the order in which
# ``flusher.py`` does it, too.
_kept = (_running, runs.c.worker == param("worker"), ~_lapsed)
LOCK_LEASES = sa.select(runs.c.run_id).where(*_kept).order_by(runs.c.run_id).with_for_update()
RENEW_LEASES = (
    sa.update(runs)
    .where(*_kept)
    .values(lease_until=_lease_end)
    .returning(runs.c.tenant, runs.c.owner, runs.c.run_id, runs.c.attempt)
)
DATABASE_TIME = sa.select(NOW)

# --- money -----------------------------------------------------------------------------------------------------------

_attempt_is_live = sa.exists().where(
    runs.c.run_id == param("run_id"), _running, runs.c.attempt == param("attempt", INT)
)
_reservation = values_of(reservations)
INSERT_RESERVATION = (
    insert(reservations)
    .from_select(list(_reservation), sa.select(*_reservation.values()).where(_attempt_is_live))
    .on_conflict_do_nothing()
)

# --- circuits --------------------------------------------------------------------------------------------------------

LIST_CIRCUITS = sa.select(circuits.c.provider, circuits.c.open_until - NOW, circuits.c.openings)
_opened = insert(circuits).values(
    provider=param("provider"), open_until=NOW + param("lasts", INT), openings=param("openings", INT)
)
OPEN_CIRCUIT = _opened.on_conflict_do_update(
    index_elements=[circuits.c.provider],
    set_={
        "open_until": sa.func.greatest(circuits.c.open_until, _opened.excluded.open_until),
        "openings": sa.func.greatest(circuits.c.openings, _opened.excluded.openings),
    },
)
CLOSE_CIRCUIT = sa.delete(circuits).where(circuits.c.provider == param("provider"))

IN_PLACE_OF: Mapping[Statement, Statement] = {
    sql.TAKE_THREAD: TAKE_THREAD,
    sql.INSERT_RUN: INSERT_RUN,
    sql.START_RUN: START_RUN,
    sql.ORPHANS: ORPHANS,
    sql.REAP_RUN: REAP_RUN,
    sql.END_ORPHAN: END_ORPHAN,
    ledger_statements.INSERT_RESERVATION: INSERT_RESERVATION,
}
# What SQLite has no use for.
ADDED: Sequence[Statement] = (
    LOCK_LEASES,
    RENEW_LEASES,
    DATABASE_TIME,
    LIST_CIRCUITS,
    OPEN_CIRCUIT,
    CLOSE_CIRCUIT,
)
