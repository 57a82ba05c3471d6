"""LangGraph's store in a SQLite file. ``runtime`` opens it, ``store`` divides it by owner."""

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from langgraph.store.sqlite.aio import AsyncSqliteStore

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.failures import storage_errors
from roadworthy.runtimes.langgraph.sqlite import Connection, Work, open_file
from roadworthy.runtimes.langgraph.store import OwnedStore, StoreConfig, StoreScope
from roadworthy.runtimes.langgraph.store_items import ItemRow, erase_some_items, some_items

Found = TypeVar("Found")


class _Items:
    """``store.StoredItems``, on the store's connection."""

    def __init__(self, inner: AsyncSqliteStore, connection: Connection) -> None:
        self._inner = inner
        self._connection = connection

    async def some(self, owner: Owner, after: ItemRow | None) -> Sequence[ItemRow]:
        return await self._alone(partial(some_items, owner=owner, after=after))

    async def erase_some(self, owner: Owner) -> tuple[int, bool]:
        return await self._alone(partial(_erase_some, owner=owner))

    async def _alone(self, work: Work[Found]) -> Found:
        """While LangGraph has no transaction on the connection: it makes them in several trips."""
        async with self._inner.lock:
            return await self._connection.transact(work)


@asynccontextmanager
async def open_store(path: Path, *, scope: StoreScope, config: StoreConfig) -> AsyncGenerator[OwnedStore]:
    """Open the store in the file ``path``, made if missing.

    Raises:
        ConfigError: the index cannot be set up.
        StorageUnavailable: SQLite failed.
    """
    if config.index is not None and not hasattr(sqlite3.Connection, "enable_load_extension"):
        raise ConfigError("the store's index needs a Python whose sqlite3 can load extensions; this one's cannot")
    connection = Connection(lambda: open_file(path, isolation_level=None))
    with storage_errors():
        await connection
    try:
        try:
            inner = AsyncSqliteStore(connection, index=config.index, ttl=config.ttl)
        except (ImportError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"the store's index cannot be set up: {error}") from error
        with storage_errors():
            await inner.setup()
        async with inner:
            if config.ttl is not None:
                await inner.start_ttl_sweeper()
            yield OwnedStore(inner, _Items(inner, connection), scope)
    finally:
        await connection.close()


def _erase_some(connection: sqlite3.Connection, owner: Owner) -> tuple[int, bool]:
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")  # the store's connection begins none by itself; who called it commits
    return erase_some_items(connection, owner)
