"""Two replicas on one database and one Redis that is emptied, ended, cut off, locked: readers get everything."""

import asyncio
from pathlib import Path

import pytest

from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import BOB, everything, ids, until
from tests.conformance.storage.log_steps import NEVER, NOW, Gated, finish, started
from tests.conformance.storage.replicas import Reader, RedisLog, numbers, say
from tests.support.fault_proxy import FaultProxy, certificate
from tests.support.valkey import ValkeyServer, valkey_server

pytestmark = pytest.mark.parametrize("backend", ["postgres"], indirect=True)


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


async def test_what_redis_has_lost_is_waited_for_and_not_left_out(
    queue: SqlRunQueue, database: Database, valkey: ValkeyServer
) -> None:
    run = await started(queue)
    gated = Gated(database)
    async with (
        asyncio.timeout(30),
        FaultProxy(valkey.port) as proxy,
        RedisLog(gated, valkey.url, linger=NOW) as here,
        RedisLog(database, valkey.url_at(proxy.port)) as there,
        asyncio.TaskGroup() as group,
    ):
        reader = Reader(group, there, run)
        writer = await here.open(run)
        await reader.until(1)
        proxy.blackhole()
        key = here.server.key("events", run.run_id)
        say(writer, *"abcde")
        await until(lambda: valkey.run("XLEN", key) == 6)
        valkey.run("FLUSHALL")
        say(writer, "f")
        await until(lambda: valkey.run("XLEN", key) == 1)
        proxy.heal()
        proxy.reset()
        while not there.telemetry.count("redis_back", part="followers"):  # noqa: ASYNC110 -- nothing else tells
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(reader.seen) < 7
        gated.open.set()
        await reader.until(7)
        await finish(queue, run, writer)
        assert ids(await reader.end()) == numbers(8)


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
        async with RedisLog(database, url, linger=NEVER) as here, RedisLog(database, url) as there:
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
                for count in (3, 4, 5):
                    proxy.reset()
                    say(writer, "b")
                    await reader.until(count)
                await finish(queue, second, writer)
                assert ids(await reader.end()) == numbers(6)


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
