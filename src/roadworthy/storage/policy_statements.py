"""Statements over budgets, rate limits and the audit log. Written and compiled as those of ``statements.py`` are.

Used by ``policies.py``, ``key_policies.py``, ``audit.py`` and, for limits of runs at once, ``accept.py``.
"""

import sqlalchemy as sa

# PostgreSQL's INSERT … ON CONFLICT; SQLAlchemy renders it for SQLite too.
from sqlalchemy.dialects.postgresql import insert

from roadworthy.domain.budget import BudgetScope
from roadworthy.domain.rate_limit import RateScope
from roadworthy.storage.parameters import INT, ZERO, param, values_of
from roadworthy.storage.tables import audit, budget_periods, budgets, rate_limits, runs

# --- budgets ---------------------------------------------------------------------------------------------------------

_budgets = sa.select(*budgets.c).order_by(budgets.c.tenant, budgets.c.scope, budgets.c.subject, budgets.c.time_window)
ALL_BUDGETS = _budgets
BUDGETS_OF_TENANT = _budgets.where(budgets.c.tenant == param("tenant"))
SOME_BUDGETS_OF_TENANT = BUDGETS_OF_TENANT.limit(param("limit", INT))
# Those that apply to a key: its own, and those that each key has.
BUDGETS_OF_KEY = BUDGETS_OF_TENANT.where(
    budgets.c.scope == sa.literal_column(f"'{BudgetScope.KEY.value}'"),
    budgets.c.subject.in_([sa.literal_column("''"), param("key_id")]),
)
BUDGET_AT = sa.select(*budgets.c).where(
    budgets.c.tenant == param("tenant"),
    budgets.c.scope == param("scope"),
    budgets.c.subject == param("subject"),
    budgets.c.time_window == param("time_window"),
)
_named = (budgets.c.budget_id == param("budget_id")) & (
    param("tenant").is_(None) | (budgets.c.tenant == param("tenant"))
)
GET_BUDGET = sa.select(*budgets.c).where(_named)
_new_budget = insert(budgets).values(values_of(budgets))
# What is there keeps its id and its beginning, which a budget in total counts from.
SET_BUDGET = _new_budget.on_conflict_do_update(
    index_elements=[budgets.c.tenant, budgets.c.scope, budgets.c.subject, budgets.c.time_window],
    set_={
        "limit_nanos": _new_budget.excluded.limit_nanos,
        "soft_nanos": _new_budget.excluded.soft_nanos,
        "time_zone": _new_budget.excluded.time_zone,
        "updated_at": _new_budget.excluded.updated_at,
    },
).returning(*budgets.c)
REMOVE_BUDGET = sa.delete(budgets).where(_named).returning(*budgets.c)
REMOVE_PERIODS = sa.delete(budget_periods).where(budget_periods.c.budget_id == param("budget_id"))
_topped_up = insert(budget_periods).values(
    {**values_of(budget_periods), "spent_nanos": ZERO, "reserved_nanos": ZERO, "topped_up_nanos": param("nanos", INT)}
)
TOP_UP = _topped_up.on_conflict_do_update(
    index_elements=[budget_periods.c.budget_id, budget_periods.c.subject, budget_periods.c.starts_at],
    set_={"topped_up_nanos": budget_periods.c.topped_up_nanos + _topped_up.excluded.topped_up_nanos},
).returning(budget_periods.c.spent_nanos, budget_periods.c.reserved_nanos, budget_periods.c.topped_up_nanos)

# A period that begins with what another one has spent.
INSERT_PERIOD = insert(budget_periods).values({**values_of(budget_periods), "reserved_nanos": ZERO})

# --- rate limits -----------------------------------------------------------------------------------------------------

_rates = sa.select(*rate_limits.c).order_by(
    rate_limits.c.tenant, rate_limits.c.scope, rate_limits.c.subject, rate_limits.c.kind
)
ALL_RATES = _rates
RATES_OF_TENANT = _rates.where(rate_limits.c.tenant == param("tenant"))
SOME_RATES_OF_TENANT = RATES_OF_TENANT.limit(param("limit", INT))
RATES_OF_KEY = RATES_OF_TENANT.where(
    rate_limits.c.scope == sa.literal_column(f"'{RateScope.KEY.value}'"), rate_limits.c.subject == param("key_id")
)
_at = (
    (rate_limits.c.tenant == param("tenant"))
    & (rate_limits.c.scope == param("scope"))
    & (rate_limits.c.subject == param("subject"))
    & (rate_limits.c.kind == param("kind"))
)
RATE_AT = sa.select(*rate_limits.c).where(_at)
_new_rate = insert(rate_limits).values(values_of(rate_limits))
SET_RATE = _new_rate.on_conflict_do_update(
    index_elements=[rate_limits.c.tenant, rate_limits.c.scope, rate_limits.c.subject, rate_limits.c.kind],
    set_={"most": _new_rate.excluded.most},
)
REMOVE_RATE = sa.delete(rate_limits).where(_at).returning(*rate_limits.c)

# Spelled out as in the index, which is found only so.
_unfinished = runs.c.status.in_([sa.literal_column("'pending'"), sa.literal_column("'running'")])
UNFINISHED_OF_TENANT = sa.select(sa.func.count()).select_from(runs).where(_unfinished, runs.c.tenant == param("tenant"))
UNFINISHED_OF_USER = UNFINISHED_OF_TENANT.where(runs.c.owner == param("subject"))
UNFINISHED_OF_KEY = UNFINISHED_OF_TENANT.where(runs.c.key_id == param("subject"))

# --- audit -----------------------------------------------------------------------------------------------------------

INSERT_AUDIT = insert(audit).values({name: value for name, value in values_of(audit).items() if name != "seq"})
ALL_AUDIT = (
    sa.select(*audit.c)
    .where(audit.c.seq < param("before_seq", INT), param("since", INT).is_(None) | (audit.c.at >= param("since", INT)))
    .order_by(audit.c.seq.desc())
    .limit(param("limit", INT))
)
AUDIT_OF_TENANT = ALL_AUDIT.where(audit.c.tenant == param("tenant"))
