"""What keeps the server from taking runs, looked up at most once a second.

``/readyz`` needs no key, and looking costs writes to the databases: who asks more often gets what was found last.
``app.py`` makes it, ``http/health.py`` asks; calls ``services/readiness.py``.
"""

import asyncio
from collections.abc import Sequence

from roadworthy.services.readiness import Problem, Readiness

FRESH_SECONDS = 1.0


class RecentProblems:
    """One for the application. A shutdown is told at once: knowing of it costs nothing."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._found: Sequence[Problem] = ()
        self._found_at: float | None = None
        self._turn = asyncio.Lock()

    async def get(self) -> Sequence[Problem]:
        """Why traffic should go elsewhere; empty when it need not."""
        if self._readiness.draining:
            return await self._readiness.problems()
        async with self._turn:
            now = asyncio.get_running_loop().time
            if self._found_at is None or now() - self._found_at >= FRESH_SECONDS:
                self._found = await self._readiness.problems()
                self._found_at = now()
            return self._found
