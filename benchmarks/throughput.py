"""Runs a second over HTTP to runs a second in-process, at the same number of clients."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from statistics import median

from benchmarks.baseline import InProcess
from benchmarks.load import Load, load_for
from benchmarks.samples import milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.server import Served, served
from benchmarks.table import Row, at_least, at_most
from benchmarks.watch import Watch, quieter_half, watched

SLOTS = 50
_CLIENTS = (1, 10, 50)
_TOOL_CLIENTS = 10
_WARM_SECONDS = 0.5
_RATIO = 0.7
_ADDED_MS = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """One side's turn."""

    load: Load
    watch: Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One turn of each side."""

    here: _Slice
    there: _Slice

    @property
    def others(self) -> float:
        return max(self.here.watch.others, self.there.watch.others)

    @property
    def ratio(self) -> float:
        return self.there.load.per_second / self.here.load.per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is compared."""

    graph: str
    kind: str
    clients: int

    def __str__(self) -> str:
        tool = ", with a tool" if self.graph == "tooling" else ""
        return f"{self.kind}{tool}, {self.clients} {'client' if self.clients == 1 else 'clients'}"


async def measure(folder: Path, baseline: InProcess, scale: Scale) -> AsyncGenerator[Row]:
    """A row for each kind and number of clients, and the time that a lone invoke takes longer."""
    async with served("instant", folder / "instant", slots=SLOTS) as server:
        for kind in ("invoke", "stream"):
            for clients in _CLIENTS:
                case = _Case(graph="instant", kind=kind, clients=clients)
                rounds = await _compare(server, baseline, case, scale)
                yield _row(case, rounds)
                if kind == "invoke" and clients == 1:
                    yield _added(rounds)
    async with served("tooling", folder / "tooling", slots=SLOTS) as server:
        case = _Case(graph="tooling", kind="stream", clients=_TOOL_CLIENTS)
        yield _row(case, await _compare(server, baseline, case, scale))


async def _compare(server: Served, baseline: InProcess, case: _Case, scale: Scale) -> Sequence[_Round]:
    await _here(baseline, case, _WARM_SECONDS)
    await _there(server, case, _WARM_SECONDS)
    rounds = [
        _Round(
            here=await _here(baseline, case, scale.slice_seconds), there=await _there(server, case, scale.slice_seconds)
        )
        for _ in range(scale.rounds)
    ]
    return quieter_half(rounds)


async def _here(baseline: InProcess, case: _Case, seconds: float) -> _Slice:
    with watched(baseline.process) as watch:
        done = await baseline.ask("load", case.graph, kind=case.kind, clients=case.clients, seconds=seconds)
    return _Slice(load=Load(wall=done["wall"], seconds=done["seconds"]), watch=watch)


async def _there(server: Served, case: _Case, seconds: float) -> _Slice:
    with watched(server.process) as watch:
        load = await load_for(server.target, case.clients, case.kind, seconds)
    return _Slice(load=load, watch=watch)


def _row(case: _Case, rounds: Sequence[_Round]) -> Row:
    result, target, met = at_least(median(one.ratio for one in rounds), _RATIO)
    return Row(
        what=str(case),
        inprocess=_rate([one.here for one in rounds]),
        served=_rate([one.there for one in rounds]),
        result=result,
        target=target,
        met=met,
        others=max(one.others for one in rounds),
    )


def _rate(slices: Sequence[_Slice]) -> str:
    runs = sum(len(one.load.seconds) for one in slices)
    cpu = sum(one.watch.cpu for one in slices)
    return f"{median(one.load.per_second for one in slices):.0f}/s, CPU {cpu / runs * 1000:.1f} ms"


def _added(rounds: Sequence[_Round]) -> Row:
    theirs, ours = (
        percentile(list(chain.from_iterable(one.load.seconds for one in slices)), 50)
        for slices in ([one.here for one in rounds], [one.there for one in rounds])
    )
    result, target, met = at_most((ours - theirs) * 1000, _ADDED_MS, " ms")
    return Row(
        what="whole invoke, 1 client, p50",
        inprocess=milliseconds(theirs),
        served=milliseconds(ours),
        result=f"+{result}",
        target=target,
        met=met,
        others=max(one.others for one in rounds),
    )
