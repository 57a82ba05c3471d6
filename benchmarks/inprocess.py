"""The baseline: the same graphs in a process without a server. Reads orders from stdin, writes results to stdout.

``baseline.py`` starts it. Its saver is LangGraph's own on a file, set up as the server's: WAL, synchronous NORMAL;
or, to compare them, the server's, or the one that keeps everything in memory, or either of the first two on Postgres.
"""

import asyncio
import json
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import aiosqlite
import uvloop
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.graphs.scripted import BUILDERS, Graph, Saver
from roadworthy.runtimes.langgraph.checkpoints import FencedSqliteSaver, open_checkpoints
from roadworthy.runtimes.langgraph.postgres_checkpoints import open_postgres_checkpoints
from roadworthy.runtimes.langgraph.postgres_tables import prepare_tables
from roadworthy.runtimes.langgraph.state_places import PostgresTables

_MESSAGE = "How long is the road?"
_KEPT = 10
# As many as a server has at the most.
_CONNECTIONS = 16
_LONG = "long"
_ANSWER = "As long as it takes, and then some. " * 8


class Baseline:
    """Runs graphs, each time on a thread of its own."""

    def __init__(self, saver: Saver) -> None:
        self._saver = saver
        self._graphs = {name: build(saver) for name, build in BUILDERS.items()}
        self._threads = count()
        self._prepared: list[RunnableConfig] = []

    async def obey(self, order: Mapping[str, Any]) -> Mapping[str, object]:
        """Do what an order says."""
        graph = self._graphs[order["graph"]]
        match order["do"]:
            case "load":
                return await self._load(graph, order["kind"], order["clients"], order["seconds"])
            case "prepare":
                self._prepared = [await self._thread(graph, order["messages"]) for _ in range(order["clients"])]
                return {}
            case "turns":
                return {"seconds": [await self._turn(graph) for _ in range(order["turns"])]}
            case "first_token":
                return {"seconds": [await self._first_token(graph) for _ in range(order["times"])]}
            case "at_once":
                return await self._at_once(graph, order["clients"])
            case unknown:
                raise ValueError(f"no such order: {unknown}")

    async def _thread(self, graph: Graph, messages: int) -> RunnableConfig:
        """A thread that already has so many messages."""
        config = self._config()
        said = [one for n in range(messages // 2) for one in (HumanMessage(_MESSAGE), AIMessage(f"{n}. {_ANSWER}"))]
        await graph.aupdate_state(config, {"messages": said})
        return config

    async def _load(self, graph: Graph, kind: str, clients: int, seconds: float) -> Mapping[str, object]:
        """Each client on the thread prepared for it, once; without one every run gets a new thread."""
        run = self._invoke if kind == "invoke" else self._stream
        prepared, self._prepared = self._prepared, []
        times: list[float] = []
        began_at = perf_counter()
        threads = prepared or [None] * clients
        await asyncio.gather(*(_repeat(run, graph, thread, began_at + seconds, times) for thread in threads))
        return {"wall": perf_counter() - began_at, "seconds": times}

    async def _at_once(self, graph: Graph, clients: int) -> Mapping[str, object]:
        began_at = perf_counter()
        await asyncio.gather(*(self._stream(graph) for _ in range(clients)))
        return {"wall": perf_counter() - began_at}

    async def _first_token(self, graph: Graph) -> float:
        began_at = perf_counter()
        first: float | None = None
        async for part in graph.astream(_input(), self._config(), stream_mode="messages"):
            # A pair of message and metadata, which the library's types do not say.
            message, _ = cast("tuple[object, object]", part)
            if first is None and isinstance(message, BaseMessage) and message.content:
                first = perf_counter() - began_at
        if first is None:
            raise ValueError("a stream without content")
        return first

    async def _turn(self, graph: Graph) -> float:
        """A turn of the one long thread. The server's saver prunes after it; a turn does not wait for that."""
        began_at = perf_counter()
        await graph.ainvoke(_input(), {"configurable": {"thread_id": _LONG}})
        seconds = perf_counter() - began_at
        if isinstance(self._saver, FencedSqliteSaver):
            await self._saver.prune_thread(_LONG, keep=_KEPT)
        return seconds

    async def _invoke(self, graph: Graph, thread: RunnableConfig | None = None) -> None:
        await graph.ainvoke(_input(), thread or self._config())

    async def _stream(self, graph: Graph, thread: RunnableConfig | None = None) -> None:
        async for _ in graph.astream(_input(), thread or self._config(), stream_mode="messages"):
            pass

    def _config(self) -> RunnableConfig:
        return {"configurable": {"thread_id": f"thread-{next(self._threads)}"}}


def _input() -> dict[str, list[HumanMessage]]:
    return {"messages": [HumanMessage(_MESSAGE)]}


async def _repeat(
    run: Callable[[Graph, RunnableConfig | None], Awaitable[None]],
    graph: Graph,
    thread: RunnableConfig | None,
    until: float,
    times: list[float],
) -> None:
    while (began_at := perf_counter()) < until:
        await run(graph, thread)
        times.append(perf_counter() - began_at)


@asynccontextmanager
async def _open(place: str, saver: str) -> AsyncGenerator[Saver]:
    match saver:
        case "postgres-stock":
            async with _stock_on_postgres(place) as stock:
                yield stock
        case "postgres-ours":
            await prepare_tables(place)
            async with open_postgres_checkpoints(PostgresTables(conninfo=place, connections=_CONNECTIONS)) as ours:
                yield ours
        case "memory":
            yield InMemorySaver()
        case "ours":
            async with open_checkpoints(Path(place)) as ours:
                yield ours
        case _:
            async with _stock(Path(place)) as stock:
                yield stock


@asynccontextmanager
async def _stock(path: Path) -> AsyncGenerator[AsyncSqliteSaver]:
    async with aiosqlite.connect(path) as connection:
        saver = AsyncSqliteSaver(connection)
        await saver.setup()
        await connection.execute("PRAGMA synchronous = NORMAL")
        yield saver


@asynccontextmanager
async def _stock_on_postgres(place: str) -> AsyncGenerator[AsyncPostgresSaver]:
    pool: AsyncConnectionPool[AsyncConnection[DictRow]] = AsyncConnectionPool(
        place,
        kwargs={"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row},
        min_size=0,
        max_size=_CONNECTIONS,
        open=False,
    )
    async with pool:
        saver = AsyncPostgresSaver(pool)
        await saver.setup()
        yield saver


async def _main(place: str, saver: str) -> None:
    async with _open(place, saver) as opened:
        baseline = Baseline(opened)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        while line := await asyncio.to_thread(sys.stdin.readline):
            sys.stdout.write(json.dumps(await baseline.obey(json.loads(line))) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(_main(sys.argv[1], sys.argv[2]))
