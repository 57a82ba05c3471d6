"""Tools that must run only once: what becomes of them when nobody knows whether they have."""

import asyncio
import threading
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langchain_core.tools import BaseTool, tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode
from langgraph.types import interrupt

from roadworthy import effect
from roadworthy.domain.errors import LimitReached, NeedsReview
from roadworthy.domain.event import ToolCallFinished
from roadworthy.domain.review import RecordResult, RunAgain
from roadworthy.domain.run import InputKind
from tests.conformance.runtime.playing import (
    AGENT,
    BOUND,
    CAPS,
    Bench,
    Compiled,
    a_run,
    marked,
    play,
    prepared,
    retried,
)
from tests.conformance.runtime.shop import (
    LOOK,
    LOOKED,
    PAY,
    SHAPES,
    THREAD,
    Shop,
    agent,
    consume,
    cut_off,
    go,
    going_on,
    one_node,
    rows,
    tool_messages,
)
from tests.support.scripted_model import ScriptedCall, ScriptedChatModel, ScriptedTurn


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_tool_that_must_run_once_is_not_repeated_but_put_in_review(bench: Bench, shape: Any) -> None:
    shop = Shop()
    async with bench.serve(shape([shop.look, shop.pay], LOOK, PAY)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=LOOKED)
        assert await runtime.open_reviews(THREAD) == []
        played = await play(runtime, retried(run))
        assert isinstance(played.error, NeedsReview)
        assert "pay" in played.error.message
        (review,) = await runtime.open_reviews(THREAD)
        assert (review.tool_call_id, review.name, review.args, review.run_id) == (
            "c-pay", "pay", {"amount": 7}, run.run_id,
        )  # fmt: skip
        assert shop.done == {"look": 1, "pay": 1}

        assert await runtime.resolve(THREAD, "nonsense", RunAgain()) is False
        assert await runtime.resolve(THREAD, "c-pay", RecordResult(result="it was paid")) is True
        assert await runtime.resolve(THREAD, "c-pay", RunAgain()) is False
        assert await runtime.open_reviews(THREAD) == []
        assert (await going_on(runtime)).completed.response == "Done."
        assert await tool_messages(runtime) == ["looked 1 times", "it was paid"]
    assert shop.done == {"look": 1, "pay": 1}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_reviewed_tool_can_be_run_again(bench: Bench, shape: Any) -> None:
    shop = Shop()
    async with bench.serve(shape([shop.pay], PAY)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop)
        assert isinstance((await play(runtime, retried(run))).error, NeedsReview)
        assert await runtime.resolve(THREAD, "c-pay", RunAgain())
        shop.held = False
        assert (await going_on(runtime)).completed.response == "Done."
        assert await tool_messages(runtime) == ["paid 7"]
    assert shop.done == {"pay": 2}
    assert shop.keys == ["acme/ann/thread:c-pay"] * 2


async def test_a_run_that_goes_on_without_an_answer_is_put_in_review_again(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(agent([shop.pay], PAY)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop)
        await play(runtime, retried(run))
        second = a_run(kind=InputKind.CONTINUE, number=2)
        assert isinstance((await play(runtime, second)).error, NeedsReview)
        (review,) = await runtime.open_reviews(THREAD)
        assert review.run_id == second.run_id
    assert shop.done == {"pay": 1}


async def test_several_calls_of_unknown_outcome_are_all_named(bench: Bench) -> None:
    shop = Shop()
    calls = [ScriptedCall(name="pay", args={"amount": n}, id=f"c{n}") for n in (1, 2)]
    async with bench.serve(one_node([shop.pay], *calls)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=(("c1", "started"), ("c2", "started")))
        assert isinstance((await play(runtime, retried(run))).error, NeedsReview)
        assert [one.tool_call_id for one in await runtime.open_reviews(THREAD)] == ["c1", "c2"]


async def test_a_tool_that_must_run_once_and_takes_too_long_is_put_in_review_at_once(bench: Bench) -> None:
    bench.tool_timeout = timedelta(milliseconds=50)
    shop = Shop()
    async with bench.serve(agent([shop.pay], PAY)) as runtime:
        played = await play(runtime, go(runtime))
        assert isinstance(played.error, NeedsReview)
        assert [one.error for one in played.of(ToolCallFinished)] == [
            "the tool did not finish within 0.05 s and was stopped"
        ]
        assert [one.tool_call_id for one in await runtime.open_reviews(THREAD)] == ["c-pay"]


async def test_a_tool_that_must_run_once_and_raises_has_a_result(bench: Bench) -> None:
    @effect("once")
    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        raise RuntimeError("refused")

    async with bench.serve(agent([pay], PAY)) as runtime:
        assert (await play(runtime, go(runtime))).completed.response == "Done."
        assert await tool_messages(runtime) == ["Error: the tool failed with RuntimeError"]


async def test_a_tool_that_asks_a_human_before_its_effect_is_not_put_in_review(bench: Bench) -> None:
    paid: list[str] = []

    @effect("once")
    @tool
    async def pay(amount: int) -> str:
        """Pay."""
        paid.append(str(interrupt("really?")))
        return "paid"

    async with bench.serve(agent([pay], PAY)) as runtime:
        assert (await play(runtime, go(runtime))).paused
        assert await runtime.open_reviews(THREAD) == []
        resume = await marked(runtime, a_run("yes", kind=InputKind.RESUME, number=2))
        assert (await play(runtime, resume)).completed.response == "Done."
    assert paid == ["yes"]


async def test_a_tool_that_a_limit_did_not_let_begin_is_not_put_in_review(bench: Bench) -> None:
    shop = Shop()
    shop.held = False
    async with bench.serve(agent([shop.pay], PAY)) as runtime:
        stopped = await play(runtime, go(runtime), caps=replace(CAPS, tool_calls=0))
        assert isinstance(stopped.error, LimitReached)
        assert (await going_on(runtime)).completed.response == "Done."
    assert shop.done == {"pay": 1}


async def test_an_open_review_outlives_a_new_message(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(agent([shop.pay], replace(PAY, id=None))) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop)
        await play(runtime, retried(run))
        shop.held = False
        await play(runtime, go(runtime, 2))
        (review,) = await runtime.open_reviews(THREAD)
        assert review.run_id == run.run_id


def out_of_reach(tools: list[BaseTool], *calls: ScriptedCall) -> Compiled:
    """An agent without checkpoints whose model is asked anew by every attempt, and gives its calls new ids."""
    turns = (ScriptedTurn(calls=tuple(replace(call, id=None) for call in calls)), ScriptedTurn(text="Done."))
    inner = create_agent(ScriptedChatModel(turns=turns, cache=False), tools)
    inner.checkpointer = False
    return StateGraph(MessagesState).add_node("inner", inner).add_edge(START, "inner").compile()


@pytest.mark.parametrize("calls", [(PAY,), (PAY, PAY)], ids=("one", "two"))
async def test_a_call_that_comes_back_under_another_id_is_not_run_again(
    bench: Bench, calls: tuple[ScriptedCall, ...]
) -> None:
    shop = Shop()
    async with bench.serve(out_of_reach([shop.pay], *calls)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, begun=len(calls))
        begun = shop.done["pay"]
        before = {id_ for id_, _ in await rows(runtime)}
        for attempt in (retried(run), a_run(kind=InputKind.CONTINUE, number=2)):
            assert isinstance((await play(runtime, attempt)).error, NeedsReview)
            reviews = await runtime.open_reviews(THREAD)
            assert {review.tool_call_id for review in reviews} == before
            assert {review.run_id for review in reviews} <= {run.run_id, attempt.run_id}
        assert shop.done == {"pay": begun}

        shop.held = False
        for number, review in enumerate(reviews):
            assert await runtime.resolve(THREAD, review.tool_call_id, RecordResult(result=f"it was paid {number}"))
        assert (await going_on(runtime)).completed.response == "Done."
        known = [f"it was paid {number}" for number in range(len(reviews))]
        assert sorted(await tool_messages(runtime)) == sorted([*known, *["paid 7"] * (len(calls) - len(known))])


async def test_such_a_call_can_be_run_again_after_a_review(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(out_of_reach([shop.pay], PAY)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop)
        assert isinstance((await play(runtime, retried(run))).error, NeedsReview)
        (review,) = await runtime.open_reviews(THREAD)
        assert await runtime.resolve(THREAD, review.tool_call_id, RunAgain())
        shop.held = False
        assert (await going_on(runtime)).completed.response == "Done."
    assert shop.done == {"pay": 2}


async def test_a_new_message_may_pay_though_an_old_review_is_open(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(out_of_reach([shop.pay], PAY)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop)
        assert isinstance((await play(runtime, retried(run))).error, NeedsReview)
        shop.held = False
        assert (await play(runtime, go(runtime, 2))).completed.response == "Done."
        assert len(await runtime.open_reviews(THREAD)) == 1
    assert shop.done == {"pay": 2}


async def test_what_a_human_said_to_one_call_is_not_taken_for_its_equal(bench: Bench) -> None:
    shop = Shop()
    calls = (replace(PAY, id="c1"), replace(PAY, id="c2"))
    async with bench.serve(one_node([shop.pay], *calls)) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop, seen=(("c1", "started"), ("c2", "started")))
        assert isinstance((await play(runtime, retried(run))).error, NeedsReview)
        assert await runtime.resolve(THREAD, "c1", RecordResult(result="it was paid"))
        for review in await runtime.open_reviews(THREAD):
            assert await runtime.resolve(THREAD, review.tool_call_id, RunAgain())
        shop.held = False
        assert (await going_on(runtime)).completed.response == "Done."
        assert await tool_messages(runtime) == ["it was paid", "paid 7"]


async def test_a_fenced_attempt_does_not_begin_a_tool_that_must_run_once(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(agent([shop.pay], PAY)) as runtime:
        run = go(runtime)
        async with asyncio.timeout(BOUND), prepared(runtime, run) as execution:
            execution._scope.fence()
            with pytest.raises(Exception, match="lease"):
                await consume(execution)
        assert shop.done == {}
        assert await rows(runtime) == []


async def test_a_new_message_is_told_what_a_human_recorded(bench: Bench) -> None:
    shop = Shop()
    async with bench.serve(agent([shop.pay], replace(PAY, id=None))) as runtime:
        run = go(runtime)
        await cut_off(runtime, run, shop)
        await play(runtime, retried(run))
        (review,) = await runtime.open_reviews(THREAD)
        await runtime.resolve(THREAD, review.tool_call_id, RecordResult(result={"paid": True}))
        shop.held = False
        await play(runtime, go(runtime, 2))
        assert (await tool_messages(runtime))[0] == '{"paid": true}'


async def test_tools_that_are_called_from_a_thread_are_remembered_too(bench: Bench) -> None:
    """A sync node that uses the graph's own ToolNode, as guarded when the agent was loaded."""
    done: Counter[str] = Counter()
    loop, began, go_on = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    @tool
    def look() -> str:
        """Look."""
        done["look"] += 1
        return "looked"

    @effect("once")
    @tool
    def pay(amount: int) -> str:
        """Pay."""
        done["pay"] += 1
        loop.call_soon_threadsafe(began.set)
        go_on.wait(BOUND)
        return "paid"

    node: list[Any] = [ToolNode([look, pay])]

    def act(state: Any) -> Any:
        asked = state["messages"][-1].tool_calls
        told = [node[0].invoke({"messages": [AIMessage("", tool_calls=[call])]})["messages"] for call in asked]
        return {"messages": [message for messages in told for message in messages]}

    calls = [{"name": call.name, "args": dict(call.args), "id": call.id} for call in (LOOK, PAY)]
    graph = StateGraph(MessagesState).add_node("ask", lambda state: {"messages": [AIMessage("", tool_calls=calls)]})
    graph = graph.add_node("act", act).add_node("tools", node[0]).add_edge(START, "ask").add_edge("ask", "act")
    async with bench.serve(graph.compile()) as runtime:
        node[0] = runtime.served[AGENT].graph.nodes["tools"].bound
        run = go(runtime)
        async with asyncio.timeout(BOUND), prepared(runtime, run) as execution, asyncio.TaskGroup() as group:
            task = group.create_task(consume(execution))
            await began.wait()
            execution.fence()
            task.cancel()
            go_on.set()
        assert await rows(runtime) == [("c-look", "finished"), ("c-pay", "started")]
        assert isinstance((await play(runtime, retried(run))).error, NeedsReview)
        await runtime.resolve(THREAD, "c-pay", RecordResult(result="paid after all"))
        assert (await going_on(runtime)).error is None
        assert await tool_messages(runtime) == ["looked", "paid after all"]
    assert done == {"look": 1, "pay": 1}
