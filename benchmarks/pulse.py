"""Asks ``/livez`` at a fixed pace while something else goes on."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from time import perf_counter

from benchmarks.client import LoadFailed, Target

_OK = 200


@asynccontextmanager
async def pulse(target: Target, *, every: float = 0.01) -> AsyncGenerator[list[float]]:
    """Collects latencies in seconds until the context is left.

    A latency counts from when the request was due, so that a stall is not hidden by the requests it held back.
    """
    latencies: list[float] = []
    async with asyncio.TaskGroup() as group:
        task = group.create_task(_beat(target, every, latencies))
        try:
            yield latencies
        finally:
            task.cancel()


async def _beat(target: Target, every: float, latencies: list[float]) -> None:
    connection = await target.connect()
    request = target.get("/livez")
    due = perf_counter()
    try:
        while True:
            await asyncio.sleep(max(0.0, due - perf_counter()))
            if (await connection.call(request)).status != _OK:
                raise LoadFailed("/livez does not answer")
            latencies.append(perf_counter() - due)
            due += every
    finally:
        connection.close()
