"""Money through the whole engine: held before a call, settled after it, freed whatever becomes of the run."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetScope, BudgetWindow, Held, Reservation
from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.event import ContentDelta, UsageReported
from roadworthy.domain.rate_limit import AppliedLimit, RateKind, RateLimit, RateScope
from roadworthy.domain.run import Run, RunStatus
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.runtime import Completed, Progress
from roadworthy.runtimes.scripted import Begun, Gate, Script, ScriptedRuntime
from tests.integration.engine.failing import Pause
from tests.integration.engine.stage import (
    ANN,
    BOUND,
    FakeClock,
    Stage,
    call,
    caller,
    fresh,
    open_stage,
    owner,
    until,
)
from tests.support.money import a_budget

OPERATOR = Actor(name="test")
DONE = Completed(response="done", output=None, structured_response=None)
# What a call of the stage costs, at one nano-USD for each of its tokens.
COST = 11


def calling(*names: str) -> Script:
    """A script of calls, each in a step of its own."""
    steps = [step for name in names for step in (Begun(call=call(name)), call(name), Progress())]
    return (ContentDelta(message_id="m", text="begun"), *steps, DONE)


async def allow(stage: Stage, nanos: int | None, soft: int | None = None) -> Budget:
    return await stage.policies.set_budget(ANN.tenant, a_budget(nanos, soft_nanos=soft), OPERATOR)


async def balance(stage: Stage, budget: Budget) -> BudgetBalance:
    period = budget.period_of(ANN.tenant, stage.clock.now())
    (found,) = await stage.ledger.balances(ANN.tenant, [period])
    return found


def code(run: Run) -> str | None:
    return None if run.result.error is None else run.result.error.code


async def test_a_run_is_priced_in_its_events_its_result_and_the_ledger(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        stage.runtime.script(calling("a", "b"))
        run = await stage.end(await stage.submit(stage.run()))
        assert run.result.usage.cost_nanos == 2 * COST
        reported = [event.body for event in await stage.events(run) if isinstance(event.body, UsageReported)]
        assert [(one.call.cost_nanos, one.total.cost_nanos) for one in reported] == [(COST, COST), (COST, 2 * COST)]
        calls = await stage.ledger.of_run(run.owner, run.run_id)
        assert [(one.cost_nanos, one.price_version) for one in calls] == [(COST, "flat")] * 2


async def test_without_a_budget_that_fits_nothing_is_asked_of_the_ledger(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        await stage.policies.set_budget(ANN.tenant, a_budget(5, scope=BudgetScope.USER, subject="bob"), OPERATOR)
        stage.ledger.before_reserve.append(AssertionError("not asked"))
        stage.runtime.script(calling("a"))
        run = await stage.end(await stage.submit(stage.run()))
        assert run.status is RunStatus.SUCCESS
        assert stage.ledger.balances_read == 0
        assert stage.ledger.releases == []


async def test_a_run_ends_when_its_budget_is_spent_and_the_rest_of_its_calls_is_not_made(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        budget = await allow(stage, 2 * COST)
        stage.runtime.script(calling("a", "b", "c"))
        run = await stage.end(await stage.submit(stage.run()))
        assert (run.status, code(run)) == (RunStatus.ERROR, "budget_exceeded")
        assert await stage.calls(run) == ["a", "b"]
        assert run.result.usage.cost_nanos == 2 * COST
        assert await balance(stage, budget) == BudgetBalance(
            period=budget.period_of(ANN.tenant, stage.clock.now()), spent_nanos=2 * COST
        )


async def test_a_soft_limit_is_noted_once_and_stops_nothing(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        await allow(stage, None, soft=COST + 1)
        stage.runtime.script(calling("a", "b", "c"))
        run = await stage.end(await stage.submit(stage.run()))
        assert run.status is RunStatus.SUCCESS
        assert stage.witness.notes.count("budget_soft_limit") == 1
        assert stage.witness.details["budget_soft_limit"]["spent_usd"] == 2 * COST / 1e9


async def test_many_runs_at_once_spend_together_what_is_allowed(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime, slots=8) as stage:
        budget = await allow(stage, 10 * COST)
        runtime.script(*(calling(f"{number}-a", f"{number}-b") for number in range(30)))
        ended = await stage.ends([await stage.submit(stage.run(f"t{number}")) for number in range(30)])
        made = sum(run.result.usage.model_calls for run in ended)
        assert made == 10
        assert {code(run) for run in ended} <= {None, "budget_exceeded"}
        standing = await balance(stage, budget)
        assert (standing.spent_nanos, standing.reserved_nanos) == (10 * COST, 0)


async def hold_everything(stage: Stage, budget: Budget) -> Run:
    """A run of somebody else's, which holds all that is left."""
    other = replace(stage.run("other"), attempt=1)
    reservation = Reservation(
        call_id="held",
        node="n",
        provider="p",
        model="m",
        input_tokens=1,
        output_tokens=1,
        nanos=budget.limit_nanos or 0,
        started_at=stage.clock.now(),
    )
    periods = [budget.period_of(ANN.tenant, stage.clock.now())]
    assert await stage.ledger.reserve(other, reservation, periods) == Held()
    return other


async def test_waiting_for_money_is_not_idleness(database_file: Path) -> None:
    async with open_stage(database_file, idle_timeout=timedelta(seconds=1)) as stage:
        holder = await hold_everything(stage, await allow(stage, 10 * COST))
        stage.runtime.script(calling("a"))
        run = await stage.submit(stage.run())
        for asked in range(1, 5):
            await until(lambda asked=asked: len(stage.ledger.refused) >= asked)
            stage.clock.advance(timedelta(seconds=0.7))
        await stage.ledger.release(holder)
        assert (await stage.end(run)).status is RunStatus.SUCCESS


async def test_a_run_that_waits_for_money_goes_on_when_another_call_ends(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    async with open_stage(database_file, runtime=runtime) as stage:
        budget = await allow(stage, 2 * COST)
        holding: Sequence[Script] = [
            (ContentDelta(message_id="m", text="begun"), Begun(call=large("big")), Gate(name="g"), call("big"), DONE)
        ]
        runtime.script(*holding, calling("small"))
        first = await stage.submit(stage.run("one"))
        await until(lambda: bool(runtime.executions) and bool(runtime.executions[0].open_calls()))
        second = await stage.submit(stage.run("two"))
        await until(lambda: bool(stage.ledger.refused))
        runtime.gate("g").set()
        ended = await stage.ends([first, second])
        assert [run.status for run in ended] == [RunStatus.SUCCESS] * 2
        assert (await balance(stage, budget)).reserved_nanos == 0


def large(name: str) -> ModelCall:
    """A call that holds more than it will cost."""
    return replace(call(name), tokens=replace(call(name).tokens, input=2 * COST - 1))


async def test_a_run_that_waits_for_money_can_be_cancelled(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        budget = await allow(stage, 10 * COST)
        holder = await hold_everything(stage, budget)
        stage.runtime.script(calling("a"))
        run = await stage.submit(stage.run())
        await until(lambda: bool(stage.ledger.refused))
        await stage.runs.cancel(caller(), run.run_id)
        ended = await stage.end(run)
        assert ended.status is RunStatus.CANCELLED
        assert await stage.calls(run) == []
        await stage.ledger.release(holder)
        assert (await balance(stage, budget)).reserved_nanos == 0


async def test_a_run_that_waits_for_money_times_out_at_its_deadline(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        await hold_everything(stage, await allow(stage, 10 * COST))
        stage.runtime.script(calling("a"))
        run = await stage.submit(stage.run(timeout=timedelta(seconds=1)))
        await until(lambda: bool(stage.ledger.refused))
        stage.clock.advance(timedelta(seconds=2))
        assert (await stage.end(run)).status is RunStatus.TIMEOUT


async def test_a_cancelled_call_is_charged_and_holds_nothing(database_file: Path) -> None:
    runtime = ScriptedRuntime(
        default=(ContentDelta(message_id="m", text="begun"), Begun(call=call("a")), Gate(name="g"), DONE)
    )
    async with open_stage(database_file, runtime=runtime) as stage:
        budget = await allow(stage, 10 * COST)
        run = await stage.submit(stage.run())
        await until(lambda: bool(runtime.executions) and bool(runtime.executions[0].open_calls()))
        await stage.runs.cancel(caller(), run.run_id)
        assert (await stage.end(run)).result.usage.cost_nanos == COST
        standing = await balance(stage, budget)
        assert (standing.spent_nanos, standing.reserved_nanos) == (COST, 0)


BIG = replace(call("a"), tokens=replace(call("a").tokens, output=80))
HELD: Script = (
    Begun(call=BIG),
    ContentDelta(message_id="m", text="12345", node="model"),
    Gate(name="g"),
    call("b"),
    DONE,
)
# Its input, and the two tokens that it has shown of the 80 that were reserved.
LOST = 10 + 2


async def crash_in_a_call(database_file: Path, runtime: ScriptedRuntime, clock: FakeClock) -> tuple[Run, Budget]:
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        budget = await allow(stage, 20 * COST)
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
    return run, budget


async def test_a_call_whose_worker_died_is_paid_for_by_the_next_attempt(database_file: Path) -> None:
    runtime, clock = ScriptedRuntime(default=HELD), FakeClock()
    run, budget = await crash_in_a_call(database_file, runtime, clock)
    runtime.gate("g").set()
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        ended = await stage.end(run)
        assert ended.status is RunStatus.SUCCESS
        calls = {one.call_id: one for one in await stage.ledger.of_run(run.owner, run.run_id)}
        assert (calls["a"].outcome, calls["a"].estimated, calls["a"].cost_nanos) == ("lost", True, LOST)
        # A script's calls have the same ids in each attempt, so that this one is there twice and on record once.
        standing = await balance(stage, budget)
        assert standing.reserved_nanos == 0
        assert standing.spent_nanos == sum(one.cost_nanos or 0 for one in calls.values()) == LOST + COST


async def test_a_call_whose_worker_died_is_paid_for_when_the_run_ends_without_another_attempt(
    database_file: Path,
) -> None:
    runtime, clock = ScriptedRuntime(default=HELD), FakeClock()
    run, budget = await crash_in_a_call(database_file, runtime, clock)
    clock.advance(timedelta(hours=1))
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        ended = await stage.row(run)
        assert ended.status is RunStatus.TIMEOUT
        assert ended.result.usage.model_calls == 1
        standing = await balance(stage, budget)
        assert (standing.spent_nanos, standing.reserved_nanos) == (LOST, 0)
        assert ended.result.usage.cost_nanos == LOST


async def test_a_lost_call_takes_its_budget_over_the_soft_limit(database_file: Path) -> None:
    runtime, clock = ScriptedRuntime(default=HELD), FakeClock()
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        await allow(stage, None, soft=LOST)
        run = await stage.submit(stage.run())
        await stage.shown(run, ContentDelta)
    clock.advance(timedelta(hours=1))
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        assert stage.witness.details["budget_soft_limit"]["spent_usd"] == LOST / 1e9


async def test_a_ledger_that_fails_when_a_lost_call_is_settled_charges_it_once(database_file: Path) -> None:
    runtime, clock = ScriptedRuntime(default=HELD), FakeClock()
    run, budget = await crash_in_a_call(database_file, runtime, clock)
    async with open_stage(
        database_file, runtime=runtime, clock=clock, before_append=[StorageUnavailable("locked")]
    ) as stage:
        ended = await stage.end(run)
        assert code(ended) == "storage"
        async with asyncio.timeout(BOUND):  # the run's end comes first
            while (standing := await balance(stage, budget)).reserved_nanos:  # noqa: ASYNC110 -- the database's
                await asyncio.sleep(0)
        assert standing.spent_nanos == LOST
        assert ended.result.usage.cost_nanos == LOST


async def test_text_of_a_call_that_has_ended_is_not_charged_to_one_that_was_lost(database_file: Path) -> None:
    runtime, clock = ScriptedRuntime(), FakeClock()
    shown = ContentDelta(message_id="n", text="shown by the first call", node="model")
    first = replace(call("first"), message_id="n")
    runtime.script((Begun(call=first), shown, first, *HELD))
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        budget = await allow(stage, 10 * COST)
        run = await stage.submit(stage.run())
        await stage.shown(run, UsageReported)
        await until(lambda: [one.call_id for one in runtime.executions[0].open_calls()] == ["a"])
        await stage.ledger.append(run, [], {})
    clock.advance(timedelta(hours=1))
    async with open_stage(database_file, runtime=runtime, clock=clock) as stage:
        assert (await stage.row(run)).result.usage.cost_nanos == COST + LOST
        assert (await balance(stage, budget)).spent_nanos == COST + LOST


async def test_money_held_for_a_call_that_never_began_is_free_at_the_runs_end_and_nothing_is_billed(
    database_file: Path,
) -> None:
    async with open_stage(database_file) as stage:
        budget, reserved = await allow(stage, 10 * COST), Pause()
        stage.ledger.after_reserve.append(reserved)
        stage.ledger.before_release.append(StorageUnavailable("locked"))
        stage.runtime.script(calling("a"))
        run = await stage.submit(stage.run())
        await reserved.reached.wait()
        await stage.runs.cancel(caller(), run.run_id)
        assert (await stage.end(run)).status is RunStatus.CANCELLED
        assert stage.ledger.releases == [run.run_id] * 2
        assert await stage.calls(run) == []
        standing = await balance(stage, budget)
        assert (standing.spent_nanos, standing.reserved_nanos) == (0, 0)


async def test_what_others_of_the_tenant_spend_counts_for_the_tenant_and_not_for_the_user(
    tmp_path: Path, template: Path
) -> None:
    async with open_stage(fresh(template, tmp_path)) as stage:
        await stage.policies.set_budget(ANN.tenant, a_budget(COST, scope=BudgetScope.USER), OPERATOR)
        stage.runtime.script(calling("a", "b"), calling("c"), calling("d"))
        spent = await stage.end(await stage.submit(stage.run()))
        bob = await stage.end(await stage.submit(stage.run(who=owner("acme", "bob"))))
        elsewhere = await stage.end(await stage.submit(stage.run(who=owner("other", "ann"))))
        assert [code(run) for run in (spent, bob, elsewhere)] == ["budget_exceeded", None, None]


async def test_a_budget_for_each_run_begins_anew_with_each(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        each = a_budget(COST, scope=BudgetScope.RUN, window=BudgetWindow.RUN)
        await stage.policies.set_budget(ANN.tenant, each, OPERATOR)
        stage.runtime.script(calling("a"), calling("b", "c"))
        ended = await stage.ends([await stage.submit(stage.run(f"t{number}")) for number in range(2)])
        assert [code(run) for run in ended] == [None, "budget_exceeded"]


async def test_tokens_count_towards_the_callers_minute(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        limit = RateLimit(tenant=ANN.tenant, scope=RateScope.USER, kind=RateKind.TOKENS, limit=100)
        await stage.policies.set_rate(ANN.tenant, limit, OPERATOR)
        stage.runtime.script(calling("a", "b"))
        await stage.end(await stage.submit(stage.run()))
        await until(lambda: stage.rates.size > 0)
        assert (await stage.rates.look(AppliedLimit(limit=limit, subject="ann"))).remaining == 100 - 2 * COST


async def test_a_ledger_that_is_away_ends_the_run_before_its_call(database_file: Path) -> None:
    async with open_stage(database_file) as stage:
        await allow(stage, 10 * COST)
        stage.ledger.before_reserve.append(StorageUnavailable("locked"))
        stage.runtime.script(calling("a"))
        run = await stage.end(await stage.submit(stage.run()))
        assert (run.status, code(run)) == (RunStatus.ERROR, "storage")
        assert await stage.calls(run) == []


async def test_a_drained_attempt_holds_nothing_and_the_next_one_pays_on(database_file: Path) -> None:
    runtime = ScriptedRuntime()
    runtime.script((*calling("a")[:-1], Gate(name="g"), *calling("b")))
    async with open_stage(database_file, runtime=runtime) as stage:
        budget = await allow(stage, 10 * COST)
        run = await stage.submit(stage.run())
        await stage.shown(run, UsageReported)
        async with asyncio.TaskGroup() as group:
            draining = group.create_task(stage.worker.drain())
            await until(lambda: stage.worker.draining)
            runtime.gate("g").set()
            await draining
        assert (await balance(stage, budget)).reserved_nanos == 0
    async with open_stage(database_file, runtime=runtime) as stage:
        ended = await stage.end(run)
        assert ended.result.usage.cost_nanos == 2 * COST == (await balance(stage, budget)).spent_nanos
