"""Runs a second on the server's checkpointer to runs a second on LangGraph's own, in processes without a server."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.baseline import InProcess, in_process
from benchmarks.load import Load
from benchmarks.scale import Scale
from benchmarks.table import Row, at_least
from benchmarks.watch import Watch, quieter_half, watched

_CLIENTS = (1, 10)
_TARGET_CLIENTS = 10
_LONG = 200
_RATIO = 1.5
_WARM_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """What is compared. ``messages``: how many the threads begin with; 0: every run has a new one."""

    graph: str
    clients: int
    messages: int = 0

    def __str__(self) -> str:
        tool = ", with a tool" if self.graph == "tooling" else ""
        long = f", threads of {self.messages} messages" if self.messages else ""
        return f"saver{tool}{long}, {self.clients} {'run' if self.clients == 1 else 'runs'} at once"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """One saver's turn."""

    load: Load
    watch: Watch


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One turn of each."""

    stock: _Slice
    ours: _Slice

    @property
    def others(self) -> float:
        """How much of the core other programs had."""
        return max(self.stock.watch.others, self.ours.watch.others)


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """A row for each graph, length of a thread, and number of runs at once."""
    async with in_process(folder, "stock") as stock, in_process(folder, "ours") as ours:
        for graph, messages in (("instant", 0), ("tooling", 0), ("instant", _LONG)):
            for clients in _CLIENTS:
                case = _Case(graph=graph, clients=clients, messages=messages)
                for side in (stock, ours):
                    await _turn(side, case, _WARM_SECONDS)
                rounds = [
                    _Round(
                        stock=await _turn(stock, case, scale.slice_seconds),
                        ours=await _turn(ours, case, scale.slice_seconds),
                    )
                    for _ in range(scale.rounds)
                ]
                yield _row(case, quieter_half(rounds))


async def _turn(side: InProcess, case: _Case, seconds: float) -> _Slice:
    if case.messages:
        await side.ask("prepare", case.graph, clients=case.clients, messages=case.messages)
    with watched(side.process) as watch:
        done = await side.ask("load", case.graph, kind="invoke", clients=case.clients, seconds=seconds)
    return _Slice(load=Load(wall=done["wall"], seconds=done["seconds"]), watch=watch)


def _row(case: _Case, rounds: Sequence[_Round]) -> Row:
    ratio = median(one.ours.load.per_second / one.stock.load.per_second for one in rounds)
    result, target, met = at_least(ratio, _RATIO)
    aimed = case.clients == _TARGET_CLIENTS
    return Row(
        what=str(case),
        inprocess=f"stock {_rate([one.stock for one in rounds])} → {_rate([one.ours for one in rounds])}",
        result=result,
        target=target if aimed else "",
        met=met if aimed else None,
        others=max(one.others for one in rounds),
    )


def _rate(slices: Sequence[_Slice]) -> str:
    runs = sum(len(one.load.seconds) for one in slices)
    cpu = sum(one.watch.cpu for one in slices)
    return f"{median(one.load.per_second for one in slices):.0f}/s, CPU {cpu / runs * 1000:.1f} ms"
