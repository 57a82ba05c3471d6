"""Hints between the processes of a cluster: there is work, that run is to stop.

They only make things happen sooner. The database is the truth, and who listens looks there before it acts; a hint that
is lost is made good by polling. Adapters: ``storage/wakeups.py`` for a process alone, ``storage/redis_wakeups.py``,
``storage/postgres_wakeups.py``. Given by and to ``engine/worker.py``.
"""

from dataclasses import dataclass
from typing import Protocol

from roadworthy.domain.ids import RunId


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """What other processes have said since the last time, however often.

    ``work``: a run waits for a slot. ``cancelled``: runs with a cancel request that is stored; not all of them need be
    this worker's. ``resumed``: the line was down for a while, so that anything may have been missed.
    """

    work: bool = False
    cancelled: frozenset[RunId] = frozenset()
    resumed: bool = False


class Wakeups(Protocol):
    """One per process. Saying something never waits and never fails; what a process says it does not hear itself."""

    def work(self) -> None:
        """A run that this process does not start at once was committed as pending: accepted, given back or reaped."""
        ...

    def cancel(self, run_id: RunId) -> None:
        """A cancel request was committed for a run that this process may not be executing."""
        ...

    async def heard(self) -> Heard:
        """Wait for others. For one listener; what comes between two calls is kept and joined."""
        ...
