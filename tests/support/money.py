"""Money for tests: prices that can be counted in the head, budgets in them, and a ledger that says what it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from roadworthy.domain.budget import (
    Budget,
    BudgetBalance,
    BudgetPeriod,
    BudgetScope,
    BudgetWindow,
    Exhausted,
    Held,
    InFlight,
    Occupied,
    Reservation,
)
from roadworthy.domain.ids import BudgetId, RunId, TenantId, new_id
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import RateLimit
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.ports.ledger import UsageQuery, UsageRow
from roadworthy.ports.policies import Policies, PolicyStore
from roadworthy.ports.prices import Price

ACME = TenantId("acme")
UNKNOWN_MODEL = "unheard-of"


@dataclass(frozen=True, slots=True, kw_only=True)
class FlatPrices:
    """A PriceBook: one nano-USD for each token, and as much for each call; nothing is known of ``UNKNOWN_MODEL``."""

    per_token: int = 1
    per_call: int = 0

    def price(self, provider: str, model: str, tokens: Tokens, at: datetime) -> Price | None:
        """See the port."""
        if model == UNKNOWN_MODEL:
            return None
        return Price(cost_nanos=self.per_call + self.per_token * tokens.total, version="flat")


def a_budget(
    limit_nanos: int | None,
    *,
    tenant: TenantId = ACME,
    scope: BudgetScope = BudgetScope.TENANT,
    subject: str | None = None,
    window: BudgetWindow = BudgetWindow.TOTAL,
    soft_nanos: int | None = None,
    since: datetime = datetime(2020, 1, 1, tzinfo=UTC),
) -> Budget:
    """A budget of its own id."""
    return Budget(
        budget_id=BudgetId(new_id()),
        tenant=tenant,
        scope=scope,
        subject=subject,
        window=window,
        limit_nanos=limit_nanos,
        soft_nanos=soft_nanos,
        time_zone="UTC",
        created_at=since,
        updated_at=since,
    )


class SilentLedger:
    """A Ledger on which nothing is ever spent. Tests override what they are about."""

    in_line = True

    async def reserve(
        self, run: Run, reservation: Reservation, periods: Sequence[BudgetPeriod]
    ) -> Held | Occupied | Exhausted:
        """See the port."""
        return Held()

    async def append(
        self, run: Run, calls: Sequence[ModelCall], charges: Mapping[str, Sequence[BudgetPeriod]]
    ) -> Sequence[BudgetBalance]:
        """See the port."""
        return ()

    async def release(self, run: Run) -> None:
        """See the port."""

    async def in_flight(self, run: Run) -> Sequence[InFlight]:
        """See the port."""
        return ()

    async def sweep(self, before: datetime) -> int:
        """See the port."""
        return 0

    async def of_run(self, owner: Owner, run_id: RunId) -> Sequence[ModelCall]:
        """See the port."""
        return ()

    async def usage(self, tenant: TenantId | None, query: UsageQuery) -> Sequence[UsageRow]:
        """See the port."""
        return ()

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        """See the port."""
        return [BudgetBalance(period=period) for period in periods]


class FixedPolicies:
    """What a PolicyStore holds of one tenant, until the test changes it. ``errors``: raised by the next questions."""

    def __init__(self, *budgets: Budget, rates: Sequence[RateLimit] = ()) -> None:
        self.errors: list[Exception] = []
        self.policies = Policies(budgets=budgets, rates=tuple(rates))

    def set(self, *budgets: Budget) -> None:
        """From now on there are these budgets."""
        self.policies = Policies(budgets=budgets, rates=self.policies.rates)

    async def of(self, tenant: TenantId) -> Policies:
        """See the port."""
        if self.errors:
            raise self.errors.pop(0)
        return self.policies

    @property
    def store(self) -> PolicyStore:
        """Itself: runs ask for nothing else."""
        return cast("PolicyStore", self)
