"""What a fleet on Postgres and Valkey adds to the same graph in-process on the same checkpointer.

The processes of the fleet and the one in-process share the measured core, whatever their number: a ratio says how much
of what a core can do is left, and more workers do not raise it. Postgres and Valkey are on the other core, on both
sides, with the load generator. ``crossing.py`` measures the way of an event from one replica to another.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import psutil

from benchmarks import crossing
from benchmarks.baseline import InProcess, in_process
from benchmarks.cores import busy_seconds
from benchmarks.fleet import Fleet, Replica, Stores, cpu_seconds, fleet, stores
from benchmarks.load import Load, connected, load_for, run_many
from benchmarks.samples import milliseconds, percentile
from benchmarks.scale import Scale
from benchmarks.statement_log import Executed, executed
from benchmarks.table import Row, at_least, at_most
from benchmarks.watch import quieter_half

_SLOTS = 50
_CLIENTS = 10
_WORKERS = 3
_WARM_SECONDS = 1.5
_RATIO = 0.6
_ADDED_MS = 8.0
_IN_A_ROW = 10
_CROSSING_MS = 10.0
_IDLE_SECONDS = 5.0

Processes = Mapping[str, Sequence[psutil.Process]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slice:
    """One side's turn. ``cpu``: seconds by the kind of process; ``others``: share of the measured core."""

    load: Load
    cpu: Mapping[str, float]
    others: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Round:
    """One turn of each side."""

    here: _Slice
    there: _Slice

    @property
    def others(self) -> float:
        return max(self.here.others, self.there.others)

    @property
    def ratio(self) -> float:
        return self.there.load.per_second / self.here.load.per_second


async def measure(folder: Path, scale: Scale) -> AsyncGenerator[Row]:
    """Rows for the savers, for one server, for one API with one, two and three workers, and for an event's way."""
    with stores() as shared:
        places = [shared.postgres.create() for _ in range(2)]
        async with (
            in_process(folder, "postgres-stock", postgres=places[0]) as stock,
            in_process(folder, "postgres-ours", postgres=places[1]) as ours,
        ):
            yield await _savers(stock, ours, shared, scale)
            async with fleet("scripted.py:instant", folder / "one", shared, slots=_SLOTS) as made:
                server = await made.add("serve")
                async for row in _rows("one server", made, server, ours, shared, scale, first=True):
                    yield row
            async with fleet("scripted.py:instant", folder / "several", shared, slots=_SLOTS) as made:
                api = await made.add("api")
                for workers in range(1, _WORKERS + 1):
                    await made.add("worker")
                    what = f"API and {workers} {'worker' if workers == 1 else 'workers'}"
                    async for row in _rows(what, made, api, ours, shared, scale, first=workers == 1):
                        yield row
        yield await _crossing(shared)


async def _rows(
    what: str, made: Fleet, asked: Replica, baseline: InProcess, shared: Stores, scale: Scale, *, first: bool
) -> AsyncGenerator[Row]:
    yield await _throughput(what, made, asked, baseline, shared, scale)
    if first:
        async for row in _first_content(what, asked, baseline, scale):
            yield row
        async for row in _statements(what, made, asked, shared, scale.counted_runs):
            yield row


async def _savers(stock: InProcess, ours: InProcess, shared: Stores, scale: Scale) -> Row:
    await _here(stock, shared, _WARM_SECONDS)
    await _here(ours, shared, _WARM_SECONDS)
    rounds = quieter_half(
        [
            _Round(
                here=await _here(stock, shared, scale.slice_seconds),
                there=await _here(ours, shared, scale.slice_seconds),
            )
            for _ in range(scale.rounds)
        ]
    )
    return Row(
        what=f"in-process on Postgres, stream, {_CLIENTS} clients, stock saver → ours",
        inprocess=f"{_rate([one.here for one in rounds])} → {_rate([one.there for one in rounds])}",
        result=f"{median(one.ratio for one in rounds):.2f}",
        others=max(one.others for one in rounds),
    )


async def _throughput(what: str, made: Fleet, asked: Replica, baseline: InProcess, shared: Stores, scale: Scale) -> Row:
    await _here(baseline, shared, _WARM_SECONDS)
    await _there(made, asked, shared, _WARM_SECONDS)
    rounds = quieter_half(
        [
            _Round(
                here=await _here(baseline, shared, scale.slice_seconds),
                there=await _there(made, asked, shared, scale.slice_seconds),
            )
            for _ in range(scale.rounds)
        ]
    )
    result, target, met = at_least(median(one.ratio for one in rounds), _RATIO)
    return Row(
        what=f"{what}, stream, {_CLIENTS} clients",
        inprocess=_rate([one.here for one in rounds]),
        served=_rate([one.there for one in rounds]),
        result=result,
        target=target,
        met=met,
        others=max(one.others for one in rounds),
    )


async def _here(baseline: InProcess, shared: Stores, seconds: float) -> _Slice:
    watch = _Watch({"Python": [baseline.process], **_of(shared)}, measured=("Python",))
    done = await baseline.ask("load", "instant", kind="stream", clients=_CLIENTS, seconds=seconds)
    return watch.slice(Load(wall=done["wall"], seconds=done["seconds"]))


async def _there(made: Fleet, asked: Replica, shared: Stores, seconds: float) -> _Slice:
    by_role: dict[str, list[psutil.Process]] = {}
    for replica in made.replicas:
        by_role.setdefault({"api": "API"}.get(replica.role, replica.role), []).append(replica.process)
    watch = _Watch({**by_role, **_of(shared)}, measured=tuple(by_role))
    return watch.slice(await load_for(asked.target, _CLIENTS, "stream", seconds))


def _of(shared: Stores) -> Processes:
    return {name: [process] for name, process in shared.processes.items()}


class _Watch:
    """CPU from when it is made until the slice is asked for."""

    def __init__(self, processes: Processes, *, measured: Sequence[str]) -> None:
        self._processes = processes
        self._measured = measured
        self._before, self._busy, self._began_at = self._used(), busy_seconds(), perf_counter()

    def slice(self, load: Load) -> _Slice:
        wall, busy = perf_counter() - self._began_at, busy_seconds() - self._busy
        cpu = {name: seconds - self._before[name] for name, seconds in self._used().items()}
        own = sum(cpu[name] for name in self._measured)
        return _Slice(load=load, cpu=cpu, others=max(0.0, (busy - own) / wall))

    def _used(self) -> Mapping[str, float]:
        return {name: sum(map(cpu_seconds, processes)) for name, processes in self._processes.items()}


def _rate(slices: Sequence[_Slice]) -> str:
    runs = sum(len(one.load.seconds) for one in slices)
    cpu = ", ".join(
        f"{name} {sum(one.cpu[name] for one in slices) / runs * 1000:.1f}"
        for name in slices[0].cpu
        if any(one.cpu[name] for one in slices)
    )
    return f"{median(one.load.per_second for one in slices):.0f}/s, CPU ms a run: {cpu}"


async def _first_content(what: str, asked: Replica, baseline: InProcess, scale: Scale) -> AsyncGenerator[Row]:
    here: list[float] = []
    there: list[float] = []
    request = asked.target.run("stream")
    for turn in range(1 + -(-scale.first_tokens // (3 * _IN_A_ROW))):
        order = await baseline.ask("first_token", "instant", times=_IN_A_ROW)
        async with connected(asked.target, 1) as (connection,):
            times = [(await connection.call(request)).checked().first_content for _ in range(_IN_A_ROW)]
        if turn:  # the first one warms both up
            here += order["seconds"]
            there += times
    for percent in (50, 99):
        theirs, ours = percentile(here, percent), percentile(there, percent)
        result, target, met = at_most((ours - theirs) * 1000, _ADDED_MS, " ms")
        aimed = percent == 50
        yield Row(
            what=f"{what}, time to first content, 1 client, p{percent}",
            inprocess=milliseconds(theirs),
            served=milliseconds(ours),
            result=f"+{result}",
            target=target if aimed else "",
            met=met if aimed else None,
        )


async def _statements(what: str, made: Fleet, asked: Replica, shared: Stores, runs: int) -> AsyncGenerator[Row]:
    """One run at a time, less what an idle fleet does in the same time."""
    with executed(shared.postgres, made.url) as busy:
        await run_many(asked.target, 1, "stream", runs)
    with executed(shared.postgres, made.url) as idle:
        await asyncio.sleep(_IDLE_SECONDS)
    yield Row(
        what=f"{what}, Postgres a run: transactions",
        served=f"{_transactions_a_run(busy, idle, runs):.2f}",
    )
    parts = {name: _statements_a_run(busy, idle, runs, name) for name in sorted(busy.statements)}
    told = ", ".join(f"{name} {count:.2f}" for name, count in parts.items())
    yield Row(what="… statements by application", served=told, result=f"{sum(parts.values()):.2f}")
    yield Row(
        what="… when nothing runs, a second",
        served=f"{idle.transactions / idle.counted_seconds:.1f} transactions, "
        f"{sum(idle.statements.values()) / idle.seconds:.1f} statements",
    )


def _transactions_a_run(busy: Executed, idle: Executed, runs: int) -> float:
    alone = idle.transactions / idle.counted_seconds * busy.counted_seconds
    return (busy.transactions - alone) / runs


def _statements_a_run(busy: Executed, idle: Executed, runs: int, application: str) -> float:
    alone = idle.statements[application] / idle.seconds * busy.seconds
    return (busy.statements[application] - alone) / runs


async def _crossing(shared: Stores) -> Row:
    url = shared.postgres.create()
    crossing.prepare(url)
    seen = await crossing.cross(url, shared.valkey.url, _CLIENTS)
    p50, p99 = (percentile(seen.times, percent) for percent in (50, 99))
    result, target, met = at_most(p50 * 1000, _CROSSING_MS, " ms")
    return Row(
        what=f"an event is seen on another replica, {_CLIENTS} runs, p50",
        served=f"p99 {milliseconds(p99)}",
        result=result,
        target=target,
        met=met,
    )
