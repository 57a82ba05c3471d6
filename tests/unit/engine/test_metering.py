"""The meter loses no call, whatever the ledger does, and asks for each write before the run's end is asked for."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, Run, RunRequest, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.metering import Meter

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


def call(name: str) -> ModelCall:
    return ModelCall(
        call_id=name,
        node="model",
        provider="p",
        model="m",
        tokens=Tokens(),
        estimated=False,
        outcome="complete",
        started_at=NOW,
        finished_at=NOW,
    )


class HeldLedger:
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


async def test_calls_are_stored_in_order_without_waiting_for_the_flush() -> None:
    ledger = HeldLedger()
    async with asyncio.TaskGroup() as group:
        meter = a_meter(ledger, group)
        for name in "abc":
            meter.record(call(name))
            await asyncio.sleep(0)
    assert ledger.stored == ["a", "b", "c"]


async def test_a_call_is_asked_for_although_an_earlier_write_is_still_under_way() -> None:
    ledger = HeldLedger(held=True)
    async with asyncio.TaskGroup() as group:
        meter = a_meter(ledger, group)
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
        meter = a_meter(ledger, group)
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
        meter = a_meter(ledger, group)
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
        meter = a_meter(ledger, group)
        meter.record(call("a"))
        await asyncio.sleep(0)
        with pytest.raises(ValueError, match="bug"):
            await meter.flush()
        await meter.flush()
    assert ledger.stored == ["a"]
