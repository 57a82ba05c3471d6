"""``ports.rate_limit.RateCounters`` in memory, with the ``limits`` library: what callers used in the last minute.

Asked by ``services/admission.py`` before a run, told by ``engine/metering.py`` about tokens. Counters end with the
process. Everything happens on the event loop without a pause in between, so no lock is needed.
"""

import time
from datetime import timedelta

from limits import RateLimitItem, RateLimitItemPerMinute
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from roadworthy.domain.rate_limit import WINDOW, AppliedLimit, RateKind
from roadworthy.domain.rate_status import RateStatus

_MOST_COUNTERS = 100_000


class MemoryRateCounters:
    """Requests count in a sliding window; tokens in one that begins with the first of them, which may run over.

    ``most``: counters kept at once. One more, and the oldest is forgotten: its caller is let through (fails open).
    """

    def __init__(self, *, most: int = _MOST_COUNTERS) -> None:
        self._counters = _Counters(most)
        self._sliding = SlidingWindowCounterRateLimiter(self._counters)
        self._fixed = FixedWindowRateLimiter(self._counters)

    @property
    def size(self) -> int:
        """Counters that are kept now."""
        return len(self._counters.expirations)

    async def hit(self, limit: AppliedLimit) -> tuple[bool, RateStatus]:
        """See the port."""
        had_room = await self._limiter(limit).hit(_item(limit), *_identifiers(limit))
        return had_room, await self.look(limit)

    async def look(self, limit: AppliedLimit) -> RateStatus:
        """See the port."""
        stats = await self._limiter(limit).get_window_stats(_item(limit), *_identifiers(limit))
        return RateStatus(
            policy=limit.limit.policy,
            limit=limit.limit.limit,
            window=WINDOW,
            remaining=stats.remaining,
            resets_in=timedelta(seconds=max(0.0, stats.reset_time - time.time())),
        )

    async def add(self, limit: AppliedLimit, amount: int) -> None:
        """See the port."""
        if amount > 0:
            await self._fixed.hit(_item(limit), *_identifiers(limit), cost=amount)

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


def _item(limit: AppliedLimit) -> RateLimitItem:
    return RateLimitItemPerMinute(limit.limit.limit)


def _identifiers(limit: AppliedLimit) -> tuple[str, ...]:
    return limit.limit.tenant, limit.limit.scope.value, limit.limit.kind.value, limit.subject
