"""Any Ledger: calls are recorded and charged once, and periods know what was spent."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.budget import BudgetBalance, BudgetScope, BudgetWindow, Exhausted, Held
from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import RunId, TenantId
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.queue import RunQueue
from roadworthy.ports.store import ThreadStore
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.backends import counters
from tests.conformance.storage.factories import (
    ALICE,
    BOB,
    OPERATOR,
    START,
    STRANGER,
    TickingClock,
    lease_of,
    new_run,
)
from tests.conformance.storage.spending import (
    NOON,
    books,
    budget,
    call,
    claimed,
    period,
    reservation,
    stored,
    sums,
)


async def test_the_ledger_keeps_each_call_once_and_outlives_the_thread(
    queue: RunQueue, threads: ThreadStore, ledger: Ledger
) -> None:
    run = await claimed(queue)
    first, second = call("b", at=NOON), call("a", None, at=NOON + timedelta(minutes=1))
    await ledger.append(run, [second, first], {})
    await ledger.append(run, [replace(first, outcome="cut")], {})
    await ledger.append(run, [], {})
    await queue.finish(lease_of(run), RunStatus.SUCCESS, RunResult(), events=())
    await threads.erase(ThreadRef(owner=run.owner, thread_id=run.thread_id))
    assert list(await ledger.of_run(ALICE, run.run_id)) == [first, second]
    assert list(await ledger.of_run(BOB, run.run_id)) == []
    assert list(await ledger.of_run(STRANGER, run.run_id)) == []


async def test_a_call_that_is_appended_twice_is_charged_once(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget()
    await stored(database, daily)
    run = await claimed(queue)
    charges = {"call": [period(daily, run)]}
    for cost in (10, 90):
        assert await ledger.append(run, [call(cost=cost)], charges) == []
    assert [one.cost_nanos for one in await ledger.of_run(ALICE, run.run_id)] == [10]
    (balance,) = await ledger.balances(ALICE.tenant, charges["call"])
    assert sums(balance) == (10, 0)


async def test_calls_of_one_append_are_charged_each_to_its_own_periods(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily, total = budget("daily"), budget("total", scope=BudgetScope.TENANT, window=BudgetWindow.TOTAL)
    await stored(database, daily, total)
    run = await claimed(queue)
    today, whole = period(daily, run), period(total, run)
    tomorrow = period(daily, run, NOON + timedelta(days=1))
    calls = [call("a", 1), call("b", 2), call("b", 4), call("c", None), call("d", 8)]
    await ledger.append(run, calls, {"a": [whole, today], "b": [tomorrow, whole], "c": [today]})
    balances = await ledger.balances(ALICE.tenant, [tomorrow, today, whole])
    assert [sums(balance) for balance in balances] == [(2, 0), (1, 0), (3, 0)]
    assert [one.call_id for one in await ledger.of_run(ALICE, run.run_id)] == ["a", "b", "c", "d"]


async def test_an_append_that_fails_leaves_nothing(
    database: Database, queue: RunQueue, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    daily = budget()
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    assert await ledger.reserve(run, reservation(nanos=30), [today]) == Held()

    def broken(*_args: object) -> bool:
        raise StorageUnavailable("gone")

    with monkeypatch.context() as patched:
        patched.setattr("roadworthy.storage.reservations._crossed", broken)
        with pytest.raises(StorageUnavailable):
            await ledger.append(run, [call()], {"call": [today]})
    assert list(await ledger.of_run(ALICE, run.run_id)) == []
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert sums(balance) == (0, 30)


@pytest.mark.parametrize(("limit", "soft"), [(100, None), (None, 80), (1_000, 80)])
async def test_going_over_the_soft_limit_is_told_once(
    database: Database, queue: RunQueue, ledger: Ledger, limit: int | None, soft: int | None
) -> None:
    daily = budget(limit=limit, soft=soft)
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    told: list[Sequence[BudgetBalance]] = []
    for number, cost in enumerate([79, 0, 1, 1, 50]):
        name = f"call {number}"
        told.append(await ledger.append(run, [call(name, cost)], {name: [today]}))
    told.append(await ledger.append(run, [call("call 2", 1)], {"call 2": [today]}))
    assert [[sums(balance) for balance in balances] for balances in told] == [[], [], [(80, 0)], [], [], []]
    assert told[2][0].period == today


async def test_a_budget_without_limits_only_counts(database: Database, queue: RunQueue, ledger: Ledger) -> None:
    endless = budget(limit=None)
    await stored(database, endless)
    run = await claimed(queue)
    today = period(endless, run)
    assert await ledger.reserve(run, reservation(nanos=10**15), [today]) == Held()
    assert await ledger.append(run, [call(cost=10**15)], {"call": [today]}) == []
    assert await ledger.reserve(run, reservation("next"), [today]) == Held()


async def paid_before(queue: RunQueue, ledger: Ledger, owner: Run, key: str, costs: dict[int, int]) -> Run:
    """Costs by hours after ``START``, of a run without a budget."""
    run = await claimed(queue, owner, key=key)
    calls = [call(f"at {hour}", cost, at=START + timedelta(hours=hour)) for hour, cost in costs.items()]
    await ledger.append(run, calls, {})
    return run


@pytest.mark.parametrize(
    ("scope", "spent"),
    [
        (BudgetScope.TENANT, 7 + 20 + 300),
        (BudgetScope.USER, 7 + 20),
        (BudgetScope.KEY, 7 + 300),
        (BudgetScope.AGENT, 7 + 300),
    ],
)
@pytest.mark.parametrize("first", ["reserve", "append", "balances"])
async def test_a_budget_made_within_a_period_begins_with_what_was_spent_in_it(
    database: Database, queue: RunQueue, ledger: Ledger, scope: BudgetScope, spent: int, first: str
) -> None:
    run = await paid_before(queue, ledger, new_run(), "key", {-1: 1000, 0: 3, 11: 4})
    await paid_before(queue, ledger, new_run(thread="other", agent="another"), "other key", {1: 20})
    await paid_before(queue, ledger, new_run(BOB), "key", {2: 300})
    await paid_before(queue, ledger, new_run(STRANGER), "key", {2: 4000})
    daily = budget(limit=1_000, scope=scope, made_at=NOON - timedelta(hours=1))
    await stored(database, daily)
    today = period(daily, run)
    if first == "balances":
        (balance,) = await ledger.balances(ALICE.tenant, [today])
        assert sums(balance) == (spent, 0)
    if first != "append":
        assert await ledger.reserve(run, reservation(nanos=50), [today]) == Held()
        (balance,) = await ledger.balances(ALICE.tenant, [today])
        assert sums(balance) == (spent, 50)
    await ledger.append(run, [call(cost=5)], {"call": [today]})
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert sums(balance) == (spent + 5, 0)


async def test_a_new_budget_that_is_spent_already_refuses(database: Database, queue: RunQueue, ledger: Ledger) -> None:
    run = await paid_before(queue, ledger, new_run(), "key", {1: 100})
    daily = budget(made_at=NOON)
    await stored(database, daily)
    today = period(daily, run)
    refused = await ledger.reserve(run, reservation(), [today])
    assert isinstance(refused, Exhausted)
    assert sums(refused.balance) == (100, 0)
    assert books(database).open == {}


@pytest.mark.parametrize("window", [BudgetWindow.DAY, BudgetWindow.TOTAL])
async def test_a_period_that_begins_after_its_budget_begins_with_nothing(
    database: Database, queue: RunQueue, ledger: Ledger, window: BudgetWindow
) -> None:
    run = await paid_before(queue, ledger, new_run(), "key", {1: 100})
    # By rights these calls were charged: no sum is made of them again.
    daily = budget(window=window)
    await stored(database, daily)
    (balance,) = await ledger.balances(ALICE.tenant, [period(daily, run)])
    assert sums(balance) == (0, 0)
    assert await ledger.reserve(run, reservation(), [period(daily, run)]) == Held()


async def test_what_is_paid_late_does_not_bring_a_removed_budget_back(
    database: Database, clock: TickingClock, queue: RunQueue, ledger: Ledger
) -> None:
    old, young = budget("old"), budget("young", made_at=NOON, scope=BudgetScope.TENANT)
    await stored(database, old, young)
    run = await claimed(queue)
    periods = [period(one, run) for one in (old, young)]
    assert await ledger.reserve(run, reservation("before", 60), periods) == Held()
    for one in (old, young):
        assert await SqlPolicyStore(database, clock).remove_budget(ALICE.tenant, one.budget_id, OPERATOR)
    # Nothing is limited by it any more, whoever still believes in it.
    assert await ledger.reserve(run, reservation("after", 60), periods) == Held()
    for name in ("before", "after"):
        assert await ledger.append(run, [call(name)], {name: periods}) == []
    assert [sums(balance) for balance in await ledger.balances(ALICE.tenant, periods)] == [(0, 0)] * 2
    assert books(database).spent == books(database).open == {}
    assert [one.call_id for one in await ledger.of_run(ALICE, run.run_id)] == ["after", "before"]


async def test_balances_are_the_tenants_own(database: Database, queue: RunQueue, ledger: Ledger) -> None:
    daily = budget()
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    await ledger.append(run, [call()], {"call": [today]})
    assert [sums(one) for one in await ledger.balances(ALICE.tenant, [today, today])] == [(10, 0), (10, 0)]
    assert [sums(one) for one in await ledger.balances(STRANGER.tenant, [today])] == [(0, 0)]
    assert await ledger.balances(TenantId("nobody"), []) == []


async def counted(database: Database, calls: Sequence[ModelCall], ledger: Ledger, run: Run) -> tuple[int, int]:
    before = counters(database)
    await ledger.append(run, calls, {})
    after = counters(database)
    return after.transactions - before.transactions, after.written - before.written


async def test_a_call_without_budgets_costs_one_statement(database: Database, queue: RunQueue, ledger: Ledger) -> None:
    run = await claimed(queue)
    assert await counted(database, [call()], ledger, run) == (1, 1)
    assert await counted(database, [call("b"), call("c")], ledger, run) == (1, 1)


async def test_a_call_with_budgets_costs_one_statement_for_each_of_them(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    budgets = [budget("a"), budget("b", scope=BudgetScope.TENANT), budget("c", scope=BudgetScope.AGENT)]
    await stored(database, *budgets)
    run = await claimed(queue)
    periods = [period(one, run) for one in budgets]
    start = counters(database)
    assert await ledger.reserve(run, reservation(), periods) == Held()
    reserved = counters(database)
    await ledger.append(run, [call()], {"call": periods})
    appended = counters(database)
    assert (reserved.transactions - start.transactions, reserved.written - start.written) == (1, 1 + 3)
    assert (appended.transactions - reserved.transactions, appended.written - reserved.written) == (1, 2 + 3)


async def test_a_run_that_nobody_knows_has_no_calls(ledger: Ledger) -> None:
    assert await ledger.of_run(ALICE, RunId("nothing")) == []
