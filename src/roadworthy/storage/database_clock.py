"""``ports/clock.py`` in step with the database, for processes that share one: their own clocks may be an hour apart.

Deadlines are set by one process and looked at by another, so all of them must mean the same moment. Between two looks
at the database time passes by the machine's monotonic clock, which nobody sets.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage import postgres_statements as sql
from roadworthy.storage.rows import moment
from roadworthy.storage.transaction import Database

_LOOK_EVERY = timedelta(seconds=30)
# An answer that took longer says too little about the present.
_TOO_LONG = 1.0


class DatabaseClock:
    """Made by ``clock_of``."""

    def __init__(self, database: Database, monotonic: Callable[[], float]) -> None:
        self._database = database
        self._monotonic = monotonic
        self._moment = datetime.min.replace(tzinfo=UTC)
        self._at = 0.0

    def now(self) -> datetime:
        """The present moment by the database's clock, aware, UTC."""
        return self._moment + timedelta(seconds=self._monotonic() - self._at)

    def monotonic(self) -> float:
        """Seconds from an arbitrary start, never going back."""
        return self._monotonic()

    async def look(self, *, patience: float = _TOO_LONG) -> None:
        """Look at the database's clock. An answer that has taken longer than ``patience`` changes nothing.

        Raises:
            StorageUnavailable: the database does not answer.
        """
        begun = self._monotonic()
        row = await self._database.read(lambda tx: tx.one(sql.DATABASE_TIME))
        ended = self._monotonic()
        if row is not None and ended - begun <= patience:
            self._moment, self._at = moment(int(row[0])), (begun + ended) / 2

    async def keep(self) -> None:
        """Stay in step until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_EVERY.total_seconds())
            with suppress(StorageUnavailable):  # the monotonic clock goes on
                await self.look()


async def clock_of(database: Database, monotonic: Callable[[], float] = time.monotonic) -> DatabaseClock:
    """The clock of a Postgres database, already in step.

    Raises:
        StorageUnavailable: the database does not answer.
    """
    clock = DatabaseClock(database, monotonic)
    await clock.look(patience=float("inf"))
    return clock
