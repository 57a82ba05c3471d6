"""Statements over the ledger, reservations and the periods of budgets. Written and compiled as those of
``statements.py`` are.

Used by ``ledger.py``, ``reservations.py``, ``periods.py`` and ``usage.py``. Changes that take several rows of
``budget_periods`` take them in the order of its key, after those of ``reservations`` and ``model_calls``.
"""

from collections.abc import Mapping

import sqlalchemy as sa

# PostgreSQL's INSERT … ON CONFLICT; SQLAlchemy renders it for SQLite too.
from sqlalchemy.dialects.postgresql import insert

from roadworthy.domain.budget import BudgetScope
from roadworthy.storage.parameters import INT, ONE, ZERO, BulkInsertOf, param, values_of
from roadworthy.storage.tables import budget_periods, budgets, model_calls, reservations, runs
from roadworthy.storage.transaction import Statement

_of_tenant = model_calls.c.tenant == param("tenant")
# An expression, so that SQLite looks for a run's calls by the run, and not among all of its user's.
_same_tenant = model_calls.c.tenant + sa.literal_column("''") == param("tenant")

# --- calls -----------------------------------------------------------------------------------------------------------

INSERT_CALLS = BulkInsertOf(model_calls)
# One by one where it matters whether the call is new.
INSERT_CALL = insert(model_calls).values(values_of(model_calls)).on_conflict_do_nothing()
CALLS_OF_RUN = (
    sa.select(
        model_calls.c.call_id,
        model_calls.c.node,
        model_calls.c.provider,
        model_calls.c.model,
        model_calls.c.input_tokens,
        model_calls.c.output_tokens,
        model_calls.c.cache_read_tokens,
        model_calls.c.cache_write_tokens,
        model_calls.c.cache_write_1h_tokens,
        model_calls.c.reasoning_tokens,
        model_calls.c.estimated,
        model_calls.c.outcome,
        model_calls.c.cost_nanos,
        model_calls.c.price_version,
        model_calls.c.started_at,
        model_calls.c.finished_at,
    )
    .where(_same_tenant, model_calls.c.owner == param("owner"), model_calls.c.run_id == param("run_id"))
    .order_by(model_calls.c.started_at, model_calls.c.call_id)
)

# --- reservations ----------------------------------------------------------------------------------------------------

INSERT_RESERVATION = insert(reservations).values(values_of(reservations)).on_conflict_do_nothing()
LIVE_ATTEMPT = sa.select(ONE).where(
    runs.c.run_id == param("run_id"),
    runs.c.status == sa.literal_column("'running'"),
    runs.c.attempt == param("attempt", INT),
)
_of_run = (reservations.c.tenant == param("tenant")) & (reservations.c.run_id == param("run_id"))
_held = (reservations.c.nanos, reservations.c.periods)
FREE_CALL = (
    sa.delete(reservations)
    .where(_of_run, reservations.c.call_id == param("call_id"))
    .returning(*_held, reservations.c.attempt)
)
FREE_ATTEMPT = sa.delete(reservations).where(_of_run, reservations.c.attempt == param("attempt", INT)).returning(*_held)
EARLIER = (
    sa.select(
        reservations.c.attempt,
        reservations.c.call_id,
        reservations.c.node,
        reservations.c.provider,
        reservations.c.model,
        reservations.c.input_tokens,
        reservations.c.output_tokens,
        reservations.c.nanos,
        reservations.c.started_at,
    )
    .where(_of_run, reservations.c.attempt < param("attempt", INT))
    .order_by(reservations.c.started_at, reservations.c.call_id)
)
# Who executes it next, or ends it, settles what earlier attempts held.
_unfinished = sa.exists().where(
    runs.c.run_id == reservations.c.run_id,
    runs.c.status.in_([sa.literal_column("'pending'"), sa.literal_column("'running'")]),
)
_abandoned = (
    sa.select(reservations.c.run_id, reservations.c.call_id)
    .where(reservations.c.started_at < param("before", INT), ~_unfinished)
    .order_by(reservations.c.started_at)
    .limit(param("limit", INT))
)
LOSE_ABANDONED = (
    sa.delete(reservations)
    .where(sa.tuple_(reservations.c.run_id, reservations.c.call_id).in_(_abandoned))
    .returning(*reservations.c)
)

# --- periods ---------------------------------------------------------------------------------------------------------

_columns = [column.name for column in budget_periods.c]
_key = (budget_periods.c.budget_id, budget_periods.c.subject, budget_periods.c.starts_at)
_sums = (budget_periods.c.spent_nanos, budget_periods.c.reserved_nanos, budget_periods.c.topped_up_nanos)
_at = (
    (budget_periods.c.budget_id == param("budget_id"))
    & (budget_periods.c.subject == param("subject"))
    & (budget_periods.c.starts_at == param("starts_at", INT))
)
_added = {
    "spent_nanos": budget_periods.c.spent_nanos + param("spent", INT),
    "reserved_nanos": budget_periods.c.reserved_nanos + param("reserved", INT),
}
# A period lives as long as its budget: a late change must not bring it back.
_budget_is_there = sa.exists().where(budgets.c.budget_id == param("budget_id"))

PERIOD = sa.select(*_sums).where(
    _at,
    sa.exists().where(budgets.c.budget_id == budget_periods.c.budget_id, budgets.c.tenant == param("tenant")),
)
# A period that is there, and one that need not be.
CHANGE_PERIOD = sa.update(budget_periods).where(_at).values(_added).returning(*_sums)
ENTER_PERIOD = (
    insert(budget_periods)
    .from_select(
        _columns,
        sa.select(
            param("budget_id"),
            param("subject"),
            param("starts_at", INT),
            param("spent", INT),
            param("reserved", INT),
            ZERO,
        ).where(_budget_is_there),
    )
    .on_conflict_do_update(index_elements=_key, set_=_added)
    .returning(*_sums)
)


def _open(*whose: sa.ColumnElement[bool]) -> Statement:
    """A period that begins with what the ledger already says was spent in it."""
    spent = sa.select(sa.func.coalesce(sa.func.sum(model_calls.c.cost_nanos), ZERO)).where(
        *whose, model_calls.c.started_at >= param("starts_at", INT), model_calls.c.started_at < param("ends_at", INT)
    )
    period = sa.select(
        param("budget_id"), param("subject"), param("starts_at", INT), spent.scalar_subquery(), ZERO, ZERO
    ).where(_budget_is_there)
    return insert(budget_periods).from_select(_columns, period).on_conflict_do_nothing()


OPEN_TENANT_PERIOD = _open(_of_tenant)
OPEN_USER_PERIOD = _open(_of_tenant, model_calls.c.owner == param("subject"))
OPEN_KEY_PERIOD = _open(_of_tenant, model_calls.c.key_id == param("subject"))
OPEN_AGENT_PERIOD = _open(_of_tenant, model_calls.c.agent == param("subject"))
OPEN_RUN_PERIOD = _open(_same_tenant, model_calls.c.run_id == param("subject"))
OPEN_PERIOD: Mapping[BudgetScope, Statement] = {
    BudgetScope.RUN: OPEN_RUN_PERIOD,
    BudgetScope.KEY: OPEN_KEY_PERIOD,
    BudgetScope.USER: OPEN_USER_PERIOD,
    BudgetScope.AGENT: OPEN_AGENT_PERIOD,
    BudgetScope.TENANT: OPEN_TENANT_PERIOD,
}

# --- usage -----------------------------------------------------------------------------------------------------------


def _wanted(flag: str, column: sa.ColumnElement[str]) -> sa.ColumnElement[str]:
    return sa.case((param(flag, INT) == ONE, column))


_sum = sa.func.sum
_counted = (
    _of_tenant & (model_calls.c.started_at >= param("since", INT)) & (model_calls.c.started_at < param("until", INT))
)
_of_user = model_calls.c.owner == param("owner")
# One row for each group; the flags say which of the first five columns make one, the others are null.
USAGE_OF_TENANT = (
    sa.select(
        _wanted("by_user", model_calls.c.owner),
        _wanted("by_key", model_calls.c.key_id),
        _wanted("by_agent", model_calls.c.agent),
        _wanted("by_model", model_calls.c.provider),
        _wanted("by_model", model_calls.c.model),
        sa.func.count(model_calls.c.run_id.distinct()),
        sa.func.count(),
        _sum(model_calls.c.input_tokens),
        _sum(model_calls.c.output_tokens),
        _sum(model_calls.c.cache_read_tokens),
        _sum(model_calls.c.cache_write_tokens),
        _sum(model_calls.c.cache_write_1h_tokens),
        _sum(model_calls.c.reasoning_tokens),
        sa.func.max(model_calls.c.estimated),
        sa.func.coalesce(_sum(model_calls.c.cost_nanos), ZERO),
        sa.func.count() - sa.func.count(model_calls.c.cost_nanos),
    )
    .where(_counted)
    .group_by(sa.text("1, 2, 3, 4, 5"))
    .limit(param("limit", INT))
)
USAGE_OF_USER = USAGE_OF_TENANT.where(_of_user)
FIRST_OF_TENANT = sa.select(sa.func.min(model_calls.c.started_at)).where(_counted)
FIRST_OF_USER = FIRST_OF_TENANT.where(_of_user)
# Tenants one after the other: each is found by index, however many calls lie between two.
NEXT_TENANT = sa.select(sa.func.min(model_calls.c.tenant)).where(model_calls.c.tenant > param("after"))
