"""LangGraph's store, in SQLite, divided by owner: what an agent stores for one user, no other finds.

``runtime`` opens it and gives it to every graph. The owner is the running attempt's; outside of one nothing works.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias, TypeVar, cast

from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchOp,
    TTLConfig,
)
from langgraph.store.sqlite.aio import AsyncSqliteStore
from langgraph.store.sqlite.base import SqliteIndexConfig

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.failures import storage_errors
from roadworthy.runtimes.langgraph.keys import store_prefix
from roadworthy.runtimes.langgraph.sqlite import Connection, Work, open_file
from roadworthy.runtimes.langgraph.store_items import ItemRow, erase_some_items, item_json, some_items

Found = TypeVar("Found")
Namespace: TypeAlias = tuple[str, ...]
StoreScope: TypeAlias = Literal["user", "tenant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """``store`` of a ``langgraph.json``: how items are indexed for search, and how long they live."""

    index: SqliteIndexConfig | None = None
    ttl: TTLConfig | None = None


class OwnedStore(BaseStore):
    """Every operation moved under the owner's prefix. All others of BaseStore's methods go through these two."""

    def __init__(self, inner: AsyncSqliteStore, connection: Connection, scope: StoreScope) -> None:
        self._inner = inner
        self._connection = connection
        self._shared_by_tenant = scope == "tenant"
        self._loop = asyncio.get_running_loop()
        self.supports_ttl = inner.supports_ttl
        self.ttl_config = inner.ttl_config

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations for the attempt's owner.

        Raises:
            RuntimeError: no run is under way here.
            LeaseLost: the attempt's fence is up and something would be written.
            StorageUnavailable: SQLite failed.
        """
        prefix = self._prefix()
        moved = [_moved(op, prefix) for op in ops]
        _check_fence(moved)
        with storage_errors():
            results = await self._inner.abatch(moved)
        return [_restored(result, len(prefix)) for result in results]

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """As ``abatch``, from threads.

        Raises:
            RuntimeError: called on the event loop, which it would block for ever.
        """
        if _on_loop(self._loop):
            raise RuntimeError("the store's sync methods work in threads only; here, await its async ones")
        return asyncio.run_coroutine_threadsafe(self.abatch(ops), self._loop).result()

    async def export_items(self, owner: Owner) -> Sequence[JsonObject]:
        """All items of an owner; none where a tenant shares its items: they are nobody's own.

        Raises:
            StorageUnavailable: SQLite failed.
        """
        items: list[JsonObject] = []
        last: ItemRow | None = None
        while not self._shared_by_tenant and (rows := await self._alone(partial(some_items, owner=owner, after=last))):
            items.extend(map(item_json, rows))
            last = rows[-1]
        return items

    async def erase_items(self, owner: Owner) -> int:
        """Delete those. Errors as ``export_items``."""
        erased, more = 0, not self._shared_by_tenant
        while more:
            count, more = await self._alone(partial(_erase_some, owner=owner))
            erased += count
        return erased

    async def _alone(self, work: Work[Found]) -> Found:
        """On the connection while LangGraph has no transaction on it: it makes them in several trips."""
        async with self._inner.lock:
            return await self._connection.transact(work)

    def _prefix(self) -> Namespace:
        scope = current_attempt.get()
        if scope is None:
            raise RuntimeError("the store belongs to the user of a run and works only inside of one")
        return store_prefix(scope.owner, shared_by_tenant=self._shared_by_tenant)


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
            yield OwnedStore(inner, connection, scope)
    finally:
        await connection.close()


def _erase_some(connection: sqlite3.Connection, owner: Owner) -> tuple[int, bool]:
    if not connection.in_transaction:
        connection.execute("BEGIN IMMEDIATE")  # the store's connection begins none by itself; who called it commits
    return erase_some_items(connection, owner)


def _moved(op: Op, prefix: Namespace) -> Op:
    if isinstance(op, GetOp | PutOp):
        return op._replace(namespace=(*prefix, *op.namespace))
    if isinstance(op, SearchOp):
        return op._replace(namespace_prefix=(*prefix, *op.namespace_prefix))
    return _moved_listing(op, prefix)


def _moved_listing(op: ListNamespacesOp, prefix: Namespace) -> ListNamespacesOp:
    conditions = [
        MatchCondition("prefix", (*prefix, *condition.path)) if condition.match_type == "prefix" else condition
        for condition in op.match_conditions or ()
    ]
    depth = None if op.max_depth is None else op.max_depth + len(prefix)
    return op._replace(match_conditions=(MatchCondition("prefix", prefix), *conditions), max_depth=depth)


def _restored(result: Result, length: int) -> Result:
    if isinstance(result, Item):
        result.namespace = tuple(result.namespace)[length:]
        return result
    if isinstance(result, list):
        return cast("Result", [_restored_one(one, length) for one in result])
    return result


def _restored_one(one: Item | Namespace, length: int) -> object:
    return one[length:] if isinstance(one, tuple) else _restored(one, length)


def _check_fence(ops: Sequence[Op]) -> None:
    scope = current_attempt.get()
    if scope is not None and any(isinstance(op, PutOp) for op in ops):
        scope.check_fence()


def _on_loop(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
