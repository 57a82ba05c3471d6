"""From the start of the process to a server that answers, and to the end of ``--help``."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import median
from time import perf_counter

from benchmarks.cores import measured_core
from benchmarks.scale import Scale
from benchmarks.server import served
from benchmarks.table import Row
from tests.support.server import COMMAND


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """A row for ``serve`` with the built-in agents on an empty data folder, one for ``--help``."""
    starts: list[float] = []
    for number in range(scale.starts):
        async with served(None, folder / f"start-{number}", slots=10) as server:
            starts.append(server.start_seconds)
    yield Row(what=f"start to /health, median of {scale.starts}", served=f"{median(starts):.2f} s")
    helps = [await _help() for _ in range(scale.starts)]
    yield Row(what=f"roadworthy --help, median of {scale.starts}", served=f"{median(helps):.2f} s")


async def _help() -> float:
    began_at = perf_counter()
    with measured_core():
        process = await asyncio.create_subprocess_exec(str(COMMAND), "--help", stdout=asyncio.subprocess.DEVNULL)
    await process.wait()
    return perf_counter() - began_at
