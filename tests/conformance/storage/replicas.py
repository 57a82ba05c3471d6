"""Processes of a cluster in miniature: event logs of their own on one database and, maybe, one Redis."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.live_events import NoLiveEvents
from roadworthy.storage.redis_connection import RedisTimes, open_redis
from roadworthy.storage.redis_events import RedisEvents, Retention
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.transaction import Database
from tests.support.telemetry import NotedTelemetry

QUICK = RedisTimes(connect=timedelta(seconds=1), answer=timedelta(seconds=1))


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
