"""Budgets and rate limits ↔ rows of ``tables.py``, and how the audit log shows them. Used by ``policies.py``."""

from collections.abc import Mapping

from roadworthy.domain.budget import Budget, BudgetBalance, BudgetScope, BudgetWindow
from roadworthy.domain.ids import BudgetId, TenantId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.storage.rows import micros, moment
from roadworthy.storage.transaction import Param, Row


def budget_params(budget: Budget) -> Mapping[str, Param]:
    """Parameters of ``SET_BUDGET``."""
    return {
        "budget_id": budget.budget_id,
        "tenant": budget.tenant,
        "scope": budget.scope.value,
        "subject": budget.subject or "",
        "time_window": budget.window.value,
        "limit_nanos": budget.limit_nanos,
        "soft_nanos": budget.soft_nanos,
        "time_zone": budget.time_zone,
        "created_at": micros(budget.created_at),
        "updated_at": micros(budget.updated_at),
    }


def budget_from(row: Row) -> Budget:
    """A budget from all columns of its table."""
    budget_id, tenant, scope, subject, window, limit_nanos, soft_nanos, time_zone, created_at, updated_at = row
    return Budget(
        budget_id=BudgetId(budget_id),
        tenant=TenantId(tenant),
        scope=BudgetScope(scope),
        subject=subject or None,
        window=BudgetWindow(window),
        limit_nanos=limit_nanos,
        soft_nanos=soft_nanos,
        time_zone=time_zone,
        created_at=moment(created_at),
        updated_at=moment(updated_at),
    )


def rate_from(row: Row) -> RateLimit:
    """A rate limit from all columns of its table."""
    tenant, scope, subject, kind, most = row
    return RateLimit(
        tenant=TenantId(tenant), scope=RateScope(scope), kind=RateKind(kind), limit=most, subject=subject or None
    )


def rate_place(tenant: TenantId, scope: RateScope, subject: str | None, kind: RateKind) -> Mapping[str, str]:
    """The key of a rate limit in its table."""
    return {"tenant": tenant, "scope": scope.value, "subject": subject or "", "kind": kind.value}


def budget_document(budget: Budget) -> JsonObject:
    """A budget in the audit log."""
    return {
        "scope": budget.scope.value,
        "subject": budget.subject,
        "window": budget.window.value,
        "limit_nanos": budget.limit_nanos,
        "soft_nanos": budget.soft_nanos,
        "time_zone": budget.time_zone,
    }


def period_document(balance: BudgetBalance) -> JsonObject:
    """A period in the audit log: what was added to its limit."""
    return {
        "subject": balance.period.subject,
        "starts_at": balance.period.starts_at.isoformat(),
        "topped_up_nanos": balance.topped_up_nanos,
    }


def rate_document(rate: RateLimit) -> JsonObject:
    """A rate limit in the audit log."""
    return {"scope": rate.scope.value, "subject": rate.subject, "kind": rate.kind.value, "limit": rate.limit}
