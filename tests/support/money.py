"""Money for tests: prices that can be counted in the head, and budgets in them."""

from dataclasses import dataclass
from datetime import UTC, datetime

from roadworthy.domain.budget import Budget, BudgetScope, BudgetWindow
from roadworthy.domain.ids import BudgetId, TenantId, new_id
from roadworthy.domain.usage import Tokens
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
