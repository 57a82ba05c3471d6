"""Tools that hang, raise, flood or do not exist: the model reads about it, and the run goes on."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import ToolMessage
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from roadworthy.domain.event import ToolCallFinished, ToolCallStarted
from roadworthy.domain.run import InputKind
from roadworthy.runtimes.langgraph.threads import TrackingExecutor
from tests.conformance.runtime.playing import (
    AGENT,
    BOUND,
    Bench,
    Compiled,
    Played,
    a_run,
    marked,
    play,
    prepared,
    ref_of,
)
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn


def agent_with(*tools: BaseTool, calls: tuple[ScriptedCall, ...] = (), **options: Any) -> Compiled:
    turns = (ScriptedTurn(calls=calls or tuple(ScriptedCall(name=one.name, args={}, id=one.name) for one in tools)),)
    return create_agent(ScriptedChatModel(turns=(*turns, ScriptedTurn(text="Done."))), list(tools), **options)


async def run_on(bench: Bench, graph: Compiled) -> tuple[Played, list[str]]:
    """The attempt, and the texts of the tool messages that the model read."""
    async with bench.serve(graph) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        played = await play(runtime, run)
        state = await runtime.thread_state(AGENT, ref_of(run))
        return played, [str(message.content) for message in state.messages if message.role == "tool"]


@tool
async def raises() -> str:
    """Raise."""
    raise RuntimeError("the password is 1234")


@tool
def raises_sync() -> str:
    """Raise."""
    raise RuntimeError("the password is 1234")


@tool
async def hangs() -> str:
    """Hang."""
    await asyncio.Event().wait()
    return ""


@tool
async def floods() -> str:
    """Flood."""
    return "x" * 10_000


@pytest.mark.parametrize("failing", [raises, raises_sync])
async def test_a_tool_that_raises_gives_the_model_an_error_without_its_text(bench: Bench, failing: BaseTool) -> None:
    played, read = await run_on(bench, agent_with(failing))
    assert played.completed.response == "Done."
    assert read == ["Error: the tool failed with RuntimeError"]
    assert [(one.id, one.error) for one in played.of(ToolCallFinished)] == [
        (failing.name, "the tool failed with RuntimeError")
    ]


async def test_a_tool_that_hangs_is_ended_at_its_timeout(bench: Bench) -> None:
    bench.tool_timeout = timedelta(milliseconds=50)
    played, read = await run_on(bench, agent_with(hangs))
    assert played.completed.response == "Done."
    assert "did not finish within 0.05 s" in read[0]
    (finished,) = played.of(ToolCallFinished)
    assert finished.error is not None
    assert "did not finish" in finished.error


async def test_a_tool_that_ignores_its_cancellation_keeps_the_attempt_unsettled_but_not_the_run(bench: Bench) -> None:
    leave = asyncio.Event()

    @tool
    async def stubborn() -> str:
        """Hang, whoever cancels."""
        while not leave.is_set():
            with suppress(asyncio.CancelledError):
                await leave.wait()
        return ""

    bench.tool_timeout = timedelta(milliseconds=50)
    async with (
        bench.serve(agent_with(stubborn)) as runtime,
        asyncio.timeout(BOUND),
        prepared(runtime, a_run(runtime.message_input(AGENT, "go"))) as execution,
    ):
        events = [event async for event in execution.events()]
        assert events[-1].response == "Done."
        assert not execution.settled_now
        leave.set()
        await execution.settled()


async def test_a_tool_that_cancels_itself_has_failed(bench: Bench) -> None:
    @tool
    async def cancels() -> str:
        """Cancel the current task."""
        raise asyncio.CancelledError

    played, read = await run_on(bench, agent_with(cancels))
    assert played.completed.response == "Done."
    assert read == ["Error: the tool was cancelled"]


async def test_a_sync_tool_that_hangs_keeps_the_attempt_unsettled_but_not_the_run(bench: Bench) -> None:
    asyncio.get_running_loop().set_default_executor(TrackingExecutor(4))
    leave = threading.Event()

    @tool
    def stuck() -> str:
        """Hang in a thread."""
        leave.wait(BOUND)
        return ""

    bench.tool_timeout = timedelta(milliseconds=50)
    async with (
        bench.serve(agent_with(stuck)) as runtime,
        asyncio.timeout(BOUND),
        prepared(runtime, a_run(runtime.message_input(AGENT, "go"))) as execution,
    ):
        events = [event async for event in execution.events()]
        assert events[-1].response == "Done."
        assert not execution.settled_now
        leave.set()
        await execution.settled()


async def test_a_flood_is_cut_with_a_marker_in_state_and_events(bench: Bench) -> None:
    played, read = await run_on(bench, agent_with(floods))
    assert len(read[0]) < 1100
    assert read[0].endswith("[9000 more characters were cut]")
    result = played.of(ToolCallFinished)[0].result
    assert isinstance(result, str)
    assert len(result) < 1100


async def test_a_tool_that_does_not_exist_is_told_and_answered(bench: Bench) -> None:
    played, read = await run_on(bench, agent_with(raises, calls=(ScriptedCall(name="ghost", args={"a": 1}, id="g"),)))
    assert played.completed.response == "Done."
    assert "ghost is not a valid tool" in read[0]
    assert [(one.id, one.name, one.args) for one in played.of(ToolCallStarted)] == [("g", "ghost", {"a": 1})]
    assert played.of(ToolCallFinished)[0].error == read[0]


async def test_wrong_arguments_are_the_models_to_mend(bench: Bench) -> None:
    @tool
    def count(n: int) -> str:
        """Count."""
        return str(n)

    played, read = await run_on(bench, agent_with(count, calls=(ScriptedCall(name="count", args={"n": "x"}, id="c"),)))
    assert played.completed.response == "Done."
    assert "count" in read[0]
    assert len(played.of(ToolCallFinished)) == 1


async def test_the_authors_own_handling_comes_first(bench: Bench) -> None:
    model = ScriptedChatModel(
        turns=(ScriptedTurn(calls=(ScriptedCall(name="raises", args={}, id="c"),)), ScriptedTurn(text="Done."))
    )
    node = ToolNode([raises], handle_tool_errors="mended by the author")

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("think", think).add_node("tools", node).add_node("end", think)
    graph.add_edge(START, "think").add_edge("think", "tools").add_edge("tools", "end")
    _, read = await run_on(bench, graph.compile())
    assert read == ["mended by the author"]


def _middleware(seen: list[str]) -> Any:
    from langchain.agents.middleware import AgentMiddleware

    class Wrapping(AgentMiddleware[Any, Any, Any]):
        async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
            seen.append("before")
            result = await handler(request)
            seen.append("after")
            return result

    return Wrapping()


async def test_the_authors_wrapper_still_wraps(bench: Bench) -> None:
    seen: list[str] = []
    played, read = await run_on(bench, agent_with(floods, middleware=[_middleware(seen)]))
    assert seen == ["before", "after"]
    assert read[0].endswith("were cut]")
    assert played.completed.response == "Done."


async def test_an_authors_sync_wrapper_does_not_block_the_loop(bench: Bench) -> None:
    threads: list[str] = []

    def wrap(request: Any, execute: Callable[[Any], Any]) -> Any:
        threads.append(threading.current_thread().name)
        return execute(request)

    async def think(state: MessagesState) -> dict[str, Any]:
        return {
            "messages": [
                await ScriptedChatModel(turns=(ScriptedTurn(calls=(ScriptedCall(name="floods", args={}),)),)).ainvoke(
                    state["messages"]
                )
            ]
        }

    node = ToolNode([floods], wrap_tool_call=wrap)
    graph = StateGraph(MessagesState).add_node("think", think).add_node("tools", node)
    graph.add_edge(START, "think").add_edge("think", "tools")
    _, read = await run_on(bench, graph.compile())
    assert read[0].endswith("were cut]")
    assert threads
    assert threads[0] != threading.main_thread().name


async def test_a_sync_graphs_tools_are_guarded_too(bench: Bench) -> None:
    inner = StateGraph(MessagesState).add_node("tools", ToolNode([raises_sync])).add_edge(START, "tools").compile()
    model = ScriptedChatModel(turns=(ScriptedTurn(calls=(ScriptedCall(name="raises_sync", args={}),)),))

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("think", think).add_node("inner", inner)
    graph.add_edge(START, "think").add_edge("think", "inner")
    _, read = await run_on(bench, graph.compile())
    assert read == ["Error: the tool failed with RuntimeError"]


async def test_a_tool_may_ask_a_human(bench: Bench) -> None:
    @tool
    async def asks() -> str:
        """Ask."""
        return f"they said {interrupt('may I?')}"

    async with bench.serve(agent_with(asks)) as runtime:
        asked = await play(runtime, a_run(runtime.message_input(AGENT, "go")))
        assert list(asked.questions.values()) == ["may I?"]
        assert asked.of(ToolCallFinished) == []
        ended = await play(runtime, await marked(runtime, a_run("yes", kind=InputKind.RESUME)))
        assert ended.completed.response == "Done."
        assert ended.of(ToolCallFinished)[0].result == "they said yes"


async def test_results_inside_a_command_are_cut_too(bench: Bench) -> None:
    @tool
    async def commands() -> Command[Any]:
        """Steer the graph."""
        return Command(update={"messages": [ToolMessage("y" * 5000, tool_call_id="commands")]})

    played, read = await run_on(bench, agent_with(commands))
    assert read[0].endswith("were cut]")
    assert played.completed.response == "Done."


async def test_the_authors_graph_is_not_changed(bench: Bench) -> None:
    graph = agent_with(floods)
    before = {name: node.bound for name, node in graph.nodes.items()}
    _ = await run_on(bench, graph)
    assert {name: node.bound for name, node in graph.nodes.items()} == before
    assert graph.checkpointer is None
    messages = (await graph.ainvoke({"messages": [{"role": "user", "content": "go"}]}))["messages"]
    assert len(messages[2].text) == 10_000
