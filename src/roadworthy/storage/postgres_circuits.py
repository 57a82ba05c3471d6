"""``ports/circuits.py``'s store on Postgres: one row for each provider whose circuit is open, by the database's clock.

Used by ``engine/circuits.py`` once a second. A process that has SQLite for itself has nobody to tell.
"""

from collections.abc import Mapping
from datetime import timedelta

from roadworthy.storage import postgres_statements as sql
from roadworthy.storage.transaction import Database

_MICROSECOND = timedelta(microseconds=1)


class PostgresCircuits:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def opened(self) -> Mapping[str, tuple[timedelta, int]]:
        """See the port."""
        rows = await self._database.read(lambda tx: tx.all(sql.LIST_CIRCUITS))
        return {provider: (lasts * _MICROSECOND, openings) for provider, lasts, openings in rows}

    async def open(self, provider: str, lasts: timedelta, openings: int) -> None:
        """See the port."""
        micros = lasts // _MICROSECOND
        await self._database.write(
            lambda tx: tx.run(sql.OPEN_CIRCUIT, provider=provider, lasts=micros, openings=openings)
        )

    async def close(self, provider: str) -> None:
        """See the port."""
        await self._database.write(lambda tx: tx.run(sql.CLOSE_CIRCUIT, provider=provider))
