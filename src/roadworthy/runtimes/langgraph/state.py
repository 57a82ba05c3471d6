"""Opens the checkpointer and the store in the place where agents' state is kept. ``runtime`` uses it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import assert_never

from roadworthy.domain.errors import ConfigError
from roadworthy.runtimes.langgraph.checkpoints import open_checkpoints
from roadworthy.runtimes.langgraph.keys import CHECKPOINTS_FILE
from roadworthy.runtimes.langgraph.savers import FencedSaver
from roadworthy.runtimes.langgraph.sqlite_store import open_store
from roadworthy.runtimes.langgraph.state_places import PostgresTables, SqliteFolder, StatePlace
from roadworthy.runtimes.langgraph.store import OwnedStore, StoreConfig, StoreScope
from roadworthy.runtimes.langgraph.store_items import STORE_FILE


@asynccontextmanager
async def open_state(
    place: StatePlace, *, scope: StoreScope, config: StoreConfig
) -> AsyncGenerator[tuple[FencedSaver, OwnedStore]]:
    """Open both, made if missing.

    Raises:
        ConfigError: the store's index cannot be set up, or what Postgres needs is not installed.
        StorageUnavailable: a file or the database cannot be opened.
    """
    match place:
        case SqliteFolder(path=folder):
            async with (
                open_checkpoints(folder / CHECKPOINTS_FILE) as saver,
                open_store(folder / STORE_FILE, scope=scope, config=config) as store,
            ):
                yield saver, store
        case PostgresTables():
            try:
                from roadworthy.runtimes.langgraph.postgres_checkpoints import open_postgres_checkpoints
                from roadworthy.runtimes.langgraph.postgres_store import open_postgres_store
            except ImportError as error:
                raise ConfigError("state on Postgres needs the extra: pip install 'roadworthy[cluster]'") from error
            # The store first: it makes the tables of both.
            async with (
                open_postgres_store(place, scope=scope, config=config) as store,
                open_postgres_checkpoints(place) as saver,
            ):
                yield saver, store
        case _:
            assert_never(place)
