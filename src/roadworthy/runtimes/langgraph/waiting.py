"""How threads wait for an answer of the engine's event loop without holding up the server.

Used by ``reservation_gate``. A thread that waits is missing elsewhere, and the loop may be waiting for that thread.
"""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from threading import BoundedSemaphore
from time import monotonic

# A loop that has not turned for so long does not turn any more as long as we wait.
_STILL_SECONDS = 1.0
_AGAIN_SECONDS = 0.05


class WaitingRoom:
    """Places for threads that wait, for the whole process."""

    def __init__(self, places: int) -> None:
        self._free = BoundedSemaphore(places)

    @contextmanager
    def place(self) -> Generator[bool]:
        """Take a place; yields whether there was one."""
        taken = self._free.acquire(blocking=False)
        try:
            yield taken
        finally:
            if taken:
                self._free.release()


class Heartbeat:
    """Whether an event loop turns, as seen from other threads: it does not while it waits for one of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._turned = True
        self._asked_at = 0.0

    @property
    def pause(self) -> float:
        """Seconds after which to look again."""
        return _AGAIN_SECONDS if self._overdue else _STILL_SECONDS

    @property
    def still(self) -> bool:
        """Whether the loop has not turned for a second. The first look only begins to listen."""
        if self._turned:
            self._turned, self._asked_at = False, monotonic()
            self._loop.call_soon_threadsafe(self._turn)
        return self._overdue

    @property
    def _overdue(self) -> bool:
        return not self._turned and monotonic() - self._asked_at >= _STILL_SECONDS

    def _turn(self) -> None:
        self._turned = True
