"""The limits and budgets that operators set. Adapter: ``storage/policies.py``. Every change is audited with itself."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol, TypeAlias, TypeVar

from roadworthy.domain.audit import Actor, AuditEntry
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod, BudgetScope, Spender
from roadworthy.domain.ids import BudgetId, TenantId
from roadworthy.domain.page import Page
from roadworthy.domain.rate_limit import AppliedLimit, RateCaller, RateKind, RateLimit, RateScope, applied

# A scope and a subject; None: each of the scope has its own.
_Place: TypeAlias = tuple[BudgetScope | RateScope, str | None]
_P = TypeVar("_P", Budget, RateLimit)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """All of one tenant's, arranged by whom they are for: a tenant may have a budget for each of thousands of users."""

    budgets: tuple[Budget, ...] = ()
    rates: tuple[RateLimit, ...] = ()
    _budgets_at: Mapping[_Place, Sequence[Budget]] = field(init=False, repr=False, compare=False)
    _rates_at: Mapping[_Place, Sequence[RateLimit]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # The dataclass is frozen: this is how its own fields are derived.
        object.__setattr__(self, "_budgets_at", _arranged(self.budgets))
        object.__setattr__(self, "_rates_at", _arranged(self.rates))

    def budgets_for(self, spender: Spender) -> Sequence[Budget]:
        """The budgets that a call of a spender counts towards."""
        return [
            budget
            for scope in BudgetScope
            if (subject := spender.subject(scope)) is not None
            for place in ((scope, None), (scope, subject))
            for budget in self._budgets_at.get(place, ())
            if budget.tenant == spender.owner.tenant
        ]

    def rates_for(self, caller: RateCaller) -> Sequence[AppliedLimit]:
        """The limits that hold for a caller: of two that fit, the one with a subject."""
        fitting = [
            rate
            for scope in RateScope
            for place in ((scope, None), (scope, caller.subject(scope)))
            for rate in self._rates_at.get(place, ())
        ]
        return applied(fitting, caller)


class PolicyStore(Protocol):
    """See the module."""

    async def of(self, tenant: TenantId) -> Policies:
        """A tenant's policies, not older than two seconds: asked before every run and every model call.

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


def _arranged(policies: Iterable[_P]) -> Mapping[_Place, Sequence[_P]]:
    places: dict[_Place, list[_P]] = {}
    for one in policies:
        places.setdefault((one.scope, one.subject), []).append(one)
    return places


class AuditLog(Protocol):
    """Reading what was changed; the changes themselves write it."""

    async def entries(
        self, tenant: TenantId | None, *, since: datetime | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        """Changes in a tenant (None: in all, for the operator's CLI), latest first."""
        ...
