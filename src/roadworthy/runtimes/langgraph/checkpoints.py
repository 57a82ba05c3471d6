"""The SQLite checkpointer: LangGraph's own, plus what a server needs of it.

Each write is one trip to the database thread and one transaction, so that a cancelled run leaves none half done; it
looks at the attempt's fence right before writing. What a thread's checkpoints share is stored once
(``checkpoint_sharing``), and checkpoints that nobody needs any more can be pruned (``checkpoint_pruning``).
``runtime`` opens it; ``resume`` and ``run`` ask about latest checkpoints; LangGraph calls the rest.
"""

import asyncio
import json
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from inspect import signature
from pathlib import Path
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    DeltaChannelHistory,
    get_checkpoint_metadata,
    writes_sort_key,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.checkpoint.sqlite.utils import search_where

from roadworthy.domain.ids import RunId
from roadworthy.runtimes.langgraph import checkpoint_rows as rows
from roadworthy.runtimes.langgraph.checkpoint_chunks import KnownChunks
from roadworthy.runtimes.langgraph.checkpoint_pruning import Place, Row
from roadworthy.runtimes.langgraph.checkpoint_sharing import (
    SHARED,
    Knowledge,
    decode_checkpoint,
    decode_write,
)
from roadworthy.runtimes.langgraph.checkpoint_writes import ChangedElsewhere, CheckpointWrite, TaskWrites, Write
from roadworthy.runtimes.langgraph.failures import storage_errors
from roadworthy.runtimes.langgraph.journal_rows import create_journal, forget_run, forget_thread
from roadworthy.runtimes.langgraph.savers import FencedSaver, configurable, ids_by_namespace, questions, watched
from roadworthy.runtimes.langgraph.sqlite import Connection, SqliteRowDatabase, open_file
from roadworthy.runtimes.langgraph.sqlite_rows import BYTES, SqliteRows, finished
from roadworthy.runtimes.langgraph.tool_rows import create_tool_rows, erase_tool_rows

_METADATA = json.JSONEncoder(ensure_ascii=False)
# Checkpoints, and parts, that one transaction deletes. LangGraph's own saver makes checkpoints of a megabyte.
_DELETED_AT_ONCE = 25
_PARTS_AT_ONCE = 1000
# Between two of these, for what came meanwhile.
_PAUSE_SECONDS = 0.005


class FencedSqliteSaver(FencedSaver, AsyncSqliteSaver):
    """See the module."""

    conn: Connection
    knowledge: Knowledge

    async def setup(self) -> None:
        """Make the tables that are missing."""
        if self.is_setup:
            return
        await super().setup()

        def create(connection: sqlite3.Connection) -> None:
            rows.create_blobs(connection)
            finished(create_journal(SqliteRows(connection), bytes_type=BYTES))
            finished(create_tool_rows(SqliteRows(connection), bytes_type=BYTES))

        await self.conn.transact(create)
        self.rows = SqliteRowDatabase(self.conn)
        self.knowledge = Knowledge(await self.conn.transact(rows.version))

    async def alist(
        self,
        config: RunnableConfig | None,
        *,
        filter: dict[str, Any] | None = None,  # noqa: A002 -- LangGraph's name
        before: RunnableConfig | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[CheckpointTuple]:
        """Checkpoints, the newest first. Each is read when it is its turn."""
        where, values = search_where(config, filter, before)
        for place in await self.conn.transact(lambda connection: rows.places(connection, where, values, limit)):
            if (found := await self._read(*place)) is not None:
                yield found

    async def aget_delta_channel_history(
        self, *, config: RunnableConfig, channels: Sequence[str]
    ) -> Mapping[str, DeltaChannelHistory]:
        """What a channel that keeps only changes is rebuilt from. The stock saver reads rows on its own."""
        return await BaseCheckpointSaver.aget_delta_channel_history(self, config=config, channels=channels)

    async def aput(
        self,
        config: RunnableConfig,
        checkpoint: Checkpoint,
        metadata: CheckpointMetadata,
        new_versions: ChannelVersions,  # noqa: ARG002 -- of use to savers that store channels apart
    ) -> RunnableConfig:
        """Store a checkpoint.

        Raises:
            LeaseLost: the attempt's fence is up.
            StorageUnavailable: SQLite failed.
        """
        where = configurable(config)
        described = _METADATA.encode(get_checkpoint_metadata(config, metadata)).encode("utf-8", "ignore")
        place = (str(where["thread_id"]), str(where["checkpoint_ns"]), checkpoint["id"])
        write = CheckpointWrite(place, where.get("checkpoint_id"), checkpoint, described)
        if write.scope is None:
            await self._write(write)
        else:
            with watched(write.scope):
                await self._write(write)
        return {"configurable": {"thread_id": place[0], "checkpoint_ns": place[1], "checkpoint_id": place[2]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote within its step. Errors as ``aput``."""
        where = configurable(config)
        place = (str(where["thread_id"]), str(where["checkpoint_ns"]), str(where["checkpoint_id"]), task_id, task_path)
        await self._write(TaskWrites(place, writes))

    # LangGraph looks at its parameters in every run.
    aput_writes.__signature__ = signature(aput_writes)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete everything of a thread: checkpoints, journalled responses and tool calls. Idempotent.

        In small transactions, with others' work in between; one that was cut off is finished by the next.
        """

        def forget(connection: sqlite3.Connection) -> None:
            finished(forget_thread(SqliteRows(connection), thread_id))
            finished(erase_tool_rows(SqliteRows(connection), thread_id))

        await self._delete(thread_id, await self._ask(rows.all_of, thread_id))
        await self._sweep(thread_id)
        await self.conn.transact(forget, about=thread_id)

    async def erase_run(self, thread_id: str, run_id: RunId) -> None:
        """Delete the checkpoints of one run, subgraphs' included, with what was written on them. Idempotent."""

        def erase(connection: sqlite3.Connection) -> None:
            rows.erase_run(connection, thread_id, run_id)
            finished(forget_run(SqliteRows(connection), thread_id, run_id))

        await self._change(thread_id, erase)

    async def acopy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        """Copy all checkpoints of a thread to another."""
        await self._change(
            target_thread_id, lambda connection: rows.copy_thread(connection, source_thread_id, target_thread_id)
        )

    async def latest_run(self, thread_id: str) -> str | None:
        """The run that wrote the thread's latest root checkpoint."""
        return await self.conn.read(lambda connection: rows.latest_run(connection, thread_id), about=thread_id)

    async def before_run(self, thread_id: str, run_id: RunId) -> str | None:
        """The latest root checkpoint that another run wrote."""
        return await self.conn.read(lambda connection: rows.before_run(connection, thread_id, run_id), about=thread_id)

    async def newest_id(self, thread_id: str) -> str | None:
        """The id of the thread's newest checkpoint, subgraphs' included."""
        return await self._ask(rows.newest_id, thread_id)

    async def open_interrupts(self, thread_id: str) -> Mapping[str, frozenset[str]]:
        """The ids of the questions that wait for an answer, by namespace: the root's is ``""``."""
        known = self.knowledge.of(thread_id)
        found = await self.conn.read(lambda connection: rows.open_writes(connection, thread_id), about=thread_id)
        asked: list[tuple[str, object]] = []
        for namespace, row in questions(found):
            blobs = await self.conn.read(
                lambda connection, row=row: rows.blobs_of(connection, thread_id, row), about=thread_id
            )
            asked.append((namespace, decode_write(self.serde, *row, blobs, known)))
        return ids_by_namespace(asked)

    async def check(self) -> None:
        """Write and read something.

        Raises:
            StorageUnavailable: it did not work.
        """

        def touch(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE IF NOT EXISTS readiness (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
            connection.execute("INSERT INTO readiness VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = (n + 1) % 1000")

        await self.conn.transact(touch)

    async def _read(self, thread: str, namespace: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        known = self.knowledge.of(thread)
        found = await self.conn.read(
            lambda connection: rows.read(connection, thread, namespace, checkpoint_id), about=thread
        )
        return None if found is None else self._as_tuple(thread, namespace, found, known)

    def _as_tuple(self, thread: str, namespace: str, found: rows.Found, known: KnownChunks) -> CheckpointTuple:
        checkpoint_id, parent_id, kind, data, metadata = found.row
        writes = sorted(found.writes, key=lambda write: writes_sort_key(write[4], write[0], write[5]))

        def config_of(id_: str) -> RunnableConfig:
            return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": id_}}

        return CheckpointTuple(
            config_of(checkpoint_id),
            decode_checkpoint(self.serde, kind, data, found.blobs, known),
            cast("CheckpointMetadata", json.loads(metadata) if metadata is not None else {}),
            config_of(parent_id) if parent_id else None,
            [
                (task, channel, decode_write(self.serde, kind, data, found.blobs, known))
                for task, channel, kind, data, _, _ in writes
            ],
        )

    async def _write(self, write: Write) -> None:
        while True:
            known, version = self.knowledge.of(write.thread), self.knowledge.version
            write.prepare(self.serde, known, version)
            try:
                await self.conn.transact(write.write, about=write.thread)
            except ChangedElsewhere as changed:
                if self.knowledge.version != changed.version:
                    self.knowledge.start_again(changed.version)
                continue
            for one in write.encoded:
                if one.kind == SHARED:
                    known.note((key for key, _ in one.blobs), one.chunks)
            return

    async def _change(self, thread: str, work: Callable[[sqlite3.Connection], rows.Answer]) -> rows.Answer:
        """Do what may delete parts that are known to be there. What is written after it must not count on them."""
        self.knowledge.forget(thread)
        return await self.conn.transact(work, about=thread)

    async def _threads_of_run(self, run_id: RunId) -> Sequence[str]:
        return await self._ask(rows.threads_of_run, run_id)

    async def _prune(self, thread: str, choose: Callable[[Sequence[Row]], Sequence[Place]]) -> int:
        going = choose(await self._ask(rows.for_pruning, thread))
        await self._delete(thread, going)
        if going:
            await self._sweep(thread)
        return len(going)

    async def _delete(self, thread: str, going: Sequence[tuple[str, str]]) -> None:
        """Delete checkpoints, in small transactions. What is written meanwhile stays."""
        for start in range(0, len(going), _DELETED_AT_ONCE):
            batch = going[start : start + _DELETED_AT_ONCE]
            await self._change(thread, lambda connection, batch=batch: rows.delete(connection, thread, batch))
            await asyncio.sleep(_PAUSE_SECONDS)

    async def _sweep(self, thread: str) -> None:
        """Delete the parts that nothing stands on: each transaction looks anew, for something may have come."""
        more = True
        while more:
            more = await self._change(thread, lambda connection: rows.sweep(connection, thread, _PARTS_AT_ONCE))
            await asyncio.sleep(_PAUSE_SECONDS if more else 0)

    async def _ask(self, question: Callable[[sqlite3.Connection, str], rows.Answer], about: str) -> rows.Answer:
        """Ask behind everything that was asked for before."""
        return await self.conn.transact(lambda connection: question(connection, about), about=about)


@asynccontextmanager
async def open_checkpoints(path: Path) -> AsyncGenerator[FencedSqliteSaver]:
    """Open the checkpoints in the file ``path``, made if missing.

    Raises:
        StorageUnavailable: it cannot be opened.
    """
    async with AsyncExitStack() as stack:
        with storage_errors():
            connection = Connection(lambda: open_file(path, isolation_level=""))
            await stack.enter_async_context(connection)
            # None: only what is known to be safe comes back to life, whatever the environment says.
            saver = FencedSqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
            await saver.setup()
            connection.read_beside(path)
        yield saver
