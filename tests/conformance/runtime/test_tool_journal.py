"""Tool calls across attempts: what has a result is not done again."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import wrap_tool_call
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import Command, interrupt

from roadworthy import effect
from roadworthy.domain.errors import ConfigError
from roadworthy.domain.event import ToolCallFinished, ToolCallStarted
from roadworthy.domain.run import InputKind
from roadworthy.runtimes.langgraph.tool_rows import erase_tool_rows
from tests.conformance.runtime.playing import (
    BOUND,
    CAPS,
    Bench,
    a_run,
    looked_up,
    marked,
    play,
    retried,
)
from tests.conformance.runtime.shop import (
    LOOK,
    LOOKED,
    PAY,
    SHAPES,
    THREAD,
    WAIT,
    Shop,
    agent,
    cut_off,
    go,
    one_node,
    rows,
    tool_messages,
)
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_finished_call_is_not_made_again_by_the_next_attempt(bench: Bench, shape: Any) -> None:
    shop = Shop()
    async with bench.serve(shape([shop.look, shop.wait], LOOK, WAIT)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=LOOKED)
        shop.held = False
        played = await play(runtime, retried(run))
        assert played.completed.response == "Done."
        assert await tool_messages(runtime) == ["looked 1 times", "waited"]
    assert shop.done == {"look": 1, "wait": 2}
    assert shop.keys == ["acme/ann/thread:c-look"]


async def test_a_result_that_comes_back_is_shown_as_a_call_with_its_result(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(one_node([shop.look, shop.wait], LOOK, WAIT)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=LOOKED)
        shop.held = False
        played = await play(runtime, retried(run))
    # Two at once, each looked up for itself.
    assert sorted(one.id for one in played.of(ToolCallStarted)) == ["c-look", "c-wait"]
    assert {one.id: one.result for one in played.of(ToolCallFinished)} == {
        "c-look": "looked 1 times",
        "c-wait": "waited",
    }


async def test_results_that_came_back_do_not_count_as_tool_calls(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(one_node([shop.look, shop.wait], LOOK, WAIT)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=LOOKED)
        shop.held = False
        one_call = replace(CAPS, tool_calls=1)
        assert (await play(runtime, retried(run), caps=one_call)).completed.response == "Done."


class Noting(MessagesState):
    note: str


async def test_a_command_that_changes_the_state_comes_back_whole(bench: Bench) -> None:
    shop = Shop()

    @tool
    async def look(tool_call_id: Annotated[str, InjectedToolCallId]) -> Command[Any]:
        """Look."""
        shop.done["look"] += 1
        return Command(update={"note": "seen", "messages": [ToolMessage("looked", tool_call_id=tool_call_id)]})

    asked = AIMessage("", tool_calls=[{"name": c.name, "args": {}, "id": c.id} for c in (LOOK, WAIT)], id="asked")
    graph = StateGraph(Noting).add_node("ask", lambda state: {"messages": [asked]})
    graph = graph.add_node("tools", ToolNode([look, shop.wait])).add_edge(START, "ask").add_edge("ask", "tools")
    async with bench.serve(graph.compile()) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=LOOKED)
        shop.held = False
        played = await play(runtime, retried(run))
        output: Any = played.completed.output
    assert output["note"] == "seen"
    assert shop.done == {"look": 1, "wait": 2}


async def test_a_result_that_cannot_be_stored_is_made_again_and_said_so_once(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    shop = Shop()

    @tool(response_format="content_and_artifact")
    async def look() -> tuple[str, object]:
        """Look."""
        shop.done["look"] += 1
        return "looked", object()

    calls = (LOOK, ScriptedCall(name="look", args={}, id="c-again"))
    async with bench.serve(one_node([look], *calls)) as runtime:
        run = go(runtime)
        for attempt in (run, retried(run)):
            # Nor can the state be stored that such a result is part of.
            assert (await play(runtime, attempt)).error is not None
    assert shop.done == {"look": 4}
    assert [record.message for record in caplog.records if "look" in record.message] == [
        "results of the tool look cannot be stored: after a crash it will be run again"
    ]


async def test_an_id_that_a_model_uses_twice_means_two_calls(bench: Bench) -> None:
    shop = Shop()
    shop.held = False
    pay = ScriptedTurn(calls=(PAY,))
    model = ScriptedChatModel(turns=(pay, pay, ScriptedTurn(text="Done.")))
    async with bench.serve(create_agent(model, [shop.pay])) as runtime:
        for number in (1, 2):
            assert (await play(runtime, go(runtime, number))).completed.response == "Done."
    assert shop.done == {"pay": 4}


async def test_an_answer_to_one_tool_does_not_run_the_others_again(bench: Bench) -> None:
    shop = Shop()

    @tool
    async def ask() -> str:
        """Ask the human, when the other tool has its result."""
        async with asyncio.timeout(BOUND):
            while LOOKED[0] not in await rows(runtime):
                pass  # each look is a turn of the loop
        return str(interrupt("well?"))

    calls = (LOOK, ScriptedCall(name="ask", args={}, id="c-ask"))
    async with bench.serve(one_node([shop.look, ask], *calls)) as runtime:
        assert (await play(runtime, go(runtime))).paused
        resume = await marked(runtime, a_run("yes", kind=InputKind.RESUME, number=2))
        assert (await play(runtime, resume)).completed.response == "Done."
        assert await tool_messages(runtime) == ["looked 1 times", "yes"]
    assert shop.done == {"look": 1}


async def test_a_wrapper_that_calls_a_tool_twice_makes_one_call_of_it(bench: Bench) -> None:
    shop = Shop()

    @wrap_tool_call
    async def twice(request: Any, execute: Any) -> Any:
        await execute(request)
        return await execute(request)

    async with bench.serve(agent([shop.look, shop.wait], LOOK, WAIT, middleware=[twice])) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=LOOKED)
        shop.held = False
        await play(runtime, retried(run))
        assert (await tool_messages(runtime))[0] == "looked 2 times"
    assert shop.done["look"] == 2


async def test_a_new_message_tells_the_model_what_is_known_of_calls_that_were_cut_off(bench: Bench) -> None:
    shop = Shop()
    calls = (LOOK, PAY, WAIT)
    async with bench.serve(one_node([shop.look, shop.pay, shop.wait], *calls)) as runtime:
        await cut_off(runtime, go(runtime), shop, seen=(*LOOKED, ("c-pay", "started")))
        shop.held = False
        await play(runtime, go(runtime, 2))
        first = (await tool_messages(runtime))[:3]
        assert await runtime.open_reviews(THREAD) == []
    assert first == [
        "looked 1 times",
        "This call was cut off. It is not known whether it took effect.",
        "This call was cut off before it had a result.",
    ]


async def test_what_is_known_of_calls_goes_with_the_next_run_and_with_the_thread(bench: Bench) -> None:
    shop = Shop()
    shop.held = False

    async def owners() -> list[tuple[str]]:
        query = "SELECT run_id FROM tool_calls"
        return await looked_up(runtime, query)

    async with bench.serve(agent([shop.look, shop.wait], LOOK, WAIT)) as runtime:
        for number in (1, 2):
            run = go(runtime, number)
            await play(runtime, run)
            assert await owners() == [(run.run_id,)] * 2
        await runtime.saver.rows.transact(lambda rows: erase_tool_rows(rows, "acme/ann/thread"))
        assert await owners() == []


WRONG: Any = "onec"


def by_metadata(function: Callable[[], str]) -> Any:
    made = tool(function)
    made.metadata = {"effect": WRONG}
    return made


def above(function: Callable[[], str]) -> Any:
    return effect(WRONG)(tool(function))


def below(function: Callable[[], str]) -> Any:
    return tool(effect(WRONG)(function))


def plain(function: Callable[[], str]) -> Any:
    return effect(WRONG)(function)


@pytest.mark.parametrize("declare", [by_metadata, above, below, plain])
async def test_an_effect_that_does_not_exist_is_refused_when_the_agent_is_loaded(bench: Bench, declare: Any) -> None:
    def pay() -> str:
        """Pay."""
        return ""

    with pytest.raises(ConfigError, match="the tool pay declares the effect 'onec'; it must be one of: pure, idemp"):
        async with bench.serve(agent([declare(pay)])):
            pass
