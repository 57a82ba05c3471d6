"""The server's resident memory over thousands of runs, each on a thread of its own."""

from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import linear_regression

from benchmarks.load import run_many
from benchmarks.scale import Scale
from benchmarks.server import served
from benchmarks.table import Row
from benchmarks.throughput import SLOTS

_CLIENTS = 10
_STEPS = 10
# Steps before the line is fitted: caches and pools fill up.
_WARM_STEPS = 3
_GROWTH_PERCENT = 5.0


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """A row with the growth after warm-up; every step alternates between invoke and stream."""
    step = scale.memory_runs // _STEPS
    points: list[tuple[int, float]] = []
    async with served("instant", folder / "memory", slots=SLOTS) as server:
        before = server.memory()
        for number in range(1, _STEPS + 1):
            await run_many(server.target, _CLIENTS, "stream" if number % 2 else "invoke", step)
            points.append((number * step, server.memory()))
    steady = points[_WARM_STEPS - 1 :]
    slope, _ = linear_regression([runs for runs, _ in steady], [mib for _, mib in steady])
    growth = (steady[-1][1] - steady[0][1]) / steady[0][1] * 100
    yield Row(
        what=f"memory after {scale.memory_runs} runs",
        served=f"{points[-1][1]:.0f} MiB (at start {before:.0f})",
        result=f"{growth:+.1f} % from run {steady[0][0]}, {slope * 1024:+.2f} KiB a run",
        target=f"≤ {_GROWTH_PERCENT:g} %",
        met=growth <= _GROWTH_PERCENT,
    )
    yield Row(what="… on the way, MiB", served=" ".join(f"{mib:.0f}" for _, mib in points))
