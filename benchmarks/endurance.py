"""What grows with the hours: memory and open files."""

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from statistics import linear_regression
from time import perf_counter

from benchmarks.client import Connection, Target
from benchmarks.load import connected
from benchmarks.server import Served, served
from benchmarks.table import Row

_SAMPLE_SECONDS = 2.0
_WARM_PART = 3
_INSTANT_CLIENTS = 10
_PACED_CLIENTS = 50

Client = Callable[[Target, Connection], Awaitable[None]]


async def churn(folder: Path, *, seconds: float) -> AsyncGenerator[Row]:
    """Rows for clients that ask at once and stay, and for clients that leave in the middle of a slow stream."""
    for graph, clients, client, what in (
        ("instant", _INSTANT_CLIENTS, _ask, "invoke and stream in turn"),
        ("paced", _PACED_CLIENTS, _ask_or_leave, "slow streams, half of them left midway"),
    ):
        async with served(graph, folder / f"churn-{graph}", slots=clients * 2) as server:
            async for row in _churn(server, clients, client, seconds, what):
                yield row


async def _churn(server: Served, clients: int, client: Client, seconds: float, what: str) -> AsyncGenerator[Row]:
    files = server.process.num_fds()
    points: list[tuple[float, float]] = []
    runs = 0

    async def work(until: float) -> None:
        nonlocal runs
        while perf_counter() < until:
            async with connected(server.target, 1) as (connection,):
                await client(server.target, connection)
            runs += 1

    began_at = perf_counter()
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(work(began_at + seconds))
        while perf_counter() < began_at + seconds:
            points.append((perf_counter() - began_at, server.memory()))
            await asyncio.sleep(_SAMPLE_SECONDS)
    await asyncio.sleep(_SAMPLE_SECONDS)
    steady = points[len(points) // _WARM_PART :]
    slope, _ = linear_regression([at for at, _ in steady], [mib for _, mib in steady])
    yield Row(
        what=f"{what}, {seconds:.0f} s, {runs} runs: memory",
        served=f"{points[0][1]:.0f} → {points[-1][1]:.0f} MiB",
        result=f"{slope * 60:+.2f} MiB a minute",
        target="flat",
    )
    yield Row(
        what="… open files before and after",
        served=f"{files} → {server.process.num_fds()}",
        target="no file more",
        met=server.process.num_fds() <= files,
    )


async def _ask(target: Target, connection: Connection) -> None:
    for kind in ("invoke", "stream"):
        (await connection.call(target.run(kind))).checked()


async def _ask_or_leave(target: Target, connection: Connection) -> None:
    if random.random() < 0.5:
        (await connection.call(target.run("stream"))).checked()
        return
    connection.send(target.run("stream"))
    await asyncio.sleep(random.uniform(0.1, 0.9))
