"""Hints between processes, over Redis and over Postgres: they arrive, are joined, and a line that was down says so."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta

import pytest

from roadworthy.domain.ids import RunId
from roadworthy.ports.signals import Heard
from roadworthy.ports.signals import Wakeups as WakeupsPort
from roadworthy.storage.postgres_wakeups import PostgresLine
from roadworthy.storage.redis_connection import RedisTimes, open_redis
from roadworthy.storage.redis_wakeups import RedisLine
from roadworthy.storage.wakeups import Alone, Wakeups
from tests.support.fault_proxy import FaultProxy
from tests.support.postgres import PostgresServer
from tests.support.telemetry import NotedTelemetry
from tests.support.valkey import ValkeyServer

TIMES = RedisTimes(connect=timedelta(seconds=1), answer=timedelta(milliseconds=300), idle=timedelta(milliseconds=300))
QUICKLY = timedelta(milliseconds=100)


@asynccontextmanager
async def over_redis(url: str, telemetry: NotedTelemetry) -> AsyncGenerator[Wakeups]:
    async with open_redis(url, telemetry, times=TIMES) as server, Wakeups(RedisLine(server), retry=QUICKLY) as wakeups:
        yield wakeups


@asynccontextmanager
async def over_postgres(url: str, telemetry: NotedTelemetry) -> AsyncGenerator[Wakeups]:
    async with (
        PostgresLine(url, telemetry, idle=timedelta(milliseconds=300)) as line,
        Wakeups(line, retry=QUICKLY) as wakeups,
    ):
        yield wakeups


@pytest.fixture(params=["redis", "postgres"])
async def pair(
    request: pytest.FixtureRequest, valkey: ValkeyServer, server: PostgresServer
) -> AsyncGenerator[tuple[Wakeups, Wakeups]]:
    """Two processes that hear each other."""
    async with AsyncExitStack() as stack:
        enter: list[Wakeups] = []
        for _ in range(2):
            if request.param == "redis":
                opened = over_redis(valkey.url, NotedTelemetry())
            else:
                opened = over_postgres(server.url(), NotedTelemetry())
            enter.append(await stack.enter_async_context(opened))
        here, there = enter
        await connected(here, there)
        await connected(there, here)
        yield here, there


async def connected(here: Wakeups, there: Wakeups) -> None:
    """Return when what one says is heard by the other."""
    async with asyncio.timeout(20):
        await heard_of(there, here.work, lambda heard: heard.work)
    # What was said while it was not heard yet may still be on its way.
    with suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await there.heard()


async def heard_of(there: Wakeups, say: Callable[[], None], enough: Callable[[Heard], bool]) -> Heard:
    while True:
        say()
        try:
            async with asyncio.timeout(0.2):
                heard = await there.heard()
        except TimeoutError:
            continue
        if enough(heard):
            return heard


async def test_work_and_cancels_are_heard_by_others_and_not_by_who_says_them(pair: tuple[Wakeups, Wakeups]) -> None:
    here, there = pair
    port: WakeupsPort = here
    async with asyncio.timeout(20):
        port.work()
        assert await there.heard() == Heard(work=True)
        port.cancel(RunId("one"))
        assert await there.heard() == Heard(cancelled=frozenset({RunId("one")}))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await here.heard()


async def test_what_comes_between_two_looks_is_joined(pair: tuple[Wakeups, Wakeups]) -> None:
    here, there = pair
    runs = frozenset(RunId(f"run-{n}") for n in range(450))
    async with asyncio.timeout(20):
        for run_id in runs:
            here.cancel(run_id)
            here.work()
        heard: set[RunId] = set()
        while len(heard) < len(runs):
            heard |= (await there.heard()).cancelled
    assert heard == runs


async def test_more_than_can_be_kept_means_look_everything_up(pair: tuple[Wakeups, Wakeups]) -> None:
    here, there = pair
    async with asyncio.timeout(20):
        for n in range(1_500):
            there.cancel(RunId(f"run-{n}"))
        heard = await here.heard()
        while not (heard.work or heard.resumed):
            heard = await here.heard()


@pytest.mark.parametrize("text", ["no json", "[]", "{}", '{"cancelled":[1,{}],"work":"x"}', '{"cancelled":5}'])
async def test_what_is_not_understood_is_passed_over(
    pair: tuple[Wakeups, Wakeups], valkey: ValkeyServer, text: str
) -> None:
    here, there = pair
    valkey.run("PUBLISH", "roadworthy:wakeups", text)
    async with asyncio.timeout(20):
        here.work()
        assert await there.heard() == Heard(work=True)


@pytest.mark.parametrize("how", ["reset", "blackhole"])
async def test_a_line_that_was_down_comes_back_and_says_that_something_may_have_been_missed(
    valkey: ValkeyServer, how: str
) -> None:
    telemetry = NotedTelemetry()
    async with (
        asyncio.timeout(30),
        FaultProxy(valkey.port) as proxy,
        over_redis(valkey.url, NotedTelemetry()) as here,
        over_redis(valkey.url_at(proxy.port), telemetry) as there,
    ):
        await connected(here, there)
        if how == "blackhole":
            proxy.blackhole()
            while proxy.accepted < 3:  # noqa: ASYNC110 -- the other side's connections are what is waited for
                await asyncio.sleep(0.01)
            proxy.heal()
        proxy.reset()
        heard = await there.heard()
        while not heard.resumed:
            heard = await there.heard()
        await connected(here, there)
        assert telemetry.count("redis_unavailable", part="wakeups") == 1


async def test_a_postgres_line_that_was_cut_comes_back(server: PostgresServer) -> None:
    telemetry = NotedTelemetry()
    async with (
        asyncio.timeout(30),
        over_postgres(server.url(), NotedTelemetry()) as here,
        over_postgres(server.url(), telemetry) as there,
    ):
        await connected(here, there)
        server.cut("roadworthy wakeups")
        heard = await there.heard()
        while not heard.resumed:
            heard = await there.heard()
        await connected(here, there)
        assert telemetry.count("wakeups_unavailable") >= 1


async def test_a_process_alone_hears_nothing() -> None:
    alone: WakeupsPort = Alone()
    alone.work()
    alone.cancel(RunId("run"))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await alone.heard()
