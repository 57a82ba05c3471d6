"""An agent's code that asks the process to exit has failed; the server goes on."""

import asyncio
import gc
import operator
import sys
from collections.abc import Callable
from typing import Annotated, Any

import pytest
import uvloop
from langchain.agents import create_agent
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import RetryPolicy
from pydantic import BaseModel, field_validator
from typing_extensions import TypedDict

from roadworthy.domain.errors import AgentFailed
from roadworthy.domain.event import ToolCallFinished
from roadworthy.runtimes.langgraph.exits import contained_tasks
from roadworthy.runtimes.langgraph.threads import TrackingExecutor
from tests.conformance.runtime.playing import AGENT, Bench, a_run, play, ref_of
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn


class State(TypedDict, total=False):
    """Anything."""

    seen: Annotated[list[str], operator.add]


async def async_node(state: State) -> State:
    await asyncio.sleep(0)
    sys.exit(3)


def sync_node(state: State) -> State:
    sys.exit(3)


async def interrupted_node(state: State) -> State:
    await asyncio.sleep(0)
    raise KeyboardInterrupt


async def good_node(state: State) -> State:
    return {"seen": ["good"]}


def routed(state: State) -> str:
    sys.exit(3)


async def routed_async(state: State) -> str:
    await asyncio.sleep(0)
    sys.exit(3)


def alone(node: Any) -> Any:
    return StateGraph(State).add_node("bad", node).add_edge(START, "bad").compile()


def beside(node: Any) -> Any:
    graph = StateGraph(State).add_node("bad", node).add_node("good", good_node)
    return graph.add_edge(START, "bad").add_edge(START, "good").compile()


def retrying(node: Any) -> Any:
    graph = StateGraph(State).add_node("bad", node, retry_policy=RetryPolicy(max_attempts=2, initial_interval=0))
    return graph.add_edge(START, "bad").compile()


def calling(graph: Any) -> Any:
    async def node(state: State) -> State:
        await graph.ainvoke({"seen": []})
        return {}

    return alone(node)


async def gathering_node(state: State) -> State:
    await asyncio.gather(async_node({}), good_node({}))
    return {}


def router(path: Any) -> Any:
    graph = StateGraph(State).add_node("good", good_node).add_edge(START, "good")
    return graph.add_conditional_edges("good", path, ["good"]).compile()


class Validated(BaseModel):
    """A state that leaves when it is made from a checkpoint's values, not when a client's input is checked."""

    seen: list[str] = []

    @field_validator("seen")
    @classmethod
    def leave(cls, seen: list[str]) -> list[str]:
        if seen:
            sys.exit(3)
        return seen


def validating() -> Any:
    async def node(state: Any) -> Any:
        return {"seen": ["good"]}

    graph = StateGraph(Validated).add_node("one", node).add_node("two", node)
    return graph.add_edge(START, "one").add_edge("one", "two").compile()


GRAPHS: dict[str, Any] = {
    "an async node": alone(async_node),
    "an async node beside another": beside(async_node),
    "an interrupted node beside another": beside(interrupted_node),
    "a sync node": alone(sync_node),
    "a sync node beside another": beside(sync_node),
    "a retried node": retrying(async_node),
    "a router": router(routed),
    "an async router": router(routed_async),
    "a state's validator": validating(),
    "a subgraph": alone(alone(async_node)),
    "a subgraph beside another": beside(beside(sync_node)),
    "a graph called by a node": calling(beside(async_node)),
    "a task of the agent's own": beside(gathering_node),
}


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("name", GRAPHS)
async def test_a_node_that_exits_fails_its_run_alone(bench: Bench, name: str, tracked: bool) -> None:
    if tracked:
        asyncio.get_running_loop().set_default_executor(TrackingExecutor(4))
    async with bench.serve(GRAPHS[name], good=alone(good_node)) as runtime:
        failed = await play(runtime, a_run({"seen": []}))
        assert isinstance(failed.error, AgentFailed)
        assert failed.error.message == "the agent failed with ProcessExit"
        assert (await play(runtime, a_run({"seen": []}, agent="good", thread="other"))).completed.output == {
            "seen": ["good"]
        }


@tool
async def leaves_async() -> str:
    """Leave."""
    await asyncio.sleep(0)
    sys.exit(3)


@tool
def leaves_sync() -> str:
    """Leave."""
    sys.exit(3)


@tool
async def interrupts_async() -> str:
    """Interrupt."""
    raise KeyboardInterrupt


@tool
async def works() -> str:
    """Work."""
    return "worked"


@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("leaving", [leaves_async, leaves_sync, interrupts_async])
async def test_a_tool_that_exits_gives_the_model_an_error_and_its_neighbour_works(
    bench: Bench, leaving: BaseTool, tracked: bool
) -> None:
    if tracked:
        asyncio.get_running_loop().set_default_executor(TrackingExecutor(4))
    calls = tuple(ScriptedCall(name=one.name, args={}, id=one.name) for one in (leaving, works))
    model = ScriptedChatModel(turns=(ScriptedTurn(calls=calls), ScriptedTurn(text="Done.")))
    async with bench.serve(create_agent(model, [leaving, works])) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        played = await play(runtime, run)
        assert played.completed.response == "Done."
        state = await runtime.thread_state(AGENT, ref_of(run))
        read = [str(message.content) for message in state.messages if message.role == "tool"]
    assert read[0].startswith("Error: the tool failed with ")
    assert read[1] == "worked"
    ends = {one.id: one.error for one in played.of(ToolCallFinished)}
    assert ends["works"] is None
    assert (ends[leaving.name] or "").startswith("the tool failed with ")


async def test_the_loop_s_own_way_of_making_tasks_is_kept_and_comes_back(bench: Bench) -> None:
    made: list[object] = []

    def factory(loop: asyncio.AbstractEventLoop, coro: Any, **options: Any) -> Any:
        made.append(coro)
        return asyncio.Task(coro, loop=loop, **options)

    asyncio.get_running_loop().set_task_factory(factory)
    async with bench.serve(alone(good_node)) as runtime:
        before = len(made)
        assert (await play(runtime, a_run({"seen": []}))).error is None
        assert len(made) > before
    assert asyncio.get_running_loop().get_task_factory() is factory


async def test_tasks_that_never_started_leave_no_complaint(bench: Bench) -> None:
    begun: list[str] = []

    async def cancelling_node(state: State) -> State:
        async def never() -> None:
            begun.append("begun")

        task = asyncio.get_running_loop().create_task(never())
        task.cancel()
        await asyncio.wait({task})
        return {"seen": [str(task.cancelled())]}

    async with bench.serve(alone(cancelling_node)) as runtime:
        assert (await play(runtime, a_run({"seen": []}))).completed.output == {"seen": ["True"]}
    gc.collect()
    assert begun == []


def test_a_task_outside_of_an_attempt_may_end_the_loop() -> None:
    async def server() -> None:
        with contained_tasks(asyncio.get_running_loop()):
            await asyncio.get_running_loop().create_task(async_node({}))

    with pytest.raises(SystemExit):
        asyncio.run(server())


def test_it_works_on_uvloop_too(bench: Bench) -> None:
    async def server() -> None:
        async with bench.serve(beside(async_node)) as runtime:
            assert isinstance((await play(runtime, a_run({"seen": []}))).error, AgentFailed)

    uvloop.run(server())


def _wrapping(execute_in: Callable[[Any, Callable[[Any], Any]], Any]) -> Any:
    from langgraph.prebuilt import ToolNode

    model = ScriptedChatModel(turns=(ScriptedTurn(calls=(ScriptedCall(name="leaves_async", args={}, id="c"),)),))

    async def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("think", think)
    graph.add_node("tools", ToolNode([leaves_async], wrap_tool_call=execute_in))
    return graph.add_edge(START, "think").add_edge("think", "tools").compile()


async def test_a_tool_that_exits_inside_an_authors_sync_wrapper_is_caught_too(bench: Bench) -> None:
    async with bench.serve(_wrapping(lambda request, execute: execute(request))) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        assert (await play(runtime, run)).error is None
        last = (await runtime.thread_state(AGENT, ref_of(run))).messages[-1]
        assert str(last.content).startswith("Error: the tool failed with ")


async def test_a_sync_graphs_tool_that_exits_is_caught_too(bench: Bench) -> None:
    from langgraph.prebuilt import ToolNode

    inner = StateGraph(MessagesState).add_node("tools", ToolNode([leaves_sync])).add_edge(START, "tools").compile()
    model = ScriptedChatModel(turns=(ScriptedTurn(calls=(ScriptedCall(name="leaves_sync", args={}, id="c"),)),))

    def think(state: MessagesState) -> dict[str, Any]:
        asked = model.invoke(state["messages"])
        return {"messages": inner.invoke({"messages": [*state["messages"], asked]})["messages"]}

    graph = StateGraph(MessagesState).add_node("think", think).add_edge(START, "think").compile()
    async with bench.serve(graph) as runtime:
        assert isinstance((await play(runtime, a_run(runtime.message_input(AGENT, "go")))).error, AgentFailed)
