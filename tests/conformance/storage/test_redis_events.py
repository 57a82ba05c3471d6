"""Two replicas on one database and one Redis: who follows on one sees what the other one writes, whatever happens."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

import pytest

from roadworthy.domain.event import AttemptStarted, CustomData, Event, EventId, RunEnded
from roadworthy.domain.ids import TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.ports.event_log import EventLog, EventWriter
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.redis_events import Retention
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import BOB, delta, everything, ids, lease_of, new_run
from tests.conformance.storage.log_steps import NEVER, finish, lost_and_claimed, started
from tests.conformance.storage.replicas import RedisLog
from tests.support.fault_proxy import FaultProxy, certificate
from tests.support.valkey import ValkeyServer, valkey_server

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


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
            await writer.store()
            await queue.release(lease_of(run))
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
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url, linger=NEVER) as zombie,
        RedisLog(database, valkey.url) as heir,
        RedisLog(database, valkey.url) as third,
    ):
        async with asyncio.TaskGroup() as group:
            early = Reader(group, third, run)
            dead = await zombie.open(run)
            await dead.store()
            say(dead, *"ab")
            await early.until(3)
            again = await lost_and_claimed(queue, run)
            writer = await heir.open(again)
            say(writer, "x")
            await early.until(5)
            # The first one comes to itself: its flush and its next event.
            await dead.store()
            say(dead, "late")
            await dead.store()
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


async def test_a_flushed_redis_loses_nothing(queue: SqlRunQueue, database: Database, valkey: ValkeyServer) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        reader = Reader(group, there, run)
        writer = await here.open(run)
        for round_ in range(5):
            say(writer, *"abcdefghi")
            valkey.run("FLUSHALL")
            say(writer, *"abcdefghi")
            await reader.until(round_ * 9)
        late = Reader(group, there, run)
        await finish(queue, run, writer)
        assert ids(await reader.end()) == numbers(92)
        assert await late.end() == reader.seen


async def test_without_redis_runs_go_on_and_their_readers_get_everything_late(
    queue: SqlRunQueue, database: Database
) -> None:
    with valkey_server() as own:
        run = await started(queue)
        async with (
            asyncio.timeout(50),
            RedisLog(database, own.url) as here,
            RedisLog(database, own.url) as there,
        ):
            async with asyncio.TaskGroup() as group:
                reader = Reader(group, there, run)
                writer = await here.open(run)
                say(writer, *"ab")
                await reader.until(3)
                own.stop()
                say(writer, *"cd")
                await reader.until(5)
                late = Reader(group, there, run)
                own.start()
                say(writer, *"ef")
                await reader.until(7)
                own.stop()
                ended = await finish(queue, run, writer)
            whole = await everything(here, ended)
            assert ids(whole) == numbers(8)
            assert await reader.end() == whole
            assert await late.end() == whole
            own.start()
            for log, part in ((here, "events"), (there, "followers")):
                assert log.telemetry.count("redis_unavailable", part=part) >= 1
        # All is well again for the next run, without anybody's help.
        assert (await _live_again(queue, database, own)) >= 1


async def _live_again(queue: SqlRunQueue, database: Database, server: ValkeyServer) -> int:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, server.url, linger=NEVER) as here,
        RedisLog(database, server.url) as there,
        asyncio.TaskGroup() as group,
    ):
        reader = Reader(group, there, run)
        writer = await here.open(run)
        say(writer, "live")
        await reader.until(2)
        await finish(queue, run, writer)
    return len(reader.seen)


async def test_a_silent_network_stops_no_run_and_heals(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    first, second = await started(queue), await started(queue, BOB)
    async with asyncio.timeout(50), FaultProxy(valkey.port) as proxy:
        url = valkey.url_at(proxy.port)
        async with RedisLog(database, url) as here, RedisLog(database, url) as there:
            async with asyncio.TaskGroup() as group:
                reader = Reader(group, there, first)
                writer = await here.open(first)
                say(writer, "a")
                await reader.until(2)
                proxy.blackhole()
                say(writer, *"bcd")
                await finish(queue, first, writer)
                assert ids(await reader.end()) == numbers(6)
            proxy.heal()
            proxy.reset()
            async with asyncio.TaskGroup() as group:
                reader = Reader(group, there, second)
                writer = await here.open(second)
                say(writer, "a")
                await reader.until(2)
                for _ in range(3):
                    proxy.reset()
                    say(writer, "b")
                    await asyncio.sleep(0.01)
                await finish(queue, second, writer)
                assert ids(await reader.end()) == numbers(6)


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


async def test_what_nobody_of_ours_has_written_is_passed_over(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    async with (
        asyncio.timeout(30),
        RedisLog(database, valkey.url) as here,
        RedisLog(database, valkey.url) as there,
        asyncio.TaskGroup() as group,
    ):
        reader = Reader(group, there, run)
        writer = await here.open(run)
        await reader.until(1)
        key = here.server.key("events", run.run_id)
        valkey.run("XADD", key, "1-2", "t", "content", "b", "{}")
        valkey.run("XADD", key, "1-3", "other", "field")
        valkey.run("XADD", key, "9-1", "t", "end")
        say(writer, *"abc")
        await reader.until(4)
        await finish(queue, run, writer)
        assert ids(await reader.end()) == numbers(5)


@pytest.mark.parametrize("secure", [False, True], ids=["password", "tls"])
async def test_passwords_and_certificates_are_used_and_never_told(
    queue: SqlRunQueue, database: Database, tmp_path: Path, *, secure: bool
) -> None:
    context, trusted = certificate(tmp_path)
    with valkey_server(password="correct-horse") as own:
        async with FaultProxy(own.port, tls=context if secure else None) as proxy:
            url = own.url_at(proxy.port, "rediss" if secure else "redis")
            wrong = url.replace("correct", "wrong")
            if secure:
                wrong, url = url, f"{url}?ssl_ca_certs={trusted}"
            run = await started(queue)
            async with (
                asyncio.timeout(30),
                RedisLog(database, url, linger=NEVER) as here,
                RedisLog(database, url) as there,
                RedisLog(database, wrong) as outside,
                asyncio.TaskGroup() as group,
            ):
                assert await here.server.problem() is None
                problem = await outside.server.problem()
                assert problem is not None
                reader, late = Reader(group, there, run), Reader(group, outside, run)
                writer = await here.open(run)
                say(writer, "a")
                await reader.until(2)
                await finish(queue, run, writer)
                assert await reader.end() == await late.end()
                assert outside.telemetry.count("redis_unavailable", part="followers") == 1
                told = (problem, outside.telemetry.notes, outside.server, outside.server.commands, here.server.commands)
                assert "horse" not in repr(told)
