"""What grows: the database with the turns of a thread, memory and open files with the hours."""

import asyncio
import random
import sqlite3
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression, median
from time import perf_counter

from benchmarks.client import Connection, Target
from benchmarks.load import connected
from benchmarks.samples import milliseconds
from benchmarks.server import Served, served
from benchmarks.table import Row

_STEPS = 3
_DATABASES = ("roadworthy.db", "checkpoints.sqlite")
_SAMPLE_SECONDS = 2.0
_WARM_PART = 3
_INSTANT_CLIENTS = 10
_PACED_CLIENTS = 50

Client = Callable[[Target, Connection], Awaitable[None]]


async def thread(folder: Path, *, turns: int) -> AsyncGenerator[Row]:
    """A row for each database with its bytes a turn, and one for the time of a turn; by thirds of the thread's life."""
    sizes: list[Sequence[int]] = []
    times: list[float] = []
    async with (
        served("instant", folder / "thread", slots=10) as server,
        connected(server.target, 1) as (connection,),
    ):
        request = server.target.run("invoke", thread_id="long")
        sizes.append(_sizes(server))
        for _ in range(_STEPS):
            times += [(await connection.call(request)).checked().seconds for _ in range(turns // _STEPS)]
            sizes.append(_sizes(server))
    each = turns // _STEPS
    for index, name in enumerate(_DATABASES):
        grown = [(later[index] - earlier[index]) / each / 1024 for earlier, later in pairwise(sizes)]
        yield Row(
            what=f"one thread, {turns} turns: KiB a turn in {name}", served=" → ".join(f"{one:.1f}" for one in grown)
        )
    thirds = [times[start : start + each] for start in range(0, len(times), each)]
    yield Row(what="… time of a turn, p50", served=" → ".join(milliseconds(median(third)) for third in thirds))


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


def _sizes(server: Served) -> Sequence[int]:
    """Bytes in each database, its write-ahead log counted as if it were written back."""
    return [_size(server.data / name) for name in _DATABASES]


def _size(path: Path) -> int:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        (pages,), (page_size,) = (
            connection.execute(f"PRAGMA {what}").fetchone() for what in ("page_count", "page_size")
        )
    finally:
        connection.close()
    return int(pages) * int(page_size)
