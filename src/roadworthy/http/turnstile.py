"""Lets requests begin a few in each turn of the event loop, so that a burst of them does not hold up everybody else.

``http/auth.py`` passes through it before it does anything; health checks have no caller and do not. Everything that a
request sets off inherits the spacing: a turn of the loop is never longer than what a few beginnings cost.
"""

import asyncio
from collections import deque

# So many may begin in one turn; while more of them wait, so many do.
_AT_ONCE = 10
_OF_A_QUEUE = 3


class Turnstile:
    """First come, first served. Costs nothing but a counter as long as nobody waits."""

    def __init__(self) -> None:
        self._begun = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def enter(self) -> None:
        """Return in this turn of the loop, or in a later one."""
        loop = asyncio.get_running_loop()
        if self._waiting or self._begun >= _AT_ONCE:
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            await turn
            return
        self._begun += 1
        if self._begun == 1:
            loop.call_soon(self._next_turn, loop)

    def _next_turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._begun = 0
        while self._waiting and self._begun < _OF_A_QUEUE:
            turn = self._waiting.popleft()
            if not turn.done():  # who was cancelled waits no more
                turn.set_result(None)
                self._begun += 1
        if self._begun:
            loop.call_soon(self._next_turn, loop)
