"""LangGraph's store in Postgres tables. ``runtime`` opens it, ``store`` divides it by owner.

An attempt's items are written only while it holds its run, as its checkpoints are.
"""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import psycopg
from langgraph.store.base import Op, PutOp, Result
from langgraph.store.postgres.aio import AsyncPostgresStore
from langgraph.store.postgres.base import PostgresIndexConfig
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import DictRow, dict_row

from roadworthy.domain.errors import ConfigError
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.postgres import Pool, PostgresDatabase, ask_for_run, check_run, open_pool
from roadworthy.runtimes.langgraph.postgres_errors import postgres_errors
from roadworthy.runtimes.langgraph.postgres_items import PostgresItems
from roadworthy.runtimes.langgraph.postgres_tables import are_complete, prepare_tables
from roadworthy.runtimes.langgraph.state_places import PostgresTables
from roadworthy.runtimes.langgraph.store import OwnedStore, StoreConfig, StoreScope

_EXTENSION = "SELECT 1 FROM pg_available_extensions WHERE name = 'vector'"


class _Noted:
    """Stands in for a cursor: notes statements, to be executed all together."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, Sequence[object]]] = []

    async def execute(self, query: str, params: Sequence[object]) -> None:
        self.statements.append((query, params))


class FencedPostgresStore(AsyncPostgresStore):
    """LangGraph's store whose writes are one transaction, in which the attempt still holds its run."""

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """As inherited.

        Raises:
            LeaseLost: the attempt does not hold its run any more; nothing is written.
            StorageUnavailable: Postgres failed.
        """
        with postgres_errors():
            return await super().abatch(ops)

    async def _batch_put_ops(self, put_ops: Sequence[tuple[int, PutOp]], cur: AsyncCursor[DictRow]) -> None:
        # First the embeddings, which take as long as their provider likes.
        noted = _Noted()
        await super()._batch_put_ops(put_ops, cast("AsyncCursor[DictRow]", noted))
        scope = current_attempt.get()
        async with cur.connection.transaction():
            if scope is not None:
                await check_run(await ask_for_run(cur.connection, scope))
            for query, params in noted.statements:
                await cur.execute(query.encode(), params)

    @asynccontextmanager
    async def _cursor(self, *, pipeline: bool = False) -> AsyncGenerator[AsyncCursor[DictRow]]:  # noqa: ARG002 -- LangGraph's
        # Not as a pipeline, whose statements are one transaction from the first on.
        pool = cast("Pool", self.conn)
        async with (
            pool.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            yield cursor


@asynccontextmanager
async def open_postgres_store(
    place: PostgresTables, *, scope: StoreScope, config: StoreConfig
) -> AsyncGenerator[OwnedStore]:
    """Open the store; all tables of agents' state are made, if they are missing.

    Raises:
        ConfigError: the index cannot be set up.
        StorageUnavailable: the database does not answer.
    """
    index = _index_of(config)
    pool = open_pool(place.conninfo, connections=place.connections, patience=place.patience, name="store")
    async with pool as opened:
        try:
            inner = FencedPostgresStore(opened, index=index, ttl=config.ttl)
        except (ImportError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the store's index cannot be set up: {error}") from error
        await prepare_state(place, config)
        async with inner:
            if config.ttl is not None:
                await inner.start_ttl_sweeper()
            yield OwnedStore(inner, PostgresItems(PostgresDatabase(opened, place.patience)), scope)


async def prepare_state(place: PostgresTables, config: StoreConfig) -> None:
    """Make the tables of agents' state that are missing: a role that may not make any finds them there afterwards.

    Raises:
        ConfigError: the index cannot be set up, or this role may not make tables.
        StorageUnavailable: the database does not answer.
    """
    index = _index_of(config)
    if index is not None:
        await _check_extension(place.conninfo)
    try:
        await prepare_tables(place.conninfo, index=index)
    except (ImportError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the store's index cannot be set up: {error}") from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise ConfigError(
            f"the tables of agents' state cannot be made: {error}: run `roadworthy migrate` as a role that may"
        ) from error


async def state_is_prepared(place: PostgresTables, config: StoreConfig) -> bool:
    """Whether all tables of agents' state are there, for a role that may not make any.

    Raises:
        ConfigError: the index cannot be set up.
        StorageUnavailable: the database does not answer.
    """
    try:
        return await are_complete(place.conninfo, index=_index_of(config))
    except (ImportError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"the store's index cannot be set up: {error}") from error


def _index_of(config: StoreConfig) -> PostgresIndexConfig | None:
    # SQLite's words for an index are the same.
    return None if config.index is None else cast("PostgresIndexConfig", dict(config.index))


async def _check_extension(conninfo: str) -> None:
    with postgres_errors():
        connection: AsyncConnection[Any] = await AsyncConnection.connect(conninfo, autocommit=True)
        async with connection:
            found = await (await connection.execute(_EXTENSION)).fetchone()
    if found is None:
        raise ConfigError("the store's index needs the extension pgvector on the Postgres server, which has none")
