"""Who may take a slot when a run must execute alone: after two losses it might take its neighbours with it.

Asked by ``engine/worker.py`` for each run that it could claim.
"""

from collections.abc import Sequence
from datetime import timedelta

from roadworthy.engine.slots import Slots
from roadworthy.ports.clock import Clock
from roadworthy.ports.queue import Waiting

_PATIENCE = timedelta(seconds=5)


class Isolation:
    """An isolated run waits for an idle process; after some patience, the others wait for it."""

    def __init__(self, slots: Slots, clock: Clock) -> None:
        self._slots = slots
        self._clock = clock
        self._since: float | None = None

    def look(self, waiting: Sequence[Waiting]) -> None:
        """What waits now."""
        if not any(one.isolated for one in waiting):
            self._since = None

    def take_slot(self, one: Waiting) -> bool:
        """Take a slot for it, if it may start."""
        now = self._clock.monotonic()
        if one.isolated:
            if self._slots.take(isolated=True):
                self._since = None
                return True
            self._since = now if self._since is None else self._since
            return False
        if self._since is not None and now - self._since > _PATIENCE.total_seconds():
            return False
        return self._slots.take()
