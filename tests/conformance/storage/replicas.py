"""Processes of a cluster in miniature: event logs of their own on one database and, maybe, one Redis."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Self

from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.flusher import LINGER, RETRY
from roadworthy.storage.live_events import NoLiveEvents
from roadworthy.storage.redis_connection import RedisServer, RedisTimes, open_redis
from roadworthy.storage.redis_events import RedisEvents, Retention
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.transaction import Database
from tests.support.telemetry import NotedTelemetry

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

    def __init__(self, database: Database, url: str, *, linger: timedelta, retry: timedelta) -> None:
        self.server = RedisServer(url, NotedTelemetry(), times=QUICK, connections=4)
        self._events = RedisEvents(self.server)
        super().__init__(database, SqlRunStore(database), linger=linger, retry=retry, live=self._events)

    async def __aenter__(self) -> Self:
        await self._events.__aenter__()
        return await super().__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await super().__aexit__(kind, error, traceback)
        await self._events.__aexit__(kind, error, traceback)
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


@asynccontextmanager
async def replica(
    database: Database,
    url: str | None,
    *,
    linger: timedelta = timedelta(milliseconds=20),
    telemetry: NotedTelemetry | None = None,
    retention: Retention | None = None,
    times: RedisTimes = QUICK,
) -> AsyncGenerator[SqlEventLog]:
    """One process's event log. ``url`` None: without Redis."""
    runs = SqlRunStore(database)
    if url is None:
        async with SqlEventLog(database, runs, linger=linger, live=NoLiveEvents()) as log:
            yield log
        return
    async with (
        open_redis(url, telemetry or NotedTelemetry(), times=times) as server,
        RedisEvents(server, retention=retention) as live,
        SqlEventLog(database, runs, linger=linger, live=live) as log,
    ):
        yield log
