"""Runs a second over HTTP to runs a second in-process, at the same number of clients."""

from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import psutil

from benchmarks.baseline import InProcess
from benchmarks.load import Load, load_for
from benchmarks.samples import cpu_seconds, median_ratio, milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.server import Served, served
from benchmarks.table import Row, at_least, at_most

SLOTS = 50
_CLIENTS = (1, 10, 50)
_TOOL_CLIENTS = 10
_WARM_SECONDS = 0.5
_RATIO = 0.7
_ADDED_MS = 5.0


class _Side:
    """What one side has done in all its slices."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._cpu = 0.0
        self.rates: list[float] = []
        self.seconds: list[float] = []

    @contextmanager
    def counted(self) -> Generator[None]:
        """Count the CPU time of a slice."""
        before = cpu_seconds(self._process)
        yield
        self._cpu += cpu_seconds(self._process) - before

    def add(self, load: Load) -> None:
        """Note what happened in a slice."""
        self.rates.append(load.per_second)
        self.seconds += load.seconds

    def __str__(self) -> str:
        return f"{median(self.rates):.0f}/s, CPU {self._cpu / len(self.seconds) * 1000:.1f} ms"


async def measure(folder: Path, baseline: InProcess, scale: Scale) -> AsyncGenerator[Row]:
    """A row for each kind and number of clients, and the time that a lone invoke takes longer."""
    async with served("instant", folder / "instant", slots=SLOTS) as server:
        for kind in ("invoke", "stream"):
            for clients in _CLIENTS:
                async for row in _compare(server, baseline, "instant", kind, clients, scale):
                    yield row
    async with served("tooling", folder / "tooling", slots=SLOTS) as server:
        async for row in _compare(server, baseline, "tooling", "stream", _TOOL_CLIENTS, scale):
            yield row


async def _compare(
    server: Served, baseline: InProcess, graph: str, kind: str, clients: int, scale: Scale
) -> AsyncGenerator[Row]:
    here, there = _Side(baseline.process), _Side(server.process)
    await load_for(server.target, clients, kind, _WARM_SECONDS)
    await baseline.ask("load", graph, kind=kind, clients=clients, seconds=_WARM_SECONDS)
    for _ in range(scale.rounds):
        with here.counted():
            order = await baseline.ask("load", graph, kind=kind, clients=clients, seconds=scale.slice_seconds)
            here.add(Load(wall=order["wall"], seconds=order["seconds"]))
        with there.counted():
            there.add(await load_for(server.target, clients, kind, scale.slice_seconds))
    tool = ", with a tool" if graph == "tooling" else ""
    result, target, met = at_least(median_ratio(there.rates, here.rates), _RATIO)
    yield Row(
        what=f"{kind}{tool}, {clients} {'client' if clients == 1 else 'clients'}",
        inprocess=str(here),
        served=str(there),
        result=result,
        target=target,
        met=met,
    )
    if clients == 1 and kind == "invoke":
        yield _added(here.seconds, there.seconds)


def _added(here: Sequence[float], there: Sequence[float]) -> Row:
    ours, theirs = percentile(there, 50), percentile(here, 50)
    result, target, met = at_most((ours - theirs) * 1000, _ADDED_MS, " ms")
    return Row(
        what="whole invoke, 1 client, p50",
        inprocess=milliseconds(theirs),
        served=milliseconds(ours),
        result=f"+{result}",
        target=target,
        met=met,
    )
