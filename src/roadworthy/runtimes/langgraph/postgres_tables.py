"""Makes the tables of checkpoints, journals and stores in a Postgres database: LangGraph's own by its own means.

``runtime`` asks for it at the start, as does ``roadworthy migrate``; ``doctor`` looks whether they are there. Any
number of processes may do it at once.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

import psycopg
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.runtimes.langgraph.journal_rows import create_journal
from roadworthy.runtimes.langgraph.postgres import PostgresRows, lock_number
from roadworthy.runtimes.langgraph.postgres_errors import postgres_errors
from roadworthy.runtimes.langgraph.tool_rows import create_tool_rows

_LOCK = lock_number("agents' state")
_BYTES = "BYTEA"
# An index on a large table takes its time; a lock that nobody gives back does not get better by waiting.
_SESSION = "SET statement_timeout = '10min'; SET lock_timeout = '30s'; SET default_transaction_read_only = off"
_PATIENCE_SECONDS = 600.0
_PAUSE_SECONDS = 0.1
_MISSING = (
    "SELECT name FROM unnest(ARRAY['checkpoint_migrations', 'store_migrations', 'journal', 'tool_calls']) AS name "
    "WHERE to_regclass(name) IS NULL"
)


async def prepare_tables(conninfo: str, *, index: PostgresIndexConfig | None = None) -> None:
    """Make what is missing. ``index``: of the store, which needs tables of its own.

    Raises:
        StorageUnavailable: the database does not answer, or somebody keeps its tables locked.
    """
    with postgres_errors():
        # ``dict_row``: what LangGraph counts on.
        connection = await AsyncConnection[DictRow].connect(conninfo, autocommit=True, row_factory=dict_row)
        async with connection:
            await connection.execute(_SESSION, prepare=False)
            stock = AsyncPostgresSaver(connection)
            stored = AsyncPostgresStore(connection, index=index)
            if await _is_complete(connection, stored):
                return
            await _alone(connection, lambda: _make(connection, stock, stored))


async def are_complete(conninfo: str, *, index: PostgresIndexConfig | None = None) -> bool:
    """Whether nothing is missing. Raises as ``prepare_tables``."""
    with postgres_errors():
        connection = await AsyncConnection[DictRow].connect(conninfo, autocommit=True, row_factory=dict_row)
        async with connection:
            return await _is_complete(connection, AsyncPostgresStore(connection, index=index))


async def _is_complete(connection: AsyncConnection[DictRow], stored: AsyncPostgresStore) -> bool:
    """Whether a look is enough: then nothing has to wait, and the role need not be allowed to make tables."""
    if await (await connection.execute(_MISSING)).fetchall():
        return False
    versions = [
        ("checkpoint_migrations", len(AsyncPostgresSaver.MIGRATIONS)),
        ("store_migrations", len(stored.MIGRATIONS)),
    ]
    if stored.index_config:
        cursor = await connection.execute("SELECT to_regclass('vector_migrations') AS name")
        found = await cursor.fetchone()
        if found is None or found["name"] is None:
            return False
        versions.append(("vector_migrations", len(stored.VECTOR_MIGRATIONS)))
    for table, count in versions:
        cursor = await connection.execute(f"SELECT max(v) AS v FROM {table}".encode())  # noqa: S608 -- constants
        row = await cursor.fetchone()
        if row is None or row["v"] is None or row["v"] < count - 1:
            return False
    return True


async def _make(connection: AsyncConnection[DictRow], stock: AsyncPostgresSaver, stored: AsyncPostgresStore) -> None:
    await stock.setup()
    await stored.setup()
    rows = PostgresRows(connection)
    await create_journal(rows, bytes_type=_BYTES)
    await create_tool_rows(rows, bytes_type=_BYTES)


async def _alone(connection: AsyncConnection[DictRow], work: Callable[[], Awaitable[None]]) -> None:
    """Not while another process does the same.

    Who has to wait asks again and again: ``CREATE INDEX CONCURRENTLY`` waits for every statement that has begun before
    it, so for one that waits for the lock, too.
    """
    give_up_at = time.monotonic() + _PATIENCE_SECONDS
    while True:
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS taken", (_LOCK,))
        row = await cursor.fetchone()
        if row is not None and row["taken"]:
            break
        if time.monotonic() > give_up_at:
            raise StorageUnavailable("another process has been making the tables of checkpoints for ten minutes")
        await asyncio.sleep(_PAUSE_SECONDS)
    try:
        await work()
    finally:
        await _unlock(connection)


async def _unlock(connection: AsyncConnection[DictRow]) -> None:
    if not connection.broken and not connection.closed:
        try:
            await connection.execute("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        except psycopg.Error:
            await connection.close()
