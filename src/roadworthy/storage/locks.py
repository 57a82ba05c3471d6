"""The names that units lock with ``Transaction.lock`` where no row's own lock is enough. Which lock protects what, and
in which order they are taken: ``docs/adr/0017-on-postgres-units-lock-what-they-need.md``.
"""

from roadworthy.domain.ids import TenantId
from roadworthy.domain.rate_limit import AppliedLimit

# Whoever makes the first admin key, which is made only once.
FIRST_KEY = "first key"
# Whoever changes budgets or rate limits, so that the audit log says what was there before.
POLICIES = "policies"
# Whoever deletes rows in portions: a portion that is not full must mean that nothing is left.
REMOVAL = "removal"


def at_once(tenant: TenantId, applied: AppliedLimit) -> str:
    """Whoever stores a run that counts towards one limit of unfinished runs."""
    return f"at once {tenant} {applied.limit.scope} {applied.subject}"


def fleet(name: str) -> str:
    """Whoever starts a run that counts towards a cap of the whole fleet."""
    return f"fleet {name}"
