import asyncio

import pytest
from starlette.types import Message

from roadworthy.domain.errors import Draining
from roadworthy.http.disconnect import ClientGone, unless_disconnected


class Connection:
    """A client that stays until it is told to leave."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def stay() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_the_result_of_the_work_is_returned() -> None:
    async def work() -> int:
        await asyncio.sleep(0)
        return 7

    assert await unless_disconnected(stay, work()) == 7
    assert len(asyncio.all_tasks()) == 1


async def test_work_is_cancelled_when_the_client_leaves() -> None:
    connection, cancelled = Connection(), asyncio.Event()

    async def work() -> None:
        connection.left.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.timeout(5):
        with pytest.raises(ClientGone):
            await unless_disconnected(connection.receive, work())
    assert cancelled.is_set()
    assert len(asyncio.all_tasks()) == 1


async def test_an_error_of_the_work_comes_through_as_it_is() -> None:
    async def work() -> None:
        raise Draining("bye")

    with pytest.raises(Draining, match="bye"):
        await unless_disconnected(stay, work())


async def test_cancelling_the_caller_cancels_the_work() -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    async with asyncio.TaskGroup() as group:
        task = group.create_task(unless_disconnected(stay, work()))
        await begun.wait()
        task.cancel()
    assert cancelled.is_set()
