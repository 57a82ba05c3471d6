"""The shipped server on the measured core, as ``roadworthy serve`` starts it."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import psutil

from benchmarks.client import LoadFailed, Target
from benchmarks.cores import measured_core
from tests.support.server import ServerProcess

_GRAPHS = Path(__file__).parent / "graphs" / "scripted.py"
_OK = 200
_START_SECONDS = 60


@asynccontextmanager
async def served(
    graph: str | None, folder: Path, *, slots: int, env: Mapping[str, str] | None = None
) -> AsyncGenerator["Served"]:
    """A server with one of the graphs, or with the built-in agents, on a new data folder."""
    process = ServerProcess(
        folder,
        target=None if graph is None else f"{_GRAPHS}:{graph}",
        env={"MAX_CONCURRENT_REQUESTS": str(slots), **(env or {})},
    )
    began_at = perf_counter()
    with measured_core():
        await process.start(wait=False)
    try:
        target = Target(port=process.port, key=process.admin_key)
        await _until_healthy(process, target)
        yield Served(process, target, start_seconds=perf_counter() - began_at)
    finally:
        await process.kill()


class Served:
    """A server that answers. ``start_seconds``: from the process's start to the first good answer of ``/health``."""

    def __init__(self, process: ServerProcess, target: Target, *, start_seconds: float) -> None:
        self.target = target
        self.start_seconds = start_seconds
        self.data = process.data
        self.process = psutil.Process(process.pid)

    def memory(self) -> float:
        """Resident MiB."""
        return self.process.memory_info().rss / 2**20


async def _until_healthy(process: ServerProcess, target: Target) -> None:
    request = target.get("/health")
    async with asyncio.timeout(_START_SECONDS):
        while True:
            if not psutil.pid_exists(process.pid):
                raise LoadFailed(process.logs)
            try:
                connection = await target.connect()
            except OSError:
                await asyncio.sleep(0.005)
                continue
            try:
                if (await connection.call(request)).status == _OK:
                    return
            finally:
                connection.close()
