"""A line between the processes of a cluster without Redis: LISTEN and NOTIFY. Carries what ``wakeups.py`` says.

Two connections of its own, straight to the server: a pooler that lends connections by transaction delivers nothing.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

import psycopg
from psycopg import sql

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.ports.telemetry import Telemetry
from roadworthy.storage.postgres_connection import Timeouts, connection_info, translated
from roadworthy.storage.wakeups import CHANNEL

_NOTE_EVERY = timedelta(minutes=1)


class PostgresLine:
    """``wakeups.Line``. An async context, which lets go of the sending connection. ``idle``: for how long a silent line
    is believed.
    """

    def __init__(
        self,
        url: str,
        telemetry: Telemetry,
        *,
        timeouts: Timeouts | None = None,
        idle: timedelta = timedelta(seconds=15),
    ) -> None:
        self._conninfo = connection_info(url, timeouts or Timeouts(), name="roadworthy wakeups")
        self._telemetry = telemetry
        self._idle = idle.total_seconds()
        self._answer = (timeouts or Timeouts()).connect.total_seconds()
        self._sending: psycopg.AsyncConnection[tuple[object, ...]] | None = None
        self._told: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._hang_up()

    async def send(self, text: str) -> None:
        """See the protocol."""
        try:
            with _translated():
                async with asyncio.timeout(self._answer):
                    if self._sending is None:
                        self._sending = await self._connect()
                    await self._sending.execute("SELECT pg_notify(%s, %s)", (CHANNEL, text))
        except StorageUnavailable:
            await self._hang_up()
            raise

    async def listen(self) -> AsyncGenerator[str | None, None]:
        """See the protocol. A silent line is asked whether it is still there."""
        with _translated():
            async with asyncio.timeout(self._answer):
                connection = await self._connect()
        try:
            with _translated():
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
            yield None
            while True:
                with _translated():
                    heard = [one.payload async for one in connection.notifies(timeout=self._idle, stop_after=1)]
                    if not heard:
                        async with asyncio.timeout(self._answer):
                            await connection.execute("SELECT 1")
                for text in heard:
                    yield text
        finally:
            await connection.close()

    def failed(self, error: StorageUnavailable) -> None:
        """See the protocol."""
        now = time.monotonic()
        if self._told is None or now - self._told >= _NOTE_EVERY.total_seconds():
            self._told = now
            self._telemetry.worker_note("wakeups_unavailable", error=type(error.__cause__ or error).__name__)

    def worked(self) -> None:
        """See the protocol."""
        if self._told is not None:
            self._told = None
            self._telemetry.worker_note("wakeups_back")

    async def _connect(self) -> psycopg.AsyncConnection[tuple[object, ...]]:
        return await psycopg.AsyncConnection.connect(self._conninfo, autocommit=True)

    async def _hang_up(self) -> None:
        connection, self._sending = self._sending, None
        if connection is not None:
            await connection.close()


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except psycopg.Error as error:
        raise translated(error) from error
    except (OSError, TimeoutError) as error:
        raise StorageUnavailable("the database does not answer") from error
