"""``ports.rate_limit.RateCounters`` in memory, with the ``limits`` library: what callers used in the last minute.

Asked by ``services/admission.py`` before a run, told by ``engine/metering.py`` about tokens. Counters end with the
process. Everything happens on the event loop without a pause in between, so no lock is needed. ``redis_rates.py``
counts for several processes.
"""

import hashlib
import json
import time
from datetime import timedelta

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage, Storage
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from roadworthy.domain.rate_limit import WINDOW, AppliedLimit, RateKind
from roadworthy.domain.rate_status import RateStatus

_MOST_COUNTERS = 100_000


class MemoryRateCounters:
    """See the module. ``most``: counters kept at once. One more, and the oldest is forgotten: its caller is let through
    (fails open).
    """

    def __init__(self, *, most: int = _MOST_COUNTERS) -> None:
        self._counters = _Counters(most)
        self._rates = Rates(self._counters)

    @property
    def size(self) -> int:
        """Counters that are kept now."""
        return len(self._counters.expirations)

    async def hit(self, limit: AppliedLimit) -> tuple[bool, RateStatus]:
        """See the port."""
        return await self._rates.hit(limit)

    async def look(self, limit: AppliedLimit) -> RateStatus:
        """See the port."""
        return await self._rates.look(limit)

    async def add(self, limit: AppliedLimit, amount: int) -> None:
        """See the port."""
        await self._rates.add(limit, amount)


class Rates:
    """The port on any storage of the library. Requests count in a sliding window; tokens in one that begins with the
    first of them, which may run over.
    """

    def __init__(self, storage: Storage) -> None:
        self._sliding = SlidingWindowCounterRateLimiter(storage)
        self._fixed = FixedWindowRateLimiter(storage)

    async def hit(self, limit: AppliedLimit) -> tuple[bool, RateStatus]:
        """See the port."""
        had_room = await self._limiter(limit).hit(_item(limit), _identifier(limit))
        return had_room, await self.look(limit)

    async def look(self, limit: AppliedLimit) -> RateStatus:
        """See the port."""
        stats = await self._limiter(limit).get_window_stats(_item(limit), _identifier(limit))
        resets_in = timedelta(seconds=max(0.0, stats.reset_time - time.time()))
        return status_of(limit, remaining=stats.remaining, resets_in=resets_in)

    async def add(self, limit: AppliedLimit, amount: int) -> None:
        """See the port."""
        if amount > 0:
            await self._fixed.hit(_item(limit), _identifier(limit), cost=amount)

    def _limiter(self, limit: AppliedLimit) -> RateLimiter:
        return self._fixed if limit.limit.kind is RateKind.TOKENS else self._sliding


class _Counters(MemoryStorage):
    """The library's storage without the task that it starts at every count to look at every counter."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.time()
        if self.expirations.get(key, 0) <= now:
            self._forget(key)
            self._make_room(now)
            self.expirations[key] = now + expiry
        self.storage[key] += amount
        return self.storage[key]

    def _make_room(self, now: float) -> None:
        """Forget what has expired. Counters stand in the order of their making, so the oldest come first."""
        while self.expirations:
            oldest = next(iter(self.expirations))
            if self.expirations[oldest] > now and len(self.expirations) < self._most:
                return
            self._forget(oldest)

    def _forget(self, key: str) -> None:
        self.storage.pop(key, None)
        self.expirations.pop(key, None)


def status_of(limit: AppliedLimit, *, remaining: int, resets_in: timedelta) -> RateStatus:
    """How a limit stands, in the words of the port."""
    return RateStatus(
        policy=limit.limit.policy, limit=limit.limit.limit, window=WINDOW, remaining=remaining, resets_in=resets_in
    )


def _item(limit: AppliedLimit) -> RateLimitItem:
    return RateLimitItemPerMinute(limit.limit.limit)


def _identifier(limit: AppliedLimit) -> str:
    """Whose counter it is, in a form that no choice of names makes another's."""
    names = [limit.limit.tenant, limit.limit.scope.value, limit.limit.kind.value, limit.subject]
    return hashlib.blake2b(json.dumps(names).encode(), digest_size=16).hexdigest()
