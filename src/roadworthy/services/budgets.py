"""Budgets as operators see them: set, listed with what is left, topped up, removed.

``protocols/admin`` asks on behalf of a caller (``…_as``, within the caller's tenant), ``cli/budgets.py`` across
tenants. What is set here is obeyed by ``services/admission.py`` and, for runs under way, ``engine/spending.py``:
both ask ``ports/policies.py``, whose answers are at most two seconds old.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod, BudgetScope
from roadworthy.domain.errors import InvalidRequest, NotFound
from roadworthy.domain.ids import BudgetId, TenantId
from roadworthy.domain.principal import Principal, Scope
from roadworthy.ports.clock import Clock
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import PolicyStore
from roadworthy.services.budget_rules import MOST_NANOS, BudgetAsked, amounts, check, own_subject, topped_up_subject
from roadworthy.services.limit_rules import READING, check_subject


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetStatus:
    """A budget and how its present period stands. ``balance`` None: each subject has its own; none was asked for."""

    budget: Budget
    balance: BudgetBalance | None


class Budgets:
    """``time_zone``: where days, weeks and months of new budgets begin."""

    def __init__(
        self, policies: PolicyStore, ledger: Ledger, clock: Clock, new_id: Callable[[], str], time_zone: str
    ) -> None:
        self._policies = policies
        self._ledger = ledger
        self._clock = clock
        self._new_id = new_id
        self._time_zone = time_zone

    async def list_as(
        self, principal: Principal, *, scope: BudgetScope | None = None, subject: str | None = None
    ) -> Sequence[BudgetStatus]:
        """See ``list``.

        Raises:
            PermissionDenied: the key may neither read usage nor set limits.
            InvalidRequest: as for ``list``.
        """
        principal.require(*READING)
        return await self.list(principal.owner.tenant, scope=scope, subject=subject)

    async def set_as(self, principal: Principal, asked: BudgetAsked, actor: Actor) -> BudgetStatus:
        """See ``set``.

        Raises:
            PermissionDenied: the key may not set limits.
            InvalidRequest: as for ``set``.
        """
        principal.require(Scope.LIMITS_WRITE)
        return await self.set(principal.owner.tenant, asked, actor)

    async def remove_as(self, principal: Principal, budget_id: BudgetId, actor: Actor) -> None:
        """See ``remove``.

        Raises:
            PermissionDenied: the key may not set limits.
            NotFound: as for ``remove``.
        """
        principal.require(Scope.LIMITS_WRITE)
        await self.remove(principal.owner.tenant, budget_id, actor)

    async def top_up_as(
        self, principal: Principal, budget_id: BudgetId, nanos: int, actor: Actor, *, subject: str | None = None
    ) -> BudgetStatus:
        """See ``top_up``.

        Raises:
            PermissionDenied: the key may not set limits.
            NotFound, InvalidRequest: as for ``top_up``.
        """
        principal.require(Scope.LIMITS_WRITE)
        return await self.top_up(principal.owner.tenant, budget_id, nanos, actor, subject=subject)

    async def list(
        self, tenant: TenantId | None, *, scope: BudgetScope | None = None, subject: str | None = None
    ) -> Sequence[BudgetStatus]:
        """A tenant's budgets (None: all tenants'), of one scope if asked.

        With a ``subject`` those that apply to it: of a budget that each has of its own, its share is shown.

        Raises:
            InvalidRequest: a subject without a scope, or one that the scope cannot have.
        """
        if subject is not None:
            if scope is None:
                raise InvalidRequest("say of which scope the subject is", field="scope")
            check_subject(scope, subject)
        found = [
            budget
            for budget in await self._policies.budgets(tenant)
            if scope in (None, budget.scope) and (subject is None or own_subject(budget) in (None, subject))
        ]
        return await self._with_balances(found, subject)

    async def set(self, tenant: TenantId, asked: BudgetAsked, actor: Actor) -> BudgetStatus:
        """Make a budget, or change the one of the same scope, subject and window.

        What it has spent stays, and so do the limit, the soft limit and the time zone that are not given.

        Raises:
            InvalidRequest: scope, subject, window and amounts do not fit together; the message says what does.
        """
        check(asked)
        present = await self._present(tenant, asked)
        limit_nanos, soft_nanos = amounts(asked, present)
        now = self._clock.now()
        budget = Budget(
            budget_id=BudgetId(self._new_id()),
            tenant=tenant,
            scope=asked.scope,
            subject=asked.subject,
            window=asked.window,
            limit_nanos=limit_nanos,
            soft_nanos=soft_nanos,
            # Another default must not move the periods of a budget whose limit alone is changed.
            time_zone=asked.time_zone or (self._time_zone if present is None else present.time_zone),
            created_at=now,
            updated_at=now,
        )
        (status,) = await self._with_balances([await self._policies.set_budget(tenant, budget, actor)], None)
        return status

    async def remove(self, tenant: TenantId | None, budget_id: BudgetId, actor: Actor) -> None:
        """Remove a budget with what it counted; the ledger stays as it is.

        Raises:
            NotFound: there is no such budget.
        """
        if not await self._policies.remove_budget(tenant, budget_id, actor):
            raise _no_budget(budget_id)

    async def top_up(
        self, tenant: TenantId | None, budget_id: BudgetId, nanos: int, actor: Actor, *, subject: str | None = None
    ) -> BudgetStatus:
        """Add to the limit of a budget's present period; the next one begins with the plain limit again.

        Raises:
            NotFound: there is no such budget.
            InvalidRequest: the budget has no limit or is for each run; each has its own and ``subject`` names none;
                the amount is 0, or makes the period more than a billion USD.
        """
        budget = next((one for one in await self._policies.budgets(tenant) if one.budget_id == budget_id), None)
        if budget is None:
            raise _no_budget(budget_id)
        if budget.limit_nanos is None:
            raise InvalidRequest("this budget has no limit, it only warns: there is nothing to top up")
        period = budget.period_of(topped_up_subject(budget, subject), self._clock.now())
        (present,) = await self._ledger.balances(budget.tenant, [period])
        if not 0 < nanos <= MOST_NANOS - budget.limit_nanos - present.topped_up_nanos:
            raise InvalidRequest("a top-up must be more than 0, and limit and top-ups at most a billion USD")
        balance = await self._policies.top_up(budget.tenant, period, nanos, actor)
        if balance is None:
            raise _no_budget(budget_id)
        return BudgetStatus(budget=budget, balance=balance)

    async def _present(self, tenant: TenantId, asked: BudgetAsked) -> Budget | None:
        """The budget that is changed; None when it will be a new one."""
        place = (asked.scope, asked.subject, asked.window)
        found = await self._policies.budgets(tenant)
        return next((budget for budget in found if (budget.scope, budget.subject, budget.window) == place), None)

    async def _with_balances(self, budgets: Sequence[Budget], subject: str | None) -> Sequence[BudgetStatus]:
        now = self._clock.now()
        periods: dict[TenantId, list[BudgetPeriod]] = {}
        for budget in budgets:
            whose = own_subject(budget) or subject
            if whose is not None:
                periods.setdefault(budget.tenant, []).append(budget.period_of(whose, now))
        balances: dict[BudgetId, BudgetBalance] = {}
        for tenant, asked in periods.items():
            for balance in await self._ledger.balances(tenant, asked):
                balances[balance.period.budget.budget_id] = balance
        return [BudgetStatus(budget=budget, balance=balances.get(budget.budget_id)) for budget in budgets]


def _no_budget(budget_id: BudgetId) -> NotFound:
    return NotFound(f"there is no budget {budget_id[:64]}")
