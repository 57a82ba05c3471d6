"""Connections to the Postgres that holds checkpoints, and what is done on one: a statement, or a unit of ``rows``.

``postgres_checkpoints`` and ``postgres_store`` use it. Everything done for an attempt is done only while the attempt
holds its run, which the same transaction looks up and locks: whoever takes the run over waits for the write, or the
write finds that the run is another's.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import lru_cache
from itertools import count
from typing import Any, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection, AsyncCursor, AsyncPipeline
from psycopg.rows import DictRow, tuple_row
from psycopg_pool import AsyncConnectionPool

from roadworthy.domain.errors import LeaseLost, StorageUnavailable
from roadworthy.runtimes.langgraph.postgres_errors import is_defect, is_lost, is_overtaken, translated
from roadworthy.runtimes.langgraph.rows import Fence, Found, Row, Unit

Done = TypeVar("Done")
Connection: TypeAlias = AsyncConnection[Any]
Cursor: TypeAlias = AsyncCursor[Any]
Pool: TypeAlias = AsyncConnectionPool[AsyncConnection[DictRow]]

# The run that an attempt holds, locked against whoever would take it. It finds nothing when somebody has.
HOLDS_RUN = (
    "SELECT 1 FROM runs WHERE run_id = %(fence_run)s AND tenant = %(fence_tenant)s AND owner = %(fence_owner)s "
    "AND attempt = %(fence_attempt)s AND status = 'running' FOR SHARE"
)
# The beginning of a statement that writes for an attempt, or for nobody.
_FENCED = f"WITH fence AS MATERIALIZED ({HOLDS_RUN}), "
_UNFENCED = "WITH fence AS MATERIALIZED (SELECT 1), "
_WRITTEN = " SELECT count(*) FROM fence"

_LOST = "the attempt lost its lease and may not write any more"
# Seconds between two tries; the longer the more there were.
_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
# Tries of what other transactions stand in the way of.
_TRIES = 5
# More than there are statements, times the sizes of their numbers.
_PREPARED = 400
_SESSION = "SET default_transaction_read_only = off; SET default_transaction_isolation = 'read committed'"


class PostgresRows:
    """``rows.Rows`` on a connection. In a ``pipeline`` what is asked for waits until somebody wants an answer."""

    def __init__(self, connection: Connection, pipeline: AsyncPipeline | None = None) -> None:
        self._connection = connection
        self._pipeline = pipeline

    async def all(self, statement: str, *values: object) -> Sequence[Row]:
        """See the protocol."""
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(_marked(statement), values)
            return await cursor.fetchall()

    async def run(self, statement: str, *values: object) -> int:
        """See the protocol."""
        async with self._connection.cursor() as cursor:
            await cursor.execute(_marked(statement), values)
            if self._pipeline is not None:
                await self._pipeline.sync()
            return cursor.rowcount

    async def lock(self, name: str) -> None:
        """See the protocol."""
        await self._connection.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number(name),))


class PostgresDatabase:
    """``rows.RowDatabase`` over a pool. Belongs to the event loop that opened it."""

    def __init__(self, pool: Pool, patience: timedelta) -> None:
        self.pool = pool
        self._patience = patience.total_seconds()

    async def fetch(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows of one statement, which may be executed again.

        Raises:
            StorageUnavailable: Postgres failed.
        """

        async def fetch(connection: Connection) -> Sequence[Row]:
            return await PostgresRows(connection).all(statement, *values)

        return await self._on_connection(fetch)

    async def run(self, statement: str, *values: object) -> int:
        """Change rows, in a statement that may be executed again. Returns how many. Raises as ``fetch``."""

        async def run(connection: Connection) -> int:
            return await PostgresRows(connection).run(statement, *values)

        return await self._on_connection(run)

    async def write(self, parts: str, values: Mapping[str, object], *, fence: Fence | None) -> None:
        """Execute ``parts``, the rest of a WITH clause whose statements all select from ``fence``; it may be executed
        again.

        Raises:
            LeaseLost: the attempt does not hold its run; nothing is written.
            StorageUnavailable: Postgres failed; StorageFull when its disk is full.
        """
        statement = (_UNFENCED if fence is None else _FENCED) + parts + _WRITTEN
        given = values if fence is None else {**values, **_holder(fence)}

        async def write(connection: Connection) -> bool:
            if fence is not None:
                fence.check_fence()
            async with connection.cursor(row_factory=tuple_row) as cursor:
                await cursor.execute(statement.encode(), given)
                return await cursor.fetchone() == (1,)

        if not await self._on_connection(write):
            raise LeaseLost(_LOST)

    async def transact(self, unit: Unit[Found], *, fence: Fence | None = None, harmless: bool = False) -> Found:
        """See the protocol. When the connection breaks in the commit, a unit that is not ``harmless`` may be stored all
        the same: the error says so.
        """
        committing = False

        async def transact(connection: Connection) -> Found:
            nonlocal committing
            committing = False
            async with connection.pipeline() as pipeline, connection.transaction():
                held = None if fence is None else await ask_for_run(connection, fence)
                found = await unit(PostgresRows(connection, pipeline))
                if held is not None:
                    await check_run(held)
                committing = True
            return found

        return await self._on_connection(transact, may_repeat=lambda: harmless or not committing)

    async def repeat(
        self, work: Callable[[], Awaitable[Done]], *, may_repeat: Callable[[], bool] | None = None
    ) -> Done:
        """Do ``work``, on connections that it takes itself; again when one was lost and it ``may_repeat``.

        Raises:
            StorageUnavailable: Postgres failed, or does not answer; StorageFull when its disk is full.
        """
        give_up_at = time.monotonic() + self._patience
        for tries in count(1):
            try:
                async with asyncio.timeout(self._patience * 2):
                    return await work()
            except psycopg.Error as error:
                if is_defect(error):
                    raise
                lost = is_lost(error)
                again = lost or (is_overtaken(error) and tries < _TRIES)
                if lost and may_repeat is not None and not may_repeat():
                    raise StorageUnavailable(
                        "the connection to the database of checkpoints broke: it may be stored or not"
                    ) from error
                if not again or time.monotonic() >= give_up_at:
                    raise translated(error) from error
            except TimeoutError as error:
                raise StorageUnavailable("the database of checkpoints does not answer") from error
            await asyncio.sleep(min(_LONGEST_PAUSE, _PAUSE * tries))
        raise AssertionError("counting does not end")

    async def _on_connection(
        self, work: Callable[[Connection], Awaitable[Done]], *, may_repeat: Callable[[], bool] | None = None
    ) -> Done:
        async def once() -> Done:
            async with self.pool.connection() as connection:
                return await work(connection)

        return await self.repeat(once, may_repeat=may_repeat)


async def ask_for_run(connection: Connection, fence: Fence) -> Cursor:
    """Until the end of the connection's transaction nobody else can take the attempt's run; ``check_run`` says whether
    somebody has.

    Raises:
        LeaseLost: this process knows it already.
    """
    fence.check_fence()
    return await connection.execute(HOLDS_RUN.encode(), _holder(fence))


async def check_run(held: Cursor) -> None:
    """Before the commit.

    Raises:
        LeaseLost: somebody has taken the run.
    """
    if await held.fetchone() is None:
        raise LeaseLost(_LOST)


def lock_number(name: str) -> int:
    """The number of an advisory lock. Two names with one number would only wait for each other in vain."""
    return int.from_bytes(hashlib.blake2b(f"roadworthy:{name}".encode(), digest_size=8).digest(), signed=True)


@asynccontextmanager
async def open_pool(conninfo: str, *, connections: int, patience: timedelta, name: str) -> AsyncGenerator[Pool]:
    """Connections, made when they are needed. Nothing is said about a server that cannot be reached."""
    pool: Pool = AsyncConnectionPool(
        conninfo,
        kwargs={"autocommit": True, "prepare_threshold": 0},
        min_size=0,
        max_size=connections,
        open=False,
        configure=_configure,
        name=name,
        timeout=patience.total_seconds(),
        max_waiting=5_000,
        reconnect_timeout=patience.total_seconds(),
    )
    await pool.open()
    try:
        yield pool
    finally:
        await pool.close()


async def _configure(connection: Connection) -> None:
    connection.prepared_max = _PREPARED
    await connection.execute(_SESSION, prepare=False)


def _holder(fence: Fence) -> Mapping[str, object]:
    return {
        "fence_run": fence.run_id,
        "fence_tenant": fence.owner.tenant,
        "fence_owner": fence.owner.user,
        "fence_attempt": fence.attempt,
    }


@lru_cache(maxsize=256)
def _marked(statement: str) -> bytes:
    """The statement with the driver's own marks for parameters."""
    return statement.replace("?", "%s").encode()
