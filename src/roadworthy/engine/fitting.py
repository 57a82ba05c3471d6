"""Which of a tenant's policies are about one run, as they are now: they may change while it is under way.

Asked by ``engine/spending.py`` before each model call and after it; below are the stored policies.
"""

from collections.abc import Sequence
from datetime import datetime

from roadworthy.domain.budget import Budget, BudgetPeriod, Spender
from roadworthy.domain.rate_limit import AppliedLimit, RateCaller, RateKind
from roadworthy.domain.run import Run
from roadworthy.ports.policies import Policies, PolicyStore


class FittingPolicies:
    """One run's. What was seen last may be read from any thread.

    ``budgets``: those that fit the run; ``token_limits``: of its caller, per minute.
    """

    def __init__(self, run: Run, store: PolicyStore) -> None:
        self.budgets: Sequence[Budget] = ()
        self.token_limits: Sequence[AppliedLimit] = ()
        self._store = store
        self._tenant = run.owner.tenant
        self._spender = Spender(owner=run.owner, key_id=run.key_id, agent=run.agent, run_id=run.run_id)
        self._caller = RateCaller(tenant=run.owner.tenant, user=run.owner.user, key_id=run.key_id)
        self._seen: Policies | None = None

    @property
    def limited(self) -> bool:
        """Whether one of the budgets has a limit, and does not only warn."""
        return any(budget.limit_nanos is not None for budget in self.budgets)

    async def look(self) -> bool:
        """Look at the stored policies; whether other budgets fit than before. Costs nothing while they are the same.

        Raises:
            StorageUnavailable: they cannot be read.
        """
        policies = await self._store.of(self._tenant)
        if policies is self._seen:
            return False
        self._seen = policies
        limits = policies.rates_for(self._caller)
        self.token_limits = [one for one in limits if one.limit.kind is RateKind.TOKENS]
        before, self.budgets = self.budgets, policies.budgets_for(self._spender)
        return self.budgets != before

    def periods(self, moment: datetime) -> Sequence[BudgetPeriod]:
        """What a call begun at ``moment`` counts towards, in the order in which the ledger locks it."""
        found = [one for budget in self.budgets if (one := budget.period_for(self._spender, moment)) is not None]
        return sorted(found, key=lambda period: (period.budget.budget_id, period.subject, period.starts_at))
