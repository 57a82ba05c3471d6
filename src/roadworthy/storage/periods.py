"""Rows of ``budget_periods``: what was spent of a budget in a window, and what calls in flight hold of it.

Functions over a transaction, called by ``ledger.py`` and ``reservations.py``. A period gets its row with its first
call. When the budget is younger than the period, the row begins with what the ledger says was spent before; that sum is
made in a transaction of its own (``Unopened``), so that no other waits for it twice. Calls of a key, a user or a run
are found by index. For a tenant and for an agent all calls of the tenant in that time are looked at, once for each such
period: other writes wait for that, about a tenth of a second for 300,000 calls.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod, BudgetWindow
from roadworthy.storage import ledger_statements as sql
from roadworthy.storage.rows import PeriodKey, micros
from roadworthy.storage.transaction import Param, Row, Transaction


class Unopened(Exception):
    """A period has no row and cannot begin with nothing: undo the unit, ``open_periods``, and run the unit again."""


@dataclass(slots=True)
class Change:
    """What is added to a period, in nano-USD."""

    spent: int = 0
    reserved: int = 0


Changes: TypeAlias = defaultdict[PeriodKey, Change]


def no_changes() -> Changes:
    """Changes to be collected."""
    return defaultdict(Change)


def key_of(period: BudgetPeriod) -> PeriodKey:
    """The key of a period's row."""
    return period.budget.budget_id, period.subject, micros(period.starts_at)


def in_order(periods: Iterable[BudgetPeriod]) -> Sequence[BudgetPeriod]:
    """Each period once, in the order in which rows are locked."""
    return [period for _key, period in sorted({key_of(period): period for period in periods}.items(), key=_first)]


def open_periods(tx: Transaction, periods: Iterable[BudgetPeriod]) -> None:
    """Make the rows of periods that began before their budget was made or last changed."""
    for period in in_order(periods):
        if _began_earlier(period) and period.ends_at is not None:
            tx.run(
                sql.OPEN_PERIOD[period.budget.scope],
                **_params(key_of(period)),
                tenant=period.budget.tenant,
                ends_at=micros(period.ends_at),
            )


def change(tx: Transaction, key: PeriodKey, added: Change) -> None:
    """Change a period that has a row; nothing when it has none (any more)."""
    tx.run(sql.CHANGE_PERIOD, **_params(key), spent=added.spent, reserved=added.reserved)


def change_all(tx: Transaction, changes: Mapping[PeriodKey, Change]) -> None:
    """The same for many, in order."""
    for key in sorted(changes):
        change(tx, key, changes[key])


def enter(tx: Transaction, period: BudgetPeriod, added: Change, *, opened: bool) -> BudgetBalance | None:
    """Change a period and make its row if need be; how it stands then. None when its budget was removed.

    Raises:
        Unopened: see the class. Not when ``opened``.
    """
    statement = sql.ENTER_PERIOD if opened or not _began_earlier(period) else sql.CHANGE_PERIOD
    row = tx.one(statement, **_params(key_of(period)), spent=added.spent, reserved=added.reserved)
    if row is None:
        if statement is sql.CHANGE_PERIOD:
            raise Unopened
        return None
    return _balance(period, row)


def balance(tx: Transaction, tenant: str, period: BudgetPeriod, *, opened: bool) -> BudgetBalance:
    """How a period stands.

    Raises:
        Unopened: see the class. Not when ``opened``.
    """
    row = tx.one(sql.PERIOD, **_params(key_of(period)), tenant=tenant)
    if row is None:
        if not opened and _began_earlier(period):
            raise Unopened
        return BudgetBalance(period=period)
    return _balance(period, row)


def _began_earlier(period: BudgetPeriod) -> bool:
    # A change counts as the making: a new time zone moves the beginnings.
    if period.budget.window in (BudgetWindow.RUN, BudgetWindow.TOTAL):
        return False
    return period.budget.updated_at > period.starts_at


def _balance(period: BudgetPeriod, row: Row) -> BudgetBalance:
    spent, reserved, topped_up = row
    return BudgetBalance(period=period, spent_nanos=spent, reserved_nanos=reserved, topped_up_nanos=topped_up)


def _params(key: PeriodKey) -> Mapping[str, Param]:
    budget_id, subject, starts_at = key
    return {"budget_id": budget_id, "subject": subject, "starts_at": starts_at}


def _first(item: tuple[PeriodKey, BudgetPeriod]) -> PeriodKey:
    return item[0]
