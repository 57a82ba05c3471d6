"""The meter loses no call, whatever the ledger does, and asks for each write before the run's end is asked for.

What it writes has its price and the periods that it counts towards.
"""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import pytest

from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod
from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit, RateKind, RateLimit, RateScope
from roadworthy.domain.run import InputKind, Run, RunRequest, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.metering import Meter
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import AttemptSpending, Purse, open_spending
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import Policies
from roadworthy.ports.runtime import PlannedCall
from roadworthy.storage.rates import MemoryRateCounters
from tests.support.money import FixedPolicies, FlatPrices, SilentLedger, a_budget
from tests.support.telemetry import Deaf

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ANN = Owner(tenant=TenantId("acme"), user=UserId("ann"))
RUN = Run(
    run_id=RunId("r"),
    owner=ANN,
    thread_id=ThreadId("t"),
    ord=1,
    agent=AgentName("a"),
    request=RunRequest(kind=InputKind.INPUT, payload=None),
    request_id="q",
    key_id=None,
    status=RunStatus.RUNNING,
    attempt=1,
    created_at=NOW,
    deadline_at=NOW + timedelta(seconds=60),
)


def call(name: str, tokens: Tokens | None = None) -> ModelCall:
    return ModelCall(
        call_id=name,
        node="model",
        provider="p",
        model="m",
        tokens=tokens or Tokens(),
        estimated=False,
        outcome="complete",
        started_at=NOW,
        finished_at=NOW,
    )


class HeldLedger(SilentLedger):
    """Stores a batch when the test lets it; ``errors`` are raised by the next writes."""

    def __init__(self, *, held: bool = False) -> None:
        self.asked: list[str] = []
        self.stored: list[str] = []
        self.errors: list[Exception] = []
        self.costs: list[int | None] = []
        self.charged: list[Mapping[str, Sequence[BudgetPeriod]]] = []
        self.crossed: Sequence[BudgetBalance] = ()
        self.released: list[RunId] = []
        self.let = asyncio.Event()
        if not held:
            self.let.set()

    async def append(
        self, run: Run, calls: Sequence[ModelCall], charges: Mapping[str, Sequence[BudgetPeriod]]
    ) -> Sequence[BudgetBalance]:
        self.charged.append(charges)
        self.asked.extend(one.call_id for one in calls)
        await self.let.wait()
        if self.errors:
            raise self.errors.pop(0)
        self.stored.extend(one.call_id for one in calls)
        self.costs.extend(one.cost_nanos for one in calls)
        return self.crossed

    async def release(self, run: Run) -> None:
        self.released.append(run.run_id)


class Clock:
    """Stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


class Notes(Deaf):
    """A Telemetry that keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[tuple[str, dict[str, str | float | bool | None]]] = []

    def worker_note(self, event: str, **fields: str | float | bool | None) -> None:
        self.notes.append((event, fields))


async def a_spending(
    ledger: Ledger, *budgets: Budget, limits: Sequence[RateLimit] = (), policies: FixedPolicies | None = None
) -> AttemptSpending:
    purse = Purse(
        ledger=ledger,
        prices=FlatPrices(),
        policies=(policies or FixedPolicies(*budgets, rates=limits)).store,
        clock=Clock(),
        settlements=Settlements(),
        reserved_output_tokens=100,
    )
    return await open_spending(RUN, purse, lambda: None)


async def a_meter(
    ledger: Ledger,
    group: asyncio.TaskGroup,
    spending: AttemptSpending | None = None,
    *,
    rates: MemoryRateCounters | None = None,
    telemetry: Notes | None = None,
) -> Meter:
    return Meter(
        RUN,
        group,
        spending=spending or await a_spending(ledger),
        ledger=ledger,
        rates=rates or MemoryRateCounters(),
        telemetry=telemetry or Notes(),
    )


async def test_calls_are_stored_in_order_without_waiting_for_the_flush() -> None:
    ledger = HeldLedger()
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        for name in "abc":
            meter.record(call(name))
            await asyncio.sleep(0)
    assert ledger.stored == ["a", "b", "c"]


async def test_a_call_is_asked_for_although_an_earlier_write_is_still_under_way() -> None:
    ledger = HeldLedger(held=True)
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        meter.record(call("a"))
        await asyncio.sleep(0)
        meter.record(call("b"))
        meter.start()
        await asyncio.sleep(0)
        assert ledger.asked == ["a", "b"]
        ledger.let.set()


async def test_a_call_that_comes_while_a_flush_writes_is_not_lost() -> None:
    ledger = HeldLedger(held=True)
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        ledger.let.set()
        ledger.errors.append(StorageUnavailable("locked"))
        meter.record(call("a"))
        await asyncio.sleep(0)
        ledger.let.clear()
        flush = group.create_task(meter.flush())
        await asyncio.sleep(0)
        for name in "bc":
            meter.record(call(name))
            await asyncio.sleep(0)
        ledger.let.set()
        await flush
        await meter.flush()
    assert sorted(set(ledger.stored)) == ["a", "b", "c"]


async def test_what_could_not_be_stored_is_reported_by_the_flush_and_stored_by_the_next() -> None:
    ledger = HeldLedger()
    ledger.errors.extend([StorageUnavailable("locked"), StorageUnavailable("locked")])
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        meter.record(call("a"))
        await asyncio.sleep(0)
        with pytest.raises(StorageUnavailable):
            await meter.flush()
        await meter.flush()
        await meter.flush()
    assert ledger.stored == ["a"]


async def test_a_bug_of_the_ledger_reaches_who_flushes_and_not_the_graph() -> None:
    ledger = HeldLedger()
    ledger.errors.extend([ValueError("bug"), ValueError("bug")])
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        meter.record(call("a"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="bug"):
            await meter.flush()
        await meter.flush()
    assert ledger.stored == ["a"]


async def test_a_call_is_priced_and_charged_to_every_budget_that_fits() -> None:
    ledger, one, two = HeldLedger(), a_budget(100), a_budget(None, soft_nanos=5)
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group, await a_spending(ledger, one, two))
        priced = meter.record(call("a", Tokens(input=3, output=4)))
        await meter.flush()
    assert (priced.cost_nanos, priced.price_version) == (7, "flat")
    assert ledger.costs == [7]
    (charges,) = ledger.charged
    assert {period.budget for period in charges["a"]} == {one, two}


async def test_without_budgets_nothing_is_charged_and_nothing_released() -> None:
    ledger = HeldLedger()
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        meter.record(call("a", Tokens(input=3)))
        await meter.flush()
        await meter.release()
    assert ledger.charged == [{}]
    assert ledger.costs == [3]
    assert ledger.released == []


async def test_only_what_is_still_held_at_the_end_is_released() -> None:
    ledger = HeldLedger()
    spending = await a_spending(ledger, a_budget(100))
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group, spending)
        await spending.reserve(planned("made"))
        meter.record(call("made"))
        await meter.flush()
        await meter.release()
        assert ledger.released == []
        await spending.reserve(planned("never made"))
        await meter.release()
        await meter.release()
    assert ledger.released == [RUN.run_id]


async def test_a_budget_that_crosses_its_soft_limit_is_noted() -> None:
    budget = a_budget(100)
    ledger, notes = HeldLedger(), Notes()
    period = budget.period_of("acme", NOW)
    ledger.crossed = (BudgetBalance(period=period, spent_nanos=81),)
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group, await a_spending(ledger, budget), telemetry=notes)
        meter.record(call("a", Tokens(input=3)))
        await meter.flush()
    ((event, fields),) = notes.notes
    assert event == "budget_soft_limit"
    assert fields["budget_id"] == budget.budget_id
    assert (fields["scope"], fields["window"], fields["subject"]) == ("tenant", "total", "acme")
    assert (fields["spent_usd"], fields["warns_at_usd"], fields["allowed_usd"]) == (81e-9, 80e-9, 100e-9)


async def test_used_tokens_count_towards_the_callers_minute() -> None:
    ledger, rates = HeldLedger(), MemoryRateCounters()
    limit = RateLimit(tenant=ANN.tenant, scope=RateScope.USER, kind=RateKind.TOKENS, limit=100)
    applied = AppliedLimit(limit=limit, subject="ann")
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group, await a_spending(ledger, limits=[limit]), rates=rates)
        meter.record(call("a", Tokens(input=30, output=10)))
        await meter.flush()
    assert (await rates.look(applied)).remaining == 60


class SlowPolicies(FixedPolicies):
    """Answers when the test lets it."""

    def __init__(self, *budgets: Budget) -> None:
        super().__init__(*budgets)
        self.let = asyncio.Event()
        self.let.set()

    async def of(self, tenant: TenantId) -> Policies:
        await self.let.wait()
        return await super().of(tenant)


async def test_who_waits_until_the_ledger_was_asked_waits_for_the_policies_too() -> None:
    ledger, budget = HeldLedger(held=True), a_budget(100)
    policies = SlowPolicies(budget)
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group, await a_spending(ledger, policies=policies))
        policies.let.clear()
        meter.record(call("a"))
        asked = group.create_task(meter.ahead())
        for _ in range(5):
            await asyncio.sleep(0)
        assert (ledger.asked, asked.done()) == ([], False)
        policies.let.set()
        await asked
        assert ledger.asked == ["a"]
        ledger.let.set()


async def test_where_the_database_keeps_no_order_the_calls_are_stored_before_anything_else_is_asked() -> None:
    ledger = HeldLedger(held=True)
    ledger.in_order = False
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
        meter.record(call("a"))
        ahead = group.create_task(meter.ahead())
        for _ in range(10):
            await asyncio.sleep(0)
        assert (ledger.asked, ledger.stored, ahead.done()) == (["a"], [], False)
        ledger.let.set()
        await ahead
        assert ledger.stored == ["a"]


async def test_a_call_that_is_owed_is_written_by_the_flush_without_the_group() -> None:
    ledger = HeldLedger()
    async with asyncio.TaskGroup() as group:
        meter = await a_meter(ledger, group)
    assert meter.owe(call("a", Tokens(input=3))).cost_nanos == 3
    await meter.flush()
    assert ledger.stored == ["a"]


def planned(call_id: str) -> PlannedCall:
    return PlannedCall(call_id=call_id, node="n", provider="p", model="m", input_tokens=1, max_output_tokens=None)
