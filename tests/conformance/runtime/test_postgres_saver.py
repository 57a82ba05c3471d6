"""The checkpointer on Postgres: LangGraph's own conformance suite, and what comes back."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from enum import StrEnum
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.runtimes.langgraph.postgres_checkpoints import FencedPostgresSaver, open_postgres_checkpoints
from roadworthy.runtimes.langgraph.state_places import PostgresTables
from roadworthy.storage.postgres_connection import Timeouts, connection_info
from tests.support.postgres import PostgresServer, name_of

THREAD: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "journal", "tool_calls")
BOUND = 50


def place_of(url: str, **options: Any) -> PostgresTables:
    return PostgresTables(conninfo=connection_info(url, Timeouts()), **options)


@pytest.fixture
async def saver(database: str) -> AsyncIterator[FencedPostgresSaver]:
    async with open_postgres_checkpoints(place_of(database)) as opened:
        yield opened


async def test_langgraphs_own_suite_passes(server: PostgresServer, state_template: str) -> None:
    made: list[str] = []

    @checkpointer_test(name="roadworthy")
    async def ours() -> AsyncGenerator[FencedPostgresSaver]:
        made.append(server.create(name_of(state_template)))
        async with open_postgres_checkpoints(place_of(made[-1])) as opened:
            yield opened

    try:
        report = await validate(ours)
    finally:
        for url in made:
            server.drop(url)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {one.value for one in Capability}


def checkpoint_of(**values: object) -> Checkpoint:
    return {**empty_checkpoint(), "channel_values": values, "channel_versions": dict.fromkeys(values, "1")}


async def put(saver: FencedPostgresSaver, **values: object) -> RunnableConfig:
    return await saver.aput(THREAD, checkpoint_of(**values), {}, dict.fromkeys(values, "1"))


async def values_of(saver: BaseCheckpointSaver[Any]) -> dict[str, Any]:
    found = await saver.aget_tuple(THREAD)
    assert found is not None
    return found.checkpoint["channel_values"]


async def count(saver: FencedPostgresSaver, table: str) -> int:
    return int((await saver.database.fetch(f"SELECT count(*) FROM {table}"))[0][0])


class Colour(StrEnum):
    """JSON would make a mere text of it."""

    RED = "red"


VALUES: dict[str, object] = {
    "nul": "a\0b",
    "long": "x" * 100_000,
    "lines": "a\nb\t\u2028c",
    "emoji": "ü 🚗",
    "short": "s",
    "none": None,
    "yes": True,
    "no": False,
    "whole": 3,
    "huge": 10**15,
    "float": 1.0,
    "large float": 1e22,
    "minus zero": -0.0,
    "infinite": float("inf"),
    "bytes": b"\0\xff",
    "list": [1, [2, {"a": None}]],
    "messages": [HumanMessage("a\0b", id="1"), AIMessage("c" * 9000, id="2")],
    "empty": [],
}


async def test_what_was_stored_comes_back(saver: FencedPostgresSaver, database: str) -> None:
    await put(saver, **VALUES)
    async with open_postgres_checkpoints(place_of(database)) as other:
        found = await values_of(other)
    assert {name: (type(value), repr(value)) for name, value in found.items()} == {
        name: (type(value), repr(value)) for name, value in VALUES.items()
    }


async def test_what_tasks_wrote_comes_back(saver: FencedPostgresSaver) -> None:
    config = await put(saver)
    await saver.aput_writes(config, list(VALUES.items()), "task", "path")
    await saver.aput_writes(config, [("lost", 1)], "task", "path")  # the first of an index counts
    await saver.aput_writes(config, [("__error__", "one"), ("__error__", "two")], "task")
    await saver.aput_writes(config, [("__error__", "three")], "task")  # of these the last
    await saver.aput_writes(config, [], "nothing")
    found = await saver.aget_tuple(THREAD)
    assert found is not None
    assert found.pending_writes is not None
    written = [(channel, value) for _, channel, value in found.pending_writes]
    assert sorted(written, key=str) == sorted([*VALUES.items(), ("__error__", "three")], key=str)


async def test_only_types_that_are_known_to_be_safe_come_back_to_life(saver: FencedPostgresSaver) -> None:
    await put(saver, colour=Colour.RED, colours=[Colour.RED])
    found = await values_of(saver)
    assert [type(found["colour"]), type(found["colours"][0])] == [str, str]
    known = saver.with_allowlist([(Colour.__module__, Colour.__name__)])
    assert await values_of(known) == {"colour": Colour.RED, "colours": [Colour.RED]}
    assert [type((await values_of(known))["colour"])] == [Colour]


def talking() -> Any:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} heard")]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()


async def test_langgraphs_own_saver_and_ours_go_on_with_each_others_threads(
    saver: FencedPostgresSaver, database: str
) -> None:
    graph = talking()
    async with AsyncPostgresSaver.from_conn_string(database) as stock:
        for turn, used in enumerate([stock, saver, stock, saver]):
            state = await graph.copy(update={"checkpointer": used}).ainvoke(
                {"messages": [HumanMessage(f"{turn}")]}, THREAD
            )
            assert len(state["messages"]) == 2 * (turn + 1)
        history = [[one async for one in used.alist(THREAD)] for used in (stock, saver)]
    assert history[0] == history[1]
    assert len(history[0]) == 12


async def test_a_thread_goes_whole_and_another_stays(
    saver: FencedPostgresSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadworthy.runtimes.langgraph.postgres_checkpoints._ROWS_AT_ONCE", 3)
    for n in range(10):
        config = await put(saver, text=f"{n}" * 2000)
        await saver.aput_writes(config, [("text", f"w{n}")], "task")
    nowhere: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "none"}}
    await saver.aput_writes(nowhere, [("n", 1)], "task")
    await saver.acopy_thread("t", "u")
    before = [await count(saver, table) for table in TABLES]
    await saver.adelete_thread("t")
    await saver.adelete_thread("t")
    assert [2 * await count(saver, table) for table in TABLES] == before
    assert await saver.aget_tuple({"configurable": {"thread_id": "u"}}) is not None
    await saver.adelete_thread("u")
    assert [await count(saver, table) for table in TABLES] == [0] * len(TABLES)


async def test_many_savers_at_once_need_no_more_connections_than_there_are(database: str) -> None:
    graph = talking()
    async with open_postgres_checkpoints(place_of(database, connections=2)) as saver, asyncio.timeout(BOUND):
        served = graph.copy(update={"checkpointer": saver})

        async def turn(number: int) -> int:
            config: RunnableConfig = {"configurable": {"thread_id": f"{number}"}}
            for _ in range(2):
                await served.ainvoke({"messages": [HumanMessage("hi")]}, config)
            # Each looks at the thread again while it goes through its history.
            return len([await served.aget_state(one.config) async for one in served.aget_state_history(config)])

        assert await asyncio.gather(*(turn(number) for number in range(20))) == [6] * 20
        with psycopg.connect(database) as beside:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            row = beside.execute(query).fetchone()
        assert row is not None
        assert row[0] <= 2 + 1


async def test_a_write_that_is_cancelled_is_whole_or_not_there(saver: FencedPostgresSaver) -> None:
    chance = random.Random(7)
    async with asyncio.timeout(BOUND):
        for _ in range(100):
            task = asyncio.get_running_loop().create_task(put(saver, text="x" * 2000))
            await asyncio.sleep(chance.uniform(0, 0.003))
            task.cancel()
            await asyncio.wait({task})
        assert await count(saver, "checkpoint_blobs") in {0, 1}
        for _ in range(20):  # every connection still works
            await put(saver, text="x" * 2000)
    found = [one async for one in saver.alist(THREAD)]
    assert len(found) == await count(saver, "checkpoints") >= 20
    assert all(one.checkpoint["channel_values"] == {"text": "x" * 2000} for one in found)
