"""The checkpointer: LangGraph's own conformance suite, and what checkpoints of a thread share."""

import asyncio
import operator
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypedDict

import aiosqlite
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.types import Command, Send, interrupt

from roadworthy.domain.errors import LeaseLost, StorageUnavailable
from roadworthy.runtimes.langgraph import checkpoint_chunks, checkpoint_sharing, checkpoints
from roadworthy.runtimes.langgraph.checkpoints import FencedSqliteSaver, open_checkpoints

THREAD: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
LONG = "a long road " * 100
TABLES = ("checkpoints", "writes", "blobs")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints.sqlite"


@pytest.fixture
async def saver(file: Path) -> AsyncIterator[FencedSqliteSaver]:
    async with open_checkpoints(file) as opened:
        yield opened


@pytest.mark.parametrize("large", [None, 1])
async def test_langgraphs_own_suite_passes(tmp_path: Path, large: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if large is not None:  # every value is shared then
        for module in (checkpoint_chunks, checkpoint_sharing):
            monkeypatch.setattr(module, "LARGE", large)
    files = iter(range(100))

    @checkpointer_test(name="roadworthy")
    async def ours() -> AsyncGenerator[FencedSqliteSaver]:
        async with open_checkpoints(tmp_path / f"{next(files)}.sqlite") as opened:
            yield opened

    report = await validate(ours)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {one.value for one in Capability}


def rows_of(file: Path, table: str) -> int:
    with closing(sqlite3.connect(file)) as connection:
        count: int = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count


def bytes_of(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return sum(
            connection.execute(f"SELECT coalesce(sum(length({column})), 0) FROM {table}").fetchone()[0]
            for table, column in (("checkpoints", "checkpoint"), ("writes", "value"), ("blobs", "value"))
        )


def checkpoint_of(**values: object) -> Checkpoint:
    return {**empty_checkpoint(), "channel_values": values, "channel_versions": dict.fromkeys(values, "1")}


async def stored(saver: FencedSqliteSaver, **values: object) -> dict[str, Any]:
    """What comes back of a checkpoint's values."""
    await saver.aput(THREAD, checkpoint_of(**values), {}, {})
    found = await saver.aget_tuple(THREAD)
    assert found is not None
    return found.checkpoint["channel_values"]


def conversation(turns: int, size: int = 200) -> list[AnyMessage]:
    return [
        message
        for turn in range(turns)
        for message in (
            HumanMessage(f"question {turn}", id=f"h{turn}"),
            AIMessage(
                "",
                id=f"a{turn}",
                tool_calls=[{"name": "look", "args": {"n": turn}, "id": f"c{turn}"}],
                usage_metadata={"input_tokens": turn, "output_tokens": 1, "total_tokens": turn + 1},
            ),
            ToolMessage(f"{turn} " * size, tool_call_id=f"c{turn}", id=f"t{turn}", artifact={"n": [turn]}),
            AIMessage([{"type": "text", "text": f"answer {turn}"}], id=f"b{turn}"),
        )
    ]


async def test_what_was_stored_comes_back(saver: FencedSqliteSaver) -> None:
    values: dict[str, object] = {
        "messages": conversation(40),
        "files": {"a.txt": "x" * 9000, "b.txt": "small", "deep": {"c": ["y" * 9000]}},
        "numbers": list(range(5000)),
        "documents": [{"id": n, "text": "z" * 500} for n in range(40)],
        "raw": b"b" * 9000,
        "odd": {1: "x" * 9000, (2, 3) if False else 2: None},
        "tuple": ("x" * 9000, 1),
        "tasks": [Send("node", {"messages": conversation(20), "n": 1}), Send("node", "w" * 9000)],
        "empty": [],
        "one": HumanMessage("x" * 9000, id="one"),
        "nothing": None,
    }
    found = await stored(saver, **values)
    # msgpack knows no tuples, and LangGraph's own saver brings back lists as well.
    assert found == {**values, "tuple": list(values["tuple"])}  # type: ignore[call-overload]
    assert list(found) == list(values)


async def test_messages_of_every_class_come_back_whole(saver: FencedSqliteSaver) -> None:
    class Own(AIMessage):
        """A class that checkpoints may not bring back: it does not lie among LangChain's own."""

    known: list[BaseMessage] = [
        *conversation(2),
        HumanMessage.model_validate({"content": LONG, "id": "1", "surprise": [1, 2]}),
        AIMessageChunk(content=LONG, id="2", tool_call_chunks=[{"name": "a", "args": "{", "id": "c", "index": 0}]),
        ChatMessage(content=LONG, role="critic", id="3"),
        SystemMessage(LONG, name="n", additional_kwargs={"when": datetime(2026, 1, 1, tzinfo=UTC)}),
        AIMessage(LONG, id="4", usage_metadata=None, response_metadata={"stop_reason": "end_turn"}),
        RemoveMessage(id="5"),
        ToolMessage([{"type": "text", "text": LONG}], tool_call_id="c", artifact={1, 2}, status="error"),
    ]
    found = (await stored(saver, messages=known * 3))["messages"]
    assert found == known * 3
    assert [type(one) for one in found] == [type(one) for one in known * 3]
    assert [one.model_dump() for one in found] == [one.model_dump() for one in known * 3]
    assert found[0].model_copy(update={"content": "new"}).content == "new"
    foreign = Own(content=LONG, id="6")
    assert (await stored(saver, messages=[*known, foreign]))["messages"] == [*known, foreign.model_dump()]


async def test_messages_of_an_older_version_get_what_is_new(saver: FencedSqliteSaver) -> None:
    messages = [ToolMessage(LONG * 4, tool_call_id="c", id="1")]
    fields = vars(messages[0])
    del fields["status"], fields["artifact"]
    found = (await stored(saver, messages=messages))["messages"]
    assert found == [ToolMessage(LONG * 4, tool_call_id="c", id="1")]


async def test_a_message_is_stored_once_however_many_checkpoints_hold_it(saver: FencedSqliteSaver, file: Path) -> None:
    messages = conversation(50)
    for end in range(1, len(messages) + 1):
        assert (await stored(saver, messages=messages[:end]))["messages"] == messages[:end]
    once = sum(len(saver.serde.dumps_typed(message)[1]) for message in messages)
    behind_the_cuts = len(messages) * checkpoint_chunks.LARGE
    assert bytes_of(file) < 2 * once + behind_the_cuts


async def test_a_message_that_was_altered_in_place_is_stored_as_it_is_now(saver: FencedSqliteSaver) -> None:
    messages = conversation(30)
    await stored(saver, messages=messages)
    messages[3].content = "something else"
    messages[9].additional_kwargs["seen"] = True
    called = messages[41]
    assert isinstance(called, AIMessage)
    called.tool_calls[0]["args"]["n"] = -1
    found = await stored(saver, messages=messages)
    assert found["messages"] == messages
    # And what comes back belongs to the reader alone.
    found["messages"][0].content = "changed"
    again = await saver.aget_tuple(THREAD)
    assert again is not None
    assert again.checkpoint["channel_values"]["messages"] == messages


async def test_a_conversation_that_loses_its_beginning_falls_into_known_chunks(
    saver: FencedSqliteSaver, file: Path
) -> None:
    messages = conversation(100)
    await stored(saver, messages=messages)
    before = rows_of(file, "blobs")
    assert (await stored(saver, messages=messages[3:]))["messages"] == messages[3:]
    assert rows_of(file, "blobs") - before < before / 4


async def test_another_process_finds_what_this_one_has_stored(file: Path) -> None:
    messages = conversation(50)
    async with open_checkpoints(file) as saver:
        await stored(saver, messages=messages)
    blobs = rows_of(file, "blobs")
    async with open_checkpoints(file) as saver:
        found = await saver.aget_tuple(THREAD)
        assert found is not None
        assert found.checkpoint["channel_values"]["messages"] == messages
        assert (await stored(saver, messages=messages))["messages"] == messages
    assert rows_of(file, "blobs") == blobs


async def test_files_of_langgraphs_own_saver_can_be_read_and_gone_on_with(file: Path) -> None:
    graph = talking()
    async with aiosqlite.connect(file) as connection:
        stock = AsyncSqliteSaver(connection)
        for turn in range(3):
            await graph.copy(update={"checkpointer": stock}).ainvoke(
                {"messages": [HumanMessage(f"{turn}" * 3000)]}, THREAD
            )
    async with open_checkpoints(file) as saver:
        ours = graph.copy(update={"checkpointer": saver})
        state = await ours.aget_state(THREAD)
        assert len(state.values["messages"]) == 6
        assert len((await ours.ainvoke({"messages": [HumanMessage("more")]}, THREAD))["messages"]) == 8
        assert len([one async for one in ours.aget_state_history(THREAD)]) == 12


def talking() -> Any:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} {LONG}")]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()


async def test_a_write_that_is_refused_leaves_nothing_to_stand_on(
    saver: FencedSqliteSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = saver.conn.transact

    async def refuse(work: object, *, about: str = "") -> Any:
        raise LeaseLost("no")

    messages = conversation(30)
    monkeypatch.setattr(saver.conn, "transact", refuse)
    with pytest.raises(LeaseLost):
        await saver.aput(THREAD, checkpoint_of(messages=messages), {}, {})
    monkeypatch.setattr(saver.conn, "transact", real)
    assert (await stored(saver, messages=messages))["messages"] == messages


async def test_parts_that_another_process_deleted_are_stored_again(saver: FencedSqliteSaver, file: Path) -> None:
    messages = conversation(30)
    await stored(saver, messages=messages)
    with closing(sqlite3.connect(file)) as other, other:
        for table in ("checkpoints", "writes", "blobs"):
            other.execute(f"DELETE FROM {table}")
    assert (await stored(saver, messages=messages))["messages"] == messages


async def test_a_thread_is_written_again_after_its_deletion_and_copies_stand_alone(saver: FencedSqliteSaver) -> None:
    messages = conversation(30)
    await stored(saver, messages=messages)
    await saver.acopy_thread("t", "u")
    async with asyncio.TaskGroup() as group:  # at the same moment
        group.create_task(saver.adelete_thread("t"))
        group.create_task(saver.aput(THREAD, checkpoint_of(messages=messages), {}, {}))
    for name in ("t", "u"):
        found = await saver.aget_tuple({"configurable": {"thread_id": name}})
        assert found is not None
        assert found.checkpoint["channel_values"]["messages"] == messages


async def filled(saver: FencedSqliteSaver, monkeypatch: pytest.MonkeyPatch) -> None:
    """More checkpoints, parts and writes than go at once."""
    monkeypatch.setattr(checkpoints, "_DELETED_AT_ONCE", 3)
    monkeypatch.setattr(checkpoints, "_PARTS_AT_ONCE", 3)
    for n in range(10):
        config = await saver.aput(THREAD, checkpoint_of(text=f"{n}" * 9000), {}, {})
        await saver.aput_writes(config, [("text", f"w{n}" * 9000)], "task")
    await saver.aput_writes(
        {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "none"}}, [("n", 1)], "task"
    )


async def test_a_thread_goes_in_small_transactions_and_others_write_in_between(
    saver: FencedSqliteSaver, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(saver, monkeypatch)
    left: list[tuple[int, ...]] = []

    async def watching() -> None:
        while rows_of(file, "blobs"):
            await saver.aput({"configurable": {"thread_id": "u", "checkpoint_ns": ""}}, checkpoint_of(n=1), {}, {})
            left.append(tuple(rows_of(file, table) for table in TABLES))

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(watching())
        group.create_task(saver.adelete_thread("t"))
    assert rows_of(file, "writes") == rows_of(file, "blobs") == 0
    # Checkpoints with what was written on them; parts only when all of these are gone.
    writes, parts = ({found[TABLES.index(table)] for found in left} for table in ("writes", "blobs"))
    assert len(writes) > 3
    assert len(parts) > 3
    assert all(found[1] == 0 or found[2] == 20 for found in left)


async def test_a_deletion_that_dies_in_the_middle_is_finished_by_the_next(
    saver: FencedSqliteSaver, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(saver, monkeypatch)
    for table in ("writes", "blobs"):
        before = rows_of(file, table)
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            task = group.create_task(saver.adelete_thread("t"))
            while rows_of(file, table) == before:
                await saver.newest_id("u")
            task.cancel()
        assert 0 < rows_of(file, table) < before
    await saver.adelete_thread("t")
    await saver.adelete_thread("t")
    assert [rows_of(file, table) for table in TABLES] == [0, 0, 0]


async def test_a_missing_part_is_an_error_and_no_gap(saver: FencedSqliteSaver, file: Path) -> None:
    await stored(saver, messages=conversation(30))
    with closing(sqlite3.connect(file)) as other, other:
        other.execute("DELETE FROM blobs WHERE rowid = 1")
    with pytest.raises(StorageUnavailable):
        await saver.aget_tuple(THREAD)


async def test_a_read_sees_what_was_asked_to_be_written_before(saver: FencedSqliteSaver) -> None:
    first, second = checkpoint_of(n=1), checkpoint_of(n=2)
    await saver.aput(THREAD, first, {}, {})
    async with asyncio.TaskGroup() as group:
        group.create_task(saver.aput(THREAD, second, {}, {}))
        await asyncio.sleep(0)
        found = await saver.aget_tuple(THREAD)
        assert found is not None
        assert found.checkpoint["channel_values"] == {"n": 2}


class Mapped(TypedDict):
    """A state that is handed to several tasks as a whole."""

    messages: Annotated[list[AnyMessage], add_messages]
    seen: Annotated[list[int], operator.add]


async def test_tasks_that_are_sent_the_state_share_it_and_resume_with_it(saver: FencedSqliteSaver, file: Path) -> None:
    messages = conversation(60)

    async def plan(state: Mapped) -> dict[str, Any]:
        return {"messages": [AIMessage("go", id="go")]}

    def fan_out(state: Mapped) -> Sequence[Send]:
        return [Send("look", {"messages": state["messages"], "seen": []}) for _ in range(5)]

    async def look(state: Mapped) -> dict[str, Any]:
        interrupt("go on?")
        return {"seen": [len(state["messages"])]}

    graph = (
        StateGraph(Mapped)
        .add_node("plan", plan)
        .add_node("look", look)
        .add_edge(START, "plan")
        .add_conditional_edges("plan", fan_out, ["look"])
        .add_edge("look", END)
        .compile(checkpointer=saver)
    )
    await graph.ainvoke({"messages": list(messages), "seen": []}, THREAD)
    once = sum(len(saver.serde.dumps_typed(message)[1]) for message in messages)
    assert bytes_of(file) < 6 * once  # the input, the first checkpoint's task, and every chunk once
    state = await graph.aget_state(THREAD)
    assert len(state.interrupts) == 5
    ended = await graph.ainvoke(Command(resume={one.id: True for one in state.interrupts}), THREAD)
    assert ended["seen"] == [241] * 5


async def test_a_summary_replaces_the_conversation(saver: FencedSqliteSaver) -> None:
    async def answer(state: MessagesState) -> dict[str, Any]:
        if len(state["messages"]) < 40:
            return {"messages": [AIMessage(LONG)]}
        kept = state["messages"][-2:]
        return {"messages": [RemoveMessage(id=REMOVE_ALL_MESSAGES), HumanMessage("so far: much"), *kept]}

    graph = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile(checkpointer=saver)
    contents: list[object] = []
    for turn in range(25):
        result = await graph.ainvoke({"messages": [HumanMessage(f"{turn}")]}, THREAD)
        state = await graph.aget_state(THREAD)
        assert state.values["messages"] == result["messages"]
        contents.append(result["messages"][0].content)
    assert contents[-1] == "so far: much"
