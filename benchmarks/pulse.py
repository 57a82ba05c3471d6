"""Asks ``/livez`` at a fixed pace while something else goes on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

from benchmarks.client import Connection, LoadFailed, Target

_OK = 200


@asynccontextmanager
async def pulse(target: Target, *, every: float = 0.02) -> AsyncGenerator[list[float]]:
    """Collects latencies in seconds until the context is left.

    No request waits for the one before it, and each counts from when it was due: a stall shows in all requests that
    fall into it.
    """
    latencies: list[float] = []
    async with asyncio.TaskGroup() as group:
        beats = group.create_task(_beat(target, every, latencies))
        try:
            yield latencies
        finally:
            beats.cancel()


async def _beat(target: Target, every: float, latencies: list[float]) -> None:
    free = [await target.connect()]
    due = perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            while True:
                connection = free.pop() if free else await target.connect()
                group.create_task(_ask(target, connection, due, latencies, free))
                due += every
                await asyncio.sleep(max(0.0, due - perf_counter()))
    finally:
        for connection in free:
            connection.close()


async def _ask(
    target: Target, connection: Connection, due: float, latencies: list[float], free: list[Connection]
) -> None:
    if (await connection.call(target.get("/livez"))).status != _OK:
        raise LoadFailed("/livez does not answer")
    latencies.append(perf_counter() - due)
    free.append(connection)
