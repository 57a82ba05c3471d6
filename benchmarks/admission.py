"""What it costs to let a run in: key, scope, rate limits and budgets, without storing the run. In its own process."""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.scale import Scale
from benchmarks.table import Row, at_most

_TARGET_MS = 1.0


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """A row with the median, one with the 99th percentile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.admitting",
        str(folder / "admitting"),
        str(scale.admissions),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    measured = json.loads(out)
    result, target, met = at_most(measured["p50_ms"], _TARGET_MS, " ms")
    yield Row(
        what="admission with 4 rate limits and 3 budgets, p50",
        served=f"{measured['p50_ms']:.3f} ms",
        result=result,
        target=target,
        met=met,
    )
    yield Row(what="… p99", served=f"{measured['p99_ms']:.3f} ms")
    yield Row(what="… without any limit, p50", served=f"{measured['free_p50_ms']:.3f} ms")
