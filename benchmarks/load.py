"""Load over HTTP: many clients, each with a connection of its own, opened before the clock runs."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import perf_counter

from benchmarks.client import Answer, Connection, Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What happened in one slice of time. ``seconds``: of each run."""

    wall: float
    seconds: Sequence[float]

    @property
    def per_second(self) -> float:
        """Runs a second."""
        return len(self.seconds) / self.wall


async def load_for(target: Target, clients: int, kind: str, seconds: float) -> Load:
    """Every client runs ``kind`` again and again for so long; runs under way at the end are waited for.

    Raises:
        LoadFailed: a run did not succeed.
    """
    request = target.run(kind)
    times: list[float] = []

    async def client(connection: Connection, until: float) -> None:
        while perf_counter() < until:
            times.append((await connection.call(request)).checked().seconds)

    async with connected(target, clients) as connections:
        began_at = perf_counter()
        await asyncio.gather(*(client(connection, began_at + seconds) for connection in connections))
        return Load(wall=perf_counter() - began_at, seconds=times)


async def run_many(target: Target, clients: int, kind: str, runs: int) -> None:
    """So many runs, spread over the clients.

    Raises:
        LoadFailed: a run did not succeed.
    """
    request = target.run(kind)
    left = iter(range(runs))

    async def client(connection: Connection) -> None:
        for _ in left:
            (await connection.call(request)).checked()

    async with connected(target, clients) as connections:
        await asyncio.gather(*(client(connection) for connection in connections))


async def all_at_once(target: Target, clients: int, kind: str) -> tuple[float, Sequence[Answer]]:
    """One run of each client, all begun together; the time until the last has ended, in seconds.

    Raises:
        LoadFailed: a run did not succeed.
    """
    request = target.run(kind)
    async with connected(target, clients) as connections:
        began_at = perf_counter()
        answers = await asyncio.gather(*(connection.call(request) for connection in connections))
        wall = perf_counter() - began_at
    return wall, [answer.checked() for answer in answers]


@asynccontextmanager
async def connected(target: Target, count: int) -> AsyncGenerator[Sequence[Connection]]:
    """So many new connections. The server closes those that it has not heard of for seconds, so nobody keeps them."""
    connections = [await target.connect() for _ in range(count)]
    try:
        yield connections
    finally:
        for connection in connections:
            connection.close()
