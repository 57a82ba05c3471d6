"""Thousands of connections that watch silent runs: memory of each, ``/livez`` meanwhile, database handles."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from benchmarks.client import Connection, LoadFailed, Target
from benchmarks.limits import connections_possible
from benchmarks.load import connected
from benchmarks.pulse import pulse
from benchmarks.samples import milliseconds, percentile
from benchmarks.server import Served, served
from benchmarks.table import Row, at_most

_RUNS = 10
_LIVEZ_MS = 50.0
_SETTLE_SECONDS = 3
_OPEN_SECONDS = 300
_AT_ONCE = 100
_ENV = {"REQUEST_TIMEOUT": "7200", "ROADWORTHY_IDLE_TIMEOUT": "7200"}


async def measure(folder: Path, *, connections: int, seconds: float) -> AsyncGenerator[Row]:
    """Rows for memory, ``/livez``, handles, and what is left when all have gone. ``seconds``: how long they stay."""
    count = connections_possible(connections)
    async with (
        served("silent", folder / "idle", slots=_RUNS, env=_ENV) as server,
        connected(server.target, _RUNS) as creators,
    ):
        runs = [await _start_run(server.target, one, number) for number, one in enumerate(creators)]
        await asyncio.sleep(_SETTLE_SECONDS)
        before, files, databases = server.memory(), server.process.num_fds(), _databases(server)
        async with _watching(server.target, runs, count):
            await asyncio.sleep(_SETTLE_SECONDS)
            async with pulse(server.target) as latencies:
                await asyncio.sleep(seconds)
            held, handles = server.memory() - before, _databases(server)
        await asyncio.sleep(_SETTLE_SECONDS)
        left, files_left = server.memory() - before, server.process.num_fds()
    few = "" if count == connections else f" (as many as the limit on open files allows, not {connections})"
    yield Row(what=f"{count} idle streams{few}, memory of each", served=f"{held * 1024 / count:.1f} KiB")
    worst = percentile(latencies, 99)
    result, target, met = at_most(worst * 1000, _LIVEZ_MS, " ms")
    yield Row(what="… /livez meanwhile, p50", served=milliseconds(percentile(latencies, 50)))
    yield Row(what="… /livez meanwhile, p99", served=milliseconds(worst), result=result, target=target, met=met)
    yield Row(
        what="… database handles, without and with them",
        served=f"{databases}, {handles}",
        target="equal",
        met=handles == databases,
    )
    yield Row(
        what="… when they have gone: memory, open files",
        served=f"{left:+.0f} MiB, {files} → {files_left}",
        target="no file more",
        met=files_left <= files,
    )


class _Watcher(Connection):
    """A connection that throws away what it reads; ``greeted`` is set with the first byte of a body."""

    def __init__(self) -> None:
        super().__init__()
        self.greeted = asyncio.Event()

    def on_body(self, body: bytes) -> None:
        """Note that the stream has begun."""
        del body
        self.greeted.set()


@asynccontextmanager
async def _watching(target: Target, runs: Sequence[str], count: int) -> AsyncGenerator[None]:
    """So many streams, all open."""
    watchers: list[_Watcher] = []
    turn = asyncio.Semaphore(_AT_ONCE)
    loop = asyncio.get_running_loop()

    async def watch(number: int) -> None:
        async with turn:
            _, watcher = await loop.create_connection(_Watcher, "127.0.0.1", target.port)
            watchers.append(watcher)
            watcher.send(target.get(f"/agent/runs/{runs[number % len(runs)]}/stream"))
            await watcher.greeted.wait()

    try:
        async with asyncio.timeout(_OPEN_SECONDS), asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(watch(number))
        yield
        if any(watcher.lost for watcher in watchers):
            raise LoadFailed("an idle stream was closed")
    finally:
        for watcher in watchers:
            watcher.close()


async def _start_run(target: Target, creator: Connection, number: int) -> str:
    """The id of a run that stays, begun over a connection that stays too."""
    thread = f"idle-{number}"
    creator.send(target.run("stream", thread_id=thread))
    async with connected(target, 1) as (asking,), asyncio.timeout(_OPEN_SECONDS):
        while True:
            answer = await asking.call(target.get(f"/agent/threads/{thread}"))
            runs = json.loads(answer.body).get("runs")
            if runs:
                return runs[0]["run_id"]
            await asyncio.sleep(0.05)


def _databases(server: Served) -> int:
    """Open files of databases, their logs and indexes included."""
    try:
        names = [file.path for file in server.process.open_files()]
    except psutil.AccessDenied:
        return 0
    return sum(Path(name).parent == server.data.resolve() for name in names)
