"""Time, chance, and the processes that share them. Nothing here knows what the processes do.

Each process has an event loop of its own, and the world says whose turn it is and when time goes on: at once to the
next moment at which anything happens. So one seed is one history, whatever the machine is doing.
"""

import asyncio
import heapq
import itertools
import random
from asyncio.events import _set_running_loop
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

# Turns without any time passing, after which a history is not going anywhere.
_MANY = 200_000
_numbers = itertools.count(1)


class Sleeper(Protocol):
    """A process as the world sees it."""

    @property
    def loop(self) -> "Loop": ...

    @property
    def awake(self) -> bool:
        """Whether it gets its turns."""
        ...


class _Future(asyncio.Future[Any]):
    """Sets of futures are walked in the order of their hashes: here it is that of their making, not of addresses."""

    def __init__(self, *, loop: "Loop") -> None:
        self._number = next(_numbers)
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


class _Task(asyncio.Task[Any]):
    """As ``_Future``."""

    def __init__(self, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = next(_numbers)
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return self is other


def _task(loop: asyncio.AbstractEventLoop, coro: Any, *, context: Context | None = None) -> "asyncio.Task[Any]":
    return _Task(coro, loop=loop, context=context)


class _NoFiles:
    def select(self, timeout: float | None) -> list[object]:
        return []

    def close(self) -> None:
        return None


class Loop(asyncio.BaseEventLoop):
    """Does one turn when it is told to, at the world's time."""

    _ready: "list[Any]"
    _scheduled: list[asyncio.TimerHandle]

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world
        self._selector = _NoFiles()
        self._clock_resolution = 1e-9
        self.troubles: list[str] = []
        self.set_task_factory(_task)
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._world.now

    def create_future(self) -> "asyncio.Future[Any]":
        return _Future(loop=self)

    def due(self) -> bool:
        """Whether there is something to do now."""
        return bool(self._ready) or ((when := self.upcoming()) is not None and when <= self.time())

    def upcoming(self) -> float | None:
        """When the next timer rings."""
        while self._scheduled and self._scheduled[0].cancelled():
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False
            self._timer_cancelled_count -= 1
        return self._scheduled[0].when() if self._scheduled else None

    def turn(self) -> None:
        """Everything that is ready, once."""
        _set_running_loop(self)
        try:
            self._run_once()  # pyright: ignore[reportAttributeAccessIssue]
        finally:
            _set_running_loop(None)

    def _process_events(self, event_list: list[object]) -> None:
        return None

    def _write_to_self(self) -> None:
        return None

    def _note(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.troubles.append(f"{context.get('message')}: {context.get('exception')!r}")


class World:
    """``chance`` decides everything that is not said. ``history`` tells what happened, a line each."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(seed)
        self.history: list[str] = []
        self.processes: list[Sleeper] = []
        self.turns = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = itertools.count()

    def tell(self, line: str) -> None:
        """Put something into the history."""
        self.history.append(f"{self.now:9.3f} {line}")

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do something later, outside of every process."""
        heapq.heappush(self._events, (self.now + delay, next(self._counter), action))

    def run(self, until: float, *, enough: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass up to a moment, or until it is ``enough``, which is returned. It is asked once a second."""
        asked, idle = self.now, 0
        while True:
            if self.now - asked >= 1:
                asked = self.now
                if enough():
                    return True
            before = self.now
            if not self._act():
                upcoming = self._upcoming()
                if upcoming is None or upcoming > until:
                    self.now = until
                    return enough()
                self.now = max(self.now, upcoming)
            idle = 0 if self.now > before else idle + 1
            if idle > _MANY:
                raise AssertionError("time stands still: something goes round and round")

    def _act(self) -> bool:
        """Whatever is due now: one thing of the world, or one turn of some process."""
        if self._events and self._events[0][0] <= self.now:
            heapq.heappop(self._events)[2]()
            return True
        due = [one for one in self.processes if one.awake and one.loop.due()]
        if not due:
            return False
        self.turns += 1
        (due[0] if len(due) == 1 else self.chance.choice(due)).loop.turn()
        return True

    def _upcoming(self) -> float | None:
        moments = [one.loop.upcoming() for one in self.processes if one.awake]
        known = [moment for moment in moments if moment is not None]
        if self._events:
            known.append(self._events[0][0])
        return min(known, default=None)
