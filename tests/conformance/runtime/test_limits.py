"""Where attempts stop: at their caps, when they are drained, fenced or cancelled, and when their threads have ended."""

import asyncio
import threading
from contextlib import suppress
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRetryMiddleware
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from typing_extensions import TypedDict

from roadworthy.domain.errors import LeaseLost, LimitReached
from roadworthy.domain.event import ToolCallStarted
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import Caps, Completed, Drained
from roadworthy.runtimes.langgraph.threads import TrackingExecutor
from tests.conformance.runtime.playing import (
    AGENT,
    BOUND,
    CAPS,
    Bench,
    Compiled,
    a_run,
    play,
    prepared,
    ref_of,
    retried,
)
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn

LOOPING = ScriptedTurn(text="more ", calls=(ScriptedCall(name="step", args={}),))


@tool
async def step() -> str:
    """Take a step."""
    return "done"


def looping_agent(*middleware: Any) -> Compiled:
    return create_agent(ScriptedChatModel(turns=(LOOPING,)), [step], middleware=middleware)


async def test_the_cap_of_model_calls_ends_the_run_and_keeps_its_state(bench: Bench) -> None:
    async with bench.serve(looping_agent(ModelRetryMiddleware(max_retries=5, initial_delay=0))) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        played = await play(runtime, run, caps=Caps(steps=50, model_calls=3, tool_calls=20))
        assert isinstance(played.error, LimitReached)
        assert "3 model calls" in played.error.message
        assert len(played.of(ModelCall)) == 3
        assert len((await runtime.thread_state(AGENT, ref_of(run))).messages) == 7


async def test_the_cap_of_tool_calls_ends_the_run(bench: Bench) -> None:
    async with bench.serve(looping_agent()) as runtime:
        played = await play(
            runtime, a_run(runtime.message_input(AGENT, "go")), caps=Caps(steps=50, model_calls=20, tool_calls=2)
        )
    assert isinstance(played.error, LimitReached)
    assert "2 tool calls" in played.error.message
    assert len(played.of(ToolCallStarted)) == 2


async def test_a_graph_that_swallows_everything_still_stops_at_its_cap(bench: Bench) -> None:
    speaker = ScriptedChatModel()

    async def node(state: MessagesState) -> dict[str, Any]:
        for _ in range(5):
            with suppress(Exception):
                await speaker.ainvoke(state["messages"])
        return {"messages": [("ai", "swallowed")]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    async with bench.serve(graph) as runtime:
        played = await play(
            runtime, a_run(runtime.message_input(AGENT, "go")), caps=Caps(steps=50, model_calls=2, tool_calls=2)
        )
    assert isinstance(played.error, LimitReached)
    assert len(played.of(ModelCall)) == 2


@pytest.mark.parametrize(("ours", "authors"), [(5, None), (5, 50), (50, 5)])
async def test_the_smaller_limit_of_steps_wins(bench: Bench, ours: int, authors: int | None) -> None:
    agent = create_agent(ScriptedChatModel(turns=(LOOPING,)), [step])
    if authors is not None:
        agent = agent.with_config({"recursion_limit": authors})
    async with bench.serve(agent) as runtime:
        played = await play(
            runtime, a_run(runtime.message_input(AGENT, "go")), caps=Caps(steps=ours, model_calls=100, tool_calls=100)
        )
    assert isinstance(played.error, LimitReached)
    assert "steps" in played.error.message
    assert len(played.of(ModelCall)) in {3, 4}


async def test_a_drained_run_stops_between_steps_and_goes_on_in_its_next_attempt(bench: Bench) -> None:
    turns = (LOOPING, ScriptedTurn(text="the end"))
    async with bench.serve(create_agent(ScriptedChatModel(turns=turns), [step])) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        drained = await play(runtime, run, on_event=lambda execution, _: execution.drain())
        assert isinstance(drained.outcome, Drained)
        ended = await play(runtime, retried(run))
        assert ended.completed.response == "the end"
        assert len(drained.of(ModelCall)) + len(ended.of(ModelCall)) == 2
        assert len((await runtime.thread_state(AGENT, ref_of(run))).messages) == 4


async def test_a_fenced_attempt_writes_nothing_more(bench: Bench) -> None:
    async with bench.serve(create_agent(ScriptedChatModel(), [])) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        async with prepared(runtime, run) as execution:
            execution.fence()
            with pytest.raises(LeaseLost):
                async for _ in execution.events():
                    pass
        assert await runtime.progress_mark(run) is None
        assert (await runtime.thread_state(AGENT, ref_of(run))).messages == ()


class Hanging(TypedDict, total=False):
    """Nothing."""

    n: int


async def test_a_cancelled_attempt_stops_its_graph_and_owes_its_open_call(bench: Bench) -> None:
    ended = asyncio.Event()
    slow = ScriptedChatModel(turns=(ScriptedTurn(text="word " * 50),), ms_per_token=20)

    async def node(state: MessagesState) -> dict[str, Any]:
        try:
            return {"messages": [await slow.ainvoke(state["messages"])]}
        finally:
            ended.set()

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    async with bench.serve(graph) as runtime, asyncio.timeout(BOUND):
        run = a_run(runtime.message_input(AGENT, "go"))
        async with prepared(runtime, run) as execution:
            began = asyncio.Event()

            async def consume() -> None:
                async for _ in execution.events():
                    began.set()

            async with asyncio.TaskGroup() as group:
                task = group.create_task(consume())
                await began.wait()
                task.cancel()
            assert ended.is_set()
            (call,) = execution.open_calls()
            assert (call.outcome, call.estimated) == ("cancelled", True)
            assert call.tokens.input > 0
            await execution.settled()


async def test_a_call_that_ended_unheard_is_owed_too(bench: Bench) -> None:
    speaker = ScriptedChatModel()
    ended = asyncio.Event()

    async def node(state: MessagesState) -> dict[str, Any]:
        await speaker.ainvoke(state["messages"])
        ended.set()
        await asyncio.Event().wait()
        return {}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    async with (
        bench.serve(graph) as runtime,
        asyncio.timeout(BOUND),
        prepared(runtime, a_run(runtime.message_input(AGENT, "go"))) as execution,
    ):
        events = execution.events()
        await anext(events)
        await ended.wait()
        await events.aclose()
        assert [call.outcome for call in execution.open_calls()] == ["complete"]


async def test_an_attempt_is_settled_only_when_its_threads_have_ended(bench: Bench) -> None:
    executor = TrackingExecutor(max_workers=4)
    asyncio.get_running_loop().set_default_executor(executor)
    inside, leave = threading.Event(), threading.Event()

    def node(state: Hanging) -> Hanging:
        inside.set()
        leave.wait(BOUND)
        return {"n": 1}

    graph = StateGraph(Hanging).add_node("node", node).add_edge(START, "node").compile()
    async with bench.serve(graph) as runtime, asyncio.timeout(BOUND):
        run = a_run({"n": 0})
        async with prepared(runtime, run) as execution:
            async with asyncio.TaskGroup() as group:

                async def consume() -> None:
                    async for _ in execution.events():
                        pass

                task = group.create_task(consume())
                await asyncio.to_thread(inside.wait, BOUND)
                assert not execution.settled_now
                task.cancel()
            assert not execution.settled_now
            leave.set()
            await execution.settled()
            assert execution.settled_now


async def test_an_undisturbed_attempt_is_settled_at_once(bench: Bench) -> None:
    async with (
        bench.serve(create_agent(ScriptedChatModel(), [])) as runtime,
        prepared(runtime, a_run(runtime.message_input(AGENT, "go")), caps=CAPS) as execution,
    ):
        last = [event async for event in execution.events()][-1]
        assert isinstance(last, Completed)
        assert execution.settled_now
        assert execution.open_calls() == ()
