"""Which keys a caller may make, replace or end: never one with more rights than its own. Used by ``keys.py``.

A backend may end more than it may make: whoever finds a leaked key must be able to end it, and that grants nothing.
"""

from datetime import datetime

from roadworthy.domain.errors import PermissionDenied
from roadworthy.domain.ids import AgentName
from roadworthy.domain.principal import ApiKey, Owner, Principal, Scope


def require_rights(
    principal: Principal,
    *,
    owner: Owner,
    scopes: frozenset[Scope],
    agents: frozenset[AgentName] | None,
    expires_at: datetime | None,
) -> None:
    """Check that a caller has all that a key would have.

    Raises:
        PermissionDenied: the key would reach further in the part that the message names.
    """
    _require_owner(principal, owner)
    _require_scopes(principal, scopes)
    _require_agents(principal, agents)
    _require_end(principal, expires_at)


def require_ending(principal: Principal, key: ApiKey) -> None:
    """Check that a caller may end a key of its tenant: an admin any key, a backend any but an admin's, everybody else
    those with no more rights than its own.

    Raises:
        PermissionDenied: it may not.
    """
    backend = Scope.RUNS_ON_BEHALF in principal.scopes and Scope.ADMIN not in key.scopes
    if Scope.ADMIN not in principal.scopes and not backend:
        require_rights(principal, owner=key.owner, scopes=key.scopes, agents=key.agents, expires_at=key.expires_at)


def _require_owner(principal: Principal, owner: Owner) -> None:
    if owner.tenant != principal.owner.tenant:
        raise PermissionDenied("tenant: your credential reaches no other tenant")
    if owner.user != principal.owner.user and not principal.scopes & {Scope.RUNS_ON_BEHALF, Scope.ADMIN}:
        raise PermissionDenied(f"user: another user's key takes the scope {Scope.RUNS_ON_BEHALF.value}")


def _require_scopes(principal: Principal, scopes: frozenset[Scope]) -> None:
    more = frozenset[Scope]() if Scope.ADMIN in principal.scopes else scopes - principal.scopes
    if more:
        raise PermissionDenied(f"scopes: your credential lacks {' '.join(sorted(more))}")


def _require_agents(principal: Principal, agents: frozenset[AgentName] | None) -> None:
    if principal.agents is None:
        return
    if agents is None:
        raise PermissionDenied("agents: your credential may not use every agent")
    if agents - principal.agents:
        raise PermissionDenied(f"agents: your credential may not use {' '.join(sorted(agents - principal.agents))}")


def _require_end(principal: Principal, expires_at: datetime | None) -> None:
    if principal.expires_at is not None and (expires_at is None or expires_at > principal.expires_at):
        raise PermissionDenied(f"expiry: your credential ends at {principal.expires_at.isoformat()}")
