"""Keeps an agent that asks the process to exit from ending the server: its code has failed, and that is all.

``SystemExit`` and ``KeyboardInterrupt`` that leave an asyncio task leave the event loop too, and LangChain makes a task
of nearly every call. So tasks are contained where they are made: ``runtime`` installs ``contained_tasks``, ``run``
enters an attempt's own task. ``threads`` contains what runs in threads.
"""

import asyncio
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
# What asyncio takes for the code of a task.
Body: TypeAlias = Coroutine[Any, Any, T] | Generator[Any, None, T]

_inside: ContextVar[bool] = ContextVar("roadworthy_contained", default=False)


class ProcessExit(Exception):
    """Agent code raised SystemExit or KeyboardInterrupt."""


@contextmanager
def contained() -> Generator[None]:
    """Run agent code.

    Raises:
        ProcessExit: it asked the process to exit.
    """
    try:
        yield
    except (SystemExit, KeyboardInterrupt) as error:
        raise ProcessExit(type(error).__name__) from error


def enter_containment() -> None:
    """From here on, every task made in the current context and in its copies is contained."""
    _inside.set(True)


@contextmanager
def contained_tasks(loop: asyncio.AbstractEventLoop) -> Generator[None]:
    """Make the loop contain tasks, inside of an attempt and nowhere else."""
    before = loop.get_task_factory()
    plain = _make_task if before is None else before

    def make(loop: asyncio.AbstractEventLoop, coro: Body[T], **options: Any) -> asyncio.Future[T]:  # noqa: ANN401 -- asyncio's
        if not (_inside.get() and isinstance(coro, Coroutine)):
            return plain(loop, coro, **options)
        task = plain(loop, _contain(coro), **options)
        # A task that is cancelled before it starts never comes to its coroutine, which would complain.
        task.add_done_callback(lambda _: coro.close())
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


def _make_task(loop: asyncio.AbstractEventLoop, coro: Body[T], **options: Any) -> asyncio.Task[T]:  # noqa: ANN401 -- as above
    return asyncio.Task(coro, loop=loop, **options)


async def _contain(coro: Coroutine[Any, Any, T]) -> T:
    # Not ``contained``, because this is around every task.
    try:
        return await coro
    except (SystemExit, KeyboardInterrupt) as error:
        raise ProcessExit(type(error).__name__) from error
