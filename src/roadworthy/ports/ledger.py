"""The ledger of model calls, what is reserved for calls in flight, and what they add up to. Adapter: ``storage``.

Append-only: a call's row is written once and never changed, and it outlives its thread. Money is integer nano-USD.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Protocol

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod, Exhausted, Held, InFlight, Occupied, Reservation
from roadworthy.domain.ids import RunId, TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Usage


class UsageGroup(StrEnum):
    """What usage may be listed by."""

    DAY = "day"
    TENANT = "tenant"
    USER = "user"
    KEY = "key"
    AGENT = "agent"
    MODEL = "model"


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageQuery:
    """Calls begun from ``since`` (inclusive) to ``until`` (exclusive). Days are those of ``time_zone`` (IANA name).

    ``most_groups``: a report of more is refused while it is made, before it takes up memory.
    """

    by: Sequence[UsageGroup]
    since: datetime
    until: datetime
    user: UserId | None = None
    time_zone: str = "UTC"
    most_groups: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageRow:
    """One group: its values in the order of ``UsageQuery.by`` (a key may be None), and their sum."""

    group: Sequence[str | date | None]
    runs: int
    usage: Usage


class Ledger(Protocol):
    """See the module."""

    @property
    def in_line(self) -> bool:
        """Whether what it is asked for is on disk before whatever a run queue on its database is asked for later."""
        ...

    async def reserve(
        self, run: Run, reservation: Reservation, periods: Sequence[BudgetPeriod]
    ) -> Held | Occupied | Exhausted:
        """Hold money for a call of the run's present attempt in all of ``periods``, or in none of them.

        A period that is spent refuses (Exhausted). One with too little left for ``reservation.nanos`` refuses as long
        as calls in flight hold some of it (Occupied); when none does, it gives what it has. So a budget is overdrawn by
        one call, and by what calls in flight cost more than was reserved for them. The same call again is Held.

        Raises:
            LeaseLost: the attempt has lost its run: the call must not be made.
            StorageUnavailable: nothing is reserved.
        """
        ...

    async def append(
        self, run: Run, calls: Sequence[ModelCall], charges: Mapping[str, Sequence[BudgetPeriod]]
    ) -> Sequence[BudgetBalance]:
        """Record calls of a run, and settle them: what was reserved for a call is freed, its cost goes to the periods
        that ``charges`` has under its ``call_id``. All in one transaction. A call is of the attempt that has reserved
        for it, else of the present one.

        A (run, call_id) that is there already is left as it is and charged to nothing. Returns the periods that these
        calls have taken over their soft limit.

        Raises:
            StorageUnavailable: nothing is recorded.
        """
        ...

    async def release(self, run: Run) -> None:
        """Free what the run's present attempt still holds: for calls that never began. Idempotent."""
        ...

    async def in_flight(self, run: Run) -> Sequence[InFlight]:
        """What earlier attempts of the run still hold money for, oldest first: ``append`` settles it.

        Raises:
            StorageUnavailable: it cannot be read.
        """
        ...

    async def sweep(self, before: datetime) -> int:
        """Settle reservations begun before a moment whose run has ended or is gone, so that nobody else will.

        Each becomes a call with outcome ``lost``: estimated, its tokens and its cost all that was reserved for it.
        Returns how many, at most 100 at once.
        """
        ...

    async def of_run(self, owner: Owner, run_id: RunId) -> Sequence[ModelCall]:
        """A run's calls, all attempts, oldest first."""
        ...

    async def usage(self, tenant: TenantId | None, query: UsageQuery) -> Sequence[UsageRow]:
        """Sums of a tenant (None: of all, for the operator's CLI), in the order of their groups.

        Raises:
            InvalidRequest: there are more groups than the query allows.
        """
        ...

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        """How periods of the tenant's budgets stand, in the same order."""
        ...
