"""The fence in the database: whoever lost a run writes nothing more, whatever its process believes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import psycopg
import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.errors import LeaseLost
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.journal_place import Place
from roadworthy.runtimes.langgraph.journal_rows import Row, keep_row
from roadworthy.runtimes.langgraph.postgres import lock_number
from roadworthy.runtimes.langgraph.rows import Rows
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from roadworthy.runtimes.langgraph.tool_rows import CallState, ToolRow, put_row
from tests.conformance.runtime.attempts import TAKE_OVER, attempting, end, take_over
from tests.conformance.runtime.playing import AGENT, BOUND, Bench, a_run, looked_up, play, ref_of, retried
from tests.conformance.runtime.replaying import graph_of, numbered

KEY = "acme/ann/thread"
TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes", "journal", "tool_calls", "store")
NOW = datetime(2026, 1, 1, tzinfo=UTC)

Write: TypeAlias = Callable[[LangGraphRuntime, str], Awaitable[object]]


@pytest.fixture
async def runtime(tmp_path: Path, database: str) -> AsyncIterator[LangGraphRuntime]:
    def nothing(_: MessagesState) -> dict[str, Any]:
        return {"messages": []}

    async with Bench(folder=tmp_path, url=database).serve(graph_of(nothing)) as opened:
        yield opened


async def counts(runtime: LangGraphRuntime) -> dict[str, int]:
    return {table: (await looked_up(runtime, f"SELECT count(*) FROM {table}"))[0][0] for table in TABLES}


def config_of(checkpoint_id: str | None = None) -> Any:
    where = {"thread_id": KEY, "checkpoint_ns": ""}
    return {"configurable": where if checkpoint_id is None else {**where, "checkpoint_id": checkpoint_id}}


async def put(runtime: LangGraphRuntime, parent: str) -> str:
    checkpoint = {**empty_checkpoint(), "channel_values": {"a": [1], "b": 2}, "channel_versions": {"a": "1", "b": "1"}}
    stored = await runtime.saver.aput(config_of(parent), checkpoint, {}, {"a": "1", "b": "1"})  # type: ignore[arg-type]
    return str(stored.get("configurable", {})["checkpoint_id"])


async def put_writes(runtime: LangGraphRuntime, parent: str) -> None:
    await runtime.saver.aput_writes(config_of(parent), [("a", [1]), ("b", 2)], "task")


async def put_special(runtime: LangGraphRuntime, parent: str) -> None:
    await runtime.saver.aput_writes(config_of(parent), [("__error__", "x")], "task")


async def keep(runtime: LangGraphRuntime, parent: str) -> None:
    call = ModelCall(
        call_id="c",
        node="n",
        provider="p",
        model="m",
        tokens=Tokens(),
        estimated=False,
        outcome="complete",
        started_at=NOW,
        finished_at=NOW,
    )
    row = Row(namespace="n", hash="h", occurrence=0, run_id="r", call=call, value=("msgpack", b"x"))
    place = Place(namespace="n", stands_on=(("", parent),))
    stored = await runtime.saver.rows.transact(
        lambda rows: keep_row(rows, KEY, place, row), fence=current_attempt.get()
    )
    assert stored


def tool_row(id_: str = "t") -> ToolRow:
    return ToolRow(
        thread_key=KEY,
        tool_call_id=id_,
        run_id="r",
        attempt=1,
        name="pay",
        args="{}",
        effect="once",
        state=CallState.STARTED,
        started_at=NOW,
    )


async def begin_tool(runtime: LangGraphRuntime, parent: str) -> None:
    await runtime.saver.rows.transact(lambda rows: put_row(rows, tool_row()), fence=current_attempt.get())


async def put_item(runtime: LangGraphRuntime, parent: str) -> None:
    await runtime.store.aput(("notes",), "one", {"text": "mine"})


WRITES: tuple[Write, ...] = (put, put_writes, put_special, keep, begin_tool, put_item)


def by_another_attempt(url: str, run: Run) -> None:
    take_over(url, run)


@pytest.mark.parametrize("taken", [by_another_attempt, end])
@pytest.mark.parametrize("write", WRITES)
async def test_an_attempt_that_lost_its_run_writes_nothing(
    runtime: LangGraphRuntime, database: str, write: Write, taken: Callable[[str, Run], None]
) -> None:
    run = a_run()
    with attempting(database, run):
        parent = await put(runtime, "0")
        taken(database, run)
        before = await counts(runtime)
        with pytest.raises(LeaseLost):
            await write(runtime, parent)
        assert await counts(runtime) == before


@pytest.mark.parametrize("write", WRITES)
async def test_an_attempt_that_holds_its_run_writes(runtime: LangGraphRuntime, database: str, write: Write) -> None:
    with attempting(database, a_run()):
        parent = await put(runtime, "0")
        before = await counts(runtime)
        await write(runtime, parent)
        assert await counts(runtime) != before


@pytest.mark.parametrize("write", WRITES)
async def test_a_write_that_meets_a_takeover_waits_and_then_writes_nothing(
    runtime: LangGraphRuntime, database: str, write: Write
) -> None:
    run = a_run()
    with attempting(database, run):
        parent = await put(runtime, "0")
        before = await counts(runtime)
        async with asyncio.timeout(BOUND), await psycopg.AsyncConnection.connect(database) as other:
            await other.execute(TAKE_OVER, (run.run_id,))
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(refused(write(runtime, parent)))
                await until_somebody_waits(database)
                assert not writing.done()
                await other.commit()
        assert await counts(runtime) == before


async def refused(write: Awaitable[object]) -> None:
    with pytest.raises(LeaseLost):
        await write


async def until_somebody_waits(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as beside:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while await (await beside.execute(query)).fetchone() is None:
            pass


async def test_a_takeover_that_meets_a_write_waits_for_its_commit(runtime: LangGraphRuntime, database: str) -> None:
    run = a_run()

    async def slow(rows: Rows) -> None:
        await put_row(rows, tool_row("a"))
        await rows.lock("somebody has it")
        await put_row(rows, tool_row("b"))

    with attempting(database, run) as scope:
        async with asyncio.timeout(BOUND), await psycopg.AsyncConnection.connect(database) as other:
            locking = "SELECT pg_advisory_xact_lock(%s)"
            await other.execute(locking, (lock_number("somebody has it"),))
            async with asyncio.TaskGroup() as group:
                writing = group.create_task(runtime.saver.rows.transact(slow, fence=scope))
                await until_somebody_waits(database)
                taking = group.create_task(asyncio.to_thread(take_over, database, run))
                done, _ = await asyncio.wait({taking, writing}, timeout=0.2)
                assert not done
                await other.commit()
        assert (await counts(runtime))["tool_calls"] == 2
        with pytest.raises(LeaseLost):
            await begin_tool(runtime, "")


async def test_a_run_that_is_taken_over_ends_as_lost_and_its_successor_goes_on(tmp_path: Path, database: str) -> None:
    model, taken = numbered("one", "two"), [False]

    async def first(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("first")]}

    async def second(state: MessagesState) -> dict[str, Any]:
        if not taken[0]:
            taken[0] = True
            await asyncio.to_thread(take_over, database, run)
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("first", first).add_node("second", second)
    graph = graph.add_edge(START, "first").add_edge("first", "second")
    async with Bench(folder=tmp_path, url=database).serve(graph.compile()) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        lost = await play(runtime, run)
        assert isinstance(lost.error, LeaseLost)
        assert await looked_up(runtime, "SELECT 1 FROM journal") == []
        later = await play(runtime, retried(run))
        assert later.completed.response == "#2 two"
        state = await runtime.thread_state(AGENT, ref_of(run))
        assert [message.content for message in state.messages] == ["Go.", "first", "#2 two"]
