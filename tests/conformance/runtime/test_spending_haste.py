"""Calls that cannot wait for money, or must not: waiting would hold up the loop, the threads or the call itself."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatGenerationChunk
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.errors import BudgetExceeded, PriceUnknown
from roadworthy.ports.runtime import Completed
from tests.conformance.runtime.paying import OPERATOR, CountingModel, Till, open_till
from tests.conformance.runtime.playing import AGENT, BOUND, OWNER, Bench, a_run
from tests.conformance.runtime.spenders import GRAPHS, THE_END, one_node, speaking
from tests.support.money import UNKNOWN_MODEL, FlatPrices, a_budget


async def test_a_loop_that_waits_for_threads_does_not_hold_up_their_calls(bench: Bench) -> None:
    model = speaking()

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.batch([state["messages"]] * 3)[-1]]}

    # What two of them are estimated at.
    async with open_till(bench.folder, a_budget(202), FlatPrices()) as till, bench.serve(one_node(node)) as runtime:
        async with asyncio.timeout(BOUND):
            played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
        balance = await till.balance()
    assert isinstance(played.outcome, Completed)
    assert len(model.billed) == 3
    assert (balance.spent_nanos, balance.reserved_nanos) == (9, 0)


class Nameless(CountingModel):
    """Nobody knows its price."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> Any:
        return super()._get_ls_params(stop) | {"ls_model_name": UNKNOWN_MODEL}


async def test_a_model_without_a_price_is_not_called_on_the_loops_own_thread_either(bench: Bench) -> None:
    model = Nameless(turns=(THE_END,))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    async with open_till(bench.folder, a_budget(5)) as till, bench.serve(one_node(node)) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert isinstance(played.error, PriceUnknown)
    assert model.billed == []


async def guarded(model: CountingModel, ask: Any) -> None:
    async for _ in model.astream("go"):
        await ask()
        break


async def in_a_task(model: CountingModel) -> None:
    await guarded(model, lambda: asyncio.wait_for(model.ainvoke("check"), BOUND))


async def in_a_thread(model: CountingModel) -> None:
    await guarded(model, lambda: asyncio.to_thread(model.invoke, "check"))


async def in_a_loop_in_a_thread(model: CountingModel) -> None:
    await guarded(model, lambda: asyncio.to_thread(lambda: asyncio.run(model.ainvoke("check"))))


@pytest.mark.parametrize("work", [in_a_task, in_a_thread, in_a_loop_in_a_thread], ids=lambda work: work.__name__)
async def test_a_guard_inside_of_a_stream_does_not_wait_for_the_stream(bench: Bench, work: Any) -> None:
    model = speaking()

    async def node(state: MessagesState) -> dict[str, Any]:
        await work(model)
        return {"messages": [("ai", "checked")]}

    # A call is estimated at more than half of what there is.
    async with open_till(bench.folder, a_budget(150), FlatPrices()) as till, bench.serve(one_node(node)) as runtime:
        async with asyncio.timeout(BOUND):
            played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert played.completed.response == "checked"
    assert len(model.billed) == 2


class Resolving(CountingModel):
    """Needs a thread of the loop's executor in the middle of a call, as a client that looks up a host's name does."""

    begun: Any = None

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: object,
    ) -> AsyncIterator[ChatGenerationChunk]:
        self.begun.set()
        await asyncio.to_thread(lambda: None)
        async for chunk in super()._astream(messages, stop, run_manager):
            yield chunk


async def test_threads_that_wait_for_money_leave_some_to_the_calls_that_hold_it(bench: Bench) -> None:
    model, bench.waiting_threads = Resolving(turns=(THE_END,), begun=threading.Event()), 1
    executor = ThreadPoolExecutor(4)
    asyncio.get_running_loop().set_default_executor(executor)

    async def holder(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    def waiter(state: MessagesState) -> dict[str, Any]:
        model.begun.wait()
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("holder", holder).add_edge(START, "holder")
    for name in ("one", "two", "three", "four", "five", "six"):
        graph = graph.add_node(name, waiter).add_edge(START, name)
    async with open_till(bench.folder, a_budget(150), FlatPrices()) as till, bench.serve(graph.compile()) as runtime:
        async with asyncio.timeout(BOUND):
            played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
        assert (await till.balance()).reserved_nanos == 0
    assert isinstance(played.error, BudgetExceeded)
    assert "held by calls in flight" in played.error.message


async def set_budget(till: Till, nanos: int) -> None:
    await till.policies.set_budget(OWNER.tenant, a_budget(nanos, since=till.purse.clock.now()), OPERATOR)


async def test_a_budget_that_is_made_while_a_graph_runs_stops_it(bench: Bench) -> None:
    model = speaking()
    async with open_till(bench.folder, a_budget(10**9)) as till:

        async def node(state: MessagesState) -> dict[str, Any]:
            for number in range(10):
                await model.ainvoke(state["messages"])
                if number == 2:
                    await set_budget(till, 2)
            return {}

        await till.policies.remove_budget(OWNER.tenant, till.budget.budget_id, OPERATOR)
        async with bench.serve(one_node(node)) as runtime:
            played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert isinstance(played.error, BudgetExceeded)
    assert 5 <= len(model.billed) <= 6


async def test_a_budget_that_is_made_meanwhile_stops_sync_calls_once_one_of_them_is_settled(bench: Bench) -> None:
    model, run = speaking(), a_run({"messages": [{"role": "user", "content": "go"}]})
    async with open_till(bench.folder, a_budget(10**9)) as till:
        loop = asyncio.get_running_loop()

        async def settled(count: int) -> None:
            while len(await till.purse.ledger.of_run(run.owner, run.run_id)) < count:  # noqa: ASYNC110 -- it has no event
                await asyncio.sleep(0)
            if count == 3:
                await set_budget(till, 2)

        def node(state: MessagesState) -> dict[str, Any]:
            for number in range(1, 11):
                model.invoke(state["messages"])
                asyncio.run_coroutine_threadsafe(settled(number), loop).result(BOUND)
            return {}

        await till.policies.remove_budget(OWNER.tenant, till.budget.budget_id, OPERATOR)
        async with bench.serve(one_node(node)) as runtime:
            played = await till.play(runtime, run)
    assert isinstance(played.error, BudgetExceeded)
    assert 5 <= len(model.billed) <= 6


async def test_langchain_does_not_warn_of_a_stop_that_is_meant(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    (graph,) = [make for make in GRAPHS if make.__name__ == "parallel_tools"]
    model = speaking()
    async with open_till(bench.folder, a_budget(2)) as till, bench.serve(graph(model)) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
        logging.getLogger("langchain_core.callbacks.manager").warning("Error in %s: %s", "x", "ValueError('other')")
    assert isinstance(played.error, BudgetExceeded)
    assert [record.getMessage() for record in caplog.records] == ["Error in x: ValueError('other')"]
