"""How adapters end their tasks that use somebody else's driver. Used by ``redis_events.py`` and ``wakeups.py``."""

import asyncio
from collections.abc import Iterable

_REPEAT = 0.05


async def end(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel and wait. A driver may lose a cancellation that comes while it connects, so that is repeated."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_REPEAT)
