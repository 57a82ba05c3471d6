"""An attempt's money: what is held before a call, who is told when there is none, and what a call has cost."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from roadworthy.domain.budget import (
    BudgetBalance,
    BudgetScope,
    BudgetWindow,
    Exhausted,
    Occupied,
)
from roadworthy.domain.errors import BudgetExceeded, PriceUnknown, StorageUnavailable
from roadworthy.domain.ids import TenantId
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import open_spending, sweep_reservations
from tests.support.money import ACME, UNKNOWN_MODEL, FixedPolicies, SilentLedger, a_budget
from tests.support.spending import BOUND, NOW, RUN, Clock, TellingLedger, a_purse, ended, opened, planned
from tests.support.telemetry import Deaf


@pytest.mark.parametrize(("most", "held"), [(None, 107), (20, 27), (5000, 107)])
async def test_a_call_holds_its_input_and_what_it_may_answer(most: int | None, held: int) -> None:
    ledger = TellingLedger()
    await (await opened(ledger, a_budget(1000))).reserve(planned(most=most))
    ((reservation, periods),) = ledger.asked
    assert (reservation.nanos, reservation.input_tokens, len(periods)) == (held, 7, 1)


async def test_periods_are_asked_for_in_one_order_and_only_those_that_fit() -> None:
    ledger = TellingLedger()
    fitting = [a_budget(1000, scope=scope) for scope in BudgetScope]
    others = [
        a_budget(1000, scope=BudgetScope.USER, subject="bob"),
        a_budget(1000, scope=BudgetScope.KEY, subject="another"),
        a_budget(1000, tenant=TenantId("other")),
    ]
    spending = await opened(ledger, *fitting, *others)
    await spending.reserve(planned())
    ((_, periods),) = ledger.asked
    assert [period.budget.budget_id for period in periods] == sorted(budget.budget_id for budget in fitting)
    assert {period.subject for period in periods} == {"r", "key", "ann", "a", "acme"}


async def test_nothing_applies_without_a_budget_that_fits() -> None:
    spending = await opened(TellingLedger(), a_budget(1000, scope=BudgetScope.USER, subject="bob"))
    assert not spending.applies
    assert not await spending.budgets_fit()
    assert await spending.charges([ended(1)]) == {}


async def test_who_finds_the_rest_occupied_waits_for_the_next_settlement() -> None:
    budget, settlements = a_budget(1000), Settlements()
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW))))
    progress: list[None] = []
    purse = a_purse(ledger, budget, settlements=settlements)
    spending = await open_spending(RUN, purse, lambda: progress.append(None))
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
        waiting = group.create_task(spending.reserve(planned()))
        await ledger.occupied.wait()
        settlements.announce([budget.period_of("acme", NOW)])
        await waiting
    assert len(ledger.asked) == 2
    assert len(progress) == 1


async def test_settlements_of_other_budgets_wake_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadworthy.engine.settlements._PATIENCE", timedelta(hours=1))
    budget, settlements = a_budget(1000), Settlements()
    period = budget.period_of("acme", NOW)
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=period)))
    spending = await opened(ledger, budget, settlements=settlements)
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
        waiting = group.create_task(spending.reserve(planned()))
        await ledger.occupied.wait()
        settlements.announce([a_budget(1000).period_of("acme", NOW), replace(period, subject="another")])
        for _ in range(10):
            await asyncio.sleep(0)
        assert not waiting.done()
        settlements.announce([period])
    assert len(ledger.asked) == 2


async def test_a_settlement_between_the_answer_and_the_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadworthy.engine.settlements._PATIENCE", timedelta(hours=1))
    budget, settlements = a_budget(1000), Settlements()
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW))))
    ledger.on_answer = lambda: settlements.announce([budget.period_of("acme", NOW)])
    async with asyncio.timeout(BOUND):
        await (await opened(ledger, budget, settlements=settlements)).reserve(planned())
    assert len(ledger.asked) == 2


async def test_settlements_of_other_processes_are_found_by_asking_again() -> None:
    budget = a_budget(1000)
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW))))
    async with asyncio.timeout(BOUND):
        await (await opened(ledger, budget)).reserve(planned())
    assert len(ledger.asked) == 2


async def test_who_must_not_wait_goes_on_without_a_reservation() -> None:
    budget = a_budget(1000)
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW))))
    spending = await opened(ledger, budget)
    await spending.reserve(planned(), patience=None)
    assert len(ledger.asked) == 1
    assert not spending.holding


async def test_patience_ends_and_the_refusal_says_that_the_rest_is_held() -> None:
    budget, clock = a_budget(1000, scope=BudgetScope.USER), Clock()
    balance = BudgetBalance(period=budget.period_of("ann", NOW), spent_nanos=300, reserved_nanos=700)
    ledger = TellingLedger(*[Occupied(balance=balance)] * 100)

    def pass_time() -> None:
        clock.moment += timedelta(seconds=8)

    ledger.on_answer = pass_time
    spending = await open_spending(RUN, a_purse(ledger, budget, clock=clock), lambda: None)
    async with asyncio.timeout(BOUND):
        with pytest.raises(BudgetExceeded, match="budget of this user is held by calls in flight") as caught:
            await spending.reserve(planned(), patience=timedelta(seconds=10))
    assert len(ledger.asked) == 2
    assert caught.value.spent is not None
    assert (caught.value.spent.spent_nanos, caught.value.spent.allowed_nanos) == (300, 1000)
    assert not spending.holding


async def test_a_spent_budget_says_how_much_and_when_it_begins_anew() -> None:
    budget = a_budget(2_500_000_000, scope=BudgetScope.USER, window=BudgetWindow.DAY)
    balance = BudgetBalance(period=budget.period_of("ann", NOW), spent_nanos=3_000_000_000)
    spending = await opened(TellingLedger(Exhausted(balance=balance)), budget)
    with pytest.raises(BudgetExceeded) as caught:
        await spending.reserve(planned())
    message = caught.value.message
    assert "daily" in message
    assert "user" in message
    assert "$3.00 of $2.50" in message
    assert "2026-01-02T00:00:00Z" in message
    assert "ann" not in message
    assert caught.value.spent is not None
    assert caught.value.spent.resets_at == datetime(2026, 1, 2, tzinfo=UTC)
    assert not spending.holding


async def test_a_call_without_a_price_is_denied_where_a_limit_applies() -> None:
    ledger = TellingLedger()
    spending = await opened(ledger, a_budget(1000))
    with pytest.raises(PriceUnknown, match=UNKNOWN_MODEL):
        await spending.reserve(planned(model=UNKNOWN_MODEL))
    assert ledger.asked == []


async def test_a_call_without_a_price_is_made_where_a_budget_only_warns() -> None:
    ledger = TellingLedger()
    spending = await opened(ledger, a_budget(None, soft_nanos=5))
    await spending.reserve(planned(model=UNKNOWN_MODEL))
    spending.ended(ended(5, model=UNKNOWN_MODEL))
    assert ledger.asked == []
    assert spending.admit(planned(model=UNKNOWN_MODEL))


async def test_what_cost_nothing_is_priced_without_a_price() -> None:
    spending = await opened(TellingLedger())
    assert spending.priced(ended(0, model=UNKNOWN_MODEL)).cost_nanos == 0
    assert spending.priced(ended(3, model=UNKNOWN_MODEL)).cost_nanos is None
    assert spending.priced(ended(3)).cost_nanos == 3


async def test_only_limits_of_tokens_are_counted_at_the_end_of_a_call() -> None:
    rates = [RateLimit(tenant=ACME, scope=RateScope.USER, kind=kind, limit=5) for kind in RateKind]
    purse = a_purse(TellingLedger(), policies=FixedPolicies(rates=rates))
    spending = await open_spending(RUN, purse, lambda: None)
    assert [one.limit.kind for one in spending.token_limits] == [RateKind.TOKENS]


class Swept(SilentLedger):
    """Sweeps as ``answers`` say, then nothing; ``done`` when they are used up."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.before: list[datetime] = []
        self.done = asyncio.Event()

    async def sweep(self, before: datetime) -> int:
        self.before.append(before)
        if not self.answers:
            self.done.set()
            return 0
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


class Counts(Deaf):
    """A Telemetry that keeps what was counted."""

    def __init__(self) -> None:
        self.counts: list[object] = []

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        self.counts.append(fields["count"])


async def test_the_sweep_goes_on_until_nothing_is_left_and_through_a_bad_database() -> None:
    ledger, notes = Swept(100, 3, StorageUnavailable("locked"), 0, 2), Counts()
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
        sweeping = group.create_task(sweep_reservations(ledger, Clock(), notes, every=timedelta(0)))
        await ledger.done.wait()
        sweeping.cancel()
    assert notes.counts == [100, 3, 2]
    assert set(ledger.before) == {NOW - timedelta(seconds=60)}
