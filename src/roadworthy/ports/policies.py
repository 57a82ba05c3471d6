"""The limits and budgets that operators set. Adapter: ``storage/policies.py``. Every change is audited with itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from roadworthy.domain.audit import Actor, AuditEntry
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod
from roadworthy.domain.ids import BudgetId, TenantId
from roadworthy.domain.page import Page
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All of one tenant's."""

    budgets: tuple[Budget, ...] = ()
    rates: tuple[RateLimit, ...] = ()


class PolicyStore(Protocol):
    """See the module."""

    async def of(self, tenant: TenantId) -> Policies:
        """A tenant's policies, not older than two seconds: asked before every run.

        Raises:
            StorageUnavailable: they cannot be read; who asked must not go on without them.
        """
        ...

    async def budgets(self, tenant: TenantId | None) -> Sequence[Budget]:
        """Budgets of a tenant (None: of all, for the operator's CLI), ordered by tenant, scope, subject and window."""
        ...

    async def set_budget(self, tenant: TenantId, budget: Budget, actor: Actor) -> Budget:
        """Make a budget, or change the one with the same scope, subject and window, which keeps its id and its
        ``created_at``. Returns what is stored.
        """
        ...

    async def remove_budget(self, tenant: TenantId | None, budget_id: BudgetId, actor: Actor) -> bool:
        """Remove a budget with its periods. False when there is none."""
        ...

    async def top_up(self, tenant: TenantId, period: BudgetPeriod, nanos: int, actor: Actor) -> BudgetBalance | None:
        """Add to a period's limit. None when its budget is not there (any more)."""
        ...

    async def rates(self, tenant: TenantId | None) -> Sequence[RateLimit]:
        """Rate limits of a tenant (None: of all, for the operator's CLI)."""
        ...

    async def set_rate(self, tenant: TenantId, rate: RateLimit, actor: Actor) -> None:
        """Make a limit, or change the one with the same scope, subject and kind."""
        ...

    async def remove_rate(
        self, tenant: TenantId, scope: RateScope, subject: str | None, kind: RateKind, actor: Actor
    ) -> bool:
        """Remove a limit. False when there is none."""
        ...


class AuditLog(Protocol):
    """Reading what was changed; the changes themselves write it."""

    async def entries(
        self, tenant: TenantId | None, *, since: datetime | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        """Changes in a tenant (None: in all, for the operator's CLI), latest first."""
        ...
