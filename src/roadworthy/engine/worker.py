"""The loop that gives runs their slot: submits, claims in turn, stops, drains.

Above: services, through ``ports/dispatch.py``, and ``bootstrap``. Below: the queue and ``engine/execution.py``.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta

from roadworthy.domain.errors import Draining, ProviderUnavailable, RoadworthyError, StorageUnavailable
from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run, RunError, RunResult, RunStatus
from roadworthy.engine.cancellation import Handover, StopSignals
from roadworthy.engine.execution import Attempt, Surroundings
from roadworthy.engine.reaper import earlier_result
from roadworthy.engine.slots import Slots
from roadworthy.engine.turns import Turns
from roadworthy.ports.queue import Accepted, IdempotencyRecord, Waiting

_ISOLATED_PATIENCE = timedelta(seconds=5)
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
    """Implements ``ports/dispatch.py``, inside of ``under_way``."""

    def __init__(self, around: Surroundings, limits: WorkerLimits) -> None:
        self._around = around
        self._limits = limits
        self._slots = Slots(limits.slots)
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
        self._isolated_since: float | None = None
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

    def stuck(self) -> bool:
        """See the port."""
        return self._slots.all_stuck

    def executing(self) -> frozenset[RunId]:
        """Runs under way in this process."""
        return self._signals.run_ids

    @asynccontextmanager
    async def under_way(self) -> AsyncGenerator[None]:
        """Work while the context is open; runs that wait from earlier are claimed at once.

        Attempts that are still under way at its end are cut off; their rows stay running, for the next start's reaper.
        """
        self._pending = await self._around.queue.pending()
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._tasks = {group.create_task(self._tend()), group.create_task(self._claim_in_turn())}
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
        run = await self._around.queue.request_cancel(run, reason)
        if run.status is RunStatus.PENDING:
            # None: somebody else was faster, and the row says what they did.
            return await self._end_pending(run) or await self._around.queue.request_cancel(run, reason)
        if run.status is RunStatus.RUNNING:
            self._signals.stop(run.run_id, reason)
        return run

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
        reserved = not self._claim_due and not self._queueing and self._slots.take()
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
        if accepted.superseded is not None:
            self._signals.stop(accepted.superseded, CancelReason.SUPERSEDED)

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

    async def _claim_all(self) -> None:
        while self._slots.free and not self._draining:
            wakes = self._wakes
            waiting = list(await self._around.queue.waiting())
            if not any(one.isolated for one in waiting):
                self._isolated_since = None
            if not waiting:
                self._claim_due = self._wakes != wakes
                return
            if not await self._claim_from(waiting):
                return

    async def _claim_from(self, waiting: list[Waiting]) -> bool:
        """Claim what fits from one listing. False when nothing of it can start now."""
        progressed = False
        while waiting and self._slots.free and not self._draining:
            one = self._turns.pick(waiting)
            waiting.remove(one)
            if not self._may_start(one):
                continue
            with self._arrival():
                run = await self._claim(one)
                if run is None:
                    continue
                progressed = True
                self._turns.served(one)
                self._start(run)
                await self._count_pending()
        return progressed

    async def _claim(self, one: Waiting) -> Run | None:
        """Turn the slot just taken into a claimed run, or give it back."""
        run: Run | None = None
        try:
            run = await self._around.queue.claim(one.run_id, worker=self._around.worker)
        finally:
            if run is None:
                self._slots.give_back()
        return run

    def _may_start(self, one: Waiting) -> bool:
        """Take a slot for it. An isolated run waits for an idle process; after some patience, others wait for it."""
        now = self._around.clock.monotonic()
        if one.isolated:
            if self._slots.take(isolated=True):
                self._isolated_since = None
                return True
            self._isolated_since = now if self._isolated_since is None else self._isolated_since
            return False
        if self._isolated_since is not None and now - self._isolated_since > _ISOLATED_PATIENCE.total_seconds():
            return False
        return self._slots.take()

    def _start(self, run: Run) -> None:
        if self._group is None:
            return  # closed meanwhile: the row stays running, for the next start's reaper
        signal = self._signals.open(run.run_id)
        if run.cancel_requested is not None:
            signal.stop(run.cancel_requested)
        if self._hurrying:
            signal.stop(Handover.DRAIN)
        attempt = self._attempts[run.run_id] = Attempt(run, self._around, signal)
        if self._draining:
            attempt.drain()
        task = self._group.create_task(self._execute(attempt))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, attempt: Attempt) -> None:
        run_id = attempt.run.run_id
        stuck = False

        def ended(_final: Run | None, failure: RoadworthyError | None) -> None:
            nonlocal stuck
            self._forget(run_id)
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
            self._forget(run_id)
            attempt.let_go()
            self._give_slot_back()

    async def _abandon(self, attempt: Attempt, error: Exception) -> None:
        """The engine itself failed around an attempt: end the run rather than leave it running for ever."""
        try:
            await attempt.give_up(error)
        except Exception as worse:  # noqa: BLE001 -- worker loop: the row stays running, for the next start's reaper
            self._around.telemetry.attempt_failed(attempt.run, worse)

    def _forget(self, run_id: RunId) -> None:
        self._signals.close(run_id)
        self._attempts.pop(run_id, None)
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
                if self._pending:
                    await self._count_pending()
                    await self._end_all(await self._around.queue.expired(self._around.clock.now()))
                if self._attempts:
                    for run_id, reason in await self._around.queue.cancel_requests(self._around.worker):
                        self._signals.stop(run_id, reason)

    async def _count_pending(self) -> None:
        """Counted anew, not down: what was committed is not told in the order in which it was."""
        with suppress(StorageUnavailable):  # ``_tend`` counts again
            self._pending = await self._around.queue.pending()

    async def _end_all(self, runs: Sequence[Run]) -> None:
        for run in runs:
            await self._end_pending(run)

    async def _end_pending(self, run: Run) -> Run | None:
        """End a run that waits for a slot: cancelled if somebody asked for it, else timed out. What earlier attempts
        did and cost is part of its result.
        """
        earlier = run.attempt > 0
        if run.cancel_requested is not None:
            status = RunStatus.CANCELLED
            error = RunError(
                code=run.cancel_requested.value,
                message=f"the run was cancelled before it {'went on' if earlier else 'started'}",
            )
        else:
            status = RunStatus.TIMEOUT
            error = RunError(code="timeout", message="the run's time was up before a slot was free")
        result = RunResult(error=error)
        if earlier:
            result = await earlier_result(run, error, self._around, crashed=run.losses > 0)
        ended = await self._around.queue.end_pending(run, status, result)
        if ended is not None:
            self._around.log.ended(ended)
            self._around.telemetry.run_finished(ended)
            self._poke()
            await self._count_pending()
        return ended
