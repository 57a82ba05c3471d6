"""When a process cannot help itself any more: every slot lost to threads that do not end.

A Python thread cannot be killed. Such a process reports itself not ready and, after a while, ends; its supervisor
starts a new one, and nothing is lost: the runs of those threads have already ended.
"""

import asyncio
from datetime import timedelta

from roadworthy.ports.dispatch import Dispatcher
from roadworthy.ports.telemetry import Telemetry

_LOOK_EVERY = timedelta(seconds=1)


class EngineStuck(Exception):
    """Every slot has been held by the threads of ended runs for too long; the process should end."""


async def watch_slots(dispatcher: Dispatcher, timeout: timedelta, telemetry: Telemetry) -> None:
    """Look at the slots until cancelled.

    Raises:
        EngineStuck: all of them have been stuck for ``timeout``.
    """
    loop = asyncio.get_running_loop()
    since: float | None = None
    while True:
        await asyncio.sleep(_LOOK_EVERY.total_seconds())
        if not dispatcher.stuck():
            since = None
            continue
        if since is None:
            since = loop.time()
            telemetry.worker_note("all_slots_stuck", timeout_seconds=timeout.total_seconds())
        elif loop.time() - since >= timeout.total_seconds():
            raise EngineStuck(f"every slot has been held by threads of ended runs for {timeout.total_seconds():g} s")
