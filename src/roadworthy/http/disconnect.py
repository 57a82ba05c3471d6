"""Noticing that a client has left while the server works for it.

ASGI tells it only to who asks ``receive`` meanwhile. Used by ``http/sse.py`` and by routes that wait for a run.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

Result = TypeVar("Result")


class ClientGone(Exception):
    """The connection ended before the answer was complete."""


async def until_disconnected(receive: Receive) -> None:
    """Return when the client has left. What it still sends is thrown away."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_disconnected(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    """Do ``work`` and return its result, unless the client leaves first; then ``work`` is cancelled.

    Raises:
        ClientGone: the client left.
    """
    try:
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(_raise_when_gone(receive))
            result = await work
            watcher.cancel()
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed.exceptions[0].__cause__
    return result


async def _raise_when_gone(receive: Receive) -> None:
    await until_disconnected(receive)
    raise ClientGone
