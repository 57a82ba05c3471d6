"""The way from callbacks and stream sinks, on any thread, to the one consumer of an attempt's events.

``metering`` and ``run`` put, ``run`` takes. The consumer never waits between two takes, so nothing piles up here.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from threading import get_ident

from roadworthy.ports.runtime import RuntimeEvent


class Outbox:
    """A queue without a bound, in the order of ``put``; one consumer on the loop that made it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self._items: deque[RuntimeEvent] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def put(self, event: RuntimeEvent) -> None:
        """Add an event, from any thread."""
        if get_ident() == self._thread:
            self._append(event)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._append, event)

    def take(self) -> RuntimeEvent | None:
        """The oldest event, or None."""
        return self._items.popleft() if self._items else None

    def left(self) -> Iterable[RuntimeEvent]:
        """What nobody has taken."""
        return tuple(self._items)

    async def wait(self) -> None:
        """Until there is something to take, or ``wake`` is called."""
        if self._items:
            return
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def wake(self) -> None:
        """End a ``wait`` although nothing came. On the loop's thread."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _append(self, event: RuntimeEvent) -> None:
        self._items.append(event)
        self.wake()
