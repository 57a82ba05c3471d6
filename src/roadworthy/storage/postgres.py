"""The Postgres executor: units of work in threads, each with its own connection. Made by ``bootstrap.py``, used by
repositories.

What reads by key, what reads much and what writes have threads apart, so that none of them waits for another kind.
Every unit that writes is a transaction of its own (``READ COMMITTED``); what it needs to have for itself it locks, see
``docs/adr/0017-on-postgres-units-lock-what-they-need.md``.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from roadworthy.storage.postgres_connection import PostgresText, Timeouts, connect
from roadworthy.storage.postgres_lanes import Lanes
from roadworthy.storage.postgres_session import Session
from roadworthy.storage.transaction import Counters, T, Unit

PATIENCE = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Connections of one process, by what they are for."""

    writers: int = 6
    readers: int = 3
    scanners: int = 1


class PostgresDatabase:
    """``transaction.Database`` on a server. Belongs to the event loop that made it; see ``open_postgres``."""

    in_line = False

    def __init__(self, url: str, *, sizes: Sizes, timeouts: Timeouts, patience: timedelta) -> None:
        text = self._text = PostgresText()
        self._url = url

        def sessions(count: int, times: Timeouts = timeouts) -> list[Session]:
            return [Session(partial(connect, url, times), text) for _ in range(count)]

        patient = replace(timeouts, statement=timeouts.statement * 3)
        self._writers = Lanes("writer", sessions(sizes.writers), Session.write, patience=patience)
        self._readers = Lanes("reader", sessions(sizes.readers), Session.read, patience=patience)
        self._scanners = Lanes("scanner", sessions(sizes.scanners, patient), Session.read, patience=patience)

    @property
    def counters(self) -> Counters:
        """For the benchmark."""
        return Counters(
            transactions=self._writers.transactions,
            written=self._writers.statements,
            read=self._readers.statements + self._scanners.statements,
        )

    async def write(self, unit: Unit[T]) -> T:
        """See ``transaction.Database``. When the connection breaks in the commit, the unit may be stored all the same:
        the error says so.
        """
        value: T = await self._writers.submit(unit)
        return value

    async def read(self, unit: Unit[T], *, scan: bool = False) -> T:
        """See ``transaction.Database``."""
        lanes = self._scanners if scan else self._readers
        value: T = await lanes.submit(unit)
        return value

    def session(self, timeouts: Timeouts) -> Session:
        """A connection for a thread that is not of the database's own; who asks for it closes it."""
        return Session(partial(connect, self._url, timeouts), self._text)

    async def close(self) -> None:
        """See ``transaction.Database``."""
        for lanes in (self._writers, self._readers, self._scanners):
            await lanes.stop()


@asynccontextmanager
async def open_postgres(
    url: str, *, sizes: Sizes | None = None, timeouts: Timeouts | None = None, patience: timedelta = PATIENCE
) -> AsyncGenerator[PostgresDatabase]:
    """Open a migrated database (``postgres_schema.migrate``) for the running event loop. It connects when it has to.

    ``patience``: how long a unit waits for a connection, and for a server that does not answer.
    """
    database = PostgresDatabase(url, sizes=sizes or Sizes(), timeouts=timeouts or Timeouts(), patience=patience)
    try:
        yield database
    finally:
        await database.close()
