"""``ports.ledger.Ledger`` over SQL. Called by the engine (reserve, append, settle) and by services (the rest).

Each method is one transaction: ``reservations.py`` has the units that move money, ``usage.py`` those that sum it up.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod, Exhausted, Held, InFlight, Occupied, Reservation
from roadworthy.domain.ids import RunId, TenantId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.ledger import UsageQuery, UsageRow
from roadworthy.storage import ledger_statements as sql
from roadworthy.storage.periods import Unopened, balance, open_periods
from roadworthy.storage.reservations import Hold, Refused, Settlement, lose_abandoned, release
from roadworthy.storage.rows import call_from, call_row, in_flight_from, micros
from roadworthy.storage.transaction import Database, Transaction
from roadworthy.storage.usage import UsageSums, next_tenant

# Reservations that one sweep takes: the others' writes must not wait for long.
_SWEPT_AT_ONCE = 100

T_co = TypeVar("T_co", covariant=True)


class _OverPeriods(Protocol[T_co]):
    """A unit that changes or reads periods; ``opened``: those that had to be opened first are."""

    def __call__(self, tx: Transaction, *, opened: bool) -> T_co: ...


class SqlLedger:
    """Model calls, reservations and periods as rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @property
    def in_line(self) -> bool:
        """See the port."""
        return self._database.in_line

    async def reserve(
        self, run: Run, reservation: Reservation, periods: Sequence[BudgetPeriod]
    ) -> Held | Occupied | Exhausted:
        """See the port. Periods without a limit hold too, so that a lost call is charged to them."""
        try:
            await self._write(Hold(run=run, reservation=reservation, periods=periods), periods)
        except Refused as refused:
            return refused.refusal
        return Held()

    async def append(
        self, run: Run, calls: Sequence[ModelCall], charges: Mapping[str, Sequence[BudgetPeriod]]
    ) -> Sequence[BudgetBalance]:
        """See the port. A call that may have a reservation must be in ``charges``, be it with no period: the others
        are not looked up.
        """
        if not any(call.call_id in charges for call in calls):
            if calls:
                rows = [call_row(run, call) for call in calls]
                await self._database.write(lambda tx: tx.insert(sql.INSERT_CALLS, rows))
            return ()
        periods = [period for charged in charges.values() for period in charged]
        return await self._write(Settlement(run=run, calls=calls, charges=charges), periods)

    async def release(self, run: Run) -> None:
        """See the port."""
        await self._database.write(lambda tx: release(tx, run))

    async def in_flight(self, run: Run) -> Sequence[InFlight]:
        """See the port."""
        rows = await self._database.read(
            lambda tx: tx.all(sql.EARLIER, tenant=run.owner.tenant, run_id=run.run_id, attempt=run.attempt)
        )
        return [in_flight_from(row) for row in rows]

    async def sweep(self, before: datetime) -> int:
        """See the port. When such a call ended nobody knows: its beginning stands for its end."""
        return await self._database.write(lambda tx: lose_abandoned(tx, before=micros(before), limit=_SWEPT_AT_ONCE))

    async def of_run(self, owner: Owner, run_id: RunId) -> Sequence[ModelCall]:
        """See the port."""
        rows = await self._database.read(
            lambda tx: tx.all(sql.CALLS_OF_RUN, tenant=owner.tenant, owner=owner.user, run_id=run_id)
        )
        return [call_from(row) for row in rows]

    async def usage(self, tenant: TenantId | None, query: UsageQuery) -> Sequence[UsageRow]:
        """See the port. Tenant by tenant, so that other reads are not held up by all of them."""
        sums = UsageSums(query)
        if tenant is not None:
            await self._database.read(lambda tx: sums.add(tx, tenant), scan=True)
            return sums.rows()
        last: TenantId | None = TenantId("")
        while (last := await self._database.read(partial(next_tenant, after=last), scan=True)) is not None:
            await self._database.read(partial(sums.add, tenant=last), scan=True)
        return sums.rows()

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        """See the port. The first look at a period that is older than its budget sums up the ledger, once."""

        def unit(tx: Transaction, *, opened: bool) -> Sequence[BudgetBalance]:
            return [balance(tx, tenant, period, opened=opened) for period in periods]

        try:
            return await self._database.read(partial(unit, opened=False))
        except Unopened:
            await self._database.write(lambda tx: open_periods(tx, periods))
            return await self._database.read(partial(unit, opened=True))

    async def _write(self, unit: _OverPeriods[T_co], periods: Sequence[BudgetPeriod]) -> T_co:
        try:
            return await self._database.write(partial(unit, opened=False))
        except Unopened:
            await self._database.write(lambda tx: open_periods(tx, periods))
            return await self._database.write(partial(unit, opened=True))
