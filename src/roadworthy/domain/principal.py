"""Who is calling, and what they may do.

``http/auth.py`` makes a Principal from a key; every service and repository takes its tenant and user.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from roadworthy.domain.errors import PermissionDenied
from roadworthy.domain.ids import AgentName, KeyId, TenantId, UserId


class Scope(StrEnum):
    """One permission. A user's key holds the first two; ADMIN holds all; what it does stays within the key's tenant."""

    RUNS_READ = "runs:read"
    RUNS_WRITE = "runs:write"
    RUNS_ON_BEHALF = "runs:on_behalf"
    USAGE_READ = "usage:read"
    METRICS_READ = "metrics:read"
    LIMITS_WRITE = "limits:write"
    KEYS_WRITE = "keys:write"
    AUDIT_READ = "audit:read"
    ADMIN = "admin"


USER_SCOPES = frozenset({Scope.RUNS_READ, Scope.RUNS_WRITE})


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The boundary of data: a user within a tenant. Threads, runs, store items and idempotency keys live inside one."""

    tenant: TenantId
    user: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """An authenticated caller. ``agents`` None means every agent. ``expires_at``: when its key ends, if it does."""

    owner: Owner
    scopes: frozenset[Scope]
    key_id: KeyId | None = None
    agents: frozenset[AgentName] | None = None
    expires_at: datetime | None = None

    def require(self, *any_of: Scope) -> None:
        """Check that the caller has a permission, one of several if more are named; ``admin`` holds all of them.

        Raises:
            PermissionDenied: the key lacks it.
        """
        if self.scopes.isdisjoint({*any_of, Scope.ADMIN}):
            raise PermissionDenied(f"this key lacks the scope {' or '.join(scope.value for scope in any_of)}")

    def require_agent(self, agent: AgentName) -> None:
        """Check that the key may use an agent.

        Raises:
            PermissionDenied: the key names its agents and this is none of them.
        """
        if self.agents is not None and agent not in self.agents:
            raise PermissionDenied(f"this key may not use the agent {agent}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A stored credential. ``digest``: HMAC-SHA256 of the whole key text with the pepper; the text is never kept.

    ``replaced_at``: when another key took its place; it may be usable for a while longer.
    """

    key_id: KeyId
    owner: Owner
    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    agents: frozenset[AgentName] | None
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None
    replaced_at: datetime | None = None

    def usable_at(self, moment: datetime) -> bool:
        """Whether the key opens anything at ``moment``. A rotated key stays usable until its ``expires_at``."""
        if self.revoked_at is not None and self.revoked_at <= moment:
            return False
        return self.expires_at is None or moment < self.expires_at
