"""Processes of a cluster in miniature: event logs of their own on one database and, maybe, one Redis."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import timedelta
from types import TracebackType
from typing import Self

from roadworthy.domain.event import Event, EventId
from roadworthy.domain.run import Run
from roadworthy.ports.event_log import EventLog, EventWriter
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.flusher import LINGER, RETRY
from roadworthy.storage.live_events import NoLiveEvents
from roadworthy.storage.redis_connection import RedisServer, RedisTimes
from roadworthy.storage.redis_events import RedisEvents, Retention
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import delta
from tests.support.telemetry import NotedTelemetry

SHORT = timedelta(milliseconds=20)
QUICK = RedisTimes(connect=timedelta(seconds=1), answer=timedelta(seconds=1))
# The database and how processes see each other's events: not at all, by looking into it, over Redis.
LOG_KINDS = (
    ("sqlite", "alone"),
    ("sqlite", "redis"),
    ("postgres", "alone"),
    ("postgres", "polling"),
    ("postgres", "redis"),
)


class RedisLog(SqlEventLog):
    """The log of a process of a cluster, with its connection. Not entered, it only looks into the database."""

    def __init__(
        self,
        database: Database,
        url: str,
        *,
        linger: timedelta = SHORT,
        retry: timedelta = RETRY,
        retention: Retention | None = None,
    ) -> None:
        self.telemetry = NotedTelemetry()
        self.server = RedisServer(url, self.telemetry, times=QUICK, connections=4)
        self.events = RedisEvents(self.server, retention=retention)
        super().__init__(database, SqlRunStore(database), linger=linger, retry=retry, live=self.events)

    async def __aenter__(self) -> Self:
        await self.events.__aenter__()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        await self.events.__aexit__(kind, error, traceback)
        await self.server.close()


class Logs:
    """Makes the event logs of processes that share a database. ``url``: of their Redis."""

    def __init__(self, kind: str, database: Database, url: str) -> None:
        self._kind = kind
        self._database = database
        self._url = url

    def __call__(
        self, database: Database | None = None, *, linger: timedelta = LINGER, retry: timedelta = RETRY
    ) -> SqlEventLog:
        """``database``: the same one as this process sees it."""
        database = database or self._database
        if self._kind == "redis":
            return RedisLog(database, self._url, linger=linger, retry=retry)
        live = NoLiveEvents() if self._kind == "polling" else None
        return SqlEventLog(database, SqlRunStore(database), linger=linger, retry=retry, live=live)


class Reader:
    """A client of a replica: what it has seen so far, and that it may wait for more."""

    def __init__(self, group: asyncio.TaskGroup, log: EventLog, run: Run, after: EventId | None = None) -> None:
        self.seen: list[Event] = []
        self._more = asyncio.Event()
        self._task = group.create_task(self._read(log, run, after))

    async def _read(self, log: EventLog, run: Run, after: EventId | None) -> None:
        async with aclosing(log.follow(run, after=after)) as batches:
            async for batch in batches:
                self.seen.extend(batch)
                self._more.set()

    async def until(self, count: int) -> None:
        while len(self.seen) < count:
            self._more.clear()
            await self._more.wait()

    async def end(self) -> Sequence[Event]:
        await self._task
        return self.seen


def say(writer: EventWriter, *texts: str) -> None:
    for text in texts:
        writer.append(delta(text))


def numbers(count: int) -> list[str]:
    return [f"1-1-{n}" for n in range(1, count + 1)]
