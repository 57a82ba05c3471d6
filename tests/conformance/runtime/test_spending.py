"""No graph, however it calls its models, pays more than its budget allows; it is stopped between two calls and goes on
after a top-up.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langgraph.graph import MessagesState

from roadworthy.domain.errors import BudgetExceeded, LeaseLost, PriceUnknown, StorageUnavailable
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import PATIENCE, Completed, PlannedCall
from tests.conformance.runtime.paying import CountingModel, open_till
from tests.conformance.runtime.playing import AGENT, BOUND, Bench, Compiled, a_run, play, prepared, ref_of
from tests.conformance.runtime.spenders import GRAPHS, THE_END, one_node, speaking
from tests.support.money import UNKNOWN_MODEL, FlatPrices, a_budget


@pytest.mark.parametrize("make", GRAPHS, ids=lambda make: make.__name__)
async def test_a_graph_pays_what_is_allowed_and_goes_on_after_a_top_up(
    bench: Bench, make: Callable[[CountingModel], Compiled]
) -> None:
    model = speaking()
    async with open_till(bench.folder, a_budget(2)) as till, bench.serve(make(model)) as runtime:
        run = a_run(runtime.message_input(AGENT, "go"))
        played = await till.play(runtime, run)
        assert isinstance(played.error, BudgetExceeded), played
        assert played.error.spent is not None
        assert (played.error.spent.allowed_nanos, played.error.spent.spent_nanos) == (2, 2)
        assert len(model.billed) == 2
        assert len(played.of(ModelCall)) == 2
        balance = await till.balance()
        assert (balance.spent_nanos, balance.reserved_nanos) == (2, 0)
        messages = (await runtime.thread_state(AGENT, ref_of(run))).messages
        assert messages[0].content == "go"

        await till.top_up(20)
        ended = await till.go_on(runtime)
        assert isinstance(ended.outcome, Completed), ended
        assert ended.completed.response in {"the end", "done"}
        balance = await till.balance()
        assert (balance.spent_nanos, balance.reserved_nanos) == (len(model.billed), 0)


async def test_a_call_that_cannot_wait_is_stopped_by_what_its_forerunner_cost(bench: Bench) -> None:
    model = speaking()

    async def node(state: MessagesState) -> dict[str, Any]:
        answers = [model.invoke(state["messages"]) for _ in range(5)]
        return {"messages": [answers[-1]]}

    prices = FlatPrices(per_token=0, per_call=2)
    async with open_till(bench.folder, a_budget(5), prices) as till, bench.serve(one_node(node)) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
        assert isinstance(played.error, BudgetExceeded)
        assert len(model.billed) == 3
        assert (await till.balance()).spent_nanos == 6
        again = await till.go_on(runtime)
        assert isinstance(again.error, BudgetExceeded)
        assert len(model.billed) == 3
        await till.top_up(100)
        assert (await till.go_on(runtime, 3)).completed.response == "the end"
        assert len(model.billed) == 8


async def test_a_sync_call_on_a_tools_own_loop_is_stopped_as_well(bench: Bench) -> None:
    model = speaking()

    async def repeat() -> None:
        for _ in range(5):
            model.invoke("go")

    def node(state: MessagesState) -> dict[str, Any]:
        asyncio.run(repeat())
        return {}

    async with open_till(bench.folder, a_budget(2)) as till, bench.serve(one_node(node)) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert isinstance(played.error, BudgetExceeded)
    assert len(model.billed) == 2


async def test_many_runs_at_once_pay_together_what_is_allowed(bench: Bench) -> None:
    model = speaking()

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async with open_till(bench.folder, a_budget(5)) as till, bench.serve(one_node(node)) as runtime:
        runs = [a_run(runtime.message_input(AGENT, "go"), thread=f"t{number}") for number in range(20)]
        played = await asyncio.gather(*(till.play(runtime, run) for run in runs))
        assert len(model.billed) == 5
        assert sum(isinstance(one.outcome, Completed) for one in played) == 5
        assert sum(isinstance(one.error, BudgetExceeded) for one in played) == 15
        balance = await till.balance()
        assert (balance.spent_nanos, balance.reserved_nanos) == (5, 0)


async def test_calls_of_one_maker_do_not_wait_for_each_other(bench: Bench) -> None:
    model = speaking()

    async def node(state: MessagesState) -> dict[str, Any]:
        stream = model.astream(state["messages"])
        await anext(stream)
        answer = await model.ainvoke(state["messages"])
        async for _ in stream:
            pass
        together = await model.agenerate([[HumanMessage("go")]] * 3)
        assert len(together.generations) == 3
        return {"messages": [answer]}

    # A call is estimated at more than half of what there is.
    async with open_till(bench.folder, a_budget(150), FlatPrices()) as till, bench.serve(one_node(node)) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert played.completed.response == "the end"
    assert len(model.billed) == 5


class Nameless(CountingModel):
    """Nobody knows its price."""

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: object) -> Any:
        return super()._get_ls_params(stop) | {"ls_model_name": UNKNOWN_MODEL}


async def test_a_model_without_a_price_is_not_called_under_a_budget_with_a_limit(bench: Bench) -> None:
    model = Nameless(turns=(THE_END,))

    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    async with open_till(bench.folder, a_budget(5)) as till, bench.serve(one_node(node)) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert isinstance(played.error, PriceUnknown)
    assert UNKNOWN_MODEL in played.error.message
    assert model.billed == []


async def test_a_model_without_a_price_is_called_under_a_budget_that_only_warns(bench: Bench) -> None:
    model = Nameless(turns=(THE_END,))
    budget = a_budget(None, soft_nanos=1)
    async with open_till(bench.folder, budget) as till, bench.serve(create_agent(model, [])) as runtime:
        played = await till.play(runtime, a_run(runtime.message_input(AGENT, "go")))
    assert played.completed.response == "the end"
    assert len(model.billed) == 1


class Endless:
    """A Spending under which every call waits; ``asked`` when one does."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.gave_up = asyncio.Event()

    @property
    def applies(self) -> bool:
        return True

    async def budgets_fit(self) -> bool:
        return True

    async def reserve(self, call: PlannedCall, *, patience: timedelta | None = PATIENCE) -> None:
        self.asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.gave_up.set()

    def admit(self, call: PlannedCall) -> bool:
        return False

    def ended(self, call: ModelCall) -> None:
        raise AssertionError("no call was made")


def waiting_async(model: CountingModel) -> Any:
    async def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    return node


def waiting_thread(model: CountingModel) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    return node


def waiting_loop(model: CountingModel) -> Any:
    def node(state: MessagesState) -> dict[str, Any]:
        return {"messages": [asyncio.run(model.ainvoke(state["messages"]))]}

    return node


@pytest.mark.parametrize("make", [waiting_async, waiting_thread, waiting_loop], ids=lambda make: make.__name__)
async def test_a_call_that_waits_for_money_ends_with_its_run(
    bench: Bench, make: Callable[[CountingModel], Any]
) -> None:
    model, spending = speaking(), Endless()
    async with bench.serve(one_node(make(model))) as runtime, asyncio.timeout(BOUND):
        run = a_run(runtime.message_input(AGENT, "go"))
        async with prepared(runtime, run, spending=spending) as execution:

            async def consume() -> None:
                async for _ in execution.events():
                    pass

            async with asyncio.TaskGroup() as group:
                task = group.create_task(consume())
                await spending.asked.wait()
                task.cancel()
            await execution.settled()
            assert execution.open_calls() == ()
        await spending.gave_up.wait()
    assert model.billed == []


@pytest.mark.parametrize("refusal", [StorageUnavailable("the database is locked"), LeaseLost("taken over")])
async def test_a_ledger_that_does_not_answer_or_refuses_a_lost_attempt_ends_it_without_a_call(
    bench: Bench, refusal: Exception
) -> None:
    class Away(Endless):
        async def reserve(self, call: PlannedCall, *, patience: timedelta | None = PATIENCE) -> None:
            raise refusal

    model = speaking()
    async with bench.serve(create_agent(model, [])) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "go")), spending=Away())
    assert type(played.error) is type(refusal)
    assert model.billed == []


async def test_a_gate_in_a_thread_lets_the_engines_loop_go_on(bench: Bench) -> None:
    """A sync call waits in its own thread; the loop that has to settle others is free meanwhile."""
    seen: set[int] = set()

    class Witnessing(Endless):
        async def reserve(self, call: PlannedCall, *, patience: timedelta | None = PATIENCE) -> None:
            seen.add(threading.get_ident())

        def ended(self, call: ModelCall) -> None:
            pass

    async with bench.serve(one_node(waiting_thread(speaking()))) as runtime:
        played = await play(runtime, a_run(runtime.message_input(AGENT, "go")), spending=Witnessing())
    assert played.completed.response == "the end"
    assert seen == {threading.get_ident()}
