"""The services of limits and money behind the web side; ``fakes.py`` puts them beside the others."""

from collections.abc import Sequence
from datetime import datetime

from roadworthy.domain.ids import TenantId
from roadworthy.ports.ledger import UsageQuery, UsageRow
from roadworthy.services.audit import AuditTrail
from roadworthy.services.budgets import Budgets
from roadworthy.services.limits import Limits
from roadworthy.services.usage import UsageReports


class FakeUsage(UsageReports):
    """``rows`` are what anybody spent. ``asked``: the queries, with the user in them for whom they were answered."""

    def __init__(self, now: datetime) -> None:
        self.rows: Sequence[UsageRow] = ()
        self.asked: list[UsageQuery] = []
        self.time_zone = "UTC"
        self._now = now

    def now(self) -> datetime:
        return self._now

    async def of(self, tenant: TenantId | None, query: UsageQuery) -> Sequence[UsageRow]:
        self.asked.append(query)
        return self.rows


class NoBudgets(Budgets):
    """Nobody asks for them here."""

    def __init__(self) -> None:
        pass


class NoLimits(Limits):
    """Nobody asks for them here."""

    def __init__(self) -> None:
        pass


class NoAudit(AuditTrail):
    """Nobody asks for it here."""

    def __init__(self) -> None:
        pass
