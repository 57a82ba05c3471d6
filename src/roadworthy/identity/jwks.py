"""An issuer's keys as they were last seen: good for an hour, looked up again when a token names an unknown one.

Above: ``identity/jwt.py``. Below: ``identity/key_source.py``. Anybody can make up tokens with unknown keys, so that the
provider is asked at most once in a cool-down, whatever comes, and by one request at a time, for which the others wait.
While the provider is away the last known keys are used.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import jwt
import structlog

from roadworthy.domain.errors import Unavailable
from roadworthy.identity.documents import Unusable
from roadworthy.identity.key_set import KeySet
from roadworthy.ports.clock import Clock

FRESH = timedelta(hours=1)
COOL_DOWN = timedelta(seconds=30)

_log = structlog.get_logger("roadworthy.identity")


class IssuerKeys:
    """``fetch``: the keys that are published now; it raises ``Unusable``."""

    def __init__(self, fetch: Callable[[], Awaitable[KeySet]], clock: Clock) -> None:
        self._fetch = fetch
        self._clock = clock
        self._looking = asyncio.Lock()
        self._known = KeySet()
        self._seen_at: float | None = None
        self._tried_at: float | None = None
        self._failed = False

    async def find(self, kid: str | None, algorithm: str) -> jwt.PyJWK | None:
        """The key that a token names, or None when the issuer has no such key.

        Raises:
            Unavailable: no key of the issuer is known, and none can be had now.
        """
        key = self._known.find(kid, algorithm)
        # While a provider that failed before is tried again, only one request waits for it.
        if key is not None and (self._fresh() or (self._failed and self._looking.locked())):
            return key
        async with self._looking:
            key = self._known.find(kid, algorithm)
            if (key is None or not self._fresh()) and self._cooled_down():
                await self._look()
        if not self._known.keys:
            raise Unavailable("The identity provider's keys cannot be had now.", retry_after=COOL_DOWN)
        return self._known.find(kid, algorithm)

    async def _look(self) -> None:
        now = self._tried_at = self._clock.monotonic()
        try:
            self._known = await self._fetch()
        except Unusable as problem:
            self._failed = True
            _log.warning("issuer_keys_unavailable", problem=str(problem), known_keys=len(self._known.keys))
        else:
            self._failed, self._seen_at = False, now
            if not self._known.keys:
                _log.warning("issuer_keys_unavailable", problem="no published key can be used", known_keys=0)

    def _fresh(self) -> bool:
        return self._within(self._seen_at, FRESH)

    def _cooled_down(self) -> bool:
        return not self._within(self._tried_at, COOL_DOWN)

    def _within(self, since: float | None, span: timedelta) -> bool:
        return since is not None and self._clock.monotonic() - since < span.total_seconds()
