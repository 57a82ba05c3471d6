"""``ports.retention.RetentionStore`` over SQL. Called by ``services/retention.py`` once a minute.

How far events and threads were gone through is stored, so that no pass, and no restart, begins from the front.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.retention import Batch, UsedThread
from roadworthy.storage import json_text
from roadworthy.storage import retention_statements as sql
from roadworthy.storage.documents import read
from roadworthy.storage.locks import REMOVAL
from roadworthy.storage.rows import micros, moment, ref_from
from roadworthy.storage.transaction import Database, Row, Transaction

# What one transaction may touch: the others' writes wait for it.
_EVENTS_AT_ONCE = 500
_ENDS_AT_ONCE = 100
_RESULTS_AT_ONCE = 8
_CHARS_AT_ONCE = 200_000
# Names of positions.
_EVENTS = "events"
_THREADS = "threads"


class SqlRetention:
    """See the port."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def unused_threads(self, before: datetime, *, limit: int) -> Sequence[ThreadRef]:
        """See the port."""
        rows = await self._database.read(
            lambda tx: tx.all(sql.UNUSED_THREADS, before=micros(before), limit=limit), scan=True
        )
        return [ref_from(row) for row in rows]

    async def prune_events(self, before: datetime) -> Batch:
        """See the port. Where there is nothing to do, nothing is written."""
        end = micros(before)

        def looks(tx: Transaction) -> bool:
            return _next_ends(tx, end)[1] is not None

        def unit(tx: Transaction) -> Batch:
            tx.lock(REMOVAL)
            behind, to = _next_ends(tx, end)
            if to is None:
                return Batch(removed=0, more=False)
            removed = tx.run(sql.PRUNE_EVENTS, behind=behind, to=to, limit=_EVENTS_AT_ONCE)
            if removed < _EVENTS_AT_ONCE:
                tx.run(sql.BLANK_EVENTS, behind=behind, to=to)
                tx.run(sql.SET_POSITION, name=_EVENTS, position=to)
            return Batch(removed=removed, more=True)

        if not await self._database.read(looks, scan=True):
            return Batch(removed=0, more=False)
        return await self._database.write(unit)

    async def used_threads(self, since: datetime, after: UsedThread | None, *, limit: int) -> Sequence[UsedThread]:
        """See the port."""
        begin, place = (micros(since), _NOWHERE) if after is None else (micros(after.used_at), _named(after.ref))
        rows = await self._database.read(
            lambda tx: tx.all(sql.USED_THREADS, since=begin, **place, limit=limit), scan=True
        )
        return [_used_thread(row) for row in rows]

    async def trim_outputs(self, thread: UsedThread, *, keep: int, before: datetime) -> tuple[Batch, UsedThread]:
        """See the port. Results are read and shortened on the reader's thread; they change no more once a run ended."""
        behind = thread.next_ord - keep
        if thread.outputs_from >= behind:
            return Batch(removed=0, more=False), thread
        named = _named(thread.ref)
        texts, reached, more = await self._database.read(
            lambda tx: _shortened(tx, thread, behind, micros(before)), scan=True
        )
        if reached == thread.outputs_from:
            return Batch(removed=0, more=False), thread

        def unit(tx: Transaction) -> bool:
            if tx.one(sql.LOCK_IDLE_THREAD, **named, next_ord=thread.next_ord) is None:
                return False
            for seq, text in texts:
                tx.run(sql.SET_RESULT, run_seq=seq, result=text)
            tx.run(sql.SET_OUTPUTS_FROM, **named, ord=reached)
            return True

        if not await self._database.write(unit):
            return Batch(removed=0, more=False), thread
        return Batch(removed=len(texts), more=more), replace(thread, outputs_from=reached)

    async def idle(self, ref: ThreadRef) -> bool:
        """See the port."""
        return await self._database.read(lambda tx: tx.one(sql.IDLE_THREAD, **_named(ref))) is not None

    async def visited_until(self) -> datetime | None:
        """See the port."""
        stored = await self._database.read(lambda tx: tx.one(sql.GET_POSITION, name=_THREADS))
        return None if stored is None else moment(stored[0])

    async def note_visited(self, moment: datetime) -> None:
        """See the port."""
        await self._database.write(lambda tx: tx.run(sql.SET_POSITION, name=_THREADS, position=micros(moment)))


_NOWHERE = {"tenant": "", "owner": "", "thread_id": ""}


def _next_ends(tx: Transaction, before: int) -> tuple[int, int | None]:
    """Up to which end events are gone, and up to which one they may go next; None when there is none."""
    stored = tx.one(sql.GET_POSITION, name=_EVENTS)
    behind = 0 if stored is None else int(stored[0])
    found = tx.one(sql.NEXT_ENDS, behind=behind, before=before, limit=_ENDS_AT_ONCE)
    return behind, None if found is None else found[0]


def _shortened(
    tx: Transaction, thread: UsedThread, behind: int, before: int
) -> tuple[list[tuple[int, str]], int, bool]:
    """Some results without their outputs, by the ``seq`` of their runs; the ordinal up to which that is all; whether
    there are more.
    """
    rows = tx.all(
        sql.RESULTS_OF_THREAD,
        **_named(thread.ref),
        first=thread.outputs_from,
        behind=behind,
        limit=_RESULTS_AT_ONCE,
    )
    texts: list[tuple[int, str]] = []
    chars = 0
    for seq, ord_, finished_at, result in rows:
        if finished_at is None or finished_at > before:
            return texts, ord_, False
        chars += len(result or "")
        if texts and chars > _CHARS_AT_ONCE:
            return texts, ord_, True
        if (text := _without_output(result)) is not None:
            texts.append((seq, text))
    reached = rows[-1][1] + 1 if len(rows) == _RESULTS_AT_ONCE else behind
    return texts, reached, reached < behind


def _without_output(result: str | None) -> str | None:
    """The stored result with its output null; None when there is nothing to take away."""
    if result is None:
        return None
    document = dict(read(result))
    if document.get("output") is None:
        return None
    document["output"] = None
    return json_text.dumps(document)


def _named(ref: ThreadRef) -> dict[str, str]:
    return {"tenant": ref.owner.tenant, "owner": ref.owner.user, "thread_id": ref.thread_id}


def _used_thread(row: Row) -> UsedThread:
    tenant, user, thread_id, used_at, next_ord, outputs_from = row
    return UsedThread(
        ref=ref_from((tenant, user, thread_id)),
        used_at=moment(used_at),
        next_ord=next_ord,
        outputs_from=outputs_from,
    )
