"""The databases that every storage test is run on. A new one is a name and a branch here."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import psycopg
import sqlalchemy as sa

from roadworthy.storage.postgres import PostgresDatabase, Sizes, open_postgres
from roadworthy.storage.sqlite import SqliteDatabase, open_sqlite
from roadworthy.storage.transaction import Counters, Database, Row
from tests.support.postgres import PostgresServer, name_of

BACKENDS = ("sqlite", "postgres")
# What a unit raises when its parameters are not those of the statement.
PROGRAMMING_ERRORS = (sqlite3.ProgrammingError, psycopg.ProgrammingError)


# Units that write at once.
WRITERS = {"sqlite": 1, "postgres": Sizes().writers}

# Where databases are, for who looks at them beside the repositories.
_urls: "WeakKeyDictionary[PostgresDatabase, str]" = WeakKeyDictionary()


@dataclass(frozen=True)
class Templates:
    """Migrated, empty databases to copy: a file, and a server with the URL of one."""

    file: Path
    server: PostgresServer
    url: str


@asynccontextmanager
async def open_backend(name: str, templates: Templates, folder: Path) -> AsyncGenerator[Database]:
    """An empty, migrated database. ``folder``: a place of the test's own."""
    if name == "sqlite":
        async with open_sqlite(Path(shutil.copy(templates.file, folder / "roadworthy.db"))) as database:
            yield database
        return
    assert name == "postgres"
    url = templates.server.create(name_of(templates.url))
    try:
        async with open_postgres(url) as database:
            register(database, url)
            yield database
    finally:
        templates.server.drop(url)


def register(database: PostgresDatabase, url: str) -> None:
    """Say where a database is, so that ``look`` finds it."""
    _urls[database] = url


def url_of(database: PostgresDatabase) -> str:
    """Where it is."""
    return _urls[database]


async def settled(database: Database, backend: str) -> None:
    """Return when every unit that was handed over before has ended."""
    everybody = threading.Barrier(WRITERS[backend])
    async with asyncio.TaskGroup() as group:
        for _ in range(everybody.parties):
            group.create_task(database.write(lambda _tx: everybody.wait(30)))


def counters(database: Database) -> Counters:
    """The work that it has done."""
    assert isinstance(database, SqliteDatabase | PostgresDatabase)
    return database.counters


def look(database: Database, *selects: sa.SelectBase) -> list[Sequence[Row]]:
    """The rows of some queries without parameters, all of one moment."""
    if isinstance(database, SqliteDatabase):
        connection = database._here.connection  # pyright: ignore[reportPrivateUsage]
        connection.execute("BEGIN")
        found = [connection.execute(str(select)).fetchall() for select in selects]
        connection.execute("COMMIT")
        return list(found)
    assert isinstance(database, PostgresDatabase)
    with psycopg.connect(_urls[database]) as beside:
        beside.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return [beside.execute(str(select).encode()).fetchall() for select in selects]
