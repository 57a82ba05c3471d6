"""Counters of what was used in the last minute. Adapter: ``storage/rates.py``, in memory.

Rates fail open: an adapter that loses its counters lets callers through, with a note for the operator.
"""

from typing import Protocol

from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.rate_status import RateStatus


class RateCounters(Protocol):
    """For limits of the kinds REQUESTS and TOKENS. Tokens count once used: a minute may end over its limit."""

    async def hit(self, limit: AppliedLimit) -> tuple[bool, RateStatus]:
        """Count one request, if the limit has room for it. Whether it had, and how the limit stands now."""
        ...

    async def look(self, limit: AppliedLimit) -> RateStatus:
        """How a limit stands, counting nothing. For tokens, ``remaining`` 0 means that nothing more may begin."""
        ...

    async def add(self, limit: AppliedLimit, amount: int) -> None:
        """Count what was used, over the limit if need be."""
        ...
