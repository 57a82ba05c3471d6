"""What has been settled in this process: wakes who waits for money, and knows how periods stand without asking.

One for the process, made by ``bootstrap``; ``engine/spending.py`` tells and asks it.
"""

import asyncio
from collections.abc import Iterable, Mapping
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
_Share: TypeAlias = tuple[str, str]


class Standing:
    """How a period stands, as far as this process knows. Safe from any thread.

    It lags behind the ledger: a top-up is seen when somebody reads the ledger next, calls of other processes too.
    ``lift`` holds money here, for calls that cannot wait until the ledger does; ``carry`` notes what the ledger holds.
    """

    __slots__ = ("__weakref__", "_lifted", "_lock", "_spent", "_topped_up")

    def __init__(self) -> None:
        self._spent = 0
        self._topped_up = 0
        self._lifted = 0
        self._lock = Lock()

    def learn(self, balance: BudgetBalance) -> None:
        """Take over what the ledger says. It may not have heard of the latest calls: spent money stays spent."""
        with self._lock:
            self._topped_up = balance.topped_up_nanos
            self._spent = max(self._spent, balance.spent_nanos)

    def add(self, nanos: int) -> None:
        """A call of this process has cost something."""
        with self._lock:
            self._spent += nanos

    def balance(self, period: BudgetPeriod) -> BudgetBalance:
        """How it stands, by the limit that ``period`` has now."""
        with self._lock:
            return BudgetBalance(period=period, spent_nanos=self._spent, topped_up_nanos=self._topped_up)

    def lift(self, period: BudgetPeriod, nanos: int) -> bool:
        """Hold some until ``drop``; False when it is spent, or when what is left is held already."""
        with self._lock:
            limit = period.budget.limit_nanos
            if limit is not None:
                left = limit + self._topped_up - self._spent
                if left <= 0 or (self._lifted and self._lifted + nanos > left):
                    return False
            self._lifted += nanos
            return True

    def carry(self, nanos: int) -> None:
        """Hold some until ``drop``, whatever is left: the ledger does."""
        with self._lock:
            self._lifted += nanos

    def drop(self, nanos: int) -> None:
        """What was lifted or carried is free."""
        with self._lock:
            self._lifted -= nanos


@dataclass(frozen=True, slots=True)
class Coming:
    """The next settlements. Taken before asking the ledger, so that none is missed between the answer and the wait."""

    _events: Mapping[_Share, asyncio.Event]

    async def wait(self, period: BudgetPeriod) -> None:
        """Until something of ``period`` was settled, half a second at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE.total_seconds()):
                await self._events[_share(period)].wait()


class Settlements:
    """See the module. ``announce`` and ``coming`` belong to the engine's event loop."""

    def __init__(self) -> None:
        # Both are kept as long as somebody uses them: the next attempt reads the ledger again.
        self._events: WeakValueDictionary[_Share, asyncio.Event] = WeakValueDictionary()
        self._standings: WeakValueDictionary[_Place, Standing] = WeakValueDictionary()
        self._lock = Lock()

    def announce(self, periods: Iterable[BudgetPeriod]) -> None:
        """Money of these was freed."""
        for period in periods:
            event = self._events.pop(_share(period), None)
            if event is not None:
                event.set()

    def coming(self, periods: Iterable[BudgetPeriod]) -> Coming:
        """What will be settled of these. See ``Coming``."""
        return Coming({share: self._event(share) for share in map(_share, periods)})

    def standing(self, period: BudgetPeriod) -> Standing:
        """How a period stands; new ones begin with nothing spent. From any thread."""
        place = (*_share(period), period.starts_at)
        with self._lock:
            standing = self._standings.get(place)
            if standing is None:
                standing = self._standings[place] = Standing()
            return standing

    def _event(self, share: _Share) -> asyncio.Event:
        event = self._events.get(share)
        if event is None:
            event = self._events[share] = asyncio.Event()
        return event


def _share(period: BudgetPeriod) -> _Share:
    return period.budget.budget_id, period.subject
