"""What happens to a thread between its runs: repair before new input, rollback, erasure, and no mixing of owners."""

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.event import ToolCallStarted
from roadworthy.domain.ids import UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.ports.runtime import RuntimeEvent
from roadworthy.runtimes.langgraph.keys import thread_key
from roadworthy.runtimes.langgraph.runtime import LangGraphRuntime
from tests.conformance.runtime.playing import (
    AGENT,
    BOUND,
    OWNER,
    Bench,
    Compiled,
    a_run,
    crash_after,
    play,
    prepared,
    ref_of,
    retried,
)
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn


def agent_with_two_tools(gate: asyncio.Event) -> Compiled:
    @tool
    async def quick() -> str:
        """Be quick."""
        return "quick is done"

    @tool
    async def slow() -> str:
        """Be slow."""
        await gate.wait()
        return "slow is done"

    calls = (ScriptedCall(name="quick", args={}, id="q"), ScriptedCall(name="slow", args={}, id="s"))
    return create_agent(ScriptedChatModel(turns=(ScriptedTurn(calls=calls), ScriptedTurn(text="Done."))), [quick, slow])


async def cancelled_in_slow_tool(runtime: LangGraphRuntime) -> Run:
    """Play a run until its slow tool has started and the quick one's result is stored, then cancel it."""
    run = a_run(runtime.message_input(AGENT, "first"))
    async with asyncio.timeout(BOUND), prepared(runtime, run) as execution:
        events = execution.events()
        begun: list[RuntimeEvent] = []
        async for event in events:
            if isinstance(event, ToolCallStarted):
                begun.append(event)
            if len(begun) == 2:
                break
        for _ in range(200):
            await runtime.saver.newest_id("nothing")
        await events.aclose()
    return run


async def test_a_dangling_call_is_answered_before_the_next_message(bench: Bench) -> None:
    gate = asyncio.Event()
    async with bench.serve(agent_with_two_tools(gate)) as runtime:
        await cancelled_in_slow_tool(runtime)
        gate.set()
        run = a_run(runtime.message_input(AGENT, "second"), number=2)
        played = await play(runtime, run)
        assert played.completed.response == "Done."
        messages = (await runtime.thread_state(AGENT, ref_of(run))).messages
        assert [message.role for message in messages[:6]] == ["user", "assistant", "tool", "tool", "user", "assistant"]
        assert {message.tool_call_id for message in messages[2:4]} == {"q", "s"}
        by_call = {message.tool_call_id: str(message.content) for message in messages[2:4]}
        assert by_call["q"] == "quick is done"
        assert "cut off" in by_call["s"]


async def test_repair_is_not_lost_when_the_repairing_attempt_dies_first(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = asyncio.Event()
    async with bench.serve(agent_with_two_tools(gate)) as runtime:
        await cancelled_in_slow_tool(runtime)
        gate.set()
        run = a_run(runtime.message_input(AGENT, "second"), number=2)
        with crash_after(runtime, 0, monkeypatch):
            await play(runtime, run)
        assert (await play(runtime, retried(run))).completed.response == "Done."
        messages = (await runtime.thread_state(AGENT, ref_of(run))).messages
        assert [message.role for message in messages[:6]] == ["user", "assistant", "tool", "tool", "user", "assistant"]


async def test_a_thread_that_is_whole_is_left_as_it_is(bench: Bench) -> None:
    gate = asyncio.Event()
    gate.set()
    async with bench.serve(agent_with_two_tools(gate)) as runtime:
        for number in (1, 2):
            run = a_run(runtime.message_input(AGENT, "again"), number=number)
            await play(runtime, run)
        messages = (await runtime.thread_state(AGENT, ref_of(run))).messages
        assert [message.role for message in messages] == ["user", "assistant", "tool", "tool", "assistant"] * 2


def echo() -> Compiled:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} heard")]}

    inner = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    return StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()


async def said(runtime: LangGraphRuntime, run: Run) -> list[object]:
    return [message.content for message in (await runtime.thread_state(AGENT, ref_of(run))).messages]


async def test_a_rolled_back_run_leaves_the_thread_as_before_it(bench: Bench) -> None:
    async with bench.serve(echo()) as runtime:
        await play(runtime, a_run(runtime.message_input(AGENT, "one")), first=True)
        undone = a_run(runtime.message_input(AGENT, "two"))
        await play(runtime, undone)
        run = a_run(runtime.message_input(AGENT, "three"), rollback_of=undone.run_id)
        played = await play(runtime, run)
        assert await said(runtime, run) == ["one", "1 heard", "three", "3 heard"]
        again = await play(runtime, run)
        assert again.outcome == played.outcome


async def test_an_erased_run_and_an_erased_thread_are_gone(bench: Bench) -> None:
    async with bench.serve(echo()) as runtime:
        first = a_run(runtime.message_input(AGENT, "one"))
        await play(runtime, first, first=True)
        mark = await runtime.progress_mark(first)
        second = a_run(runtime.message_input(AGENT, "two"))
        await play(runtime, second)
        assert await runtime.progress_mark(second) != mark
        for _ in range(2):
            await runtime.saver.erase_run(thread_key(ref_of(second)), second.run_id)
            assert await said(runtime, second) == ["one", "1 heard"]
            assert await runtime.progress_mark(second) == mark
        for _ in range(2):
            await runtime.erase_thread(ref_of(second))
            assert await said(runtime, second) == []
            assert await runtime.progress_mark(second) is None


async def test_two_users_threads_of_one_name_are_two_threads(bench: Bench) -> None:
    async with bench.serve(echo()) as runtime:
        owners = [
            OWNER,
            Owner(tenant=OWNER.tenant, user=UserId("bob")),
            Owner(tenant=OWNER.tenant, user=UserId("ann|thread")),
        ]
        for owner in owners:
            played = await play(runtime, a_run(runtime.message_input(AGENT, "hi"), owner=owner))
            assert played.completed.response == "1 heard"
        await runtime.erase_thread(ref_of(a_run(owner=owners[0])))
        assert len(await said(runtime, a_run(owner=owners[1]))) == 2


async def test_a_client_cannot_steer_langgraph_by_metadata(bench: Bench) -> None:
    from dataclasses import replace

    from langchain_core.runnables import RunnableConfig

    seen: dict[str, object] = {}

    async def node(state: MessagesState, config: RunnableConfig) -> dict[str, Any]:
        seen.update(config.get("metadata", {}))
        return {"messages": [AIMessage("ok")]}

    graph = StateGraph(MessagesState).add_node("node", node).add_edge(START, "node").compile()
    async with bench.serve(graph) as runtime:
        run = a_run(runtime.message_input(AGENT, "hi"))
        given = {"run_id": "stolen", "thread_id": "x", "langgraph_node": "y", "ls_provider": "z", "mine": "kept"}
        run = replace(run, request=replace(run.request, metadata=given))
        await play(runtime, run)
        assert seen["run_id"] == run.run_id
        assert seen["langgraph_node"] == "node"
        assert seen["mine"] == "kept"
        assert "ls_provider" not in seen
