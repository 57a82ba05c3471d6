"""The SQLite checkpointer: LangGraph's own, plus what a server needs of it.

Each write is one trip to the database thread and one transaction, so that a cancelled run leaves none half done; it
looks at the attempt's fence right before writing. ``runtime`` opens it; ``resume`` and ``run`` ask about latest
checkpoints; LangGraph calls the rest.
"""

import json
import sqlite3
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    WRITES_IDX_MAP,
    ChannelVersions,
    Checkpoint,
    CheckpointMetadata,
    CheckpointTuple,
    get_checkpoint_metadata,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.checkpoint.sqlite.utils import load_pending_writes, pending_writes_sql
from langgraph.types import Interrupt

from roadworthy.domain.ids import RunId
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.failures import storage_errors
from roadworthy.runtimes.langgraph.sqlite import Connection, open_file

# id, parent's id, type, checkpoint, metadata · task, channel, type, value, path, index
CheckpointRow: TypeAlias = tuple[str, str | None, str, bytes, bytes | None]
WriteRow: TypeAlias = tuple[str, str, str, bytes, str, int]

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
_COLUMNS = "SELECT checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints "
_LATEST_OF = _COLUMNS + "WHERE thread_id = ? AND checkpoint_ns = ? ORDER BY checkpoint_id DESC LIMIT 1"
_NAMED = _COLUMNS + "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_LATEST_RUN = (
    "SELECT json_extract(CAST(metadata AS TEXT), '$.run_id') FROM checkpoints "
    "WHERE thread_id = ? AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1"
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


class FencedSqliteSaver(AsyncSqliteSaver):
    """See the module. Sync methods work from threads, by way of the loop, as in LangGraph's own."""

    conn: Connection

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the latest; the one read ahead, if it is that."""
        where = _configurable(config)
        thread, namespace = str(where["thread_id"]), str(where.get("checkpoint_ns", ""))
        wanted: str | None = where.get("checkpoint_id") or None
        scope = current_attempt.get()
        if scope is not None and wanted is None and not namespace and scope.ahead is not None:
            ahead, scope.ahead = scope.ahead, None
            if ahead.thread == thread:
                return ahead.latest
        found = await self.conn.transact(lambda connection: _read(connection, thread, namespace, wanted))
        return None if found is None else self._as_tuple(thread, namespace, *found)

    def _as_tuple(self, thread: str, namespace: str, row: CheckpointRow, writes: Sequence[WriteRow]) -> CheckpointTuple:
        checkpoint_id, parent_id, kind, blob, metadata = row

        def config_of(id_: str) -> RunnableConfig:
            return {"configurable": {"thread_id": thread, "checkpoint_ns": namespace, "checkpoint_id": id_}}

        return CheckpointTuple(
            config_of(checkpoint_id),
            self.serde.loads_typed((kind, blob)),
            cast("CheckpointMetadata", json.loads(metadata) if metadata is not None else {}),
            config_of(parent_id) if parent_id else None,
            load_pending_writes(writes, self.serde),
        )

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

    async def latest_run(self, thread_id: str) -> str | None:
        """The run that wrote the thread's latest root checkpoint."""
        row = await self._one(_LATEST_RUN, (thread_id,))
        return None if row is None or row[0] is None else str(row[0])

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
            connection = await stack.enter_async_context(Connection(lambda: open_file(path, isolation_level="")))
            # None: only what is known to be safe comes back to life, whatever the environment says.
            saver = FencedSqliteSaver(connection, serde=JsonPlusSerializer(allowed_msgpack_modules=None))
            await saver.setup()
        yield saver


def _configurable(config: RunnableConfig) -> dict[str, Any]:
    return config.get("configurable", {})


def _read(
    connection: sqlite3.Connection, thread: str, namespace: str, checkpoint_id: str | None
) -> tuple[CheckpointRow, Sequence[WriteRow]] | None:
    place = (thread, namespace)
    found = (
        connection.execute(_LATEST_OF, place)
        if checkpoint_id is None
        else connection.execute(_NAMED, (*place, checkpoint_id))
    )
    row: CheckpointRow | None = found.fetchone()
    if row is None:
        return None
    return row, connection.execute(pending_writes_sql(has_task_path=True), (*place, row[0])).fetchall()
