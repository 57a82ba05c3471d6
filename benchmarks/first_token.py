"""Time to the first ``content`` event over HTTP, less the time to the first token in-process. One client."""

from collections.abc import AsyncGenerator
from pathlib import Path

from benchmarks.baseline import InProcess
from benchmarks.load import connected
from benchmarks.samples import milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.server import served
from benchmarks.table import Row, at_most
from benchmarks.throughput import SLOTS

# The sides take turns this often, so that what disturbs the machine disturbs both.
_IN_A_ROW = 10
_ADDED_MS = 5.0


async def measure(folder: Path, baseline: InProcess, scale: Scale) -> AsyncGenerator[Row]:
    """A row for the median and one for the 99th percentile."""
    here: list[float] = []
    there: list[float] = []
    async with served("instant", folder / "first-token", slots=SLOTS) as server:
        request = server.target.run("stream")
        for turn in range(1 + -(-scale.first_tokens // _IN_A_ROW)):
            order = await baseline.ask("first_token", "instant", times=_IN_A_ROW)
            async with connected(server.target, 1) as (connection,):
                times = [(await connection.call(request)).checked().first_content for _ in range(_IN_A_ROW)]
            if turn:  # the first one warms both up
                here += order["seconds"]
                there += times
    for percent in (50, 99):
        theirs, ours = percentile(here, percent), percentile(there, percent)
        result, target, met = at_most((ours - theirs) * 1000, _ADDED_MS, " ms")
        yield Row(
            what=f"time to first content, 1 client, p{percent}",
            inprocess=milliseconds(theirs),
            served=milliseconds(ours),
            result=f"+{result}",
            target=target if percent == 50 else "",
            met=met if percent == 50 else None,
        )
