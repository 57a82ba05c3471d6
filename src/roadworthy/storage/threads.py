"""``ports.store.ThreadStore`` over SQL. Called by services; ``accept.py`` is what makes threads."""

from collections.abc import Sequence
from datetime import datetime

from roadworthy.domain.errors import InvalidRequest, NotFound, ThreadBusy
from roadworthy.domain.page import Page
from roadworthy.domain.principal import Owner
from roadworthy.domain.thread import Thread, ThreadRef
from roadworthy.storage import statements as sql
from roadworthy.storage.cursors import END, number, page_of
from roadworthy.storage.locks import REMOVAL
from roadworthy.storage.rows import micros, ref_from, thread_from
from roadworthy.storage.tables import ERASING
from roadworthy.storage.transaction import Database, Transaction

# What one transaction may delete: the others' writes wait for it.
_ROWS_AT_ONCE = 500
_RUNS_AT_ONCE = 5


class SqlThreadStore:
    """Threads as rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, ref: ThreadRef) -> Thread:
        """See the port."""
        row = await self._database.read(lambda tx: tx.one(sql.GET_THREAD, **_named(ref)))
        if row is None:
            raise NotFound("no such thread")
        return thread_from(row)

    async def list(self, owner: Owner, *, limit: int, cursor: str | None) -> Page[Thread]:
        """See the port."""
        before, before_id = _position(cursor)
        rows = await self._database.read(
            lambda tx: tx.all(
                sql.THREADS_OF_OWNER,
                tenant=owner.tenant,
                owner=owner.user,
                before=before,
                before_id=before_id,
                limit=limit + 1,
            )
        )
        return page_of([thread_from(row) for row in rows], limit, _cursor)

    async def erase(self, ref: ThreadRef, *, unused_since: datetime | None = None) -> bool:
        """See the port. The name is taken first; then the rows go, some in each transaction."""

        def unit(tx: Transaction) -> tuple[bool, bool]:
            if not _begin_erasure(tx, ref, None if unused_since is None else micros(unused_since)):
                return False, False
            return True, _erase_some(tx, ref)

        there, more = await self._database.write(unit)
        if more:
            await self._erase_rest(ref)
        return there

    async def finish_erasure(self, ref: ThreadRef) -> None:
        """See the port. What a crash has left of its rows goes too."""
        await self._erase_rest(ref)
        await self._database.write(lambda tx: tx.run(sql.FORGET_THREAD, **_named(ref)))

    async def unfinished_erasures(self) -> Sequence[ThreadRef]:
        """See the port."""
        rows = await self._database.read(lambda tx: tx.all(sql.UNFINISHED_ERASURES), scan=True)
        return [ref_from(row) for row in rows]

    async def _erase_rest(self, ref: ThreadRef) -> None:
        while await self._database.write(lambda tx: _erasing(tx, ref) and _erase_some(tx, ref)):
            pass


def _begin_erasure(tx: Transaction, ref: ThreadRef, unused_since: int | None) -> bool:
    """Take the thread's name. False when it is not there, or was used too lately."""
    tx.lock(REMOVAL)
    found = tx.one(sql.LOCK_THREAD, **_named(ref))
    if found is None:
        return False
    active_run, pending = found
    if active_run == ERASING:
        return True
    if active_run is not None or pending > 0:
        raise ThreadBusy("a run of the thread is unfinished; cancel it first")
    last_use = tx.one(sql.LAST_USE, **_named(ref))
    if unused_since is not None and last_use is not None and last_use[0] >= unused_since:
        return False
    tx.run(sql.ERASE_THREAD, **_named(ref))
    return True


def _erasing(tx: Transaction, ref: ThreadRef) -> bool:
    tx.lock(REMOVAL)
    found = tx.one(sql.LOCK_THREAD, **_named(ref))
    return found is not None and found[0] == ERASING


def _erase_some(tx: Transaction, ref: ThreadRef) -> bool:
    """Delete some rows of an erased thread: a run goes after its events. Whether there may be more."""
    named = _named(ref)
    if tx.run(sql.ERASE_EVENTS, **named, runs=_RUNS_AT_ONCE, limit=_ROWS_AT_ONCE) == _ROWS_AT_ONCE:
        return True
    if tx.run(sql.ERASE_RUNS, **named, runs=_RUNS_AT_ONCE) == _RUNS_AT_ONCE:
        return True
    return tx.run(sql.ERASE_IDEMPOTENCY, **named, limit=_ROWS_AT_ONCE) == _ROWS_AT_ONCE


def _named(ref: ThreadRef) -> dict[str, str]:
    return {"tenant": ref.owner.tenant, "owner": ref.owner.user, "thread_id": ref.thread_id}


def _cursor(thread: Thread) -> str:
    return f"{micros(thread.updated_at)}.{thread.ref.thread_id}"


def _position(cursor: str | None) -> tuple[int, str]:
    if cursor is None:
        return END, ""
    moment, dot, thread_id = cursor.partition(".")
    if not dot:
        raise InvalidRequest("the cursor is not one that this list gave out", field="cursor")
    return number(moment), thread_id
