"""Any Ledger under random schedules: whatever calls, deaths and repetitions come together, the books are right.

A failing schedule is named by its seed.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from random import Random

import pytest

from roadworthy.domain.budget import BudgetPeriod, BudgetScope, BudgetWindow, Exhausted, Held
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.queue import RunQueue
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import ALICE, BOB, lease_of, new_run
from tests.conformance.storage.spending import NOON, books, budget, call, claimed, period, reservation, stored

LATE = NOON + timedelta(days=1)
BUDGETS = [
    # Made in the middle of its day: its rows begin with a sum over the ledger.
    budget("daily", limit=400, made_at=NOON - timedelta(hours=1)),
    budget("total", limit=900, scope=BudgetScope.TENANT, window=BudgetWindow.TOTAL),
    budget("watched", limit=None, soft=50, scope=BudgetScope.AGENT, window=BudgetWindow.MONTH),
    budget("each run", limit=150, scope=BudgetScope.RUN, window=BudgetWindow.RUN),
]


@dataclass
class Schedule:
    """Runs that spend at once, each as its own dice say."""

    database: Database
    queue: RunQueue
    ledger: Ledger
    dice: Random

    async def all(self) -> None:
        async with asyncio.timeout(60), asyncio.TaskGroup() as group:
            for number in range(8):
                owner = ALICE if number % 3 else BOB
                group.create_task(self._run(number, owner, Random(self.dice.random())))

    async def _run(self, number: int, owner: Owner, dice: Random) -> None:
        run = await claimed(self.queue, new_run(owner, f"thread {number}"))
        for attempt in range(1, 4):
            periods = [period(one, run) for one in BUDGETS]
            if attempt > 1:
                await self._settle_earlier(run, periods, dice)
            for step in range(dice.randint(1, 5)):
                await self._call(run, f"{attempt}.{step}", periods, dice)
                self.check()
            if dice.random() < 0.5:  # it ends well
                await self.ledger.release(run)
                await self.queue.finish(lease_of(run), RunStatus.SUCCESS, RunResult(), events=())
                self.check()
                return
            await self.queue.reap(run, losses=attempt, progress_mark=None)  # its worker dies
            if dice.random() < 0.3:
                await self.ledger.sweep(LATE)
                self.check()
            if dice.random() < 0.2:  # it ends while it waits
                await self.queue.end_pending(run, RunStatus.CANCELLED, RunResult())
                return
            again = await self.queue.claim(run.run_id, worker="worker")
            assert again is not None
            run = again
        await self.queue.finish(lease_of(run), RunStatus.ERROR, RunResult(), events=())

    async def _settle_earlier(self, run: Run, periods: list[BudgetPeriod], dice: Random) -> None:
        for one in await self.ledger.in_flight(run):
            assert one.attempt < run.attempt
            name = one.reservation.call_id
            lost = call(name, dice.randint(0, one.reservation.nanos))
            await self.ledger.append(run, [lost], {name: dice.sample(periods, len(periods))})
            self.check()
        assert await self.ledger.in_flight(run) == []

    async def _call(self, run: Run, name: str, periods: list[BudgetPeriod], dice: Random) -> None:
        likely = dice.randint(0, 60)
        for _ in range(20):
            answer = await self.ledger.reserve(run, reservation(name, likely), dice.sample(periods, len(periods)))
            if isinstance(answer, Held):
                break
            if isinstance(answer, Exhausted) or dice.random() < 0.1:
                return
        else:
            return
        if dice.random() < 0.2:  # it never begins, or its worker dies in it
            return
        actual = call(name, dice.choice([None, 0, likely, dice.randint(0, 90)]))
        for _ in range(dice.choice([1, 1, 2])):
            await self.ledger.append(run, [actual], {name: dice.sample(periods, len(periods))})

    def check(self) -> None:
        """At any moment: what is held is what reservations hold, and every call on record is charged."""
        now = books(self.database)
        for name, reserved in now.reserved.items():
            assert reserved == now.open.get(name, 0), name
        if now.cost:
            assert now.spent == {one.budget_id: now.cost for one in BUDGETS}
        spent_and_held = now.spent.get("total", 0) + now.reserved.get("total", 0)
        assert spent_and_held <= 900 + 8 * 90 + 60


@pytest.mark.parametrize("seed", range(12))
async def test_the_books_are_right_at_any_moment(
    database: Database, queue: RunQueue, ledger: Ledger, seed: int
) -> None:
    await stored(database, *BUDGETS)
    schedule = Schedule(database, queue, ledger, Random(seed))
    await schedule.all()
    while await ledger.sweep(LATE):
        schedule.check()
    assert set(books(database).reserved.values()) == {0}
    assert books(database).open == {}
    schedule.check()
