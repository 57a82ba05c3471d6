"""LangGraph's store divided by owner: what an agent stores for one user, no other finds.

``sqlite_store`` and ``postgres_store`` open it, ``runtime`` gives it to every graph. The owner is the running
attempt's; outside of one nothing works.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar, cast

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
from langgraph.store.sqlite.base import SqliteIndexConfig

from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.failures import storage_errors
from roadworthy.runtimes.langgraph.keys import store_prefix
from roadworthy.runtimes.langgraph.store_items import ItemRow, item_json

Found = TypeVar("Found")
Namespace: TypeAlias = tuple[str, ...]
StoreScope: TypeAlias = Literal["user", "tenant"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreConfig:
    """``store`` of a ``langgraph.json``: how items are indexed for search, and how long they live."""

    index: SqliteIndexConfig | None = None
    ttl: TTLConfig | None = None


class StoredItems(Protocol):
    """What a database holds of one owner, read and deleted by range."""

    async def some(self, owner: Owner, after: ItemRow | None) -> Sequence[ItemRow]:
        """Rows behind another one, in their order; empty when there are no more."""
        ...

    async def erase_some(self, owner: Owner) -> tuple[int, bool]:
        """How many items went, and whether there may be more."""
        ...


class OwnedStore(BaseStore):
    """Every operation moved under the owner's prefix. All others of BaseStore's methods go through these two."""

    def __init__(self, inner: BaseStore, items: StoredItems, scope: StoreScope) -> None:
        self._inner = inner
        self._items = items
        self._shared_by_tenant = scope == "tenant"
        self._loop = asyncio.get_running_loop()
        self.supports_ttl = inner.supports_ttl
        self.ttl_config = inner.ttl_config

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations for the attempt's owner.

        Raises:
            RuntimeError: no run is under way here.
            LeaseLost: the attempt's fence is up and something would be written.
            StorageUnavailable: the database failed.
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
            StorageUnavailable: the database failed.
        """
        items: list[JsonObject] = []
        last: ItemRow | None = None
        while not self._shared_by_tenant and (rows := await self._items.some(owner, last)):
            items.extend(map(item_json, rows))
            last = rows[-1]
        return items

    async def erase_items(self, owner: Owner) -> int:
        """Delete those. Errors as ``export_items``."""
        erased, more = 0, not self._shared_by_tenant
        while more:
            count, more = await self._items.erase_some(owner)
            erased += count
        return erased

    def _prefix(self) -> Namespace:
        scope = current_attempt.get()
        if scope is None:
            raise RuntimeError("the store belongs to the user of a run and works only inside of one")
        return store_prefix(scope.owner, shared_by_tenant=self._shared_by_tenant)


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
