"""Who changed what: reading the audit log. Asked by ``protocols/admin`` and ``cli/audit.py``."""

from datetime import datetime

from roadworthy.domain.audit import AuditEntry
from roadworthy.domain.ids import TenantId
from roadworthy.domain.page import Page
from roadworthy.domain.principal import Principal, Scope
from roadworthy.ports.policies import AuditLog


class AuditTrail:
    """See the module."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    async def entries(
        self, principal: Principal, *, since: datetime | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        """Changes in the caller's tenant, latest first.

        Raises:
            PermissionDenied: the key may not read the audit log.
            InvalidRequest: the cursor is none of ours.
        """
        principal.require(Scope.AUDIT_READ)
        return await self.entries_of(principal.owner.tenant, since=since, limit=limit, cursor=cursor)

    async def entries_of(
        self, tenant: TenantId | None, *, since: datetime | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        """Changes in a tenant (None: in all), latest first.

        Raises:
            InvalidRequest: the cursor is none of ours.
        """
        return await self._log.entries(tenant, since=since, limit=limit, cursor=cursor)
