"""``ports.policies.PolicyStore`` over SQL: the rate limits and budgets that operators set.

Asked before every run, so a tenant's policies are kept for two seconds (``policy_cache.py``). Every change is one
transaction with its entry in the audit log. Called by ``services`` (admission, budgets, limits), ``engine/spending.py``
and the CLI.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod
from roadworthy.domain.ids import BudgetId, TenantId
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.ports.clock import Clock
from roadworthy.ports.policies import Policies
from roadworthy.storage import policy_statements as sql
from roadworthy.storage.audit import Note
from roadworthy.storage.locks import POLICIES
from roadworthy.storage.policy_cache import PolicyCache
from roadworthy.storage.policy_rows import (
    budget_document,
    budget_from,
    budget_params,
    period_document,
    rate_document,
    rate_from,
    rate_place,
)
from roadworthy.storage.rows import micros
from roadworthy.storage.transaction import Database, Row, T, Transaction, Unit


class SqlPolicyStore:
    """``cache_for``: how long policies may be believed without asking the database; own changes are seen at once."""

    def __init__(self, database: Database, clock: Clock, *, cache_for: timedelta = timedelta(seconds=2)) -> None:
        self._database = database
        self._clock = clock
        self._cache = PolicyCache(database, clock, cache_for)

    async def of(self, tenant: TenantId) -> Policies:
        """See the port."""
        return await self._cache.of(tenant)

    def forget(self, tenant: TenantId | None) -> None:
        """Somebody else in this process has changed a tenant's policies (None: maybe any tenant's)."""
        self._cache.forget(tenant)

    async def budgets(self, tenant: TenantId | None) -> Sequence[Budget]:
        """See the port."""

        def unit(tx: Transaction) -> Sequence[Row]:
            return tx.all(sql.ALL_BUDGETS) if tenant is None else tx.all(sql.BUDGETS_OF_TENANT, tenant=tenant)

        return [budget_from(row) for row in await self._database.read(unit, scan=True)]

    async def set_budget(self, tenant: TenantId, budget: Budget, actor: Actor) -> Budget:
        """See the port."""
        note = Note(actor, self._clock.now())
        params = budget_params(replace(budget, tenant=tenant))
        place = {name: params[name] for name in ("tenant", "scope", "subject", "time_window")}

        def unit(tx: Transaction) -> Budget:
            known = tx.one(sql.BUDGET_AT, **place)
            stored = budget_from(_present(tx.one(sql.SET_BUDGET, **params)))
            before = None if known is None else budget_document(budget_from(known))
            note(tx, tenant, "budget.set", stored.budget_id, before=before, after=budget_document(stored))
            return stored

        return await self._change(tenant, unit)

    async def remove_budget(self, tenant: TenantId | None, budget_id: BudgetId, actor: Actor) -> bool:
        """See the port."""
        note = Note(actor, self._clock.now())

        def unit(tx: Transaction) -> bool:
            row = tx.one(sql.REMOVE_BUDGET, tenant=tenant, budget_id=budget_id)
            if row is None:
                return False
            tx.run(sql.REMOVE_PERIODS, budget_id=budget_id)
            removed = budget_from(row)
            note(tx, removed.tenant, "budget.remove", budget_id, before=budget_document(removed), after=None)
            return True

        return await self._change(tenant, unit)

    async def top_up(self, tenant: TenantId, period: BudgetPeriod, nanos: int, actor: Actor) -> BudgetBalance | None:
        """See the port."""
        note = Note(actor, self._clock.now())
        budget_id = period.budget.budget_id

        def unit(tx: Transaction) -> BudgetBalance | None:
            row = tx.one(sql.GET_BUDGET, tenant=tenant, budget_id=budget_id)
            if row is None:
                return None
            spent, reserved, topped_up = _present(
                tx.one(
                    sql.TOP_UP,
                    budget_id=budget_id,
                    subject=period.subject,
                    starts_at=micros(period.starts_at),
                    nanos=nanos,
                )
            )
            balance = BudgetBalance(
                period=replace(period, budget=budget_from(row)),
                spent_nanos=spent,
                reserved_nanos=reserved,
                topped_up_nanos=topped_up,
            )
            before = period_document(replace(balance, topped_up_nanos=topped_up - nanos))
            note(tx, tenant, "budget.top_up", budget_id, before=before, after=period_document(balance))
            return balance

        return await self._change(tenant, unit)

    async def rates(self, tenant: TenantId | None) -> Sequence[RateLimit]:
        """See the port."""

        def unit(tx: Transaction) -> Sequence[Row]:
            return tx.all(sql.ALL_RATES) if tenant is None else tx.all(sql.RATES_OF_TENANT, tenant=tenant)

        return [rate_from(row) for row in await self._database.read(unit, scan=True)]

    async def set_rate(self, tenant: TenantId, rate: RateLimit, actor: Actor) -> None:
        """See the port."""
        note = Note(actor, self._clock.now())
        place = rate_place(tenant, rate.scope, rate.subject, rate.kind)

        def unit(tx: Transaction) -> None:
            known = tx.one(sql.RATE_AT, **place)
            tx.run(sql.SET_RATE, **place, most=rate.limit)
            before = None if known is None else rate_document(rate_from(known))
            note(tx, tenant, "rate.set", rate.policy, before=before, after=rate_document(rate))

        await self._change(tenant, unit)

    async def remove_rate(
        self, tenant: TenantId, scope: RateScope, subject: str | None, kind: RateKind, actor: Actor
    ) -> bool:
        """See the port."""
        note = Note(actor, self._clock.now())

        def unit(tx: Transaction) -> bool:
            row = tx.one(sql.REMOVE_RATE, **rate_place(tenant, scope, subject, kind))
            if row is None:
                return False
            removed = rate_from(row)
            note(tx, tenant, "rate.remove", removed.policy, before=rate_document(removed), after=None)
            return True

        return await self._change(tenant, unit)

    async def _change(self, tenant: TenantId | None, unit: Unit[T]) -> T:
        def alone(tx: Transaction) -> T:
            tx.lock(POLICIES)
            return unit(tx)

        try:
            return await self._database.write(alone)
        finally:
            # Even when the caller was cancelled: the change may be stored all the same.
            self._cache.forget(tenant)


def _present(row: Row | None) -> Row:
    if row is None:
        raise AssertionError("an upsert returns its row")
    return row
