"""``ports.retention.UserRecords`` over SQL. Called by ``services/users.py``."""

from collections.abc import Sequence

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import AgentName, KeyId, RunId, ThreadId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.ports.clock import Clock
from roadworthy.ports.retention import CallOnRecord, SentKey
from roadworthy.storage import retention_statements as sql
from roadworthy.storage.audit import Note
from roadworthy.storage.rows import call_from, micros, moment, run_from
from roadworthy.storage.transaction import Database, Row


class SqlUserRecords:
    """See the port. ``clock`` dates what the audit log says."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def unfinished_runs(self, owner: Owner) -> Sequence[Run]:
        """See the port."""
        rows = await self._database.read(lambda tx: tx.all(sql.UNFINISHED_RUNS_OF, **_named(owner)), scan=True)
        return [run_from(row) for row in rows]

    async def count_runs(self, owner: Owner) -> int:
        """See the port."""
        row = await self._database.read(lambda tx: tx.one(sql.COUNT_RUNS_OF, **_named(owner)), scan=True)
        return 0 if row is None else int(row[0])

    async def sent_keys(self, owner: Owner, after: SentKey | None, *, limit: int) -> Sequence[SentKey]:
        """See the port."""
        last = "" if after is None else after.key
        rows = await self._database.read(
            lambda tx: tx.all(sql.KEYS_SENT_BY, **_named(owner), after=last, limit=limit), scan=True
        )
        return [_sent_key(row) for row in rows]

    async def calls(self, owner: Owner, after: CallOnRecord | None, *, limit: int) -> Sequence[CallOnRecord]:
        """See the port."""
        since, run_id, call_id = (
            (0, "", "") if after is None else (micros(after.call.started_at), after.run_id, after.call.call_id)
        )
        rows = await self._database.read(
            lambda tx: tx.all(sql.CALLS_OF, **_named(owner), since=since, run_id=run_id, call_id=call_id, limit=limit),
            scan=True,
        )
        return [_call_on_record(row) for row in rows]

    async def note(self, owner: Owner, action: str, actor: Actor, after: JsonObject) -> None:
        """See the port."""
        note = Note(actor, self._clock.now())
        await self._database.write(lambda tx: note(tx, owner.tenant, action, owner.user, before=None, after=after))


def _named(owner: Owner) -> dict[str, str]:
    return {"tenant": owner.tenant, "owner": owner.user}


def _sent_key(row: Row) -> SentKey:
    key, run_id, thread_id, created_at = row
    return SentKey(key=key, run_id=RunId(run_id), thread_id=ThreadId(thread_id), created_at=moment(created_at))


def _call_on_record(row: Row) -> CallOnRecord:
    run_id, thread_id, agent, key_id, *call = row
    return CallOnRecord(
        run_id=RunId(run_id),
        thread_id=ThreadId(thread_id),
        agent=AgentName(agent),
        key_id=None if key_id is None else KeyId(key_id),
        call=call_from(tuple(call)),
    )
