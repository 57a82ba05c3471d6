"""Keeps this worker's leases where several workers share a database, and tells the worker which ones it has lost.

Renewals come from a thread of their own, on a connection of their own (``ports/leases.py``), but only while the event
loop is alive: a wedged loop must lose its runs. A worker that could not renew for too long gives all of its runs up
before anybody else can take them, by its own monotonic clock. Used by ``engine/fleet.py``.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.lease import Lease, LeaseTerms
from roadworthy.ports.leases import LeaseStore
from roadworthy.ports.telemetry import Telemetry

_LOOK_EVERY = 0.1


class Holder(Protocol):
    """Who hears of it: the worker, on the event loop's thread."""

    def lost(self, leases: Collection[Lease]) -> None:
        """These are somebody else's, or nobody's: write nothing more."""
        ...

    def found(self, leases: Collection[Lease]) -> None:
        """These are held, and nobody here knows of them."""
        ...

    def work_came(self) -> None:
        """Runs may be claimed again: leases can be kept."""
        ...


class LeaseKeeper:
    """``beats``: a number that the event loop makes grow as long as it is alive (``Watchdog.beats``). Everything public
    is called on the event loop's thread.
    """

    def __init__(
        self,
        store: LeaseStore,
        worker: str,
        terms: LeaseTerms,
        *,
        beats: Callable[[], int],
        telemetry: Telemetry,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._worker = worker
        self.terms = terms
        self._beats = beats
        self._telemetry = telemetry
        self._monotonic = monotonic
        # Replaced, never changed: the thread reads it.
        self._known: frozenset[Lease] = frozenset()
        # Leases that are held and unknown, and in how many renewals on end.
        self._strange: dict[Lease, int] = {}
        self._sound = False
        self._sure_until = 0.0
        # Read by the thread: until then what was given up must expire.
        self._renew_from = 0.0
        self._failing = False
        self._closed = threading.Event()

    @property
    def sound(self) -> bool:
        """Whether a run that is claimed now can be kept."""
        return self._sound

    def took(self, lease: Lease) -> None:
        """An attempt has begun."""
        self._known |= {lease}

    def left(self, lease: Lease) -> None:
        """It has ended, or was given back."""
        self._known -= {lease}

    async def keep(self, holder: Holder) -> None:
        """Until cancelled. When renewing fails for another reason than the database, that is raised."""
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(target=self._run, args=(loop, ended, holder), name="leases", daemon=True)
        thread.start()
        try:
            while not ended.done():
                await asyncio.wait({ended}, timeout=_LOOK_EVERY)
                self._look(holder)
            ended.result()
        finally:
            self._sound = False
            self._closed.set()
            await asyncio.wait({ended})

    def _look(self, holder: Holder) -> None:
        if self._sound and self._monotonic() >= self._sure_until:
            self._sound = False
            # What is given up expires first, so that no renewal makes it look taken.
            self._renew_from = self._sure_until + self.terms.margin.total_seconds()
            self._telemetry.worker_note("leases_given_up", count=len(self._known))
            holder.lost(self._known)

    def _renewed(self, holder: Holder, begun: float, known: frozenset[Lease], held: Sequence[Lease]) -> None:
        end = begun + self.terms.length.total_seconds()
        if begun < self._renew_from:
            # It was under way when everything was given up.
            self._renew_from = end
            return
        self._failing = False
        self._sure_until = end - self.terms.margin.total_seconds()
        if lost := known - set(held):
            # Among them may be some that have just ended.
            holder.lost(lost)
        self._judge_strangers(holder, held)
        if not self._sound:
            self._sound = True
            holder.work_came()

    def _judge_strangers(self, holder: Holder, held: Sequence[Lease]) -> None:
        """A claim's answer may still be on its way: only what stays unknown for long is nobody's here."""
        self._strange = {lease: self._strange.get(lease, 0) + 1 for lease in held if lease not in self._known}
        enough = self.terms.strange_after / self.terms.renew_every
        if found := [lease for lease, rounds in self._strange.items() if rounds > enough]:
            holder.found(found)

    def _failed(self) -> None:
        if not self._failing:
            self._failing = True
            self._telemetry.worker_note("lease_renewal_failed", count=len(self._known))

    # --- on the thread ------------------------------------------------------------------------------------------------

    def _run(self, loop: asyncio.AbstractEventLoop, ended: "asyncio.Future[None]", holder: Holder) -> None:
        error: Exception | None = None
        try:
            self._renew_until_closed(loop, holder)
        except Exception as raised:  # noqa: BLE001 -- supervisor: it belongs to who waits for the thread
            error = raised
        finally:
            self._store.close()
            _tell(loop, _settle, ended, error)

    def _renew_until_closed(self, loop: asyncio.AbstractEventLoop, holder: Holder) -> None:
        # Counted in rounds, not by the clock: a process that was stopped wakes up late, but its loop is not wedged.
        pause = self.terms.renew_every.total_seconds()
        seen, stalled = self._beats(), 0.0
        while True:
            if stalled <= self.terms.stall.total_seconds() and self._monotonic() >= self._renew_from:
                self._renew(loop, holder)
            if self._closed.wait(pause):
                return
            beats = self._beats()
            seen, stalled = beats, 0.0 if beats != seen else stalled + pause

    def _renew(self, loop: asyncio.AbstractEventLoop, holder: Holder) -> None:
        known, begun = self._known, self._monotonic()
        try:
            held = self._store.renew(self._worker)
        except StorageUnavailable:
            _tell(loop, self._failed)
        else:
            _tell(loop, self._renewed, holder, begun, known, held)


def _tell(loop: asyncio.AbstractEventLoop, callback: Callable[..., object], *args: object) -> None:
    try:
        loop.call_soon_threadsafe(callback, *args)
    except RuntimeError:
        # The loop is closed: nobody waits any more.
        return


def _settle(ended: "asyncio.Future[None]", error: Exception | None) -> None:
    if error is None:
        ended.set_result(None)
    else:
        ended.set_exception(error)
