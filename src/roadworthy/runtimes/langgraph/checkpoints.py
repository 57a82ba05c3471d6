"""The SQLite checkpointer: LangGraph's own, plus what a server needs of it.

Each write is one trip to the database thread and one transaction, so that a cancelled run leaves none half done; it
looks at the attempt's fence right before writing. ``runtime`` opens it; ``resume`` and ``run`` ask about latest
checkpoints; LangGraph calls the rest.
"""

import json
import sqlite3
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import aiosqlite
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.types import Interrupt

from roadworthy.domain.ids import RunId
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.failures import storage_errors

Result = TypeVar("Result")

BUSY_SECONDS = 10.0
# Writes that tell what happened to a task, not what it produced (langgraph.pregel._task_status).
_CONTROL = frozenset({"__error__", "__error_source_node__", "__interrupt__", "__resume__"})
_NO_TASK = "00000000-0000-0000-0000-000000000000"

_PUT = (
    "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, "
    "checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_PUT_WRITES = (
    "INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_LATEST = (
    "SELECT checkpoint_id, metadata FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' "
    "ORDER BY checkpoint_id DESC LIMIT 1"
)
_BEFORE_RUN = (
    "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' "
    "AND json_extract(CAST(metadata AS TEXT), '$.run_id') IS NOT ? ORDER BY checkpoint_id DESC LIMIT 1"
)
_ERASE_WRITES_OF_RUN = (
    "DELETE FROM writes WHERE thread_id = ? AND (checkpoint_ns, checkpoint_id) IN "
    "(SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = ? "
    "AND json_extract(CAST(metadata AS TEXT), '$.run_id') = ?)"
)
_ERASE_RUN = "DELETE FROM checkpoints WHERE thread_id = ? AND json_extract(CAST(metadata AS TEXT), '$.run_id') = ?"
_OPEN_WRITES = (
    "SELECT w.checkpoint_ns, w.task_id, w.channel, w.type, CASE WHEN w.channel = '__interrupt__' THEN w.value END "
    "FROM writes w JOIN (SELECT checkpoint_ns AS ns, MAX(checkpoint_id) AS id FROM checkpoints WHERE thread_id = ? "
    "GROUP BY checkpoint_ns) l ON w.checkpoint_ns = l.ns AND w.checkpoint_id = l.id WHERE w.thread_id = ?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Latest:
    """The latest root checkpoint of a thread: its id, and the run that wrote it."""

    checkpoint_id: str
    run_id: str | None


class Connection(aiosqlite.Connection):
    """A connection that runs a whole function on its thread, as one transaction."""

    async def transact(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        """Run ``work`` on the connection's thread; commit, or roll back when it raises.

        Raises:
            StorageUnavailable: SQLite failed; StorageFull when the disk is full.
        """

        def transaction() -> Result:
            with self._conn:
                return work(self._conn)

        with storage_errors():
            return cast("Result", await self._execute(transaction))


class FencedSqliteSaver(AsyncSqliteSaver):
    """See the module. Sync methods work from threads, by way of the loop, as in LangGraph's own."""

    conn: Connection

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the latest; the one read ahead, if it is that."""
        scope = current_attempt.get()
        ahead = None if scope is None else scope.latest
        if scope is not None and ahead is not None and _wants_latest_root(config, ahead):
            scope.latest = None
            return ahead
        with storage_errors():
            return await super().aget_tuple(config)

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
        where = _configurable(config)
        kind, blob = self.serde.dumps_typed(checkpoint)
        described = json.dumps(get_checkpoint_metadata(config, metadata), ensure_ascii=False).encode("utf-8", "ignore")
        thread, namespace = str(where["thread_id"]), str(where["checkpoint_ns"])
        row = (thread, namespace, checkpoint["id"], where.get("checkpoint_id"), kind, blob, described)
        scope = current_attempt.get()

        def write(connection: sqlite3.Connection) -> None:
            if scope is not None:
                scope.check_fence()
            connection.execute(_PUT, row)

        await self.conn.transact(write)
        return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": checkpoint["id"]}}

    async def aput_writes(
        self, config: RunnableConfig, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        """Store what a task wrote within its step. Errors as ``aput``."""
        where = _configurable(config)
        place = (str(where["thread_id"]), str(where["checkpoint_ns"]), str(where["checkpoint_id"]), task_id, task_path)
        rows = [
            (*place, WRITES_IDX_MAP.get(channel, index), channel, *self.serde.dumps_typed(value))
            for index, (channel, value) in enumerate(writes)
        ]
        special = all(channel in WRITES_IDX_MAP for channel, _ in writes)
        statement = f"INSERT OR {'REPLACE' if special else 'IGNORE'} {_PUT_WRITES}"
        scope = current_attempt.get()

        def write(connection: sqlite3.Connection) -> None:
            if scope is not None:
                scope.check_fence()
            connection.executemany(statement, rows)

        await self.conn.transact(write)

    async def adelete_thread(self, thread_id: str) -> None:
        """Delete every checkpoint of a thread. Idempotent."""

        def erase(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM writes WHERE thread_id = ?", (thread_id,))
            connection.execute("DELETE FROM checkpoints WHERE thread_id = ?", (thread_id,))

        await self.conn.transact(erase)

    async def erase_run(self, thread_id: str, run_id: RunId) -> None:
        """Delete the checkpoints of one run, subgraphs' included, with what was written on them. Idempotent."""

        def erase(connection: sqlite3.Connection) -> None:
            connection.execute(_ERASE_WRITES_OF_RUN, (thread_id, thread_id, run_id))
            connection.execute(_ERASE_RUN, (thread_id, run_id))

        await self.conn.transact(erase)

    async def latest(self, thread_id: str) -> Latest | None:
        """The thread's latest root checkpoint, None when there is none."""
        row = await self._one(_LATEST, (thread_id,))
        if row is None:
            return None
        metadata: object = json.loads(row[1]) if isinstance(row[1], str | bytes) else {}
        run_id: object = metadata.get("run_id") if isinstance(metadata, dict) else None
        return Latest(checkpoint_id=str(row[0]), run_id=run_id if isinstance(run_id, str) else None)

    async def before_run(self, thread_id: str, run_id: RunId) -> str | None:
        """The latest root checkpoint that another run wrote."""
        row = await self._one(_BEFORE_RUN, (thread_id, run_id))
        return None if row is None else str(row[0])

    async def newest_id(self, thread_id: str) -> str | None:
        """The id of the thread's newest checkpoint, subgraphs' included."""
        row = await self._one("SELECT MAX(checkpoint_id) FROM checkpoints WHERE thread_id = ?", (thread_id,))
        return None if row is None or row[0] is None else str(row[0])

    async def open_interrupts(self, thread_id: str) -> Mapping[str, frozenset[str]]:
        """The ids of the questions that wait for an answer, by namespace: the root's is ``""``."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, str, str, str, bytes | None]]:
            return connection.execute(_OPEN_WRITES, (thread_id, thread_id)).fetchall()

        rows = await self.conn.transact(read)
        finished = {(ns, task) for ns, task, channel, _, _ in rows if channel not in _CONTROL and task != _NO_TASK}
        found: dict[str, set[str]] = {}
        for namespace, task, _, kind, blob in rows:
            if blob is not None and (namespace, task) not in finished:
                asked: object = self.serde.loads_typed((kind, blob))
                items = asked if isinstance(asked, list | tuple) else [asked]
                found.setdefault(namespace, set()).update(item.id for item in items if isinstance(item, Interrupt))
        return {namespace: frozenset(ids) for namespace, ids in found.items()}

    async def check(self) -> None:
        """Write and read something.

        Raises:
            StorageUnavailable: it did not work.
        """

        def touch(connection: sqlite3.Connection) -> None:
            connection.execute("CREATE TABLE IF NOT EXISTS readiness (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)")
            connection.execute("INSERT INTO readiness VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET n = (n + 1) % 1000")

        await self.conn.transact(touch)

    async def _one(self, statement: str, values: tuple[str, ...]) -> tuple[object, ...] | None:
        def read(connection: sqlite3.Connection) -> object:
            return connection.execute(statement, values).fetchone()

        return cast("tuple[object, ...] | None", await self.conn.transact(read))


@asynccontextmanager
async def open_checkpoints(path: Path) -> AsyncGenerator[FencedSqliteSaver]:
    """Open the checkpoints in the file ``path``, made if missing.

    Raises:
        StorageUnavailable: it cannot be opened.
    """
    async with AsyncExitStack() as stack:
        with storage_errors():
            connection = await stack.enter_async_context(connect(path))
            saver = FencedSqliteSaver(connection)
            await saver.setup()
        yield saver


def connect(path: Path) -> Connection:
    """A connection, not yet opened, as both of our SQLite files under LangGraph want it."""

    def open_() -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    return Connection(open_, iter_chunk_size=64)


def _configurable(config: RunnableConfig) -> dict[str, Any]:
    return config.get("configurable", {})


def _wants_latest_root(config: RunnableConfig, ahead: CheckpointTuple) -> bool:
    where = _configurable(config)
    same_thread = where.get("thread_id") == _configurable(ahead.config).get("thread_id")
    return same_thread and not where.get("checkpoint_id") and not where.get("checkpoint_ns")
