"""Part of a unit that starts a run: whether so many may run at once. Called by ``queue.py`` and ``accept.py``.

Whoever starts a run that counts towards a cap waits for whoever else does, so that nobody counts what another is just
about to start. Without caps nothing is counted and nobody waits.
"""

from collections.abc import Callable, Sequence

from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.ids import AgentName, TenantId
from roadworthy.storage import locks
from roadworthy.storage import statements as sql
from roadworthy.storage.transaction import Row, Transaction


class Capped(Exception):
    """Undoes a start: the run has to wait."""


def check_caps(tx: Transaction, caps: FleetCaps, tenant: TenantId, agent: AgentName) -> None:
    """After the run was set running.

    Raises:
        Capped: that is one too many.
    """
    if not caps.any:
        return
    limits = (caps.total, caps.per_tenant, caps.per_agent)
    names = ("running", f"running of {tenant}", f"running {agent}")
    tx.lock(*(locks.fleet(name) for name, limit in zip(names, limits, strict=True) if limit is not None))
    counts = tx.one(sql.RUNNING, tenant=tenant, agent=agent) or (0, 0, 0)
    if any(limit is not None and count > limit for count, limit in zip(counts, limits, strict=True)):
        raise Capped


def room(caps: FleetCaps, running: Sequence[Row]) -> Callable[[TenantId, AgentName], bool]:
    """Whether one more may start, by the rows of ``RUNNING_BY``. A hint: ``check_caps`` decides."""
    total = sum(count for _, _, count in running)

    def has_room(tenant: TenantId, agent: AgentName) -> bool:
        of_tenant = sum(count for its, _, count in running if its == tenant)
        of_agent = sum(count for _, its, count in running if its == agent)
        limits = ((total, caps.total), (of_tenant, caps.per_tenant), (of_agent, caps.per_agent))
        return all(limit is None or count < limit for count, limit in limits)

    return has_room
