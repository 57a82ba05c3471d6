"""The Postgres checkpointer: LangGraph's own over a pool of connections, plus what a server needs of it.

Each write is one statement, so that a cancelled run leaves none half done; within it the attempt must still hold its
run. ``runtime`` opens it; ``resume`` and ``run`` ask about latest checkpoints; LangGraph calls the rest.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_serializable_checkpoint_metadata,
)
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot  # pyright: ignore[reportPrivateUsage] -- as in the stock saver
from psycopg import AsyncCursor
from psycopg.rows import DictRow, dict_row

from roadworthy.domain.ids import RunId
from roadworthy.runtimes.langgraph import postgres_statements as sql
from roadworthy.runtimes.langgraph.checkpoint_pruning import Place, Row
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.journal_rows import forget_run, forget_thread
from roadworthy.runtimes.langgraph.postgres import PostgresDatabase, open_pool
from roadworthy.runtimes.langgraph.rows import Rows
from roadworthy.runtimes.langgraph.savers import (
    FencedSaver,
    OpenWrite,
    configurable,
    ids_by_namespace,
    questions,
    watched,
)
from roadworthy.runtimes.langgraph.state_places import PostgresTables
from roadworthy.runtimes.langgraph.tool_rows import erase_tool_rows

# What is larger is not repeated with every checkpoint.
_INLINE_CHARS = 1_000
# Checkpoints, and rows of other tables, that one statement deletes. A blob may be a megabyte.
_DELETED_AT_ONCE = 25
_ROWS_AT_ONCE = 200
# Between two of these, for what came meanwhile.
_PAUSE_SECONDS = 0.005


class FencedPostgresSaver(FencedSaver, AsyncPostgresSaver):
    """See the module."""

    def __init__(self, database: PostgresDatabase, serde: SerializerProtocol) -> None:
        AsyncPostgresSaver.__init__(self, database.pool, serde=serde)
        self.rows = database
        self.database = database

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 -- LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first. Each is read when it is its turn: no connection is held meanwhile."""
        where, values = self._search_where(config, filter, before)
        query = f"SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints {where} ORDER BY checkpoint_id DESC"  # noqa: S608 -- LangGraph's own clause
        for place in await self.database.fetch(f"{query} LIMIT %s", *values, limit):
            if (found := await self._read(*place)) is not None:
                yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What a channel that keeps only changes is rebuilt from."""
        stock = AsyncPostgresSaver.aget_delta_channel_history
        return await self.database.repeat(lambda: stock(self, config=config, channels=channels))

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,
    ) -> RunnableConfig:
        """Store a checkpoint.

        Raises:
            LeaseLost: the attempt does not hold its run any more.
            StorageUnavailable: Postgres failed.
        """
        where, scope = configurable(config), current_attempt.get()
        thread, namespace = str(where["thread_id"]), str(where["checkpoint_ns"])
        with watched(scope, thread, namespace, checkpoint["id"]):
            values = {
                "thread": thread,
                "namespace": namespace,
                "id": checkpoint["id"],
                "parent": where.get("checkpoint_id"),
                "metadata": _json(get_serializable_checkpoint_metadata(config, metadata)),
                **self._encoded(checkpoint, new_versions),
            }
            await self.database.write(sql.PUT, values, fence=scope)
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote within its step. Errors as ``aput``."""
        where = configurable(config)
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        # Of two with one index the first counts, of special ones the last: no statement may change a row twice.
        numbered = [(WRITES_IDX_MAP.get(channel, at), channel, value) for at, (channel, value) in enumerate(writes)]
        by_index = {one[0]: one for one in (numbered if special else reversed(numbered))}
        written = [self.serde.dumps_typed(value) for _, _, value in by_index.values()]
        values = {
            "thread": str(where["thread_id"]),
            "namespace": str(where["checkpoint_ns"]),
            "id": str(where["checkpoint_id"]),
            "task": task_id,
            "path": task_path,
            "indexes": list(by_index),
            "channels": [channel for _, channel, _ in by_index.values()],
            "types": [kind for kind, _ in written],
            "values": [data for _, data in written],
        }
        await self.database.write(
            sql.REPLACE_WRITES if special else sql.ADD_WRITES, values, fence=current_attempt.get()
        )

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread: checkpoints, journalled responses and tool calls. Idempotent.

        In small transactions; one that was cut off is finished by the next.
        """

        async def forget(rows: Rows) -> None:
            await forget_thread(rows, thread_id)
            await erase_tool_rows(rows, thread_id)

        for statement in sql.DELETE_SOME:
            await self._repeat_delete(statement, thread_id)
        await self.database.transact(forget)

    async def erase_run(self, thread_id: str, run_id: RunId) -> None:
        """See ``FencedSaver``. For an attempt only as long as it holds its own run."""

        async def erase(rows: Rows) -> None:
            await rows.run(sql.DELETE_RUN, thread_id, run_id, thread_id)
            await forget_run(rows, thread_id, run_id)

        await self.database.transact(erase, fence=current_attempt.get())
        await self._repeat_delete(sql.SWEEP, thread_id)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another."""

        async def copy(rows: Rows) -> None:
            for statement in sql.COPIES:
                await rows.run(statement, target_thread_id, source_thread_id)

        await self.database.transact(copy)

    async def latest_run(self, thread_id: str) -> str | None:
        """See ``FencedSaver``."""
        return _text(await self.database.fetch(sql.LATEST_RUN, thread_id))

    async def before_run(self, thread_id: str, run_id: RunId) -> str | None:
        """See ``FencedSaver``."""
        return _text(await self.database.fetch(sql.BEFORE_RUN, thread_id, run_id))

    async def newest_id(self, thread_id: str) -> str | None:
        """See ``FencedSaver``."""
        return _text(await self.database.fetch(sql.NEWEST, thread_id))

    async def open_interrupts(self, thread_id: str) -> Mapping[str, frozenset[str]]:
        """See ``FencedSaver``."""
        found = await self.database.fetch(sql.OPEN_WRITES, thread_id, thread_id)
        writes = [
            OpenWrite(namespace=namespace, task=task, channel=channel, written=None if data is None else (kind, data))
            for namespace, task, channel, kind, data in found
        ]
        return ids_by_namespace((namespace, self.serde.loads_typed(row)) for namespace, row in questions(writes))

    async def check(self) -> None:
        """See ``FencedSaver``."""
        await self.database.fetch(sql.TOUCH)

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:  # noqa: ARG002 -- LangGraph's
        """For what is inherited. A connection for each, not one after the other."""
        async with (
            self.database.pool.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor

    async def _load_checkpoint_tuple(self, value: DictRow) -> CheckpointTuple:
        # As inherited, but on the loop's thread: agents' own code may have taken all others.
        where = {"thread_id": value["thread_id"], "checkpoint_ns": value["checkpoint_ns"]}
        parent = value["parent_checkpoint_id"]
        inline: Mapping[str, object] = value["checkpoint"].get("channel_values") or {}
        values = {**inline, **self._load_blobs(value["channel_values"])}
        return CheckpointTuple(
            {"configurable": {**where, "checkpoint_id": value["checkpoint_id"]}},
            cast("Checkpoint", {**value["checkpoint"], "channel_values": values}),
            value["metadata"],
            {"configurable": {**where, "checkpoint_id": parent}} if parent else None,
            self._load_writes(value["pending_writes"]),
        )

    async def _read(self, thread: str, namespace: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        where: dict[str, Any] = {"thread_id": thread, "checkpoint_ns": namespace}
        if checkpoint_id is not None:
            where["checkpoint_id"] = checkpoint_id
        stock = AsyncPostgresSaver.aget_tuple
        return await self.database.repeat(lambda: stock(self, {"configurable": where}))

    async def _prune(self, thread: str, choose: Callable[[Sequence[Row]], Sequence[Place]]) -> int:
        found = await self.database.fetch(sql.FOR_PRUNING, thread)
        going = choose(
            [
                Row(namespace=namespace, id=id_, parent=parent, run=run, root=root, delta=delta)
                for namespace, id_, parent, run, root, delta in found
            ]
        )
        for start in range(0, len(going), _DELETED_AT_ONCE):
            batch = going[start : start + _DELETED_AT_ONCE]
            namespaces, ids = [namespace for namespace, _ in batch], [id_ for _, id_ in batch]
            await self.database.run(sql.DELETE, namespaces, ids, thread, thread)
            await asyncio.sleep(_PAUSE_SECONDS)
        if going:
            await self._repeat_delete(sql.SWEEP, thread)
        return len(going)

    async def _threads_of_run(self, run_id: RunId) -> Sequence[str]:
        return [thread for (thread,) in await self.database.fetch(sql.THREADS_OF_RUN, run_id)]

    async def _repeat_delete(self, statement: str, thread: str) -> None:
        """Until there is nothing left."""
        while await self.database.run(statement, thread, _ROWS_AT_ONCE) == _ROWS_AT_ONCE:  # noqa: ASYNC110 -- others' turn
            await asyncio.sleep(_PAUSE_SECONDS)

    def _encoded(self, checkpoint: Checkpoint, new_versions: ChannelVersions) -> Mapping[str, object]:
        """The row, with small plain values in it, and the blobs of all others that are new."""
        inline: dict[str, object] = {}
        apart: dict[str, object] = {}
        for name, value in checkpoint["channel_values"].items():
            if isinstance(value, _DeltaSnapshot):
                inline[name], apart[name] = True, value
            elif _fits_inline(value):
                inline[name] = value
            else:
                apart[name] = value
        new = [(name, str(version)) for name, version in new_versions.items() if name in apart]
        written = [self.serde.dumps_typed(apart[name]) for name, _ in new]
        return {
            "checkpoint": _json({**checkpoint, "channel_values": inline}),
            "channels": [name for name, _ in new],
            "versions": [version for _, version in new],
            "types": [kind for kind, _ in written],
            "values": [data for _, data in written],
        }


@asynccontextmanager
async def open_postgres_checkpoints(place: PostgresTables) -> AsyncGenerator[FencedPostgresSaver]:
    """Open the checkpoints in a database whose tables are there (``postgres_tables``). It connects when it has to."""
    pool = open_pool(place.conninfo, connections=place.connections, patience=place.patience, name="checkpoints")
    async with pool as opened:
        # None: only what is known to be safe comes back to life, whatever the environment says.
        serde = JsonPlusSerializer(allowed_msgpack_modules=None)
        yield FencedPostgresSaver(PostgresDatabase(opened, place.patience), serde)


def _fits_inline(value: object) -> bool:
    """Whether JSON brings it back exactly as it is, and cheaply. Postgres's knows no NUL, and not what is a float."""
    if type(value) is str:
        return len(value) <= _INLINE_CHARS and value.isprintable()
    return value is None or type(value) in {bool, int}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "ignore").decode()


def _text(found: Sequence[Sequence[object]]) -> str | None:
    return None if not found or found[0][0] is None else str(found[0][0])
