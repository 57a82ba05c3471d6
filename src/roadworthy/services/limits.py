"""Rate limits as operators see them: set, listed, removed.

``protocols/admin`` asks on behalf of a caller (``…_as``, within the caller's tenant), ``cli/rates.py`` across tenants.
``services/admission.py`` obeys what is set here within two seconds.
"""

from collections.abc import Sequence

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import InvalidRequest, NotFound
from roadworthy.domain.ids import TenantId
from roadworthy.domain.principal import Principal, Scope
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.ports.policies import PolicyStore
from roadworthy.services.limit_rules import READING, check_subject

MOST = 1_000_000_000_000


class Limits:
    """See the module."""

    def __init__(self, policies: PolicyStore) -> None:
        self._policies = policies

    async def list_as(self, principal: Principal) -> Sequence[RateLimit]:
        """The rate limits of the caller's tenant.

        Raises:
            PermissionDenied: the key may neither read usage nor set limits.
        """
        principal.require(*READING)
        return await self.list(principal.owner.tenant)

    async def set_as(
        self,
        principal: Principal,
        scope: RateScope,
        kind: RateKind,
        limit: int,
        actor: Actor,
        *,
        subject: str | None = None,
    ) -> RateLimit:
        """See ``set``.

        Raises:
            PermissionDenied: the key may not set limits.
            InvalidRequest: as for ``set``.
        """
        principal.require(Scope.LIMITS_WRITE)
        rate = RateLimit(tenant=principal.owner.tenant, scope=scope, kind=kind, limit=limit, subject=subject)
        return await self.set(rate, actor)

    async def remove_as(
        self, principal: Principal, scope: RateScope, kind: RateKind, actor: Actor, *, subject: str | None = None
    ) -> None:
        """See ``remove``.

        Raises:
            PermissionDenied: the key may not set limits.
            NotFound: as for ``remove``.
        """
        principal.require(Scope.LIMITS_WRITE)
        await self.remove(principal.owner.tenant, scope, kind, actor, subject=subject)

    async def list(self, tenant: TenantId | None) -> Sequence[RateLimit]:
        """A tenant's rate limits; None: all tenants'."""
        return await self._policies.rates(tenant)

    async def set(self, rate: RateLimit, actor: Actor) -> RateLimit:
        """Make a limit, or change the one of the same scope, subject and kind.

        Raises:
            InvalidRequest: it is less than 1, or the subject is none that its scope can have.
        """
        if not 1 <= rate.limit <= MOST:
            raise InvalidRequest("a limit must be from 1 to a million millions", field="limit")
        if rate.subject is not None:
            if rate.scope is RateScope.TENANT:
                raise InvalidRequest("a limit of the scope tenant has no subject", field="subject")
            check_subject(rate.scope, rate.subject)
        await self._policies.set_rate(rate.tenant, rate, actor)
        return rate

    async def remove(
        self, tenant: TenantId, scope: RateScope, kind: RateKind, actor: Actor, *, subject: str | None = None
    ) -> None:
        """Remove a limit.

        Raises:
            NotFound: there is no such limit.
        """
        if not await self._policies.remove_rate(tenant, scope, subject, kind, actor):
            whose = f"each {scope.value}" if subject is None else f"the {scope.value} {subject[:128]}"
            raise NotFound(f"there is no limit on {kind.value} for {whose}")
