"""How long an event takes from the replica that executes a run to a reader on another one.

`.venv/bin/python -m benchmarks.crossing` starts a Postgres and a Valkey of its own. Two processes: this one writes the
runs' events at a token's pace, the other one follows all of them. Both read the same monotonic clock.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import CLOCK_MONOTONIC as CLOCK
from time import clock_gettime_ns, process_time

import uvloop

from benchmarks.cores import measured_core
from benchmarks.counting import Silence
from benchmarks.samples import milliseconds, percentile
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId, new_id
from roadworthy.domain.lease import Lease
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, Run, RunRequest, RunResult, RunStatus
from roadworthy.storage import postgres_schema
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.live_events import NoLiveEvents
from roadworthy.storage.postgres import PostgresDatabase, open_postgres
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.redis_connection import open_redis
from roadworthy.storage.redis_events import RedisEvents
from roadworthy.storage.runs import SqlRunStore
from roadworthy.telemetry.clock import SystemClock
from tests.support.postgres import postgres_server
from tests.support.valkey import valkey_server

_OWNER = Owner(tenant=TenantId("bench"), user=UserId("bench"))
_PACE = 0.02
_TOKENS = 150
_WITHOUT = "without"


@asynccontextmanager
async def _replica(postgres: str, redis: str) -> AsyncGenerator[tuple[PostgresDatabase, SqlEventLog]]:
    async with open_postgres(postgres) as database:
        runs = SqlRunStore(database)
        if redis == _WITHOUT:
            async with SqlEventLog(database, runs, live=NoLiveEvents()) as log:
                yield database, log
            return
        async with (
            open_redis(redis, Silence()) as server,
            RedisEvents(server) as live,
            SqlEventLog(database, runs, live=live) as log,
        ):
            yield database, log


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """``times``: seconds of each event; CPU in seconds of all of them."""

    times: Sequence[float]
    writing: float
    reading: float


def prepare(postgres: str) -> None:
    """Make the tables of an empty database."""
    postgres_schema.migrate(postgres)


async def cross(postgres: str, redis: str, count: int) -> Crossing:
    """Write so many runs at once here and follow them in another process."""
    async with _replica(postgres, redis) as (database, log):
        queue = SqlRunQueue(database, SystemClock())
        runs = [
            (await queue.accept(_new(), claim_for="here", max_pending=0, idempotency=None)).run for _ in range(count)
        ]
        words = ["-m", "benchmarks.crossing", "follow", postgres, redis, *(run.run_id for run in runs)]
        with measured_core():
            child = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.PIPE)
        assert child.stdout is not None
        await child.stdout.readline()
        used = process_time()
        async with asyncio.TaskGroup() as group:
            for run in runs:
                group.create_task(_play(queue, log, run))
        used = process_time() - used
        seen = json.loads(await child.stdout.read())
        await child.wait()
    return Crossing(times=seen["times"], writing=used, reading=seen["cpu"])


async def _tell(postgres: str, redis: str, count: int) -> None:
    seen = await cross(postgres, redis, count)
    events = len(seen.times)
    how = "polling" if redis == _WITHOUT else "Redis"
    print(
        f"{how}, {count} runs: {events} events, p50 {milliseconds(percentile(seen.times, 50))},"
        f" p99 {milliseconds(percentile(seen.times, 99))}; CPU an event: {seen.writing / events * 1e6:.0f} µs where"
        f" written, {seen.reading / events * 1e6:.0f} µs where read"
    )


async def _play(queue: SqlRunQueue, log: SqlEventLog, run: Run) -> None:
    writer = await log.open(run)
    for _ in range(_TOKENS):
        writer.append(ContentDelta(message_id="message", text=str(clock_gettime_ns(CLOCK)), node="model"))
        await asyncio.sleep(_PACE)
    lease = Lease(run_id=run.run_id, owner=run.owner, attempt=run.attempt, worker="here")
    ended = await queue.finish(lease, RunStatus.SUCCESS, RunResult(), events=writer.take_unflushed())
    writer.close(ended)


async def _follow(postgres: str, redis: str, run_ids: Sequence[str]) -> None:
    times: list[float] = []
    async with _replica(postgres, redis) as (database, log):
        runs = [await SqlRunStore(database).get(_OWNER, RunId(run_id)) for run_id in run_ids]

        async def read(run: Run) -> None:
            async with aclosing(log.follow(run, after=None)) as batches:
                async for batch in batches:
                    now = clock_gettime_ns(CLOCK)
                    said = [event.body for event in batch if isinstance(event.body, ContentDelta)]
                    times.extend((now - int(body.text)) / 1e9 for body in said)

        used = process_time()
        async with asyncio.TaskGroup() as group:
            for run in runs:
                group.create_task(read(run))
            await asyncio.sleep(1)  # so that all of them wait
            print("ready", flush=True)
        print(json.dumps({"times": times, "cpu": process_time() - used}))


def _new() -> Run:
    now = datetime.now(UTC)
    return Run(
        run_id=RunId(new_id()),
        owner=_OWNER,
        thread_id=ThreadId(new_id()),
        ord=0,
        agent=AgentName("bench"),
        request=RunRequest(kind=InputKind.INPUT, payload={}),
        request_id="bench",
        key_id=None,
        status=RunStatus.PENDING,
        created_at=now,
        deadline_at=now + timedelta(hours=1),
    )


def main() -> None:
    if sys.argv[1:2] == ["follow"]:
        uvloop.run(_follow(sys.argv[2], sys.argv[3], sys.argv[4:]))
        return
    with postgres_server() as postgres, valkey_server() as valkey:
        url = postgres.create()
        prepare(url)
        for redis, count in ((valkey.url, 1), (valkey.url, 10), (valkey.url, 50), (_WITHOUT, 10)):
            uvloop.run(_tell(url, redis, count))


if __name__ == "__main__":
    main()
