"""``ports.rate_limit.RateCounters`` in Redis, for all processes of a cluster. Counts as ``rates.py`` does.

Without Redis there is no limit: whoever asks is let in, soon, and the operator is told.
"""

import asyncio
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

from limits.aio.storage import RedisStorage

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.rate_status import RateStatus
from roadworthy.storage.rates import Rates, status_of
from roadworthy.storage.redis_connection import RedisServer, translated

T = TypeVar("T")

# A request waits no longer for its counter; after that, nobody waits for a while.
_PATIENCE = timedelta(milliseconds=500)
_PAUSE = timedelta(seconds=1)


class RedisRateCounters:
    """See the module. Windows are kept by the server's clock."""

    def __init__(self, server: RedisServer, *, patience: timedelta = _PATIENCE, pause: timedelta = _PAUSE) -> None:
        # The storage gets the server's own pool; its URL only says which client library that is.
        options: dict[str, Any] = {"connection_pool": server.commands.connection_pool}
        storage = RedisStorage("redis://", implementation="redispy", key_prefix=server.key("rates"), **options)
        self._server = server
        self._rates = Rates(storage)
        self._patience = patience.total_seconds()
        self._pause = pause.total_seconds()
        self._away_until = 0.0

    async def hit(self, limit: AppliedLimit) -> tuple[bool, RateStatus]:
        """See the port."""
        if self._away:
            return True, _free(limit)
        return await self._asked(self._rates.hit(limit), (True, _free(limit)))

    async def look(self, limit: AppliedLimit) -> RateStatus:
        """See the port."""
        if self._away:
            return _free(limit)
        return await self._asked(self._rates.look(limit), _free(limit))

    async def add(self, limit: AppliedLimit, amount: int) -> None:
        """See the port."""
        if not self._away:
            await self._asked(self._rates.add(limit, amount), None)

    @property
    def _away(self) -> bool:
        return time.monotonic() < self._away_until

    async def _asked(self, question: Awaitable[T], otherwise: T) -> T:
        try:
            with translated():
                async with asyncio.timeout(self._patience):
                    answer = await question
        except StorageUnavailable as error:
            self._away_until = time.monotonic() + self._pause
            self._server.failed("rates", error)
            return otherwise
        self._server.worked("rates")
        return answer


def _free(limit: AppliedLimit) -> RateStatus:
    return status_of(limit, remaining=limit.limit.limit, resets_in=timedelta(0))
