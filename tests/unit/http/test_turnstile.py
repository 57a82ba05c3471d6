"""A burst of requests begins a few in each turn of the loop, in order; a lone one waits for nothing."""

import asyncio

import pytest

from roadworthy.http.turnstile import Turnstile


async def entered(turnstile: Turnstile, name: int, order: list[int]) -> None:
    await turnstile.enter()
    order.append(name)


async def test_a_burst_begins_in_order_and_not_in_one_turn() -> None:
    turnstile, order, steps = Turnstile(), list[int](), list[int]()
    async with asyncio.TaskGroup() as group:
        for name in range(100):
            group.create_task(entered(turnstile, name, order))
        while len(order) < 100:
            before = len(order)
            await asyncio.sleep(0)
            steps.append(len(order) - before)
    assert order == list(range(100))
    assert max(steps) <= 10
    assert sum(step > 0 for step in steps) > 20


async def test_after_a_burst_nobody_waits() -> None:
    turnstile, order = Turnstile(), list[int]()
    async with asyncio.TaskGroup() as group:
        for name in range(50):
            group.create_task(entered(turnstile, name, order))
    for _ in range(3):
        await asyncio.sleep(0)
    with pytest.raises(StopIteration):  # the coroutine ends at its first step
        turnstile.enter().send(None)


async def test_who_gives_up_waiting_keeps_nobody_from_entering() -> None:
    turnstile, order = Turnstile(), list[int]()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(entered(turnstile, name, order)) for name in range(60)]
        await asyncio.sleep(0)
        for task in tasks[15:50]:
            task.cancel()
    assert order == [*range(15), *range(50, 60)]
