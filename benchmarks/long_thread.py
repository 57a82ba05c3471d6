"""One thread of many turns: what a turn adds to the databases, how long it takes, and how much memory the process has.

First in-process on LangGraph's own savers and on the server's, then on the server as it is shipped. Flat is what is the
same in a late stretch of the thread's life as in an early one. The saver in memory shows what a long state costs by
itself.
"""

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.baseline import SaverName, in_process
from benchmarks.load import connected
from benchmarks.samples import milliseconds
from benchmarks.server import Served, served
from benchmarks.table import Row

# The server prunes once a minute.
_PASS_SECONDS = 70
_KIB, _MIB = 2**10, 2**20
_SAVERS: Mapping[SaverName, str] = {
    "memory": "LangGraph's saver in memory",
    "stock": "LangGraph's saver on a file",
    "ours": "our saver, pruned to 10 after each turn",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stretch:
    """Turns ``after`` + 1 to ``until``; a thread has an early one and a late one."""

    after: int
    until: int

    def __str__(self) -> str:
        return f"{self.after + 1}-{self.until}"


@dataclass(slots=True, kw_only=True)
class _Life:
    """What was seen of a thread. ``sizes``, ``memory``: at the borders of the stretches, in bytes and in MiB."""

    sizes: list[Mapping[str, int]]
    memory: list[float]
    seconds: list[float]

    def grown(self, database: str, stretches: Sequence[_Stretch]) -> str:
        """KiB a turn, early → late."""
        sizes = [one[database] for one in self.sizes]
        borders = zip(sizes[::2], sizes[1::2], stretches, strict=True)
        return " → ".join(f"{(late - early) / (it.until - it.after) / _KIB:.1f}" for early, late, it in borders)

    def turn(self, stretches: Sequence[_Stretch]) -> str:
        """The median time of a turn, early → late."""
        return " → ".join(milliseconds(median(self.seconds[it.after : it.until])) for it in stretches)

    def resident(self) -> str:
        """MiB at the end of each stretch."""
        return " → ".join(f"{one:.0f} MiB" for one in self.memory[1::2])


async def measure(folder: Path, *, turns: int) -> AsyncGenerator[Row]:
    """Rows for each saver, then for the server."""
    stretches = _stretches(turns)
    what = f"one thread, {turns} turns with a tool's 2 kB, turns {stretches[0]} → {stretches[1]}"
    for name, saver in _SAVERS.items():
        life = await _in_process(folder, name, stretches)
        yield Row(what=f"{what}; {saver}: time of a turn, p50", inprocess=life.turn(stretches))
        yield Row(what="… memory at their ends", inprocess=life.resident())
        if name != "memory":
            yield Row(what="… KiB a turn in the database", inprocess=life.grown("checkpoints", stretches))
            yield Row(what="… database at the end", inprocess=_in_mib(life.sizes[-1]["checkpoints"]))
    async for row in _on_server(folder, what, stretches):
        yield row


async def _in_process(folder: Path, saver: SaverName, stretches: Sequence[_Stretch]) -> _Life:
    path = folder / f"baseline-{saver}.sqlite"
    life = _Life(sizes=[], memory=[], seconds=[])
    async with in_process(folder, saver) as side:
        for turns in _steps(stretches):
            done = await side.ask("turns", "reading", turns=turns)
            life.seconds += done["seconds"]
            life.sizes.append({"checkpoints": _size(path) if path.exists() else 0})
            life.memory.append(side.process.memory_info().rss / _MIB)
    return life


async def _on_server(folder: Path, what: str, stretches: Sequence[_Stretch]) -> AsyncGenerator[Row]:
    life = _Life(sizes=[], memory=[], seconds=[])
    async with served("reading", folder / "thread", slots=10) as server:
        request = server.target.run("invoke", thread_id="long")
        async with connected(server.target, 1) as (connection,):
            for turns in _steps(stretches):
                life.seconds += [(await connection.call(request)).checked().seconds for _ in range(turns)]
                life.sizes.append(_sizes(server))
                life.memory.append(server.memory())
        yield Row(what=f"{what}; server: time of a turn, p50", served=life.turn(stretches))
        yield Row(what="… memory at their ends", served=life.resident())
        yield Row(what="… KiB a turn in roadworthy.db", served=life.grown("roadworthy", stretches))
        yield Row(what="… KiB a turn in checkpoints.sqlite", served=life.grown("checkpoints", stretches))
        await asyncio.sleep(_PASS_SECONDS)
        used = {name: _size(path, used=True) for name, path in _databases(server)}
        kept = ", ".join(f"{name} {_in_mib(life.sizes[-1][name])}, {_in_mib(used[name])} of it in use" for name in used)
        yield Row(what="… databases after the next pruning", served=kept)


def _stretches(turns: int) -> Sequence[_Stretch]:
    """Turns 21 to 70 and 251 to 300 of 300."""
    early, long = turns // 15, turns // 6
    return _Stretch(after=early, until=early + long), _Stretch(after=turns - long, until=turns)


def _steps(stretches: Sequence[_Stretch]) -> Iterator[int]:
    """How many turns it is to each border."""
    done = 0
    for border in (border for it in stretches for border in (it.after, it.until)):
        yield border - done
        done = border


def _sizes(server: Served) -> Mapping[str, int]:
    return {name: _size(path) for name, path in _databases(server)}


def _databases(server: Served) -> Iterator[tuple[str, Path]]:
    yield "roadworthy", server.data / "roadworthy.db"
    yield "checkpoints", server.data / "checkpoints.sqlite"


def _size(path: Path, *, used: bool = False) -> int:
    """Bytes in a database, its write-ahead log counted as if it were written back. ``used``: without its free pages."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
    try:
        pages, free, page_size = (
            int(connection.execute(f"PRAGMA {what}").fetchone()[0])
            for what in ("page_count", "freelist_count", "page_size")
        )
    finally:
        connection.close()
    return (pages - free if used else pages) * page_size


def _in_mib(size: int) -> str:
    return f"{size / _MIB:.1f} MiB"
