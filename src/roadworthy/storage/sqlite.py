"""The SQLite executor: one writer thread, readers apart. Made by ``bootstrap.py`` and the CLI, used by repositories.

Looks-up by key are answered at once on the event loop's own thread: in WAL mode a reader waits for nobody, and the way
to another thread and back costs more than the read. What may look at many rows goes to a reader thread.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.sqlite_connection import SqliteText, SqliteTransaction, connect, is_busy, translated
from roadworthy.storage.sqlite_writer import SqliteWriter
from roadworthy.storage.transaction import Counters, T, Unit

PATIENCE = timedelta(seconds=10)


class SqliteDatabase:
    """``transaction.Database`` on one file. Belongs to the event loop that made it; see ``open_sqlite``."""

    in_line = True

    def __init__(self, path: Path, *, patience: timedelta) -> None:
        text = SqliteText()
        self._here = SqliteTransaction(connect(path, read_only=True, patience=timedelta(0)), text)
        self._apart = SqliteTransaction(connect(path, read_only=True, patience=patience), text)
        try:
            self._writer = SqliteWriter(path, text, patience=patience)
        except sqlite3.Error:
            self._here.connection.close()
            self._apart.connection.close()
            raise
        # One thread: its connection is used by one unit at a time.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="sqlite-reader")
        self._closed = False

    @property
    def counters(self) -> Counters:
        """For the benchmark."""
        return Counters(
            transactions=self._writer.transactions,
            written=self._writer.statements,
            read=self._here.statements + self._apart.statements,
        )

    async def write(self, unit: Unit[T]) -> T:
        """See ``transaction.Database``."""
        value: T = await self._writer.submit(unit)
        return value

    async def read(self, unit: Unit[T], *, scan: bool = False) -> T:
        """See ``transaction.Database``."""
        if self._closed:
            raise StorageUnavailable("the database is closed")
        if not scan:
            try:
                return unit(self._here)
            except sqlite3.ProgrammingError:
                raise  # a defect of ours, which must look like one
            except sqlite3.Error as error:
                if not is_busy(error):
                    raise translated(error) from error
                # Rare: another process recovers the log. Wait for it elsewhere.
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reader, unit, self._apart)
        except sqlite3.ProgrammingError:
            raise
        except sqlite3.Error as error:
            raise translated(error) from error

    async def close(self) -> None:
        """See ``transaction.Database``."""
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._reader, self._apart.connection.close)
        self._reader.shutdown()
        self._here.connection.close()
        await self._writer.stop()


@asynccontextmanager
async def open_sqlite(path: Path, *, patience: timedelta = PATIENCE) -> AsyncGenerator[SqliteDatabase]:
    """Open a migrated database file (``schema.migrate``) for the running event loop.

    ``patience``: how long a unit waits for another process's lock.

    Raises:
        StorageUnavailable, StorageFull: the file cannot be opened.
    """
    try:
        database = SqliteDatabase(path, patience=patience)
    except sqlite3.Error as error:
        raise translated(error) from error
    try:
        yield database
    finally:
        await database.close()
