"""Who spent what: sums over the ledger. Asked by ``protocols`` for a caller, by ``cli/usage.py`` for all tenants."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import TenantId
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.time_zone import parse_time_zone
from roadworthy.ports.clock import Clock
from roadworthy.ports.ledger import Ledger, UsageQuery, UsageRow

# A leap year and the hour that a clock change may add.
LONGEST = timedelta(days=366, hours=1)


class UsageReports:
    """``time_zone``: where days begin for who names no other."""

    def __init__(self, ledger: Ledger, clock: Clock, time_zone: str) -> None:
        self._ledger = ledger
        self._clock = clock
        self.time_zone = time_zone

    def now(self) -> datetime:
        """The moment up to which a report goes that names no other."""
        return self._clock.now()

    async def own(self, principal: Principal, query: UsageQuery) -> Sequence[UsageRow]:
        """What the caller's own user spent, whatever user the query names.

        Raises:
            PermissionDenied: the key may not read runs.
            InvalidRequest: as for ``of``.
        """
        principal.require(Scope.RUNS_READ)
        return await self.of(principal.owner.tenant, replace(query, user=principal.owner.user))

    async def of_tenant(self, principal: Principal, query: UsageQuery) -> Sequence[UsageRow]:
        """What the caller's tenant spent.

        Raises:
            PermissionDenied: the key may not read usage.
            InvalidRequest: as for ``of``.
        """
        principal.require(Scope.USAGE_READ)
        return await self.of(principal.owner.tenant, query)

    async def of(self, tenant: TenantId | None, query: UsageQuery) -> Sequence[UsageRow]:
        """What a tenant spent; None: all of them.

        Raises:
            InvalidRequest: the time is more than a year or ends before it begins, its zone is none, a group is named
                twice, or there are too many groups.
        """
        parse_time_zone(query.time_zone)
        if query.until <= query.since:
            raise InvalidRequest("the time asked for ends before it begins", field="until")
        if query.until - query.since > LONGEST:
            raise InvalidRequest("usage is reported for at most a year at once: ask year by year", field="since")
        if len(set(query.by)) != len(query.by):
            raise InvalidRequest("each group can be named once", field="by")
        return await self._ledger.usage(tenant, query)
