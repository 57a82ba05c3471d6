"""Erases all that is kept of one user. For admins, by ``protocols/admin`` and ``cli/users.py``.

What bills and audits need stays: rows of the ledger and of the audit log, which hold no content.
"""

import asyncio
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Protocol

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import Conflict, ThreadBusy
from roadworthy.domain.ids import KeyId, UserId
from roadworthy.domain.principal import Owner, Principal, Scope
from roadworthy.domain.run import CancelReason, Run
from roadworthy.ports.event_log import EventLog
from roadworthy.ports.retention import UserRecords
from roadworthy.ports.runtime import AgentRuntime
from roadworthy.ports.store import ThreadStore
from roadworthy.services.keys import Keys
from roadworthy.services.threads import Threads

_PAGE = 100
# How long runs that were asked to stop may take.
_PATIENCE = timedelta(seconds=10)
# New runs may come while the old ones are erased; somebody who goes on and on must be stopped elsewhere.
_ROUNDS = 3


class RunStopper(Protocol):
    """The part of ``ports.dispatch.Dispatcher`` that is needed here."""

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        """See ``Dispatcher.stop``."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Erased:
    """How many of each are gone now; ``keys`` were revoked."""

    threads: int
    runs: int
    items: int
    keys: int


class UserErasures:
    """See the module."""

    def __init__(
        self,
        *,
        records: UserRecords,
        stored: ThreadStore,
        threads: Threads,
        log: EventLog,
        keys: Keys,
        stopper: RunStopper,
        runtime: AgentRuntime,
        patience: timedelta = _PATIENCE,
    ) -> None:
        self._records = records
        self._stored = stored
        self._threads = threads
        self._log = log
        self._keys = keys
        self._stopper = stopper
        self._runtime = runtime
        self._patience = patience.total_seconds()

    async def erase(self, principal: Principal, user: UserId, actor: Actor) -> Erased:
        """Erase a user of the caller's tenant: revoke the keys, stop the runs, delete threads and store items.

        Idempotent; what an error leaves undone, the next call does.

        Raises:
            PermissionDenied: the key lacks the scope ``admin``.
            Conflict: the caller's own key is one of the user's.
            ThreadBusy: a run does not end, or new ones keep coming.
            StorageUnavailable: a database does not answer.
        """
        principal.require(Scope.ADMIN)
        owner = Owner(tenant=principal.owner.tenant, user=user)
        return await self.erase_for(owner, actor, spared=principal.key_id)

    async def erase_for(self, owner: Owner, actor: Actor, *, spared: KeyId | None = None) -> Erased:
        """The same for an operator. ``spared``: a key that must not be one of the user's."""
        keys = [key for key in await self._keys.list(owner.tenant) if key.owner == owner and key.revoked_at is None]
        if any(key.key_id == spared for key in keys):
            raise Conflict("the key of this request belongs to that user: use another admin's")
        await self._records.note(owner, "user.erase", actor, {"user": owner.user})
        for key in keys:
            await self._keys.revoke(owner.tenant, key.key_id, actor)
        threads = runs = items = 0
        for left in reversed(range(_ROUNDS)):
            gone = await self._erase_threads(owner, last=not left)
            threads, runs = threads + gone[0], runs + gone[1]
            items += await self._runtime.erase_items(owner)
            # A run that came meanwhile may have stored something since, even if it has ended.
            if await self._nothing_left(owner):
                break
        else:
            raise ThreadBusy("new runs of the user keep coming; try again later")
        erased = Erased(threads=threads, runs=runs, items=items, keys=len(keys))
        await self._records.note(owner, "user.erased", actor, asdict(erased))
        return erased

    async def _erase_threads(self, owner: Owner, *, last: bool) -> tuple[int, int]:
        """Threads and runs that are gone. What is busy stays for another round, unless this is the ``last``."""
        threads = 0
        await self._stop_runs(owner)
        runs = await self._records.count_runs(owner)
        try:
            threads = await self._erase_idle(owner)
        except ThreadBusy:
            if last:
                raise
        runs -= await self._records.count_runs(owner)
        await self._threads.remove_halves()
        return threads, runs

    async def _nothing_left(self, owner: Owner) -> bool:
        if await self._records.unfinished_runs(owner):
            return False
        return not (await self._stored.list(owner, limit=1, cursor=None)).items

    async def _stop_runs(self, owner: Owner) -> None:
        try:
            async with asyncio.timeout(self._patience):
                for run in [
                    await self._stopper.stop(run, CancelReason.REQUESTED)
                    for run in await self._records.unfinished_runs(owner)
                ]:
                    if not run.status.final:
                        await self._log.wait(run)
        except TimeoutError:
            raise ThreadBusy("a run of the user does not end; try again later") from None

    async def _erase_idle(self, owner: Owner) -> int:
        erased = 0
        while page := (await self._stored.list(owner, limit=_PAGE, cursor=None)).items:
            for thread in page:
                erased += await self._threads.remove(thread.ref)
        return erased
