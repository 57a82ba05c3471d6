"""Many streams at the pace of a real model, all begun at once; and what ``/livez`` has to say meanwhile."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median

from benchmarks.baseline import InProcess
from benchmarks.graphs.answer import ANSWER_TOKENS, PACE_MS
from benchmarks.load import all_at_once
from benchmarks.pulse import pulse
from benchmarks.samples import milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.server import Served, served
from benchmarks.table import Row, at_most
from benchmarks.watch import Watch, quieter_half, watched

_RATIO = 1.2
_LIVEZ_MS = 50.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """Both sides once. Walls, first contents and latencies in seconds."""

    here_wall: float
    there_wall: float
    here: Watch
    there: Watch
    first: Sequence[float]
    latencies: Sequence[float]

    @property
    def others(self) -> float:
        return max(self.here.others, self.there.others)


async def measure(folder: Path, baseline: InProcess, scale: Scale) -> AsyncGenerator[Row]:
    """A row for the streams, one for their first content, and two for ``/livez``."""
    streams = scale.paced_streams
    async with served("paced", folder / "paced", slots=streams) as server:
        await _round(server, baseline, streams)  # warms both up
        rounds = quieter_half([await _round(server, baseline, streams) for _ in range(scale.paced_rounds)])
    others = max(one.others for one in rounds)
    result, target, met = at_most(median(one.there_wall / one.here_wall for one in rounds), _RATIO, " times")
    yield Row(
        what=f"{streams} streams at once, {ANSWER_TOKENS} tokens, {PACE_MS} ms a token",
        inprocess=_cost([one.here_wall for one in rounds], [one.here for one in rounds]),
        served=_cost([one.there_wall for one in rounds], [one.there for one in rounds]),
        result=result,
        target=target,
        met=met,
        others=others,
    )
    first = list(chain.from_iterable(one.first for one in rounds))
    yield Row(what="… their first content, p50", served=milliseconds(percentile(first, 50)))
    latencies = list(chain.from_iterable(one.latencies for one in rounds))
    yield Row(what="… /livez meanwhile, p50", served=milliseconds(percentile(latencies, 50)))
    worst = percentile(latencies, 99)
    result, target, met = at_most(worst * 1000, _LIVEZ_MS, " ms")
    yield Row(what="… /livez meanwhile, p99", served=milliseconds(worst), result=result, target=target, met=met)


async def _round(server: Served, baseline: InProcess, streams: int) -> _Round:
    with watched(baseline.process) as here:
        order = await baseline.ask("at_once", "paced", clients=streams)
    with watched(server.process) as there:
        async with pulse(server.target) as latencies:
            wall, answers = await all_at_once(server.target, streams, "stream")
    return _Round(
        here_wall=order["wall"],
        there_wall=wall,
        here=here,
        there=there,
        first=[answer.first_content for answer in answers],
        latencies=latencies,
    )


def _cost(walls: Sequence[float], watches: Sequence[Watch]) -> str:
    return f"{median(walls):.2f} s, CPU {median(watch.cpu for watch in watches):.2f} s"
