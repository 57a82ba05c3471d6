"""The loop that gives runs their slot: submits, claims in turn, stops, drains.

Above: services, through ``ports/dispatch.py``, and ``bootstrap``. Below: the queue and ``engine/execution.py``.
"""

import asyncio
from collections.abc import AsyncGenerator, Collection, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from roadworthy.domain.errors import Draining, ProviderUnavailable, RoadworthyError, StorageUnavailable
from roadworthy.domain.ids import RunId
from roadworthy.domain.lease import Lease
from roadworthy.domain.load import Load
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run, RunStatus
from roadworthy.engine.cancellation import Handover, StopSignal, StopSignals
from roadworthy.engine.execution import Attempt, Surroundings
from roadworthy.engine.fleet import Fleet
from roadworthy.engine.isolation import Isolation
from roadworthy.engine.slots import Slots
from roadworthy.engine.stopping import end_waiting, request_stop
from roadworthy.engine.turns import Turns
from roadworthy.ports.queue import Accepted, IdempotencyRecord, Waiting

_CLOSING = "the server is shutting down; send the request again"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerLimits:
    """``tend_every``: how often deadlines of waiting runs and cancel requests of other processes are looked for."""

    slots: int
    queue_size: int
    drain_timeout: timedelta
    tend_every: timedelta = timedelta(milliseconds=500)
    poll_every: timedelta = timedelta(seconds=5)


class Worker:
    """Implements ``ports/dispatch.py``, inside of ``under_way``. ``fleet``: None when no other worker can live."""

    def __init__(self, around: Surroundings, limits: WorkerLimits, fleet: Fleet | None = None) -> None:
        self._around = around
        self._limits = limits
        self._fleet = fleet or Fleet()
        self._slots = Slots(limits.slots)
        self._isolation = Isolation(self._slots, around.clock)
        self._turns = Turns()
        self._signals = StopSignals()
        self._attempts: dict[RunId, Attempt] = {}
        self._group: asyncio.TaskGroup | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._wakes = 0
        self._claim_due = True
        self._pending = 0
        # Accepts and claims under way; those accepts among them that hold no slot.
        self._arriving = 0
        self._queueing = 0
        self._draining = False
        # The drain's patience is over: what still starts is given back at once.
        self._hurrying = False
        self._idle = asyncio.Event()
        self._provider_trouble: str | None = None

    @property
    def draining(self) -> bool:
        """See the port."""
        return self._draining

    def provider_trouble(self) -> str | None:
        """See the port."""
        return self._provider_trouble

    def load(self) -> Load:
        """See the port."""
        return self._slots.load(waiting=self._pending)

    def stuck(self) -> bool:
        """See the port."""
        return self._slots.all_stuck

    def executing(self) -> frozenset[RunId]:
        """Runs under way in this process."""
        return self._signals.run_ids

    @asynccontextmanager
    async def under_way(self) -> AsyncGenerator[None]:
        """Work while the context is open; runs that wait from earlier are claimed at once.

        Attempts that are still under way at its end are cut off; their rows stay running, for the next reaper.
        """
        self._pending = await self._around.queue.pending()
        async with asyncio.TaskGroup() as group:
            self._group = group
            chores = (self._tend(), self._claim_in_turn(), *self._fleet.chores(self, self._around))
            self._tasks = {group.create_task(chore) for chore in chores}
            try:
                yield
            finally:
                self._group = None
                for task in self._tasks:
                    task.cancel()

    async def submit(
        self, run: Run, *, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit] = ()
    ) -> Accepted:
        """See the port."""
        if self._group is None:
            raise Draining(_CLOSING)
        task = self._group.create_task(self._accept(run, idempotency, at_once))
        outcome = await asyncio.shield(task)
        if isinstance(outcome, Accepted):
            return outcome
        raise outcome

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        """See the port."""
        return await self._around.queue.find_replay(owner, record)

    async def stop(self, run: Run, reason: CancelReason) -> Run:
        """See the port."""
        run, ended = await request_stop(run, reason, self._around)
        if ended:
            await self._note_end_of_waiting()
        elif run.status is RunStatus.RUNNING:
            self._stop(run.run_id, reason)
        return run

    def _stop(self, run_id: RunId, reason: CancelReason) -> None:
        if not self._signals.stop(run_id, reason):
            self._fleet.say_cancel(run_id)

    def work_came(self) -> None:
        """See ``fleet.Member``."""
        self._poke()

    def lost(self, leases: Collection[Lease]) -> None:
        """See ``leases.Holder``."""
        for lease in leases:
            attempt = self._attempts.get(lease.run_id)
            if attempt is not None and attempt.lease == lease:
                self._around.telemetry.worker_note("lease_lost", run_id=lease.run_id, attempt=lease.attempt)
                self._signals.stop(lease.run_id, Handover.LOST)

    def found(self, leases: Collection[Lease]) -> None:
        """See ``leases.Holder``: the answer to a claim was lost."""
        if self._group is not None:
            self._tasks.add(task := self._group.create_task(self._return_all(leases)))
            task.add_done_callback(self._tasks.discard)

    async def look_for_cancels(self) -> None:
        """See ``fleet.Member``."""
        with suppress(StorageUnavailable):  # the next poll looks again
            for run_id, reason in await self._around.queue.cancel_requests(self._around.worker):
                self._signals.stop(run_id, reason)

    async def _return_all(self, leases: Collection[Lease]) -> None:
        with suppress(StorageUnavailable):  # they are found again
            for lease in leases:
                await self._around.queue.release(lease)
        self._poke()

    async def drain(self) -> None:
        """Accept nothing more, bring every attempt to a step's end within ``drain_timeout``, give it back.

        Returns when no attempt is under way or about to be, or when those left cannot be stopped.
        """
        self._draining = True
        for attempt in self._attempts.values():
            attempt.drain()
        if not await self._quiet(self._limits.drain_timeout):
            self._hurrying = True
            self._signals.stop_all(Handover.DRAIN)
            await self._quiet(timedelta(seconds=3))
        self._around.log.hand_over()

    async def _quiet(self, patience: timedelta) -> bool:
        """Wait until nothing is under way or about to be. False when that takes too long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience.total_seconds()):
                while self._attempts or self._arriving:
                    self._idle.clear()
                    await self._idle.wait()
                return True
        return False

    @contextmanager
    def _arrival(self, *, queueing: bool = False) -> Generator[None]:
        """A run on its way from the database: ``drain`` waits for it."""
        self._arriving += 1
        self._queueing += queueing
        try:
            yield
        finally:
            self._arriving -= 1
            self._queueing -= queueing
            self._idle.set()

    async def _accept(
        self, run: Run, idempotency: IdempotencyRecord | None, at_once: Sequence[AppliedLimit]
    ) -> Accepted | Exception:
        """A task of the worker's own, so that a caller who leaves cannot come between the commit and the start."""
        if self._draining or self._group is None:
            return Draining(_CLOSING)
        # Whoever is still on the way to the waiting line was here first.
        first = not self._claim_due and not self._queueing
        reserved = first and self._fleet.sound and self._slots.take()
        with self._arrival(queueing=not reserved):
            try:
                accepted = await self._around.queue.accept(
                    run,
                    claim_for=self._around.worker if reserved else None,
                    max_pending=self._limits.queue_size,
                    idempotency=idempotency,
                    at_once=at_once,
                )
            except Exception as error:  # noqa: BLE001 -- worker loop: raised to the caller by ``submit``
                if reserved:
                    self._give_slot_back()
                return error
            self._place(accepted, reserved=reserved)
            return accepted

    def _place(self, accepted: Accepted, *, reserved: bool) -> None:
        """Start an accepted run in its reserved slot, or let it wait."""
        started = reserved and not accepted.replayed and accepted.run.status is RunStatus.RUNNING
        if started:
            self._start(accepted.run)
        elif reserved:
            self._give_slot_back()
        if not accepted.replayed and not started:
            self._pending += 1
            self._poke()
            self._fleet.say_work()
        if accepted.superseded is not None:
            self._stop(accepted.superseded, CancelReason.SUPERSEDED)

    def _give_slot_back(self) -> None:
        self._slots.give_back()
        if self._pending or self._claim_due:
            self._poke()

    def _poke(self) -> None:
        self._claim_due = True
        self._wakes += 1
        self._wake.set()

    async def _claim_in_turn(self) -> None:
        while True:
            self._wake.clear()
            with suppress(StorageUnavailable):  # the next poll tries again
                await self._claim_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._limits.poll_every.total_seconds()):
                    await self._wake.wait()

    @property
    def _open(self) -> bool:
        """Whether another run may start here."""
        return self._slots.free and not self._draining and self._fleet.sound

    async def _claim_all(self) -> None:
        while self._open:
            wakes = self._wakes
            waiting = list(await self._around.queue.waiting())
            self._isolation.look(waiting)
            if not waiting:
                self._claim_due = self._wakes != wakes
                return
            if not await self._claim_from(waiting):
                return

    async def _claim_from(self, waiting: list[Waiting]) -> bool:
        """Claim what fits from one listing. False when nothing of it can start now."""
        progressed = raced = False
        while waiting and self._open:
            one = self._turns.pick(waiting)
            waiting.remove(one)
            # An attempt that this process has lost is not over before all that it does has ended.
            if one.run_id in self._attempts or not self._isolation.take_slot(one):
                continue
            with self._arrival():
                run = await self._claim(one)
                if run is None:
                    raced = True
                    continue
                progressed = True
                self._turns.served(one)
                self._start(run)
                await self._count_pending()
        return progressed or (raced and await self._fleet.step_aside())

    async def _claim(self, one: Waiting) -> Run | None:
        """Turn the slot just taken into a claimed run, or give it back."""
        run: Run | None = None
        try:
            run = await self._around.queue.claim(one.run_id, worker=self._around.worker)
        finally:
            if run is None:
                self._slots.give_back()
        return run

    def _start(self, run: Run) -> None:
        if self._group is None:
            return  # closed meanwhile: the row stays running, for the next reaper
        signal = self._signals.open(run.run_id)
        if run.cancel_requested is not None:
            signal.stop(run.cancel_requested)
        if self._hurrying:
            signal.stop(Handover.DRAIN)
        attempt = self._attempts[run.run_id] = Attempt(run, self._around, signal)
        self._fleet.took(attempt.lease)
        if self._draining:
            attempt.drain()
        task = self._group.create_task(self._execute(attempt, signal))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, attempt: Attempt, signal: StopSignal) -> None:
        run_id = attempt.run.run_id
        stuck = False

        def ended(final: Run | None, failure: RoadworthyError | None) -> None:
            nonlocal stuck
            self._forget(attempt, signal)
            if final is None:
                self._fleet.say_work()
            self._note_provider(attempt, failure)
            stuck = attempt.execution is not None and not attempt.execution.settled_now
            if stuck:
                self._slots.mark_stuck()
                self._around.telemetry.worker_note("slot_held_by_threads", run_id=run_id)
            if self._pending or self._draining:
                self._poke()

        try:
            await attempt.execute(ended)
        except Exception as error:  # noqa: BLE001 -- worker loop: one attempt must not end its neighbours
            self._around.telemetry.attempt_failed(attempt.run, error)
            await self._abandon(attempt, error)
        finally:
            if stuck:
                self._slots.unmark_stuck()
            self._forget(attempt, signal)
            attempt.let_go()
            self._give_slot_back()

    async def _abandon(self, attempt: Attempt, error: Exception) -> None:
        """The engine itself failed around an attempt: end the run rather than leave it running for ever."""
        try:
            await attempt.give_up(error)
        except Exception as worse:  # noqa: BLE001 -- worker loop: the row stays running, for the next reaper
            self._around.telemetry.attempt_failed(attempt.run, worse)

    def _forget(self, attempt: Attempt, signal: StopSignal) -> None:
        run_id = attempt.run.run_id
        self._signals.close(run_id, signal)
        if self._attempts.get(run_id) is attempt:
            del self._attempts[run_id]
        self._fleet.left(attempt.lease)
        self._idle.set()

    def _note_provider(self, attempt: Attempt, failure: RoadworthyError | None) -> None:
        if isinstance(failure, ProviderUnavailable):
            self._provider_trouble = failure.message
        elif failure is None and attempt.model_answered:
            self._provider_trouble = None

    async def _tend(self) -> None:
        """Deadlines and cancellations of waiting runs, and cancel requests made by other processes."""
        while True:
            await asyncio.sleep(self._limits.tend_every.total_seconds())
            with suppress(StorageUnavailable):  # the next round tries again
                if self._pending or self._fleet.shared:
                    await self._count_pending()
                if self._pending:
                    await self._end_all(await self._around.queue.expired(self._around.clock.now()))
                    if self._fleet.shared:
                        # It may be for others to start, who may be dead.
                        self._poke()
            if self._attempts:
                await self.look_for_cancels()

    async def _count_pending(self) -> None:
        """Counted anew, not down: what was committed is not told in the order in which it was."""
        with suppress(StorageUnavailable):  # ``_tend`` counts again
            self._pending = await self._around.queue.pending()

    async def _end_all(self, runs: Sequence[Run]) -> None:
        for run in runs:
            if await end_waiting(run, self._around) is not None:
                await self._note_end_of_waiting()

    async def _note_end_of_waiting(self) -> None:
        self._poke()
        await self._count_pending()
