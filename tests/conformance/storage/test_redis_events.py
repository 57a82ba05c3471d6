"""Two replicas on one database and one Redis: who follows on one sees what the other one writes, live and later."""

import asyncio

import pytest

from roadworthy.domain.event import AttemptStarted, CustomData, RunEnded
from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import RunResult, RunStatus
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.redis_events import Retention
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import delta, everything, ids, lease_of, new_run
from tests.conformance.storage.log_steps import NEVER, NOW, Gated, finish, lost_and_claimed, started
from tests.conformance.storage.replicas import Reader, RedisLog, numbers, say
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


async def test_a_reader_on_another_replica_sees_events_before_the_database_has_them(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url, linger=NEVER) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        reader = Reader(group, there, run)
        writer = await here.open(run)
        say(writer, *"abc")
        await reader.until(4)
        assert await there.read(run) == []
        await finish(queue, run, writer)
        events = await reader.end()
    assert ids(events) == numbers(5)
    assert events[-1].body == RunEnded(status=RunStatus.SUCCESS, error=None)


async def test_reconnecting_to_any_replica_at_any_index_shows_what_is_behind_it(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(50),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
    ):
        async with asyncio.TaskGroup() as group:
            writer = await here.open(run)
            readers: list[Reader] = []
            for number in range(12):
                event = writer.append(delta(str(number)))
                # While the run goes on: from every event, the one that was numbered just now included.
                readers += [Reader(group, log, run, event.id) for log in (here, there)]
                await asyncio.sleep(0.005)
            ended = await finish(queue, run, writer)
        whole = await everything(here, ended)
        assert ids(whole) == numbers(14)
        for index, reader in enumerate(readers):
            assert await reader.end() == whole[index // 2 + 2 :]
        for log in (here, there):
            for index, event in enumerate(whole):
                assert await everything(log, run, event.id) == whole[index + 1 :]
        assert (here.held, there.held) == (0, 0)


async def test_waiting_on_another_replica_gives_the_final_row(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        waiting = group.create_task(there.wait(run))
        writer = await here.open(run)
        say(writer, "x")
        ended = await finish(queue, run, writer)
        assert await waiting == ended


async def test_the_end_of_a_run_that_never_started_reaches_who_follows_it_elsewhere(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    waiting = (await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=None)).run
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        reader = Reader(group, there, waiting)
        ended = await queue.end_pending(waiting, RunStatus.CANCELLED, RunResult())
        assert ended is not None
        here.ended(ended)
        assert ids(await reader.end()) == ["1-0-1"]


async def test_a_run_that_moves_between_replicas_is_one_history_for_everybody(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
        RedisLog(database, valkey.url) as third,
    ):
        async with asyncio.TaskGroup() as group:
            readers = [Reader(group, log, run) for log in (here, there, third)]
            writer = await here.open(run)
            say(writer, *"ab")
            assert await queue.release(lease_of(run), events=writer.take_unflushed())
            writer.close(None)
            again = await queue.claim(run.run_id, worker="another")
            assert again is not None
            writer = await there.open(again)
            say(writer, *"cd")
            await finish(queue, again, writer)
        whole = await everything(third, run)
        assert ids(whole) == ["1-1-1", "1-1-2", "1-1-3", "1-2-1", "1-2-2", "1-2-3", "1-2-4"]
        assert whole[3].body == AttemptStarted(attempt=2, last_valid="1-1-3")
        for reader in readers:
            assert await reader.end() == whole


async def test_what_a_dead_attempt_says_late_is_refused_everywhere(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    gated = Gated(database)
    async with (
        asyncio.timeout(30),
        RedisLog(gated, valkey.url, linger=NOW) as zombie,
        RedisLog(database, valkey.url) as heir,
        RedisLog(database, valkey.url) as third,
    ):
        async with asyncio.TaskGroup() as group:
            early = Reader(group, third, run)
            dead = await zombie.open(run)
            gated.open.set()
            await gated.done.wait()
            gated.open.clear()
            gated.done.clear()
            gated.reached.clear()
            say(dead, *"ab")
            await early.until(3)
            await gated.reached.wait()
            again = await lost_and_claimed(queue, run)
            writer = await heir.open(again)
            say(writer, "x")
            await early.until(5)
            # The first one comes to itself: its flush and its next event.
            gated.open.set()
            await gated.done.wait()
            gated.done.clear()
            say(dead, "late")
            await gated.done.wait()
            while zombie.events.refused < 1:  # noqa: ASYNC110 -- what is waited for has no event of its own
                await asyncio.sleep(0.005)
            dead.close(None)
            late = Reader(group, third, again)
            await finish(queue, again, writer)
        whole = await everything(heir, run)
        assert ids(whole) == ["1-1-1", "1-2-1", "1-2-2", "1-2-3"]
        assert whole[1].body == AttemptStarted(attempt=2, last_valid="1-1-1")
        assert await late.end() == whole
        assert ids(await early.end()) == ["1-1-1", "1-1-2", "1-1-3", "1-2-1", "1-2-2", "1-2-3"]
        for log in (zombie, third):
            assert await everything(log, run) == whole
            assert list(await log.read(run)) == whole[:-1]


async def test_many_followed_runs_take_few_connections(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    runs = [await started(queue, Owner(tenant=TenantId("acme"), user=UserId(f"user-{n}"))) for n in range(100)]
    async with (
        asyncio.timeout(50),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        readers = [Reader(group, there, run) for run in runs]
        writers = [await here.open(run) for run in runs]
        for writer in writers:
            say(writer, *"ab")
        for reader in readers:
            await reader.until(3)
        assert valkey.clients() <= 4
        for run, writer in zip(runs, writers, strict=True):
            await finish(queue, run, writer)
        for reader in readers:
            assert ids(await reader.end()) == numbers(4)


async def test_streams_are_short_and_end_by_themselves(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url, retention=Retention(events=100)) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        writer = await here.open(run)
        for _ in range(20):
            say(writer, *("x" * 50))
            await asyncio.sleep(0.005)
        late = Reader(group, there, run)
        await late.until(1001)
        writer.append(CustomData(data="much" * 50_000))
        say(writer, "behind")
        await late.until(1003)
        await finish(queue, run, writer)
        assert ids(await late.end()) == numbers(1004)
        key = here.server.key("events", run.run_id)
        length, left, size = (valkey.run(*words) for words in (("XLEN", key), ("PTTL", key), ("MEMORY", "USAGE", key)))
        assert isinstance(length, int)
        assert length < 400
        assert isinstance(left, int)
        assert 0 < left <= 600_000
        assert isinstance(size, int)
        assert size < 100_000
