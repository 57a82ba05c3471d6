"""The policies of tenants as they were at most two seconds ago. Part of ``policies.py``.

Few are read at once on the event loop, as looks-up are. Many, a budget for each of thousands of users, are read on a
reader thread, and ahead of time: one caller reads them again when half of their time is over, and the others go on
with those that are known.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial

from roadworthy.domain.ids import TenantId
from roadworthy.ports.clock import Clock
from roadworthy.ports.policies import Policies
from roadworthy.storage import policy_statements as sql
from roadworthy.storage.policy_rows import budget_from, rate_from
from roadworthy.storage.transaction import Database, Row, Transaction

# Tenants that are kept.
_SIZE = 10_000
# Budgets and limits that are read on the event loop's own thread: less than a millisecond.
_FEW = 50


@dataclass(slots=True, eq=False)
class _Known:
    """What is known of one tenant. ``reading`` is held by who reads it again."""

    reading: asyncio.Lock = field(default_factory=asyncio.Lock)
    policies: Policies | None = None
    read_at: float = 0.0
    many: bool = False


class PolicyCache:
    """``kept_for``: how long policies may be believed without asking the database."""

    def __init__(self, database: Database, clock: Clock, kept_for: timedelta) -> None:
        self._database = database
        self._clock = clock
        self._kept_for = kept_for.total_seconds()
        self._tenants: dict[TenantId, _Known] = {}

    async def of(self, tenant: TenantId) -> Policies:
        """See ``ports.policies.PolicyStore.of``."""
        known = self._tenants.get(tenant) or self._begun(tenant)
        policies = self._believed(known, may_lag=known.reading.locked())
        if policies is not None:
            return policies
        async with known.reading:
            # Who waited for another one's reading has its answer.
            return self._believed(known, may_lag=False) or await self._read(tenant, known)

    def forget(self, tenant: TenantId | None) -> None:
        """They were changed (None: maybe any tenant's). Who reads beside the change fills in what nobody asks again."""
        if tenant is None:
            self._tenants.clear()
        else:
            self._tenants.pop(tenant, None)

    def _begun(self, tenant: TenantId) -> _Known:
        if len(self._tenants) >= _SIZE:
            self._tenants.clear()
        known = self._tenants[tenant] = _Known()
        return known

    def _believed(self, known: _Known, *, may_lag: bool) -> Policies | None:
        """``may_lag``: somebody reads them just now, until then they may get as old as any may."""
        kept_for = self._kept_for if may_lag or not known.many else self._kept_for / 2
        return known.policies if self._clock.monotonic() - known.read_at < kept_for else None

    async def _read(self, tenant: TenantId, known: _Known) -> Policies:
        now = self._clock.monotonic()
        policies = None if known.many else await self._database.read(partial(_some, tenant=tenant))
        if policies is None:
            policies = await self._database.read(partial(_all, tenant=tenant), scan=True)
        known.many = max(len(policies.budgets), len(policies.rates)) > _FEW
        known.policies, known.read_at = policies, now
        return policies


def _some(tx: Transaction, tenant: TenantId) -> Policies | None:
    """None when there are more than a few."""
    budgets = tx.all(sql.SOME_BUDGETS_OF_TENANT, tenant=tenant, limit=_FEW + 1)
    rates = tx.all(sql.SOME_RATES_OF_TENANT, tenant=tenant, limit=_FEW + 1)
    return None if max(len(budgets), len(rates)) > _FEW else _policies(budgets, rates)


def _all(tx: Transaction, tenant: TenantId) -> Policies:
    return _policies(tx.all(sql.BUDGETS_OF_TENANT, tenant=tenant), tx.all(sql.RATES_OF_TENANT, tenant=tenant))


def _policies(budgets: Sequence[Row], rates: Sequence[Row]) -> Policies:
    return Policies(budgets=tuple(map(budget_from, budgets)), rates=tuple(map(rate_from, rates)))
