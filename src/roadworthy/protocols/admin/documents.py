"""Budgets, rates, keys and changes as the admin API's JSON. ``wire.py`` describes what is written here."""

from roadworthy.domain.audit import AuditEntry
from roadworthy.domain.budget import BudgetBalance, BudgetWindow
from roadworthy.domain.money import usd
from roadworthy.domain.principal import ApiKey
from roadworthy.domain.rate_limit import RateLimit
from roadworthy.services.budgets import BudgetStatus
from roadworthy.services.keys import NewKey

Json = dict[str, object]


def budget_json(status: BudgetStatus) -> Json:
    """A budget and how its present period stands."""
    budget = status.budget
    return {
        "budget_id": budget.budget_id,
        "scope": budget.scope.value,
        "subject": budget.subject,
        "window": budget.window.value,
        "limit_usd": _usd(budget.limit_nanos),
        "soft_usd": _usd(budget.soft_nanos),
        "time_zone": budget.time_zone,
        "created_at": budget.created_at,
        "updated_at": budget.updated_at,
        "current": None if status.balance is None else _balance_json(status.balance),
    }


def rate_json(rate: RateLimit) -> Json:
    """A rate limit."""
    return {
        "scope": rate.scope.value,
        "kind": rate.kind.value,
        "subject": rate.subject,
        "limit": rate.limit,
        "policy": rate.policy,
    }


def key_json(key: ApiKey) -> Json:
    """A key without its text and digest."""
    return {
        "key_id": key.key_id,
        "user": key.owner.user,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "agents": None if key.agents is None else sorted(key.agents),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "last_used_at": key.last_used_at,
    }


def new_key_json(new: NewKey) -> Json:
    """A key with its text: the one time that it is shown."""
    return {**key_json(new.key), "key": new.text}


def audit_json(entry: AuditEntry) -> Json:
    """One change."""
    return {
        "seq": entry.seq,
        "at": entry.at,
        "actor": entry.actor.name,
        "request_id": entry.actor.request_id,
        "action": entry.action,
        "target": entry.target,
        "before": entry.before,
        "after": entry.after,
    }


def _balance_json(balance: BudgetBalance) -> Json:
    period, allowed = balance.period, balance.allowed_nanos
    return {
        "subject": period.subject,
        "spent_usd": usd(balance.spent_nanos),
        "reserved_usd": usd(balance.reserved_nanos),
        "topped_up_usd": usd(balance.topped_up_nanos),
        "left_usd": None if allowed is None else usd(max(0, allowed - balance.spent_nanos)),
        "exhausted": balance.exhausted,
        # A run's budget begins with the run, whenever that is.
        "starts_at": None if period.budget.window is BudgetWindow.RUN else period.starts_at,
        "resets_at": period.ends_at,
    }


def _usd(nanos: int | None) -> float | None:
    return None if nanos is None else usd(nanos)
