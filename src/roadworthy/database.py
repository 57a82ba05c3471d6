"""The database that the settings name, SQLite in the data folder or Postgres: its schema, and how it is opened.

Called by ``bootstrap.py`` for a server and by the CLI beside one; what is yielded is ``storage/transaction.py``'s
``Database``, whichever it is. Only here is one told from the other.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

from roadworthy.domain.errors import ConfigError, StorageUnavailable
from roadworthy.settings import Settings
from roadworthy.storage import schema
from roadworthy.storage.folder import DataFolder, open_folder
from roadworthy.storage.sqlite import open_sqlite
from roadworthy.storage.transaction import Database

LATEST = schema.REVISIONS[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A database before it is opened. ``name`` is for an operator and holds no secret.

    ``program``: what keeps it, with its version. ``revision`` and ``migrate``: see ``storage/schema.py``. These three
    block. ``migrates_itself``: whether opening it may change
    the schema. ``shared``: whether several servers may use it, of several versions for a while.
    """

    name: str
    program: Callable[[], str]
    revision: Callable[[], str | None]
    migrate: Callable[[], None]
    open: Callable[[], AbstractAsyncContextManager[Database]]
    migrates_itself: bool
    shared: bool

    def problem(self, revision: str | None) -> str | None:
        """Why this code cannot use the database at that revision, even after ``migrate``; None when it can."""
        return schema.revision_problem(revision, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """What ``migrate_database`` did. ``before`` is None for a new database."""

    name: str
    before: str | None
    after: str | None


def source_of(settings: Settings, folder: DataFolder) -> Source:
    """The database that the settings name.

    Raises:
        ConfigError: the address is none, or the driver is not installed.
    """
    if settings.database_url is not None:
        return _postgres(settings.database_url.get_secret_value(), migrates_itself=settings.auto_migrate)
    file = folder.database
    return Source(
        name=str(file),
        program=lambda: f"SQLite {sqlite3.sqlite_version}",
        revision=partial(schema.revision, file),
        migrate=partial(schema.migrate, file),
        open=partial(open_sqlite, file),
        migrates_itself=True,
        shared=False,
    )


@asynccontextmanager
async def open_database(settings: Settings, folder: DataFolder, *, owned: bool = False) -> AsyncGenerator[Database]:
    """The database, at a schema that this code can use, for the running event loop. On SQLite the folder is made.

    ``owned``: for a server. On SQLite it must be the only one, which a lock on the folder sees to.

    Raises:
        ConfigError: it is another server's, the folder cannot be written, or the schema must be migrated first, or is
            unknown.
        StorageUnavailable, StorageFull: it cannot be used at the moment.
    """
    source = _reachable(source_of(settings, folder), folder)
    async with AsyncExitStack() as stack:
        if owned and not source.shared:
            stack.enter_context(folder.locked())
        # Apart, because a locked database is waited for, and the process must stay alive and stoppable.
        await asyncio.to_thread(_prepare, source)
        yield await stack.enter_async_context(source.open())


def migrate_database(settings: Settings, folder: DataFolder) -> Migration:
    """Bring the database to the schema of this code. One that is further on already is left as it is.

    Raises:
        ConfigError: its schema is unknown, or the folder cannot be written.
        StorageUnavailable, StorageFull: it cannot be used at the moment.
    """
    source = _reachable(source_of(settings, folder), folder)
    before = source.revision()
    problem = source.problem(before)
    if problem is not None:
        raise ConfigError(problem)
    if is_behind(before):
        source.migrate()
    return Migration(name=source.name, before=before, after=source.revision())


def is_behind(revision: str | None) -> bool:
    """Whether ``migrate`` has something to do."""
    return revision is None or revision in schema.REVISIONS[:-1]


def _reachable(source: Source, folder: DataFolder) -> Source:
    if not source.shared:
        open_folder(folder.path)
    return source


def _prepare(source: Source) -> None:
    revision = source.revision()
    problem = source.problem(revision)
    if problem is not None:
        # Of a shared database this may be the state in the middle of a roll-out, and nothing to end the process for.
        raise StorageUnavailable(problem) if source.shared else ConfigError(problem)
    if not is_behind(revision):
        return
    if not source.migrates_itself:
        found = "is empty" if revision is None else f"has the schema {revision}, and this version needs {LATEST}"
        raise ConfigError(
            f"{source.name} {found}: run `roadworthy migrate`, or let ROADWORTHY_AUTO_MIGRATE=true do it at a start"
        )
    source.migrate()


def _postgres(url: str, *, migrates_itself: bool) -> Source:
    try:
        from psycopg import ProgrammingError, conninfo

        from roadworthy.storage import postgres_schema
        from roadworthy.storage.postgres import open_postgres
    except ImportError as error:
        raise ConfigError(
            f"ROADWORTHY_DATABASE_URL needs the extra `cluster`: pip install 'roadworthy[cluster]' ({error})"
        ) from error
    try:
        given = conninfo.conninfo_to_dict(url)
    except ProgrammingError:
        # The driver's own message may quote the password.
        raise ConfigError(
            "ROADWORTHY_DATABASE_URL is no address: write postgresql://user:password@host:5432/database, with each of "
            "@ : / ? # % in a user or a password percent-encoded"
        ) from None
    place = ":".join(str(given[part]) for part in ("host", "port") if part in given)
    return Source(
        name=f"the Postgres database {given.get('dbname') or given.get('user') or ''} at {place or 'localhost'}",
        program=lambda: f"Postgres {postgres_schema.server_version(url)}",
        revision=partial(postgres_schema.revision, url),
        migrate=partial(postgres_schema.migrate, url),
        open=partial(open_postgres, url),
        migrates_itself=migrates_itself,
        shared=True,
    )
