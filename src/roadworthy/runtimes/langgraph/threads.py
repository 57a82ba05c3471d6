"""Knows which threads still work for an attempt: a slot is free only when they have really ended.

LangChain and LangGraph run sync nodes, tools and models on the loop's default executor, as ``asyncio.to_thread`` does.
``bootstrap`` makes a TrackingExecutor that default; ``run`` gives each attempt a WorkTracker and waits for it.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from threading import Lock
from typing import Any, ParamSpec, TypeVar

from roadworthy.runtimes.langgraph.exits import contained

Params = ParamSpec("Params")
Result = TypeVar("Result")

_tracker: "ContextVar[WorkTracker | None]" = ContextVar("roadworthy_thread_tracker", default=None)


class WorkTracker:
    """An attempt's calls that wait for a thread or run in one, and tasks that outlive it. Made on the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._busy: set[Future[Any] | asyncio.Task[Any]] = set()
        self._lock = Lock()
        self._idle = asyncio.Event()
        self._idle.set()

    def enter(self) -> None:
        """Track every call submitted from the current context and from its copies."""
        _tracker.set(self)

    def add(self, future: "Future[Any] | asyncio.Task[Any]") -> None:
        """Track one call or task until it ends or is cancelled before its start."""
        with self._lock:
            self._busy.add(future)
            self._idle.clear()
        future.add_done_callback(self._discard)

    @property
    def idle(self) -> bool:
        """Whether no call is left."""
        return not self._busy

    async def wait_idle(self) -> None:
        """Until no call is left."""
        while self._busy:
            await self._idle.wait()

    def _discard(self, future: "Future[Any] | asyncio.Task[Any]") -> None:
        with self._lock:
            self._busy.discard(future)
            empty = not self._busy
        if empty and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        if not self._busy:
            self._idle.set()


class TrackingExecutor(ThreadPoolExecutor):
    """A thread pool that tells the submitting attempt's tracker about each call."""

    def submit(self, fn: Callable[Params, Result], /, *args: Params.args, **kwargs: Params.kwargs) -> "Future[Result]":
        """Run ``fn`` on a thread, contained and known to the current attempt."""

        def call() -> Result:
            with contained():
                return fn(*args, **kwargs)

        future = super().submit(call)
        if (tracker := _tracker.get()) is not None:
            tracker.add(future)
        return future
