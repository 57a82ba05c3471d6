"""What has been settled in this process: wakes who waits for money, and knows how periods stand without asking.

One for the process, made by ``bootstrap``; ``engine/spending.py`` tells and asks it.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from threading import Lock
from typing import TypeAlias
from weakref import WeakValueDictionary

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod

# Another process's calls are heard of in no other way.
_PATIENCE = timedelta(milliseconds=500)

_Place: TypeAlias = tuple[str, str, datetime]


class Standing:
    """How a period stands, as far as this process knows. Safe from any thread.

    It lags behind the ledger: a top-up is seen when somebody reads the ledger next, calls of other processes too.
    """

    __slots__ = ("__weakref__", "_allowed", "_lock", "_spent", "period")

    def __init__(self, period: BudgetPeriod) -> None:
        self.period = period
        self._allowed = period.budget.limit_nanos
        self._spent = 0
        self._lock = Lock()

    def learn(self, balance: BudgetBalance) -> None:
        """Take over what the ledger says. It may not have heard of the latest calls: spent money stays spent."""
        with self._lock:
            self._allowed = balance.allowed_nanos
            self._spent = max(self._spent, balance.spent_nanos)

    def add(self, nanos: int) -> None:
        """A call of this process has cost something."""
        with self._lock:
            self._spent += nanos

    def exhausted(self) -> BudgetBalance | None:
        """How it stands when all of it is spent; else None."""
        with self._lock:
            allowed, spent = self._allowed, self._spent
        if allowed is None or spent < allowed:
            return None
        added = allowed - (self.period.budget.limit_nanos or 0)
        return BudgetBalance(period=self.period, spent_nanos=spent, topped_up_nanos=max(0, added))


@dataclass(frozen=True, slots=True)
class Coming:
    """The next settlement. Taken before asking the ledger, so that none is missed between the answer and the wait."""

    _event: asyncio.Event

    async def wait(self) -> None:
        """Until it has happened, half a second at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                await self._event.wait()


class Settlements:
    """See the module. ``announce`` and ``coming`` belong to the engine's event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        # Kept as long as some attempt uses them: the next one reads the ledger again.
        self._standings: WeakValueDictionary[_Place, Standing] = WeakValueDictionary()
        self._lock = Lock()

    def announce(self) -> None:
        """Money was freed."""
        self._event.set()
        self._event = asyncio.Event()

    def coming(self) -> Coming:
        """See ``Coming``."""
        return Coming(self._event)

    def standing(self, period: BudgetPeriod) -> Standing:
        """How a period stands; new ones begin with nothing spent. From any thread."""
        place = (period.budget.budget_id, period.subject, period.starts_at)
        with self._lock:
            standing = self._standings.get(place)
            if standing is None:
                standing = self._standings[place] = Standing(period)
            return standing
