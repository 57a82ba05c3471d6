"""Budgets, reservations and priced calls for tests of the ledger, and a look at what a database holds of them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import sqlalchemy as sa

from roadworthy.domain.budget import (
    Budget,
    BudgetBalance,
    BudgetPeriod,
    BudgetScope,
    BudgetWindow,
    Reservation,
    Spender,
)
from roadworthy.domain.ids import BudgetId, KeyId, TenantId
from roadworthy.domain.run import Run, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.ports.queue import RunQueue
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.tables import budget_periods, model_calls, reservations
from roadworthy.storage.transaction import Database
from tests.conformance.storage.backends import look
from tests.conformance.storage.factories import ALICE, OPERATOR, START, TickingClock, new_run

NOON = START + timedelta(hours=12)


def budget(
    name: str = "budget",
    *,
    limit: int | None = 100,
    soft: int | None = None,
    scope: BudgetScope = BudgetScope.USER,
    window: BudgetWindow = BudgetWindow.DAY,
    subject: str | None = None,
    made_at: datetime = START - timedelta(days=60),
    tenant: TenantId = ALICE.tenant,
) -> Budget:
    return Budget(
        budget_id=BudgetId(name),
        tenant=tenant,
        scope=scope,
        subject=subject,
        window=window,
        limit_nanos=limit,
        soft_nanos=soft,
        time_zone="UTC",
        created_at=made_at,
        updated_at=made_at,
    )


async def stored(database: Database, *budgets: Budget) -> None:
    policies = SqlPolicyStore(database, TickingClock())
    for one in budgets:
        await policies.set_budget(one.tenant, one, OPERATOR)


def period(of: Budget, run: Run, moment: datetime = NOON) -> BudgetPeriod:
    spender = Spender(owner=run.owner, key_id=run.key_id, agent=run.agent, run_id=run.run_id)
    found = of.period_for(spender, moment)
    assert found is not None
    return found


async def claimed(queue: RunQueue, run: Run | None = None, *, key: str | None = None) -> Run:
    """A run in its first attempt."""
    wanted = new_run() if run is None else run
    wanted = replace(wanted, key_id=None if key is None else KeyId(key))
    accepted = await queue.accept(wanted, claim_for="worker", max_pending=100, idempotency=None)
    assert accepted.run.status is RunStatus.RUNNING
    return accepted.run


def call(name: str = "call", cost: int | None = 10, *, at: datetime = NOON) -> ModelCall:
    return ModelCall(
        call_id=name,
        node="model",
        provider="anthropic",
        model="some-model",
        tokens=Tokens(input=10, output=5, cache_read=3, cache_write=2, cache_write_1h=1, reasoning=1),
        estimated=False,
        outcome="complete",
        started_at=at,
        finished_at=at + timedelta(seconds=1),
        cost_nanos=cost,
        price_version="prices 1",
    )


def reservation(name: str = "call", nanos: int = 10, *, at: datetime = NOON) -> Reservation:
    return Reservation(
        call_id=name,
        node="model",
        provider="anthropic",
        model="some-model",
        input_tokens=7,
        output_tokens=20,
        nanos=nanos,
        started_at=at,
    )


@dataclass(frozen=True)
class Books:
    """Sums by budget. ``open``: reservations, by what they say themselves."""

    reserved: Mapping[str, int]
    spent: Mapping[str, int]
    open: Mapping[str, int]
    cost: int


def books(database: Database) -> Books:
    """What the tables say, read beside the repositories."""
    reserved: dict[str, int] = {}
    spent: dict[str, int] = {}
    held: dict[str, int] = {}
    periods, open_, costs = look(
        database,
        sa.select(budget_periods.c.budget_id, budget_periods.c.spent_nanos, budget_periods.c.reserved_nanos),
        sa.select(reservations.c.nanos, reservations.c.periods),
        sa.select(sa.func.coalesce(sa.func.sum(model_calls.c.cost_nanos), sa.text("0"))),
    )
    for name, of_it, kept in periods:
        spent[name] = spent.get(name, 0) + of_it
        reserved[name] = reserved.get(name, 0) + kept
    for nanos, keys in open_:
        for name, _subject, _starts_at in json.loads(keys):
            held[name] = held.get(name, 0) + nanos
    return Books(reserved=reserved, spent=spent, open=held, cost=int(costs[0][0]))


def attempts(database: Database) -> Mapping[str, int]:
    """The attempt that the table has of each call, by its id."""
    (calls,) = look(database, sa.select(model_calls.c.call_id, model_calls.c.attempt))
    return {call_id: attempt for call_id, attempt in calls}  # noqa: C416 -- rows are no pairs to the type checker


def sums(balance: BudgetBalance) -> tuple[int, int]:
    return balance.spent_nanos, balance.reserved_nanos
