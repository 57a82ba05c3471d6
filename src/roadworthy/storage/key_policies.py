"""What a rotated key hands on to the one that replaces it: its budgets, what was spent of them, and its rate limits.

Without that a rotation would be a way out of every limit of a key. Part of the transaction in ``keys.py``.
"""

from dataclasses import replace

from roadworthy.domain.budget import Budget
from roadworthy.domain.ids import BudgetId, KeyId, TenantId, new_id
from roadworthy.storage import policy_statements as sql
from roadworthy.storage.audit import Note
from roadworthy.storage.periods import balance, open_periods
from roadworthy.storage.policy_rows import (
    budget_document,
    budget_from,
    budget_params,
    rate_document,
    rate_from,
    rate_place,
)
from roadworthy.storage.rows import micros
from roadworthy.storage.transaction import Transaction


def hand_on(tx: Transaction, note: Note, tenant: TenantId, old: KeyId, new: KeyId) -> None:
    """Copy what limits a key to another. What calls in flight hold stays with the old key, which pays for them."""
    for row in tx.all(sql.BUDGETS_OF_KEY, tenant=tenant, key_id=old):
        _hand_on_budget(tx, note, budget_from(row), old, new)
    for row in tx.all(sql.RATES_OF_KEY, tenant=tenant, key_id=old):
        limit = replace(rate_from(row), subject=new)
        tx.run(sql.SET_RATE, **rate_place(tenant, limit.scope, new, limit.kind), most=limit.limit)
        note(tx, tenant, "rate.set", limit.policy, before=None, after=rate_document(limit))


def _hand_on_budget(tx: Transaction, note: Note, budget: Budget, old: KeyId, new: KeyId) -> None:
    """A budget that each key has needs no copy: the new key has it already, with nothing spent."""
    period = budget.period_of(old, note.at)
    open_periods(tx, [period])
    stands = balance(tx, budget.tenant, period, opened=True)
    if budget.subject is not None:
        # It keeps its beginning, which a budget in total counts from.
        budget = replace(budget, budget_id=BudgetId(new_id()), subject=new)
        tx.run(sql.SET_BUDGET, **budget_params(budget))
        note(tx, budget.tenant, "budget.set", budget.budget_id, before=None, after=budget_document(budget))
    if stands.spent_nanos or stands.topped_up_nanos:
        tx.run(
            sql.INSERT_PERIOD,
            budget_id=budget.budget_id,
            subject=new,
            starts_at=micros(period.starts_at),
            spent_nanos=stands.spent_nanos,
            topped_up_nanos=stands.topped_up_nanos,
        )
