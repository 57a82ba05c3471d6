"""Money held for model calls: units of work that hold it before a call and settle it after. Run by ``ledger.py``.

A reservation is a row with what makes a ledger row of its call when nobody takes up its run again, and with the keys
of the periods that hold its amount. A period's ``reserved_nanos`` is the sum of the reservations that name it, always:
both change in one transaction.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod, Exhausted, Occupied, Reservation
from roadworthy.domain.errors import LeaseLost
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.storage import ledger_statements as sql
from roadworthy.storage.periods import (
    Change,
    Changes,
    change,
    change_all,
    enter,
    in_order,
    key_of,
    no_changes,
)
from roadworthy.storage.rows import (
    call_params,
    call_row,
    held_from,
    lost_from,
    origin_params,
    reservation_params,
)
from roadworthy.storage.transaction import Row, Transaction


class Refused(Exception):
    """Undoes a reservation that a period refuses."""

    def __init__(self, refusal: Occupied | Exhausted) -> None:
        super().__init__()
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Reserve for one call in all periods, or in none."""

    run: Run
    reservation: Reservation
    periods: Sequence[BudgetPeriod]

    def __call__(self, tx: Transaction, *, opened: bool) -> None:
        """Nothing when the call has its reservation already.

        Raises:
            LeaseLost, Refused, Unopened: undo everything.
        """
        periods = in_order(self.periods)
        keys = [key_of(period) for period in periods]
        if not tx.run(sql.INSERT_RESERVATION, **reservation_params(self.run, self.reservation, keys)):
            run = self.run
            if tx.one(sql.LIVE_ATTEMPT, run_id=run.run_id, attempt=run.attempt) is None:
                raise LeaseLost("the attempt lost its lease and may not make a call any more")
            return
        nanos = self.reservation.nanos
        balances = [enter(tx, period, Change(reserved=nanos), opened=opened) for period in periods]
        refusal = _refusal([_without(balance, nanos) for balance in balances if balance is not None], nanos)
        if refusal is not None:
            raise Refused(refusal)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Record calls, free what was reserved for them, and charge them to their periods."""

    run: Run
    calls: Sequence[ModelCall]
    charges: Mapping[str, Sequence[BudgetPeriod]]

    def __call__(self, tx: Transaction, *, opened: bool) -> Sequence[BudgetBalance]:
        """The periods that went over their soft limit.

        Raises:
            Unopened: undo everything.
        """
        free = [call_row(self.run, call) for call in self.calls if call.call_id not in self.charges]
        if free:
            tx.insert(sql.INSERT_CALLS, free)
        changes = no_changes()
        for call in self.calls:
            if call.call_id in self.charges:
                self._settle(tx, call, changes)
        periods = {key_of(period): period for charged in self.charges.values() for period in charged}
        crossed: list[BudgetBalance] = []
        for key in sorted(changes):
            added = changes[key]
            if not added.spent:
                change(tx, key, added)
                continue
            balance = enter(tx, periods[key], added, opened=opened)
            if balance is not None and _crossed(balance, added.spent):
                crossed.append(balance)
        return crossed

    def _settle(self, tx: Transaction, call: ModelCall, changes: Changes) -> None:
        # First the reservation, then the call, as those do who declare it lost: who comes second finds it done.
        run = self.run
        freed = tx.one(sql.FREE_CALL, tenant=run.owner.tenant, run_id=run.run_id, call_id=call.call_id)
        if freed is not None:
            nanos, periods, attempt = freed
            _free((nanos, periods), changes)
            run = replace(run, attempt=attempt)
        is_new = tx.run(sql.INSERT_CALL, **call_params(origin_params(run), call))
        if is_new and call.cost_nanos:
            for period in in_order(self.charges[call.call_id]):
                changes[key_of(period)].spent += call.cost_nanos


def release(tx: Transaction, run: Run) -> None:
    """Free what the run's present attempt holds."""
    changes = no_changes()
    for row in tx.all(sql.FREE_ATTEMPT, tenant=run.owner.tenant, run_id=run.run_id, attempt=run.attempt):
        _free(row, changes)
    change_all(tx, changes)


def lose_abandoned(tx: Transaction, *, before: int, limit: int) -> int:
    """Record as lost what runs of any tenant hold that are over or gone; how many reservations those were."""
    rows = tx.all(sql.LOSE_ABANDONED, before=before, limit=limit)
    changes = no_changes()
    for row in rows:
        lost = lost_from(row)
        is_new = bool(tx.run(sql.INSERT_CALL, **call_params(lost.origin, lost.call)))
        for key in lost.periods:
            changes[key].reserved -= lost.nanos
            changes[key].spent += lost.nanos * is_new
    change_all(tx, changes)
    return len(rows)


def _free(row: Row, changes: Changes) -> None:
    nanos, keys = held_from(row)
    for key in keys:
        changes[key].reserved -= nanos


def _without(balance: BudgetBalance, nanos: int) -> BudgetBalance:
    return replace(balance, reserved_nanos=balance.reserved_nanos - nanos)


def _refusal(balances: Sequence[BudgetBalance], nanos: int) -> Occupied | Exhausted | None:
    """Spent comes before occupied: nothing is gained by waiting then."""
    for balance in balances:
        if balance.exhausted:
            return Exhausted(balance=balance)
    for balance in balances:
        allowed, held = balance.allowed_nanos, balance.reserved_nanos
        if allowed is not None and held > 0 and balance.spent_nanos + held + nanos > allowed:
            return Occupied(balance=balance)
    return None


def _crossed(balance: BudgetBalance, added: int) -> bool:
    soft = balance.warns_at_nanos
    return soft is not None and balance.spent_nanos - added < soft <= balance.spent_nanos
