"""What an operator reads and settles of agents' state beside a running server: reviews, and the items of a user.

The CLI's ``runs`` and ``users`` use it; the server itself goes by ``runtime``. Nothing here needs LangGraph, so that
commands are fast.
"""

import sqlite3
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import datetime
from pathlib import Path
from typing import assert_never

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.runtimes.langgraph.keys import CHECKPOINTS_FILE, thread_key
from roadworthy.runtimes.langgraph.rows import Fence, Found, RowDatabase, Rows, Unit
from roadworthy.runtimes.langgraph.sqlite_rows import BYTES, SqliteRows, finished
from roadworthy.runtimes.langgraph.state_places import PostgresTables, SqliteFolder, StatePlace
from roadworthy.runtimes.langgraph.store_items import STORE_FILE, ItemRow, item_json, items_in_file
from roadworthy.runtimes.langgraph.tool_rows import create_tool_rows, resolve_row, reviews_of

_BUSY_SECONDS = 10.0


async def reviews_in(place: StatePlace, run: Run) -> Sequence[ToolReview]:
    """The open reviews of a run.

    Raises:
        StorageUnavailable: they cannot be read.
    """
    async with _opened(place) as database:
        return await database.transact(lambda rows: _of_run(rows, run))


async def resolve_in(place: StatePlace, run: Run, tool_call_id: str, resolution: Resolution, now: datetime) -> bool:
    """Say what became of a tool call of a run, in one transaction. False when the run asks for no review of it.

    Raises:
        StorageUnavailable: it cannot be written.
    """

    async def resolve(rows: Rows) -> bool:
        asked = {one.tool_call_id for one in await _of_run(rows, run)}
        return tool_call_id in asked and await resolve_row(rows, _key(run), tool_call_id, resolution, now)

    async with _opened(place) as database:
        return await database.transact(resolve)


async def items_in(place: StatePlace, owner: Owner) -> Sequence[JsonObject]:
    """All that agents keep of an owner.

    Raises:
        StorageUnavailable: it cannot be read.
    """
    match place:
        case SqliteFolder(path=folder):
            return list(items_in_file(folder / STORE_FILE, owner))
        case PostgresTables():
            return await _items_on_postgres(place, owner)
        case _:
            assert_never(place)


async def _items_on_postgres(place: PostgresTables, owner: Owner) -> Sequence[JsonObject]:
    # With the extra `cluster` only.
    from roadworthy.runtimes.langgraph.postgres import PostgresDatabase, open_pool
    from roadworthy.runtimes.langgraph.postgres_items import PostgresItems

    async with open_pool(place.conninfo, connections=1, patience=place.patience, name="operator") as pool:
        items, found = PostgresItems(PostgresDatabase(pool, place.patience)), list[ItemRow]()
        while rows := await items.some(owner, found[-1] if found else None):
            found.extend(rows)
        return list(map(item_json, found))


@asynccontextmanager
async def _opened(place: StatePlace) -> AsyncGenerator[RowDatabase]:
    match place:
        case SqliteFolder(path=folder):
            yield _File(folder / CHECKPOINTS_FILE)
        case PostgresTables():
            from roadworthy.runtimes.langgraph.postgres import PostgresDatabase, open_pool

            async with open_pool(place.conninfo, connections=1, patience=place.patience, name="operator") as pool:
                yield PostgresDatabase(pool, place.patience)
        case _:
            assert_never(place)


class _File:
    """``rows.RowDatabase`` over a connection for each transaction, in a process that does nothing else."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def transact(self, unit: Unit[Found], *, fence: Fence | None = None, harmless: bool = False) -> Found:  # noqa: ARG002 -- protocol
        """See the protocol. An operator has no attempt."""
        if not self._path.exists():
            raise StorageUnavailable(f"there is no file {self._path}")
        try:
            with closing(sqlite3.connect(self._path, timeout=_BUSY_SECONDS)) as connection, connection:
                finished(create_tool_rows(SqliteRows(connection), bytes_type=BYTES))
                return finished(unit(SqliteRows(connection)))
        except sqlite3.Error as error:
            raise StorageUnavailable(f"the file {self._path} cannot be used: {error}") from error


async def _of_run(rows: Rows, run: Run) -> Sequence[ToolReview]:
    return [one for one in await reviews_of(rows, _key(run)) if one.run_id == run.run_id]


def _key(run: Run) -> str:
    return thread_key(ThreadRef(owner=run.owner, thread_id=run.thread_id))
