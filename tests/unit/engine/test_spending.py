"""An attempt's money: what is held before a call, who is told when there is none, and what is known without asking."""

import asyncio
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from roadworthy.domain.budget import (
    Budget,
    BudgetBalance,
    BudgetPeriod,
    BudgetScope,
    BudgetWindow,
    Exhausted,
    Held,
    Occupied,
    Reservation,
)
from roadworthy.domain.errors import BudgetExceeded, PriceUnknown, StorageUnavailable
from roadworthy.domain.ids import AgentName, KeyId, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.domain.run import InputKind, Run, RunRequest, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import AttemptSpending, Purse, open_spending, sweep_reservations
from roadworthy.ports.policies import Policies, PolicyStore
from roadworthy.ports.runtime import PlannedCall
from tests.support.money import ACME, UNKNOWN_MODEL, FlatPrices, SilentLedger, a_budget

NOW = datetime(2026, 1, 1, 23, 59, tzinfo=UTC)
BOUND = 10
RUN = Run(
    run_id=RunId("r"),
    owner=Owner(tenant=ACME, user=UserId("ann")),
    thread_id=ThreadId("t"),
    ord=1,
    agent=AgentName("a"),
    request=RunRequest(kind=InputKind.INPUT, payload=None),
    request_id="q",
    key_id=KeyId("key"),
    status=RunStatus.RUNNING,
    attempt=1,
    created_at=NOW,
    deadline_at=NOW + timedelta(seconds=60),
)


class Clock:
    """Stands still until a test moves it."""

    moment = NOW

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return 0.0


class TellingLedger(SilentLedger):
    """Answers reservations with ``answers``, then with Held; balances as ``balance`` says. ``on_answer``: meanwhile."""

    def __init__(self, *answers: Held | Occupied | Exhausted) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[Reservation, Sequence[BudgetPeriod]]] = []
        self.spent = 0
        self.topped_up = 0
        self.on_answer: Callable[[], None] = lambda: None
        self.occupied = asyncio.Event()

    async def reserve(
        self, run: Run, reservation: Reservation, periods: Sequence[BudgetPeriod]
    ) -> Held | Occupied | Exhausted:
        self.asked.append((reservation, periods))
        answer = self.answers.pop(0) if self.answers else Held()
        if isinstance(answer, Occupied):
            self.occupied.set()
        self.on_answer()
        return answer

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        return [
            BudgetBalance(period=period, spent_nanos=self.spent, topped_up_nanos=self.topped_up) for period in periods
        ]


class FixedPolicies:
    """A PolicyStore of one tenant."""

    def __init__(self, *budgets: Budget, rates: Sequence[RateLimit] = ()) -> None:
        self.policies = Policies(budgets=budgets, rates=tuple(rates))

    async def of(self, tenant: TenantId) -> Policies:
        return self.policies


def a_purse(
    ledger: TellingLedger, *budgets: Budget, settlements: Settlements | None = None, rates: Sequence[RateLimit] = ()
) -> Purse:
    return Purse(
        ledger=ledger,
        prices=FlatPrices(),
        policies=cast("PolicyStore", FixedPolicies(*budgets, rates=rates)),
        clock=Clock(),
        settlements=settlements or Settlements(),
        reserved_output_tokens=100,
    )


async def opened(ledger: TellingLedger, *budgets: Budget, settlements: Settlements | None = None) -> AttemptSpending:
    return await open_spending(RUN, a_purse(ledger, *budgets, settlements=settlements), lambda: None)


def planned(*, model: str = "m", most: int | None = None) -> PlannedCall:
    return PlannedCall(call_id="c", node="n", provider="p", model=model, input_tokens=7, max_output_tokens=most)


def ended(cost: int, *, model: str = "m", at: datetime = NOW) -> ModelCall:
    return ModelCall(
        call_id="c",
        node="n",
        provider="p",
        model=model,
        tokens=Tokens(input=cost),
        estimated=False,
        outcome="complete",
        started_at=at,
        finished_at=at,
    )


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
    assert spending.charges([ended(1)]) == {}


async def test_who_finds_the_rest_occupied_waits_for_the_next_settlement() -> None:
    budget, settlements = a_budget(1000), Settlements()
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW))))
    progress: list[None] = []
    spending = AttemptSpending(
        RUN,
        a_purse(ledger, budget, settlements=settlements),
        budgets=[budget],
        note_progress=lambda: progress.append(None),
    )
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
        waiting = group.create_task(spending.reserve(planned()))
        await ledger.occupied.wait()
        assert not waiting.done()
        settlements.announce()
    assert len(ledger.asked) == 2
    assert len(progress) == 1


async def test_a_settlement_between_the_answer_and_the_wait_is_not_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("roadworthy.engine.settlements._PATIENCE", timedelta(hours=1))
    budget, settlements = a_budget(1000), Settlements()
    ledger = TellingLedger(Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW))))
    ledger.on_answer = settlements.announce
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
    await spending.reserve(planned(), patient=False)
    assert len(ledger.asked) == 1
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
    assert spending.refusal() is None


async def test_what_cost_nothing_is_priced_without_a_price() -> None:
    spending = await opened(TellingLedger())
    assert spending.priced(ended(0, model=UNKNOWN_MODEL)).cost_nanos == 0
    assert spending.priced(ended(3, model=UNKNOWN_MODEL)).cost_nanos is None
    assert spending.priced(ended(3)).cost_nanos == 3


async def test_calls_that_ended_are_known_before_they_are_on_the_ledger() -> None:
    spending = await opened(TellingLedger(), a_budget(10))
    spending.ended(ended(9))
    assert spending.refusal() is None
    spending.ended(ended(1))
    refusal = spending.refusal()
    assert refusal is not None
    assert refusal.spent is not None
    assert (refusal.spent.spent_nanos, refusal.spent.allowed_nanos) == (10, 10)


async def test_attempts_of_a_process_know_of_each_others_calls() -> None:
    budget, settlements = a_budget(10), Settlements()
    one = await opened(TellingLedger(), budget, settlements=settlements)
    two = await opened(TellingLedger(), budget, settlements=settlements)
    one.ended(ended(10))
    assert two.refusal() is not None


async def test_the_ledger_is_believed_about_top_ups_and_about_what_others_spent() -> None:
    budget, settlements, ledger = a_budget(10), Settlements(), TellingLedger()
    spending = await opened(ledger, budget, settlements=settlements)
    ledger.spent = 10
    await spending.learn()
    assert spending.refusal() is not None
    ledger.topped_up = 5
    await spending.learn()
    assert spending.refusal() is None
    ledger.spent = 0
    spending.ended(ended(5))
    await spending.learn()
    assert spending.refusal() is not None


async def test_a_new_day_begins_with_nothing_spent() -> None:
    purse = a_purse(TellingLedger(), a_budget(10, window=BudgetWindow.DAY))
    spending = await open_spending(RUN, purse, lambda: None)
    spending.ended(ended(10))
    assert spending.refusal() is not None
    cast("Clock", purse.clock).moment = NOW + timedelta(minutes=2)
    assert spending.refusal() is None


async def test_after_a_call_of_unknown_cost_no_other_is_made_without_asking() -> None:
    spending = await opened(TellingLedger(), a_budget(10))
    spending.ended(ended(3, model=UNKNOWN_MODEL))
    assert isinstance(spending.refusal(), PriceUnknown)


async def test_only_limits_of_tokens_are_counted_at_the_end_of_a_call() -> None:
    rates = [RateLimit(tenant=ACME, scope=RateScope.USER, kind=kind, limit=5) for kind in RateKind]
    spending = await open_spending(RUN, a_purse(TellingLedger(), rates=rates), lambda: None)
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


class Counts:
    """A Telemetry that keeps what was counted."""

    def __init__(self) -> None:
        self.counts: list[object] = []

    def run_finished(self, run: Run) -> None:
        raise AssertionError("not used")

    def attempt_failed(self, run: Run, error: BaseException) -> None:
        raise AssertionError("not used")

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
