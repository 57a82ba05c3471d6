"""Many streams at the pace of a real model, all begun at once; and what ``/livez`` has to say meanwhile."""

from collections.abc import AsyncGenerator
from pathlib import Path
from statistics import median

from benchmarks.baseline import InProcess
from benchmarks.graphs.answer import ANSWER_TOKENS, PACE_MS
from benchmarks.load import all_at_once
from benchmarks.pulse import pulse
from benchmarks.samples import cpu_seconds, median_ratio, milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.server import served
from benchmarks.table import Row, at_most

_RATIO = 1.2
_LIVEZ_MS = 50.0


async def measure(folder: Path, baseline: InProcess, scale: Scale) -> AsyncGenerator[Row]:
    """A row for the streams, one for their first content, and two for ``/livez``."""
    streams = scale.paced_streams
    here: list[float] = []
    there: list[float] = []
    first: list[float] = []
    latencies: list[float] = []
    here_cpu = there_cpu = 0.0
    async with served("paced", folder / "paced", slots=streams) as server:
        for turn in range(1 + scale.paced_rounds):
            here_before, there_before = cpu_seconds(baseline.process), cpu_seconds(server.process)
            order = await baseline.ask("at_once", "paced", clients=streams)
            async with pulse(server.target) as beats:
                wall, answers = await all_at_once(server.target, streams, "stream")
            if turn:  # the first one warms both up
                here_cpu += cpu_seconds(baseline.process) - here_before
                there_cpu += cpu_seconds(server.process) - there_before
                here.append(order["wall"])
                there.append(wall)
                first += [answer.first_content for answer in answers]
                latencies += beats
    result, target, met = at_most(median_ratio(there, here), _RATIO, " times")
    yield Row(
        what=f"{streams} streams at once, {ANSWER_TOKENS} tokens, {PACE_MS} ms a token",
        inprocess=f"{median(here):.2f} s, CPU {here_cpu / scale.paced_rounds:.2f} s",
        served=f"{median(there):.2f} s, CPU {there_cpu / scale.paced_rounds:.2f} s",
        result=result,
        target=target,
        met=met,
    )
    yield Row(what="… their first content, p50", served=milliseconds(percentile(first, 50)))
    yield Row(what="… /livez meanwhile, p50", served=milliseconds(percentile(latencies, 50)))
    worst = percentile(latencies, 99)
    result, target, met = at_most(worst * 1000, _LIVEZ_MS, " ms")
    yield Row(what="… /livez meanwhile, p99", served=milliseconds(worst), result=result, target=target, met=met)
