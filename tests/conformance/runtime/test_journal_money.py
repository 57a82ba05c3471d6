"""A replay costs nothing and needs no money; a call that only looks like one is asked for as any other."""

from collections.abc import Callable
from typing import Any

import pytest
from langgraph.graph import MessagesState

from roadworthy.domain.errors import BudgetExceeded
from roadworthy.domain.usage import ModelCall
from tests.conformance.runtime.paying import open_till
from tests.conformance.runtime.playing import AGENT, Bench, a_run, retried
from tests.conformance.runtime.replaying import NumberedModel, dies_after, graph_of, kept, numbered, replayed
from tests.support.money import a_budget

Ask = Callable[[list[NumberedModel]], Callable[[MessagesState], Any]]


def awaiting(models: list[NumberedModel]) -> Callable[[MessagesState], Any]:
    async def node(_: MessagesState) -> Any:
        return {"messages": [await models[0].ainvoke("one"), await models[0].ainvoke("two")]}

    return node


def blocking(models: list[NumberedModel]) -> Callable[[MessagesState], Any]:
    def node(_: MessagesState) -> Any:
        return {"messages": [models[0].invoke("one"), models[0].invoke("two")]}

    return node


@pytest.mark.parametrize("make", [awaiting, blocking])
async def test_a_spent_budget_does_not_refuse_what_was_paid_before(
    bench: Bench, make: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [numbered()]
    async with open_till(bench.folder, a_budget(2)) as till, bench.serve(graph_of(make(models))) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=2):
            first = await till.play(runtime, run)
        assert (await till.balance()).spent_nanos == 2
        second = await till.play(runtime, retried(run))
        assert second.completed.response == "#2 said"
        assert replayed(second) == kept(first)
        balance = await till.balance()
        assert (balance.spent_nanos, balance.reserved_nanos, models[0].billed) == (2, 0, [1, 2])


@pytest.mark.parametrize("make", [awaiting, blocking])
async def test_a_spent_budget_refuses_what_only_looks_like_a_replay(
    bench: Bench, make: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = [numbered()]
    async with open_till(bench.folder, a_budget(2)) as till, bench.serve(graph_of(make(models))) as runtime:
        run = a_run(runtime.message_input(AGENT, "Go."))
        with dies_after(runtime, None, monkeypatch, responses=2):
            await till.play(runtime, run)
        models[0] = numbered("another model", billed=models[0].billed)
        second = await till.play(runtime, retried(run))
        assert isinstance(second.error, BudgetExceeded)
        assert (second.of(ModelCall), models[0].billed) == ([], [1, 2])
        await till.top_up(2)
        third = await till.play(runtime, retried(retried(run)))
        assert third.completed.response == "#4 another model"
        balance = await till.balance()
        assert (balance.spent_nanos, balance.reserved_nanos) == (4, 0)
