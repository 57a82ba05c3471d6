"""Thousands of runs over three replicas of which one after the other is killed, and whether the books are right then.

Clients ask any replica, with a key for each question, and ask again at another one until they have the whole answer.
The first replica is spared, so that its memory can be watched; the other two are killed in turn, and started again.
"""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from statistics import linear_regression, median
from time import perf_counter

import httpx
import psutil

from benchmarks.books import PRICES, Books, check, sizes
from benchmarks.cores import every_core
from benchmarks.fleet import Fleet, Replica, fleet, stores
from benchmarks.graphs.witnessed import ANSWER
from benchmarks.table import Row
from tests.support.server import ADMIN_KEY
from tests.support.transcript import Transcript

REPLICAS = 3
_CLIENTS = 24
_SLOTS = 16
_USERS = 12
_SAMPLE_SECONDS = 1.0
_TOLD_EVERY = 10
# A process that has just started grows until it has seen everything.
_WARM_SECONDS = 15.0
_AGAIN_SECONDS = 0.05
# Longer than a takeover, a start and a busy machine together: then a question counts as lost.
_PATIENCE_SECONDS = 120.0
_OK, _NOTHING_MORE = 200, 204
_MIB = 2**20


@dataclass(slots=True, kw_only=True)
class _Soak:
    """A soak under way. ``memory``: of the spared replica, by time; ``generations``: the last size of each killed one,
    by time. ``told``: what the client of each question saw.
    """

    made: Fleet
    spared: Replica
    mortal: Sequence[Replica]
    began_at: float
    told: dict[str, Transcript] = field(default_factory=dict[str, Transcript])
    again: int = 0
    kills: int = 0
    back: list[float] = field(default_factory=list[float])
    memory: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    generations: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])

    @property
    def now(self) -> float:
        return perf_counter() - self.began_at


async def measure(folder: Path, *, runs: int, kill_every: float) -> AsyncGenerator[Row]:
    """Rows about losses, money, memory and what a run leaves in the database."""
    folder = folder / "replicas"
    folder.mkdir()
    witness, prices = folder / "witness.jsonl", folder / "prices.toml"
    witness.touch()
    prices.write_text(PRICES)
    env = {"WITNESS": str(witness), "ROADWORTHY_PRICE_FILE": str(prices)}
    with every_core(), stores() as shared:
        async with fleet("witnessed.py:graph", folder, shared, slots=_SLOTS, env=env, pinned=False) as made:
            # The first makes the tables.
            first = await made.add("serve")
            replicas = [first, *await asyncio.gather(*(made.add("serve") for _ in range(1, REPLICAS)))]
            await _set_budget(replicas[0])
            soak = _Soak(made=made, spared=replicas[0], mortal=replicas[1:], began_at=perf_counter())
            await _run(soak, runs, kill_every)
            seconds = soak.now
            await _settle(soak)
            books = check(made.url, witness, soak.told, ANSWER)
            for row in _rows(soak, books, runs=runs, kill_every=kill_every, seconds=seconds):
                yield row
            yield _sizes(made.url, runs)


async def _set_budget(replica: Replica) -> None:
    """So large that nobody is refused: with one, a call in flight holds money, and a lost call is on the bill."""
    body = {"scope": "user", "subject": None, "window": "total", "limit_usd": "1000000"}
    async with httpx.AsyncClient(headers={"x-api-key": ADMIN_KEY}) as client:
        answer = await client.put(f"{_url(replica)}/admin/budgets", json=body)
        answer.raise_for_status()


async def _run(soak: _Soak, runs: int, kill_every: float) -> None:
    left = iter(range(runs))
    async with asyncio.TaskGroup() as group:
        beside = [group.create_task(_kill(soak, kill_every)), group.create_task(_sample(soak))]
        async with asyncio.TaskGroup() as clients:
            for _ in range(_CLIENTS):
                clients.create_task(_client(soak, left))
        for task in beside:
            task.cancel()


async def _client(soak: _Soak, left: Iterator[int]) -> None:
    async with httpx.AsyncClient(headers={"x-api-key": ADMIN_KEY}, timeout=30) as client:
        for number in left:
            transcript = soak.told[f"question {number}"] = Transcript()
            give_up_at = perf_counter() + _PATIENCE_SECONDS
            while transcript.done is None and perf_counter() < give_up_at:
                if not await _ask(soak, client, number, transcript):
                    soak.again += 1
                    await asyncio.sleep(_AGAIN_SECONDS)


async def _ask(soak: _Soak, client: httpx.AsyncClient, number: int, transcript: Transcript) -> bool:
    """Once, at any replica, from where the transcript stands. False: to be asked again."""
    headers = {"Idempotency-Key": f"key-{number}", "X-On-Behalf-Of": f"user-{number % _USERS}"}
    if transcript.last_id is not None:
        headers["Last-Event-ID"] = transcript.last_id
    url = f"{_url(random.choice(soak.made.replicas))}/agent/stream"
    try:
        async with client.stream("POST", url, json={"message": f"question {number}"}, headers=headers) as response:
            if response.status_code != _OK:
                await response.aread()
                return False
            async for _ in transcript.read(response):
                pass
    except (httpx.TransportError, AttributeError):
        # The latter when a server dies just as it is reached: anyio then asks a socket that is gone for its peer.
        return False
    return transcript.done is not None


async def _kill(soak: _Soak, every: float) -> None:
    """Nobody is killed before it was up again; the other one may be down meanwhile."""
    starting: dict[Replica, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as group:
        for replica in cycle(soak.mortal):
            await asyncio.sleep(every)
            if replica in starting:
                await starting[replica]
            soak.generations.append((soak.now, _mib(replica.process)))
            await replica.kill()
            soak.kills += 1
            starting[replica] = group.create_task(_start(soak, replica))


async def _start(soak: _Soak, replica: Replica) -> None:
    began_at = perf_counter()
    await replica.start()
    soak.back.append(perf_counter() - began_at)


async def _sample(soak: _Soak) -> None:
    for sample in count():
        soak.memory.append((soak.now, _mib(soak.spared.process)))
        if sample % _TOLD_EVERY == 0:
            print(f"  {soak.now:.0f} s: {len(soak.told)} questions, {soak.kills} kills", file=sys.stderr, flush=True)
        await asyncio.sleep(_SAMPLE_SECONDS)


async def _settle(soak: _Soak) -> None:
    """Whoever was being started is up, so that chores of dead workers are done: their leases and their money."""
    for replica in soak.mortal:
        await replica.kill()
    await asyncio.gather(*(replica.start() for replica in soak.mortal))
    await asyncio.sleep(_WARM_SECONDS)


def _rows(soak: _Soak, books: Books, *, runs: int, kill_every: float, seconds: float) -> Iterator[Row]:
    what = f"{runs} runs over {REPLICAS} replicas, one killed every {kill_every:g} s"
    yield Row(
        what=f"{what}: runs a second",
        served=f"{runs / seconds:.1f}/s for {seconds:.0f} s",
        result=f"{soak.kills} kills, {books.takeovers} takeovers, {soak.again} questions asked again",
    )
    for name, found in books.problems.items():
        yield Row(what=f"… {name}", served=", ".join(found[:5]), result=str(len(found)), target="0", met=not found)
    yield Row(
        what="… nano-USD that the model was told to the end, and that the ledger has as such",
        served=f"{books.witnessed}, {books.exact}",
        result=f"{books.unseen} calls ended unseen: {books.unseen_nanos}",
        target="equal, less what ended unseen",
        met=books.witnessed == books.exact + books.unseen_nanos,
    )
    yield Row(
        what="… calls on the ledger as estimates: lost with their process",
        served=f"{books.estimates} of {books.calls}: {books.estimated} nano-USD",
        result=f"at most {_SLOTS} a kill",
        target=f"≤ {_SLOTS * (soak.kills + len(soak.mortal))}",
        met=books.estimates <= _SLOTS * (soak.kills + len(soak.mortal)),
    )
    yield Row(
        what="… memory of the replica that was spared",
        served=_change(soak.memory),
        result=_slope([point for point in soak.memory if point[0] > min(_WARM_SECONDS, seconds / 2)]),
        target="flat",
    )
    yield Row(
        what="… memory of the others when they are killed",
        served=_change(soak.generations),
        result=_slope(soak.generations),
        target="flat",
    )
    if soak.back:
        yield Row(what="… ready again after, median", served=f"{median(soak.back):.1f} s")


def _sizes(url: str, runs: int) -> Row:
    parts = list(sizes(url))
    told = ", ".join(f"{name} {size / runs / 1024:.2f}" for name, size in parts if size / runs > 100)
    return Row(
        what="… KiB a run in Postgres, rows and indexes",
        served=told,
        result=f"{sum(size for _, size in parts) / runs / 1024:.1f}",
    )


def _change(points: Sequence[tuple[float, float]]) -> str:
    return f"{points[0][1]:.0f} → {points[-1][1]:.0f} MiB" if points else ""


def _slope(points: Sequence[tuple[float, float]]) -> str:
    if len(points) < REPLICAS:
        return ""
    slope, _ = linear_regression([at for at, _ in points], [mib for _, mib in points])
    return f"{slope * 60:+.2f} MiB a minute"


def _mib(process: psutil.Process) -> float:
    return process.memory_info().rss / _MIB


def _url(replica: Replica) -> str:
    return f"http://127.0.0.1:{replica.target.port}"
