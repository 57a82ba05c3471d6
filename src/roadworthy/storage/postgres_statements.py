"""The few statements that need other words on Postgres, where many transactions write at once.

Compiled in place of those of ``statements.py``, with the same parameters and the same answer. What else differs is that
SQLite leaves out ``FOR UPDATE``, as it has one writer.
"""

from collections.abc import Mapping

import sqlalchemy as sa

from roadworthy.domain.run import RunStatus
from roadworthy.storage import statements as sql
from roadworthy.storage.parameters import ONE, param
from roadworthy.storage.tables import runs, threads
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

IN_PLACE_OF: Mapping[Statement, Statement] = {sql.TAKE_THREAD: TAKE_THREAD}
