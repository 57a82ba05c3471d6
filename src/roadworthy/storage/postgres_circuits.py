"""``ports/circuits.py``'s store on Postgres: one row for each provider whose circuit is open, by the database's clock.

Used by ``engine/circuits.py`` once a second. A process that has SQLite for itself has nobody to tell.
"""

from collections.abc import Mapping
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from roadworthy.storage.parameters import INT, param
from roadworthy.storage.postgres_statements import NOW
from roadworthy.storage.tables import circuits
from roadworthy.storage.transaction import Database

_MICROSECOND = timedelta(microseconds=1)

_LIST = sa.select(circuits.c.provider, circuits.c.open_until - NOW, circuits.c.openings)
_new = insert(circuits).values(
    provider=param("provider"), open_until=NOW + param("lasts", INT), openings=param("openings", INT)
)
_OPEN = _new.on_conflict_do_update(
    index_elements=[circuits.c.provider],
    set_={
        "open_until": sa.func.greatest(circuits.c.open_until, _new.excluded.open_until),
        "openings": sa.func.greatest(circuits.c.openings, _new.excluded.openings),
    },
)
_CLOSE = sa.delete(circuits).where(circuits.c.provider == param("provider"))


class PostgresCircuits:
    """See the module."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def opened(self) -> Mapping[str, tuple[timedelta, int]]:
        """See the port."""
        rows = await self._database.read(lambda tx: tx.all(_LIST))
        return {provider: (lasts * _MICROSECOND, openings) for provider, lasts, openings in rows}

    async def open(self, provider: str, lasts: timedelta, openings: int) -> None:
        """See the port."""
        micros = lasts // _MICROSECOND
        await self._database.write(lambda tx: tx.run(_OPEN, provider=provider, lasts=micros, openings=openings))

    async def close(self, provider: str) -> None:
        """See the port."""
        await self._database.write(lambda tx: tx.run(_CLOSE, provider=provider))
