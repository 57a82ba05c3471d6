"""What a worker does because it may not be the only one on its database: keep leases, take over, hear and say hints.

Owned by ``engine/worker.py``, which is alone without a keeper of leases (SQLite). Below: ``engine/leases.py``,
``engine/reaper.py`` and ``ports/signals.py``. Hints only make things happen sooner; the worker polls as well.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from roadworthy.domain.ids import RunId
from roadworthy.domain.lease import Lease
from roadworthy.engine.execution import Surroundings
from roadworthy.engine.leases import Holder, LeaseKeeper
from roadworthy.engine.reaper import keep_reaping
from roadworthy.ports.signals import Wakeups

# Seconds that who has lost a race for a run steps aside for at most.
_STEP_ASIDE = 0.02
# After so many it waits for the next hint or poll, whatever keeps it from winning.
_RACES = 50


class Member(Holder, Protocol):
    """The worker as its fleet sees it."""

    def executing(self) -> frozenset[RunId]:
        """Runs under way in this process."""
        ...

    async def look_for_cancels(self) -> None:
        """Somebody has asked runs of this worker to stop."""
        ...


class Fleet:
    """``keeper``: None when no other worker can live. ``wakeups``: None when there is nobody to be heard."""

    def __init__(
        self,
        keeper: LeaseKeeper | None = None,
        wakeups: Wakeups | None = None,
        *,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._keeper = keeper
        self._wakeups = wakeups
        self._chance = chance
        self._races = 0

    @property
    def shared(self) -> bool:
        """Whether other workers may live."""
        return self._keeper is not None

    @property
    def sound(self) -> bool:
        """Whether a run that is claimed now can be kept."""
        return self._keeper is None or self._keeper.sound

    def took(self, lease: Lease) -> None:
        """An attempt has begun."""
        if self._keeper is not None:
            self._keeper.took(lease)

    def left(self, lease: Lease) -> None:
        """It has ended, or was given back."""
        if self._keeper is not None:
            self._keeper.left(lease)

    def say_work(self) -> None:
        """A run waits that others may execute."""
        if self._wakeups is not None:
            self._wakeups.work()

    def say_cancel(self, run_id: RunId) -> None:
        """A run of some other worker is to stop."""
        if self._wakeups is not None:
            self._wakeups.cancel(run_id)

    async def step_aside(self) -> bool:
        """Another worker was faster: not at the same moment again. Whether to try again before the next hint."""
        self._races += 1
        if self._keeper is None or self._races % _RACES == 0:
            return False
        await asyncio.sleep(_STEP_ASIDE * self._chance())
        return True

    def chores(self, member: Member, around: Surroundings) -> Sequence[Coroutine[Any, Any, None]]:
        """What goes on beside the worker, until it is cancelled."""
        chores: list[Coroutine[Any, Any, None]] = []
        if self._keeper is not None:
            chores.append(self._keeper.keep(member))
            chores.append(self._reap(self._keeper, member, around))
        if self._wakeups is not None:
            chores.append(self._hear(self._wakeups, member))
        return chores

    async def _reap(self, keeper: LeaseKeeper, member: Member, around: Surroundings) -> None:
        def revived() -> None:
            member.work_came()
            self.say_work()

        await keep_reaping(around, keeper.terms.reap_every, busy=member.executing, revived=revived, chance=self._chance)

    async def _hear(self, wakeups: Wakeups, member: Member) -> None:
        while True:
            heard = await wakeups.heard()
            if heard.work or heard.resumed:
                member.work_came()
            if heard.resumed or heard.cancelled & member.executing():
                await member.look_for_cancels()
