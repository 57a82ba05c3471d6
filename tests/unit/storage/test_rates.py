"""Counters of the last minute: what has room, what has not, and when it has again. Time is the test's own."""

import asyncio
import time
from datetime import timedelta

import pytest

from roadworthy.domain.ids import TenantId
from roadworthy.domain.rate_limit import WINDOW, AppliedLimit, RateKind, RateLimit, RateScope
from roadworthy.storage.rates import MemoryRateCounters

# A window of the clock begins.
START = 1_800_000_000.0


class Time:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(time, "time", clock)
    return clock


@pytest.fixture
def counters(clock: Time) -> MemoryRateCounters:
    return MemoryRateCounters()


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


async def test_requests_have_room_until_the_limit_is_reached(counters: MemoryRateCounters) -> None:
    had_room = [await counters.hit(limit()) for _ in range(4)]
    assert [had for had, _ in had_room] == [True, True, True, False]
    assert [status.remaining for _, status in had_room] == [2, 1, 0, 0]


async def test_a_status_names_the_limit_and_not_whose_it_is(counters: MemoryRateCounters) -> None:
    _, status = await counters.hit(limit())
    assert (status.policy, status.limit, status.window) == ("requests-per-user", 3, WINDOW)
    assert "ann" not in repr(status)
    assert "acme" not in repr(status)


async def test_a_refused_request_may_come_again_when_its_status_says(counters: MemoryRateCounters, clock: Time) -> None:
    clock.now += 30
    for _ in range(3):
        await counters.hit(limit())
    had_room, status = await counters.hit(limit())
    assert not had_room
    assert status.resets_in == timedelta(seconds=30)
    clock.now += status.resets_in.total_seconds() - 1
    assert (await counters.hit(limit()))[0] is False
    clock.now += 2
    assert (await counters.hit(limit()))[0] is True


async def test_the_window_slides_so_that_a_new_minute_does_not_begin_empty(
    counters: MemoryRateCounters, clock: Time
) -> None:
    twenty = limit(most=20)
    clock.now += 59
    for _ in range(20):
        assert (await counters.hit(twenty))[0]
    clock.now += 31
    admitted = [(await counters.hit(twenty))[0] for _ in range(20)]
    assert sum(admitted) == 10
    clock.now += 120
    assert (await counters.look(twenty)).remaining == 20


async def test_looking_counts_nothing(counters: MemoryRateCounters) -> None:
    for _ in range(9):
        assert (await counters.look(limit())).remaining == 3
    assert (await counters.look(limit())).resets_in == timedelta(0)


async def test_tokens_count_over_the_limit_and_their_minute_begins_with_the_first(
    counters: MemoryRateCounters, clock: Time
) -> None:
    clock.now += 50
    await counters.add(TOKENS, 400)
    clock.now += 20
    await counters.add(TOKENS, 5_000)
    status = await counters.look(TOKENS)
    assert (status.remaining, status.resets_in) == (0, timedelta(seconds=40))
    clock.now += 40
    assert (await counters.look(TOKENS)).remaining == 1000


async def test_no_tokens_begin_no_minute(counters: MemoryRateCounters) -> None:
    await counters.add(TOKENS, 0)
    assert (await counters.look(TOKENS)).resets_in == timedelta(0)


@pytest.mark.parametrize(
    "other",
    [
        limit(tenant="other"),
        limit(scope=RateScope.KEY),
        limit(subject="ben"),
        limit(RateKind.TOKENS),
    ],
)
async def test_counters_differ_in_tenant_scope_kind_and_subject(
    counters: MemoryRateCounters, other: AppliedLimit
) -> None:
    for _ in range(3):
        await counters.hit(limit())
    assert (await counters.look(limit())).remaining == 0
    assert (await counters.look(other)).remaining == 3


async def test_requests_at_once_are_counted_exactly(counters: MemoryRateCounters) -> None:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(counters.hit(limit(most=50))) for _ in range(200)]
    assert sum(task.result()[0] for task in tasks) == 50


async def test_what_is_over_is_forgotten(counters: MemoryRateCounters, clock: Time) -> None:
    for n in range(500):
        await counters.hit(limit(subject=f"user-{n}"))
        await counters.add(limit(RateKind.TOKENS, subject=f"user-{n}"), 1)
    assert counters.size == 1000
    clock.now += 121
    await counters.hit(limit())
    assert counters.size == 1


async def test_more_callers_than_there_is_room_for_are_let_through(clock: Time) -> None:
    counters = MemoryRateCounters(most=10)
    for n in range(50):
        assert (await counters.hit(limit(most=1, subject=f"user-{n}")))[0]
    assert counters.size == 10
    assert not (await counters.hit(limit(most=1, subject="user-49")))[0]
    assert (await counters.hit(limit(most=1, subject="user-0")))[0]


async def test_counting_starts_no_task_that_somebody_would_have_to_end(counters: MemoryRateCounters) -> None:
    await counters.hit(limit())
    await counters.add(TOKENS, 5)
    assert asyncio.all_tasks() == {asyncio.current_task()}
