"""Any Ledger: money is held before a call, freed after it, and never leaks."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.budget import BudgetScope, BudgetWindow, Exhausted, Held, InFlight, Occupied
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.domain.usage import Tokens
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.queue import RunQueue
from roadworthy.ports.store import ThreadStore
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import ALICE, OPERATOR, TickingClock, lease_of, new_run
from tests.conformance.storage.spending import (
    NOON,
    attempts,
    books,
    budget,
    call,
    claimed,
    period,
    reservation,
    stored,
    sums,
)


async def reaped(queue: RunQueue, run: Run) -> Run:
    """The run in its next attempt, its worker having died."""
    assert await queue.reap(run, losses=1, progress_mark=None) is not None
    again = await queue.claim(run.run_id, worker="worker")
    assert again is not None
    return again


async def test_a_call_holds_its_amount_until_it_is_appended(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget()
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    for _ in range(2):  # the second time it is held already
        assert await ledger.reserve(run, reservation(nanos=30), [today]) == Held()
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert sums(balance) == (0, 30)
    await ledger.append(run, [call(cost=12)], {"call": [today]})
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert sums(balance) == (12, 0)


async def test_a_call_whose_budget_is_not_asked_any_more_frees_what_it_held(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget()
    await stored(database, daily)
    run = await claimed(queue)
    assert await ledger.reserve(run, reservation(nanos=30), [period(daily, run)]) == Held()
    await ledger.append(run, [call(cost=12)], {"call": []})
    assert books(database).reserved == {"budget": 0}
    assert books(database).spent == {"budget": 0}


async def test_what_is_held_refuses_others_until_it_is_freed(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget(limit=100)
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    assert await ledger.reserve(run, reservation("a", 60), [today]) == Held()
    assert await ledger.reserve(run, reservation("b", 40), [today]) == Held()
    refused = await ledger.reserve(run, reservation("c", 1), [today])
    assert isinstance(refused, Occupied)
    assert sums(refused.balance) == (0, 100)
    await ledger.append(run, [call("a", 59)], {"a": [today]})
    assert await ledger.reserve(run, reservation("c", 1), [today]) == Held()


async def test_the_last_call_gets_what_is_left_when_nobody_holds_any(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget(limit=100)
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    await ledger.append(run, [call("before", 99)], {"before": [today]})
    assert await ledger.reserve(run, reservation("last", 5_000), [today]) == Held()
    assert isinstance(await ledger.reserve(run, reservation("next", 1), [today]), Occupied)
    await ledger.append(run, [call("last", 1)], {"last": [today]})
    refused = await ledger.reserve(run, reservation("next", 0), [today])
    assert isinstance(refused, Exhausted)
    assert sums(refused.balance) == (100, 0)


async def test_a_top_up_lets_calls_in_again(
    database: Database, clock: TickingClock, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget(limit=0)
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    assert isinstance(await ledger.reserve(run, reservation(), [today]), Exhausted)
    await SqlPolicyStore(database, clock).top_up(ALICE.tenant, today, 10, OPERATOR)
    assert await ledger.reserve(run, reservation(), [today]) == Held()
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert (balance.allowed_nanos, *sums(balance)) == (10, 0, 10)


async def test_one_period_that_refuses_leaves_the_others_as_they_were(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    budgets = [
        budget("a", limit=1_000),
        budget("b", limit=10, scope=BudgetScope.TENANT),
        budget("c", limit=20, scope=BudgetScope.AGENT),
    ]
    await stored(database, *budgets)
    run = await claimed(queue)
    periods = [period(one, run) for one in budgets]
    assert await ledger.reserve(run, reservation("first", 10), periods) == Held()
    refused = await ledger.reserve(run, reservation("second", 1), periods)
    assert isinstance(refused, Occupied)
    assert refused.balance.period == periods[1]
    assert [sums(one) for one in await ledger.balances(ALICE.tenant, periods)] == [(0, 10)] * 3
    # A spent budget is named before one that is only held.
    await ledger.append(run, [call("other", 20)], {"other": [periods[2]]})
    refused = await ledger.reserve(run, reservation("second", 1), periods)
    assert isinstance(refused, Exhausted)
    assert refused.balance.period == periods[2]
    assert list(books(database).open) == ["a", "b", "c"]


async def test_calls_that_never_began_are_released_with_their_attempt(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget(limit=1_000)
    await stored(database, daily)
    run, other = await claimed(queue), await claimed(queue, new_run(thread="other"))
    today = period(daily, run)
    for one in (run, other):
        for name in ("a", "b"):
            assert await ledger.reserve(one, reservation(name, 10), [today]) == Held()
    await ledger.release(replace(run, attempt=2))
    assert books(database).reserved == {"budget": 40}
    for _ in range(2):
        await ledger.release(run)
        assert books(database).reserved == books(database).open == {"budget": 20}


async def test_calls_of_a_dead_attempt_are_in_flight_until_they_are_appended(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily, watched = budget(limit=1_000), budget("watched", limit=None, soft=5, scope=BudgetScope.TENANT)
    await stored(database, daily, watched)
    run = await claimed(queue, key="key")
    periods = [period(one, run) for one in (daily, watched)]
    assert await ledger.reserve(run, reservation("done", 40), periods) == Held()
    assert await ledger.reserve(run, reservation("lost", 30), periods) == Held()
    await ledger.append(run, [call("done", 12)], {"done": periods})
    assert await ledger.in_flight(run) == []
    again = await reaped(queue, run)
    assert await ledger.reserve(again, reservation("new", 5), periods) == Held()

    for _ in range(2):  # looking changes nothing
        assert await ledger.in_flight(again) == [InFlight(attempt=1, reservation=reservation("lost", 30))]
    lost = replace(call("lost", 17), estimated=True, outcome="lost")
    for _ in range(2):
        await ledger.append(again, [lost], {"lost": periods})
        assert await ledger.in_flight(again) == []
    assert [sums(one) for one in await ledger.balances(ALICE.tenant, periods)] == [(12 + 17, 5)] * 2
    # What the dead worker says after all comes too late.
    await ledger.append(run, [call("lost", 29)], {"lost": periods})
    assert await ledger.of_run(ALICE, run.run_id) == [call("done", 12), lost]
    assert [sums(one) for one in await ledger.balances(ALICE.tenant, periods)] == [(12 + 17, 5)] * 2


async def test_a_call_is_of_the_attempt_that_has_reserved_for_it(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    run = await claimed(queue)
    assert await ledger.reserve(run, reservation("lost"), []) == Held()
    again = await reaped(queue, run)
    assert await ledger.reserve(again, reservation("mine"), []) == Held()
    # One that nobody reserved for, one of this attempt, one of the attempt before.
    await ledger.append(again, [call("free"), call("mine"), call("lost")], {"mine": [], "lost": []})
    assert attempts(database) == {"free": 2, "mine": 2, "lost": 1}


async def test_calls_in_flight_are_those_of_the_run_oldest_first(queue: RunQueue, ledger: Ledger) -> None:
    run, other = await claimed(queue), await claimed(queue, new_run(thread="other"))
    assert await ledger.reserve(run, reservation("second", at=NOON + timedelta(seconds=1)), []) == Held()
    assert await ledger.reserve(run, reservation("first"), []) == Held()
    assert await ledger.reserve(other, reservation("other"), []) == Held()
    again = await reaped(queue, run)
    assert [one.reservation.call_id for one in await ledger.in_flight(again)] == ["first", "second"]
    twice = await reaped(queue, again)
    assert await ledger.reserve(twice, reservation("third"), []) == Held()
    assert {one.attempt for one in await ledger.in_flight(twice)} == {1}


async def test_a_lost_call_that_is_on_record_is_freed_and_not_charged_again(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget()
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)
    await ledger.append(run, [call(cost=12)], {"call": [today]})
    assert await ledger.reserve(run, reservation(nanos=30), [today]) == Held()
    again = await reaped(queue, run)
    (held,) = await ledger.in_flight(again)
    await ledger.append(again, [call(held.reservation.call_id, cost=30)], {"call": [today]})
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert sums(balance) == (12, 0)


@pytest.mark.parametrize("fate", ["ended", "erased", "ended at a later attempt"])
async def test_the_sweep_settles_what_runs_hold_that_are_over(
    database: Database, queue: RunQueue, threads: ThreadStore, ledger: Ledger, fate: str
) -> None:
    daily = budget(limit=1_000)
    await stored(database, daily)
    run, alive = await claimed(queue), await claimed(queue, new_run(thread="alive"))
    today = period(daily, run)
    assert await ledger.reserve(run, reservation("old", 10), [today]) == Held()
    assert await ledger.reserve(run, reservation("young", 100, at=NOON + timedelta(seconds=1)), [today]) == Held()
    assert await ledger.reserve(alive, reservation("old", 50), [today]) == Held()
    late = NOON + timedelta(microseconds=1)
    assert await ledger.sweep(late) == 0

    last = await reaped(queue, run) if fate == "ended at a later attempt" else run
    await queue.finish(lease_of(last), RunStatus.SUCCESS, RunResult(), events=())
    if fate == "erased":
        await threads.erase(ThreadRef(owner=run.owner, thread_id=run.thread_id))
    assert await ledger.sweep(NOON) == 0
    assert await ledger.sweep(late) == 1
    assert await ledger.sweep(late) == 0
    (balance,) = await ledger.balances(ALICE.tenant, [today])
    assert sums(balance) == (10, 150)
    assert await ledger.of_run(ALICE, run.run_id) == [
        replace(
            call("old", 10),
            tokens=Tokens(input=7, output=20),
            estimated=True,
            outcome="lost",
            price_version="reservation",
            finished_at=NOON,
        )
    ]


@pytest.mark.parametrize("fate", ["given back", "reaped", "in a later attempt"])
async def test_the_sweep_leaves_what_the_next_attempt_will_settle(
    database: Database, queue: RunQueue, ledger: Ledger, fate: str
) -> None:
    daily = budget(limit=1_000)
    await stored(database, daily)
    run = await claimed(queue)
    assert await ledger.reserve(run, reservation(nanos=10), [period(daily, run)]) == Held()
    match fate:
        case "given back":
            await queue.release(lease_of(run))
        case "reaped":
            assert await queue.reap(run, losses=1, progress_mark=None) is not None
        case _:
            await reaped(queue, run)
    assert await ledger.sweep(NOON + timedelta(days=1)) == 0
    assert books(database).reserved == {"budget": 10}


async def test_a_warning_comes_again_after_a_top_up(
    database: Database, clock: TickingClock, queue: RunQueue, ledger: Ledger
) -> None:
    daily = budget(limit=100)
    await stored(database, daily)
    run = await claimed(queue)
    today = period(daily, run)

    async def crossed(name: str, cost: int) -> bool:
        return bool(await ledger.append(run, [call(name, cost)], {name: [today]}))

    assert [await crossed("a", 79), await crossed("b", 1), await crossed("c", 20)] == [False, True, False]
    await SqlPolicyStore(database, clock).top_up(ALICE.tenant, today, 100, OPERATOR)
    assert [await crossed("d", 59), await crossed("e", 1), await crossed("f", 1)] == [False, True, False]


async def test_a_sweep_takes_a_hundred_at_once(database: Database, queue: RunQueue, ledger: Ledger) -> None:
    daily = budget(limit=1_000)
    await stored(database, daily)
    run = await claimed(queue)
    for number in range(130):
        assert await ledger.reserve(run, reservation(f"call {number}", 1), [period(daily, run)]) == Held()
    await queue.finish(lease_of(run), RunStatus.SUCCESS, RunResult(), events=())
    late = NOON + timedelta(minutes=1)
    assert [await ledger.sweep(late) for _ in range(3)] == [100, 30, 0]
    assert (books(database).spent, books(database).reserved) == ({"budget": 130}, {"budget": 0})


async def test_fifty_calls_at_once_hold_no_more_than_the_budget_and_one(
    database: Database, queue: RunQueue, ledger: Ledger
) -> None:
    total = budget(limit=100, scope=BudgetScope.TENANT, window=BudgetWindow.TOTAL)
    await stored(database, total)
    run = await claimed(queue)
    whole = period(total, run)
    paid = 0

    async def spend(number: int) -> bool:
        """Whether the call was made; every call costs 9 and says so before."""
        nonlocal paid
        name = f"call {number}"
        while not isinstance(answer := await ledger.reserve(run, reservation(name, 9), [whole]), Held):
            if isinstance(answer, Exhausted):
                return False
        (balance,) = await ledger.balances(ALICE.tenant, [whole])
        assert balance.spent_nanos + balance.reserved_nanos <= 100 + 9
        await ledger.append(run, [call(name, 9)], {name: [whole]})
        paid += 9
        return True

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        tasks = [group.create_task(spend(number)) for number in range(50)]
    # 11 fit; with 1 left the twelfth gets what there is, alone.
    assert sum(task.result() for task in tasks) == 12
    assert paid == books(database).cost == books(database).spent["budget"] == 108
    assert books(database).reserved == {"budget": 0}
