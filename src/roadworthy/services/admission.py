"""Whether a run may begin: the caller's scope, then rates, then budgets. Then the run goes to the engine.

Above: ``services/runs.py``. Rates fail open: counters that are lost let callers through. Budgets fail closed: what
cannot be read refuses. A tenant without policies pays for asking whether there are any, and for nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from roadworthy.domain.budget import BudgetBalance, Spender, exceeded
from roadworthy.domain.errors import LimitExceeded, RateLimited
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.rate_limit import AppliedLimit, RateCaller, RateKind
from roadworthy.domain.rate_status import RateStatus
from roadworthy.domain.run import Run
from roadworthy.ports.clock import Clock
from roadworthy.ports.dispatch import Dispatcher
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import Policies, PolicyStore
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.ports.rate_limit import RateCounters
from roadworthy.ports.telemetry import Telemetry

_NEVER = datetime.max.replace(tzinfo=UTC)


class Admission:
    """Every run of every dialect passes here."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        policies: PolicyStore,
        ledger: Ledger,
        rates: RateCounters,
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        self._dispatcher = dispatcher
        self._policies = policies
        self._ledger = ledger
        self._rates = rates
        self._clock = clock
        self._telemetry = telemetry

    def check(self, principal: Principal) -> None:
        """Refuse early, before the input is looked at.

        Raises:
            PermissionDenied: the key may not start runs.
        """
        principal.require(Scope.RUNS_WRITE)

    async def admit(self, run: Run, *, idempotency: IdempotencyRecord | None) -> Accepted:
        """Hand a run to the engine, if the caller's rates and budgets have room for it.

        A request is a request: one with a known idempotency key counts too. No spent budget refuses it: its run is
        there already.

        Raises:
            BudgetExceeded: a budget that applies to the caller is spent. Nothing is stored.
            Draining, QueueFull, RateLimited, ThreadBusy, AgentMismatch, IdempotencyMismatch, StorageUnavailable:
                nothing is stored. RateLimited tells how all of the caller's limits stand.
        """
        try:
            return await self._admit(run, idempotency)
        except LimitExceeded as refusal:
            self._telemetry.refused(refusal)
            raise

    async def _admit(self, run: Run, idempotency: IdempotencyRecord | None) -> Accepted:
        policies = await self._policies.of(run.owner.tenant)
        caller = RateCaller(tenant=run.owner.tenant, user=run.owner.user, key_id=run.key_id)
        limits = policies.rates_for(caller)
        rates = await self._count([one for one in limits if one.limit.kind is not RateKind.RUNS])
        spent = await self._spent(run, policies)
        if spent is not None:
            replay = None if idempotency is None else await self._dispatcher.find_replay(run.owner, idempotency)
            if replay is None:
                raise exceeded(spent)
            return Accepted(run=replay, replayed=True, rates=rates)
        at_once = [one for one in limits if one.limit.kind is RateKind.RUNS]
        try:
            accepted = await self._dispatcher.submit(run, idempotency=idempotency, at_once=at_once)
        except RateLimited as refusal:
            refusal.rates = (*rates, *refusal.rates)
            raise
        return replace(accepted, rates=rates) if rates else accepted

    async def _count(self, limits: Sequence[AppliedLimit]) -> Sequence[RateStatus]:
        """Count the request in all limits. All are looked at first: one that refuses leaves the others uncounted.

        Raises:
            RateLimited: one has no room.
        """
        statuses = [await self._rates.look(one) for one in limits]
        full = [index for index, status in enumerate(statuses) if status.remaining <= 0]
        if full:
            # The one that lasts longest, so that who waits as long as told is not refused by another.
            raise _refusal(limits, statuses, max(full, key=lambda index: statuses[index].resets_in))
        for index, one in enumerate(limits):
            if one.limit.kind is RateKind.REQUESTS:
                counted, statuses[index] = await self._rates.hit(one)
                if not counted:  # somebody else took the last one since
                    raise _refusal(limits, statuses, index)
        return statuses

    async def _spent(self, run: Run, policies: Policies) -> BudgetBalance | None:
        """The spent period that lasts longest of those that a call of the caller would count towards."""
        now = self._clock.now()
        spender = Spender(owner=run.owner, key_id=run.key_id, agent=run.agent)
        limited = (one for one in policies.budgets_for(spender) if one.limit_nanos is not None)
        found = (one.period_for(spender, now) for one in limited)
        periods = [period for period in found if period is not None]
        if not periods:
            return None
        balances = await self._ledger.balances(run.owner.tenant, periods)
        spent = [balance for balance in balances if balance.exhausted]
        return max(spent, key=lambda balance: balance.period.ends_at or _NEVER, default=None)


def _refusal(limits: Sequence[AppliedLimit], statuses: Sequence[RateStatus], index: int) -> RateLimited:
    limit, status = limits[index].limit, statuses[index]
    return RateLimited(
        f"the limit of {limit.limit} {limit.kind.value} a minute for this {limit.scope.value} is reached",
        retry_after=status.resets_in,
        rates=tuple(statuses),
    )
