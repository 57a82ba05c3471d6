"""A run under way obeys the budgets as they are now, and what it costs is charged to all of them."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.domain.budget import Budget, BudgetWindow
from roadworthy.domain.event import ContentDelta
from roadworthy.domain.run import Run, RunStatus
from roadworthy.ports.runtime import Progress
from roadworthy.runtimes.scripted import Begun, Gate, Script, ScriptedRuntime
from tests.integration.engine.stage import ANN, Stage, call, open_stage, until
from tests.integration.engine.test_budgets import COST, DONE, OPERATOR, balance, code
from tests.support.money import a_budget


def held(names: Sequence[str]) -> Script:
    """A script of calls, each in a step of its own; the first is under way until the gate opens."""
    first, *others = [(Begun(call=call(name)), call(name), Progress()) for name in names]
    steps = [step for steps in others for step in steps]
    return (ContentDelta(message_id="m", text="begun"), first[0], Gate(name="g"), *first[1:], *steps, DONE)


@asynccontextmanager
async def in_a_call(stage: Stage, runtime: ScriptedRuntime) -> AsyncGenerator[Run]:
    """A run whose first call of four is under way; it goes on when the context is left."""
    runtime.script(held("abcd"))
    run = await stage.submit(stage.run())
    await until(lambda: bool(runtime.executions) and bool(runtime.executions[0].open_calls()))
    yield run
    runtime.gate("g").set()


async def put(stage: Stage, budget: Budget) -> Budget:
    """Make a budget, or change it, now."""
    return await stage.policies.set_budget(ANN.tenant, replace(budget, updated_at=stage.clock.now()), OPERATOR)


@pytest.mark.parametrize("window", [BudgetWindow.DAY, BudgetWindow.TOTAL])
async def test_a_budget_made_meanwhile_is_charged_for_all_that_ends_from_then_on(
    database_file: Path, window: BudgetWindow
) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        async with in_a_call(stage, runtime) as run:
            budget = await put(stage, a_budget(1000 * COST, window=window, since=stage.clock.now()))
            assert (await balance(stage, budget)).spent_nanos == 0
            stage.clock.advance(timedelta(seconds=10))
        ended = await stage.end(run)
        assert ended.result.usage.cost_nanos == 4 * COST
        standing = await balance(stage, budget)
        assert (standing.spent_nanos, standing.reserved_nanos) == (4 * COST, 0)


async def test_a_budget_made_meanwhile_stops_a_run(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        async with in_a_call(stage, runtime) as run:
            await put(stage, a_budget(COST, window=BudgetWindow.DAY, since=stage.clock.now()))
        ended = await stage.end(run)
        assert code(ended) == "budget_exceeded"
        # Nothing is held for the call that was under way already: until it is settled, another one is let through.
        assert ended.result.usage.cost_nanos in (COST, 2 * COST)


async def test_a_limit_lowered_meanwhile_stops_a_run(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        budget = await put(stage, a_budget(1000 * COST))
        async with in_a_call(stage, runtime) as run:
            await put(stage, replace(budget, limit_nanos=2 * COST))
        ended = await stage.end(run)
        assert (code(ended), ended.result.usage.cost_nanos) == ("budget_exceeded", 2 * COST)


async def test_a_limit_raised_meanwhile_lets_a_run_go_on(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        budget = await put(stage, a_budget(COST))
        async with in_a_call(stage, runtime) as run:
            await put(stage, replace(budget, limit_nanos=1000 * COST))
        assert (await stage.end(run)).status is RunStatus.SUCCESS
        assert (await balance(stage, budget)).spent_nanos == 4 * COST


async def test_a_budget_removed_meanwhile_stops_nobody_and_leaves_nothing_held(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        budget = await put(stage, a_budget(COST))
        async with in_a_call(stage, runtime) as run:
            await stage.policies.remove_budget(ANN.tenant, budget.budget_id, OPERATOR)
        assert (await stage.end(run)).status is RunStatus.SUCCESS
        assert stage.ledger.releases == []
        assert await stage.ledger.sweep(stage.clock.now() + timedelta(hours=1)) == 0
