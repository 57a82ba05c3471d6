"""Whether anybody is called as a limit says: a mistyped name would limit nobody, without a word.

Asked by ``cli/budgets.py`` and ``cli/rates.py`` after a limit is set; it may be meant for who comes later.
"""

from datetime import timedelta
from typing import TYPE_CHECKING

from roadworthy.cli.output import hint

if TYPE_CHECKING:
    from roadworthy.cli.data import OperatorData
    from roadworthy.domain.budget import BudgetScope
    from roadworthy.domain.ids import TenantId
    from roadworthy.domain.rate_limit import RateScope

_LOOK_BACK = timedelta(days=365)


async def hint_at_unknown(
    data: "OperatorData", tenant: "TenantId", scope: "BudgetScope | RateScope", subject: str | None
) -> None:
    """Say so on standard error when a key is not there, or an agent has not made a model call for a year."""
    if subject is None:
        return
    match scope.value:
        case "key" if all(key.key_id != subject for key in await data.keys.list(tenant)):
            hint(f"no key {subject} is known in the tenant {tenant}: see `roadworthy keys list`")
        case "agent" if subject not in await _agents(data, tenant):
            hint(f"no agent {subject} has run in the tenant {tenant} within a year: is it called so?")
        case _:
            pass


async def _agents(data: "OperatorData", tenant: "TenantId") -> set[object]:
    from roadworthy.ports.ledger import UsageGroup, UsageQuery

    now = data.usage.now()
    query = UsageQuery(by=[UsageGroup.AGENT], since=now - _LOOK_BACK, until=now + timedelta(seconds=1))
    return {row.group[0] for row in await data.usage.of(tenant, query)}
