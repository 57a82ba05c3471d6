"""Whose turn it is: tenants are served round robin, and users round robin within their tenant.

Kept in memory: after a restart everyone starts equal.
"""

from collections.abc import Sequence

from roadworthy.domain.ids import TenantId, UserId
from roadworthy.ports.queue import Waiting

_FORGET_ABOVE = 10_000


class Turns:
    """Remembers when each tenant and each user was last served, as a running number."""

    def __init__(self) -> None:
        self._served = 0
        self._tenants: dict[TenantId, int] = {}
        self._users: dict[tuple[TenantId, UserId], int] = {}

    def pick(self, waiting: Sequence[Waiting]) -> Waiting:
        """The one to serve next; ``waiting`` is not empty, its order breaks ties."""
        return min(
            waiting,
            key=lambda one: (self._tenants.get(one.tenant, 0), self._users.get((one.tenant, one.user), 0)),
        )

    def served(self, one: Waiting) -> None:
        """Note that it got its turn."""
        if len(self._users) > _FORGET_ABOVE:
            self._tenants.clear()
            self._users.clear()
        self._served += 1
        self._tenants[one.tenant] = self._served
        self._users[one.tenant, one.user] = self._served
