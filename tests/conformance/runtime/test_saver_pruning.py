"""Pruning: a living thread loses its old checkpoints, and nothing that a run, a rollback or an answer needs."""

import operator
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import interrupt

from roadworthy.domain.run import InputKind, Run
from roadworthy.runtimes.langgraph.checkpoint_pruning import Row, needed
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.postgres_checkpoints import FencedPostgresSaver
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from tests.conformance.runtime.playing import (
    AGENT,
    Bench,
    Compiled,
    Played,
    a_run,
    crash_after,
    looked_up,
    marked,
    play,
    ref_of,
    retried,
)

LONG = "a long road " * 100
THREAD = ref_of(a_run())
KEY = thread_key(THREAD)


def echo() -> Compiled:
    """Says how much it has heard, in a subgraph."""

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} heard, {LONG}")]}

    inner = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    return StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()


async def say(runtime: LangGraphRuntime, text: str, **options: Any) -> Run:
    run = a_run(runtime.message_input(AGENT, text), **options)
    await play(runtime, run)
    return run


async def said(runtime: LangGraphRuntime) -> list[str]:
    messages = (await runtime.thread_state(AGENT, THREAD)).messages
    return [str(message.content).partition(",")[0] for message in messages]


async def counted(runtime: LangGraphRuntime, table: str) -> int:
    if isinstance(runtime.saver, FencedPostgresSaver) and table != "checkpoints":
        table = f"checkpoint_{table}"
    return int((await looked_up(runtime, f"SELECT count(*) FROM {table} WHERE thread_id = ?", KEY))[0][0])


async def test_a_thread_of_any_length_keeps_the_same_few_checkpoints(bench: Bench) -> None:
    async with bench.serve(echo()) as runtime:
        kept: list[list[int]] = []
        for turn in range(12):
            await say(runtime, f"turn {turn}")
            await runtime.prune_thread(THREAD, keep=3)
            kept.append([await counted(runtime, table) for table in ("checkpoints", "writes")])
        assert kept[2:] == [kept[2]] * 10
        assert kept[2][0] <= 6
        assert len(await said(runtime)) == 24
        assert await runtime.prune_thread(THREAD, keep=3) == 0


async def test_parts_that_nothing_stands_on_go_with_their_checkpoints(sqlite_bench: Bench) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("x" * 9000, id="always the same one")]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    async with sqlite_bench.serve(graph) as runtime:
        for turn in range(5):
            await say(runtime, f"{turn}" * 9000)
        before = await counted(runtime, "blobs")
        await runtime.prune_thread(THREAD, keep=1)
        # Five questions and an answer; the inputs that were waiting for the first step are gone.
        assert await counted(runtime, "blobs") == 6 < before
        assert len(await said(runtime)) == 6
        await runtime.erase_thread(THREAD)
        assert await counted(runtime, "blobs") == 0


async def test_a_run_that_was_rolled_back_after_pruning_leaves_the_thread_as_before_it(bench: Bench) -> None:
    async with bench.serve(echo()) as runtime:
        await say(runtime, "one")
        await runtime.prune_thread(THREAD, keep=1)
        undone = await say(runtime, "two")
        await runtime.prune_thread(THREAD, keep=1)
        assert await said(runtime) == ["one", "1 heard", "two", "3 heard"]
        await say(runtime, "three", rollback_of=undone.run_id)
        assert await said(runtime) == ["one", "1 heard", "three", "3 heard"]


def asking() -> Compiled:
    """Asks in a subgraph's second step."""

    async def first(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("thinking")]}

    async def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"told {interrupt('what?')}")]}

    inner = (
        StateGraph(MessagesState)
        .add_node("first", first)
        .add_node("ask", ask)
        .add_edge(START, "first")
        .add_edge("first", "ask")
        .compile()
    )
    return StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()


async def answer(runtime: LangGraphRuntime) -> Played:
    return await play(runtime, await marked(runtime, a_run("that", kind=InputKind.RESUME)))


async def test_an_open_question_outlives_pruning(bench: Bench) -> None:
    async with bench.serve(asking()) as runtime:
        for _ in range(3):
            await say(runtime, "go")
            await runtime.prune_thread(THREAD, keep=1)
            assert (await answer(runtime)).completed.response == "told that"
            await runtime.prune_thread(THREAD, keep=1)
        assert await said(runtime) == ["go", "thinking", "told that"] * 3


async def test_a_breakpoint_behind_a_node_is_still_known_after_pruning(bench: Bench) -> None:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("ok")]}

    graph = (
        StateGraph(MessagesState)
        .add_node("one", node)
        .add_node("two", node)
        .add_node("three", node)
        .add_edge(START, "one")
        .add_edge("one", "two")
        .add_edge("two", "three")
        .compile(interrupt_after=["one"])
    )
    async with bench.serve(graph) as runtime:
        run = await say(runtime, "go")
        await runtime.prune_thread(THREAD, keep=1)
        assert (await play(runtime, retried(run))).paused
        going_on = a_run(kind=InputKind.CONTINUE)
        assert (await play(runtime, going_on)).completed.response == "ok"
        await runtime.prune_thread(THREAD, keep=1)
        assert (await play(runtime, retried(going_on))).completed.response == "ok"


async def test_only_the_runs_own_answer_is_told_after_pruning(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run was answered is told from what was there before it by the checkpoint before."""
    async with bench.serve(echo()) as runtime:
        await say(runtime, "one")
        run = await say(runtime, "two")
        with crash_after(runtime, 0, monkeypatch):
            await runtime.prune_thread(THREAD, keep=1)
        played = await play(runtime, retried(run))
        assert played.completed.response.startswith("3 heard")


class Remembering(TypedDict):
    """A subgraph's own memory."""

    n: Annotated[list[int], operator.add]


async def test_a_subgraph_with_a_memory_keeps_it(bench: Bench) -> None:
    seen: list[int] = []

    async def count(state: Remembering) -> dict[str, Any]:
        seen.append(len(state["n"]))
        return {"n": [1]}

    inner = StateGraph(Remembering).add_node("count", count).add_edge(START, "count").compile(checkpointer=True)

    async def outer(state: MessagesState) -> dict[str, Any]:
        await inner.ainvoke({"n": []})
        return {"messages": [AIMessage("ok")]}

    graph = StateGraph(MessagesState).add_node("outer", outer).add_edge(START, "outer").compile()
    async with bench.serve(graph) as runtime:
        for turn in range(5):
            await say(runtime, f"{turn}")
            await runtime.prune_thread(THREAD, keep=1)
        undone = await say(runtime, "six")
        await runtime.prune_thread(THREAD, keep=1)
        await say(runtime, "six again", rollback_of=undone.run_id)
        assert seen == [0, 1, 2, 3, 4, 5, 5]


def folded(state: list[BaseMessage], writes: Sequence[Any]) -> list[BaseMessage]:
    for write in writes:
        state = add_messages(state, write)  # type: ignore[assignment, arg-type]
    return state


class Delta(TypedDict):
    """Messages of which only what is new is stored with each checkpoint."""

    messages: Annotated[list[AnyMessage], DeltaChannel(folded, snapshot_frequency=5)]


def delta() -> Compiled:
    """As ``echo``, on a channel that is rebuilt from older checkpoints."""

    async def node(state: Delta) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} heard, {LONG}")]}

    return StateGraph(Delta).add_node("node", node).add_edge(START, "node").compile()


async def test_a_channel_that_is_rebuilt_from_older_checkpoints_keeps_them(bench: Bench) -> None:
    async with bench.serve(delta()) as runtime:
        for turn in range(8):
            await play(runtime, a_run({"messages": [{"role": "user", "content": f"turn {turn}"}]}))
            await runtime.prune_thread(THREAD, keep=1)
        state = await runtime.served[AGENT].graph.aget_state({"configurable": {"thread_id": KEY}})
        contents = [str(message.content).partition(",")[0] for message in state.values["messages"]]
        assert contents == [text for turn in range(8) for text in (f"turn {turn}", f"{2 * turn + 1} heard")]


async def test_a_run_is_rolled_back_on_such_a_channel_too(bench: Bench) -> None:
    async with bench.serve(delta()) as runtime:

        def asked(text: str, **options: Any) -> Run:
            return a_run({"messages": [HumanMessage(text)]}, **options)  # type: ignore[dict-item, list-item]

        await play(runtime, asked("one"))
        undone = asked("two")
        await play(runtime, undone)
        await play(runtime, asked("three", rollback_of=undone.run_id))
        state = await runtime.served[AGENT].graph.aget_state({"configurable": {"thread_id": KEY}})
        contents = [str(message.content).partition(",")[0] for message in state.values["messages"]]
        assert contents == ["one", "1 heard", "three", "3 heard"]


def row(id_: str, *, namespace: str = "", run: str = "r", root: str | None = None, parent: str | None = None) -> Row:
    return Row(namespace=namespace, id=id_, parent=parent, run=run, root=root, delta=False)


def test_what_must_stay() -> None:
    found = [
        row("9", run="c", parent="8"),
        row("8", run="c", parent="7"),
        row("7", run="c", parent="6"),
        row("75", namespace="task:9", root="9"),
        row("74", namespace="task:9", root="9"),
        row("73", namespace="old:7", root="7"),
        row("72", namespace="memory", run="c"),
        row("71", namespace="memory", run="b"),
        row("70", namespace="memory", run="b"),
        row("6", run="b", parent="5"),
        row("5", run="b"),
        row("4", run="a"),
    ]
    assert needed(found, 1) == {("", "9"), ("", "8"), ("", "6"), ("task:9", "75"), ("memory", "72"), ("memory", "71")}
    assert needed(found, 3) == needed(found, 1) | {("", "7"), ("old:7", "73")}
    assert needed([], 1) == set()


def test_a_run_that_came_no_further_than_a_subgraph_can_still_be_rolled_back() -> None:
    found = [
        row("09", namespace="sub", run="a"),
        row("08", namespace="sub", run="a"),
        row("07", namespace="sub", run="y"),
        row("069", namespace="task:06", run="a", root="06"),
        row("068", namespace="task:06", run="y", root="06"),
        row("06", run="y", parent="05"),
        row("05", run="y", parent="04"),
        row("04a", namespace="sub", run="x"),
        row("04", run="x"),
    ]
    kept = needed(found, 10)
    assert {id_ for namespace, id_ in kept if namespace == "sub"} == {"09", "07"}
    assert {id_ for namespace, id_ in kept if namespace == "task:06"} == {"069", "068"}


async def test_a_rolled_back_answer_leaves_the_memory_of_the_subgraph_that_asked(bench: Bench) -> None:
    seen: list[int] = []
    broken = [True]

    async def count(state: Remembering) -> dict[str, Any]:
        seen.append(len(state["n"]))
        return {"n": [1]}

    async def ask(state: Remembering) -> dict[str, Any]:
        if len(seen) > 1:
            interrupt("what?")
        return {"n": [1]}

    async def end(state: Remembering) -> dict[str, Any]:
        if len(seen) > 1 and broken:
            raise ValueError
        return {"n": []}

    inner = StateGraph(Remembering).add_node("count", count).add_node("ask", ask).add_node("end", end)
    inner = inner.add_edge(START, "count").add_edge("count", "ask").add_edge("ask", "end")
    memory = inner.compile(checkpointer=True)

    async def outer(state: MessagesState) -> dict[str, Any]:
        await memory.ainvoke({"n": []})
        return {"messages": [AIMessage("ok")]}

    graph = StateGraph(MessagesState).add_node("outer", outer).add_edge(START, "outer").compile()
    async with bench.serve(graph) as runtime:
        await say(runtime, "one")
        await say(runtime, "two")
        undone = await marked(runtime, a_run("that", kind=InputKind.RESUME))
        assert (await play(runtime, undone)).error is not None
        await runtime.prune_thread(THREAD, keep=10)
        await runtime.saver.erase_run(KEY, undone.run_id)
        broken.clear()
        await say(runtime, "three")
        # The first turn's two, and what the second had before it asked.
        assert seen == [0, 2, 3]
