"""Rates that several processes count together in Redis: what ``tests/unit/storage/test_rates.py`` says of one process,
so far as it does not need to move the clock; and what happens without Redis.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest

from roadworthy.domain.ids import TenantId
from roadworthy.domain.rate_limit import WINDOW, AppliedLimit, RateKind, RateLimit, RateScope
from roadworthy.ports.rate_limit import RateCounters
from roadworthy.storage.rates import MemoryRateCounters
from roadworthy.storage.redis_connection import RedisServer, RedisTimes, open_redis
from roadworthy.storage.redis_rates import RedisRateCounters
from tests.conformance.storage.replicas import QUICK
from tests.support.fault_proxy import FaultProxy
from tests.support.telemetry import NotedTelemetry
from tests.support.valkey import ValkeyServer


def limit(
    kind: RateKind = RateKind.REQUESTS,
    most: int = 3,
    *,
    tenant: str = "acme",
    scope: RateScope = RateScope.USER,
    subject: str = "ann",
) -> AppliedLimit:
    return AppliedLimit(limit=RateLimit(tenant=TenantId(tenant), scope=scope, kind=kind, limit=most), subject=subject)


TOKENS = limit(RateKind.TOKENS, 1000)
PATIENCE = timedelta(seconds=30)
SLOW = RedisTimes(connect=PATIENCE, answer=PATIENCE)


@pytest.fixture
async def server(valkey: ValkeyServer) -> AsyncGenerator[RedisServer]:
    async with open_redis(valkey.url, NotedTelemetry(), times=QUICK) as server:
        yield server


@pytest.fixture
async def patient(valkey: ValkeyServer) -> AsyncGenerator[RedisServer]:
    """For tests of what is counted: a busy machine must not look like a Redis that is away."""
    async with open_redis(valkey.url, NotedTelemetry(), times=SLOW) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
def counters(request: pytest.FixtureRequest, patient: RedisServer) -> RateCounters:
    return MemoryRateCounters() if request.param == "memory" else RedisRateCounters(patient, patience=PATIENCE)


async def test_requests_have_room_until_the_limit_is_reached(counters: RateCounters) -> None:
    answers = [await counters.hit(limit()) for _ in range(4)]
    assert [had for had, _ in answers] == [True, True, True, False]
    assert [status.remaining for _, status in answers] == [2, 1, 0, 0]
    status = answers[-1][1]
    assert (status.policy, status.limit, status.window) == ("requests-per-user", 3, WINDOW)
    assert timedelta(0) < status.resets_in <= WINDOW


async def test_looking_counts_nothing(counters: RateCounters) -> None:
    for _ in range(9):
        status = await counters.look(limit())
        assert (status.remaining, status.resets_in) == (3, timedelta(0))
    assert (await counters.look(TOKENS)).remaining == 1000


async def test_tokens_count_over_the_limit(counters: RateCounters) -> None:
    await counters.add(TOKENS, 0)
    assert (await counters.look(TOKENS)).remaining == 1000
    await counters.add(TOKENS, 400)
    assert (await counters.look(TOKENS)).remaining == 600
    await counters.add(TOKENS, 5_000)
    status = await counters.look(TOKENS)
    assert status.remaining == 0
    assert timedelta(seconds=50) < status.resets_in <= WINDOW


@pytest.mark.parametrize(
    "other",
    [
        limit(tenant="other"),
        limit(scope=RateScope.KEY),
        limit(subject="ben"),
        limit(RateKind.TOKENS),
        limit(tenant="acme/user/requests/ann", subject=""),
        limit(subject="ann/3"),
        limit(subject="ann:*{}"),
    ],
)
async def test_counters_differ_in_tenant_scope_kind_and_subject(counters: RateCounters, other: AppliedLimit) -> None:
    for _ in range(3):
        await counters.hit(limit())
    assert (await counters.look(limit())).remaining == 0
    assert (await counters.look(other)).remaining == 3


async def test_requests_at_once_are_counted_exactly(counters: RateCounters) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(counters.hit(limit(most=50))) for _ in range(200)]
    assert sum(task.result()[0] for task in tasks) == 50


async def test_two_processes_count_together_and_their_keys_name_nobody(
    patient: RedisServer, valkey: ValkeyServer
) -> None:
    async with open_redis(valkey.url, NotedTelemetry(), times=SLOW) as other:
        here, there = (RedisRateCounters(one, patience=PATIENCE) for one in (patient, other))
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one.hit(limit(most=50))) for one in (here, there) for _ in range(60)]
        assert sum(task.result()[0] for task in tasks) == 50
        await here.add(TOKENS, 300)
        assert (await there.look(TOKENS)).remaining == 700
    keys = await patient.commands.keys("*")
    assert len(keys) == 2
    assert all("roadworthy:rates:" in str(key) and "ann" not in str(key) and "acme" not in str(key) for key in keys)
    assert all([0 < await patient.commands.pttl(key) <= 120_000 for key in keys])


@pytest.mark.parametrize("how", ["blackhole", "refuse"])
async def test_without_redis_everybody_is_let_in_and_the_operator_told_once(valkey: ValkeyServer, how: str) -> None:
    telemetry = NotedTelemetry()
    async with (
        asyncio.timeout(30),
        FaultProxy(valkey.port) as proxy,
        open_redis(valkey.url_at(proxy.port), telemetry, times=QUICK) as server,
    ):
        counters = RedisRateCounters(server, patience=timedelta(milliseconds=100), pause=timedelta(milliseconds=300))
        for _ in range(3):
            await counters.hit(limit())
        assert not (await counters.hit(limit()))[0]
        proxy.blackhole() if how == "blackhole" else proxy.refuse()
        for _ in range(20):
            had_room, status = await counters.hit(limit())
            assert had_room
            assert (status.remaining, status.resets_in) == (3, timedelta(0))
            await counters.add(TOKENS, 10)
            assert (await counters.look(TOKENS)).remaining == 1000
        assert telemetry.notes == [("redis_unavailable", {"part": "rates", "error": telemetry.notes[0][1]["error"]})]
        proxy.heal()
        proxy.reset()
        deadline = time.monotonic() + 20
        while telemetry.count("redis_back", part="rates") == 0 and time.monotonic() < deadline:
            await counters.look(limit())
            await asyncio.sleep(0.02)
        assert not (await counters.hit(limit()))[0]


async def test_a_restarted_redis_begins_anew(server: RedisServer, valkey: ValkeyServer) -> None:
    counters = RedisRateCounters(server, pause=timedelta(0))
    for _ in range(4):
        await counters.hit(limit())
    valkey.stop()
    valkey.start()
    # The first question may find that the connection is gone.
    await counters.look(limit())
    assert [(await counters.hit(limit()))[0] for _ in range(4)] == [True, True, True, False]
