"""The queue of runs, which is the table of runs: accept, claim, finish. Adapter: ``storage/queue.py``.

Lock order is always thread, then run. Every change is a compare-and-set on (status, attempt). Claims cross tenants and
live only here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from roadworthy.domain.event import Event
from roadworthy.domain.ids import RunId, TenantId, UserId
from roadworthy.domain.lease import Lease
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.rate_status import RateStatus
from roadworthy.domain.run import CancelReason, Run, RunResult, RunStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class IdempotencyRecord:
    """A client's promise that requests with this key are one, kept for 24 hours (``RunQueue.prune``) or until the
    thread is erased. ``body_hash`` tells whether they really are.
    """

    key: str
    body_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The stored run. ``replayed``: the idempotency key was known, nothing was inserted.

    ``superseded``: the active run that the new one asked to stop, whose worker should be told.
    ``run.status`` is RUNNING (with ``attempt`` 1) when ``claim_for`` was given and the thread was free. ``rates``: how
    the caller's rate limits stand, filled in by ``services/admission.py``.
    """

    run: Run
    replayed: bool = False
    superseded: RunId | None = None
    rates: Sequence[RateStatus] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Runs of one user that could start now: their thread is idle and they are its lowest pending run."""

    tenant: TenantId
    user: UserId
    run_id: RunId
    isolated: bool


class RunQueue(Protocol):
    """See the module."""

    async def accept(
        self,
        run: Run,
        *,
        claim_for: str | None,
        max_pending: int,
        idempotency: IdempotencyRecord | None,
        at_once: Sequence[AppliedLimit] = (),
    ) -> Accepted:
        """Store a new run, in one transaction: upsert the thread, take its next ordinal, insert the idempotency
        record, apply the policy for a busy thread, insert the run.

        ``run`` comes with status PENDING, attempt 0, and ord 0 (the next one) or the only ordinal that will do; the
        stored values are returned. ``claim_for``: a worker name when the caller holds a slot and nobody waits.
        ``at_once``: limits of the kind RUNS; unfinished runs are counted in the transaction, so no counter can leak.
        The one that this run supersedes does not count.

        Raises:
            QueueFull: it would have to wait and ``max_pending`` runs wait already. Nothing is stored.
            RateLimited: it would have to wait, and half of ``max_pending`` (at least one) of its owner's runs wait
                already: nobody takes up the whole line; or a limit of ``at_once`` is reached, and ``rates`` tells how
                all of them stand. Nothing is stored.
            ThreadBusy: the policy is ``reject`` and the thread has an unfinished run, or the thread is being erased.
                Nothing is stored.
            AgentMismatch: the thread belongs to another agent. Nothing is stored.
            Conflict: the ordinal that ``run`` insists on is not the next one. Nothing is stored.
            IdempotencyMismatch: the key is known with another body.
            StorageUnavailable, StorageFull: nothing is stored.
        """
        ...

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        """The run that was stored under an idempotency key, None when the key is new.

        Raises:
            IdempotencyMismatch: the key is known with another body.
        """
        ...

    async def waiting(self) -> Sequence[Waiting]:
        """The oldest claimable run of each user who has one, less those that a cap keeps from starting.

        ``isolated``: it must execute alone.
        """
        ...

    async def pending(self) -> int:
        """How many runs wait, those behind a busy thread included."""
        ...

    async def claim(self, run_id: RunId, *, worker: str) -> Run | None:
        """Take one run: RUNNING, attempt + 1, ``active_run`` of its thread. None when it is not claimable any more, or
        when so many run already as may run at once (``domain/fleet.py``).
        """
        ...

    async def finish(
        self, lease: Lease, status: RunStatus, result: RunResult, *, events: Sequence[Event]
    ) -> Run | None:
        """End a running attempt and store its last ``events``, in one transaction. None when the lease was lost."""
        ...

    async def release(self, lease: Lease, *, events: Sequence[Event] = ()) -> Run | None:
        """Give a running attempt back unharmed (drain): PENDING, losses unchanged; its last ``events`` are stored with
        it. None when the lease was lost.
        """
        ...

    async def orphans(self) -> Sequence[Run]:
        """Running rows that no living worker owns: whose lease has expired by the database's clock. On SQLite, where
        this is asked only at start: every running row.
        """
        ...

    async def reap(self, run: Run, *, losses: int, progress_mark: str | None) -> Run | None:
        """A lost lease: PENDING again with the new ``losses`` and mark. None when somebody else was faster, its worker
        with a renewal included.
        """
        ...

    async def end_orphan(self, run: Run, status: RunStatus, result: RunResult) -> Run | None:
        """End a running run whose worker is gone (cancelled, timed out, poisoned). None when somebody was faster."""
        ...

    async def end_pending(self, run: Run, status: RunStatus, result: RunResult) -> Run | None:
        """End a run that never started. None when it is not pending any more."""
        ...

    async def request_cancel(self, run: Run, reason: CancelReason) -> Run:
        """Note that a run should stop, once; the first reason stays. Returns the row as it is then."""
        ...

    async def note_resume_mark(self, lease: Lease, mark: str) -> bool:
        """Store the runtime's mark before the first attempt of a RESUME run. False when the lease was lost."""
        ...

    async def expired(self, moment: datetime) -> Sequence[Run]:
        """Pending runs whose deadline has passed or whose cancellation was requested."""
        ...

    async def cancel_requests(self, worker: str) -> Sequence[tuple[RunId, CancelReason]]:
        """Running runs of this worker that somebody, maybe another process, has asked to stop."""
        ...

    async def prune(self, before: datetime) -> int:
        """Forget idempotency records made before a moment, the oldest first, at most 500 at once. Returns how many.

        Called every minute for those older than 24 hours: after that, a key is new again.
        """
        ...
