"""The real storage, with failures and pauses that a test puts in: each list holds what the next calls run into."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import datetime

from roadworthy.domain.budget import BudgetBalance, BudgetPeriod, Exhausted, Held, Occupied, Reservation
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.ids import RunId, TenantId
from roadworthy.domain.lease import Lease
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.domain.usage import ModelCall
from roadworthy.ports.clock import Clock
from roadworthy.ports.event_log import EventLog, EventWriter
from roadworthy.ports.queue import Accepted, IdempotencyRecord
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.transaction import Database


class Pause:
    """A call that a test holds still: ``reached`` when it has come, goes on once ``opened``."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()
        self.opened = asyncio.Event()

    async def pass_through(self) -> None:
        """Wait for the test."""
        self.reached.set()
        await self.opened.wait()


Obstacle = Exception | Pause


async def _meet(obstacles: list[Obstacle]) -> None:
    if not obstacles:
        return
    one = obstacles.pop(0)
    if isinstance(one, Pause):
        await one.pass_through()
    else:
        raise one


class FailingQueue(SqlRunQueue):
    """``before_…``: met before the call reaches the database; ``after_…``: when it has committed."""

    def __init__(self, database: Database, clock: Clock) -> None:
        super().__init__(database, clock)
        self.before_accept: list[Obstacle] = []
        self.after_accept: list[Obstacle] = []
        self.before_claim: list[Obstacle] = []
        self.after_claim: list[Obstacle] = []
        self.before_note: list[Obstacle] = []
        self.before_finish: list[Obstacle] = []
        self.before_end_pending: list[Obstacle] = []
        self.finishes: list[RunStatus] = []
        self.on_count: Callable[[], None] = lambda: None

    async def accept(
        self,
        run: Run,
        *,
        claim_for: str | None,
        max_pending: int,
        idempotency: IdempotencyRecord | None,
        at_once: Sequence[AppliedLimit] = (),
    ) -> Accepted:
        """See the port."""
        await _meet(self.before_accept)
        accepted = await super().accept(
            run, claim_for=claim_for, max_pending=max_pending, idempotency=idempotency, at_once=at_once
        )
        await _meet(self.after_accept)
        return accepted

    async def claim(self, run_id: RunId, *, worker: str) -> Run | None:
        """See the port."""
        await _meet(self.before_claim)
        run = await super().claim(run_id, worker=worker)
        await _meet(self.after_claim)
        return run

    async def pending(self) -> int:
        """See the port."""
        self.on_count()
        return await super().pending()

    async def finish(
        self, lease: Lease, status: RunStatus, result: RunResult, *, events: Sequence[Event]
    ) -> Run | None:
        """See the port."""
        self.finishes.append(status)
        await _meet(self.before_finish)
        return await super().finish(lease, status, result, events=events)

    async def end_pending(self, run: Run, status: RunStatus, result: RunResult) -> Run | None:
        """See the port."""
        await _meet(self.before_end_pending)
        return await super().end_pending(run, status, result)

    async def note_resume_mark(self, lease: Lease, mark: str) -> bool:
        """See the port."""
        await _meet(self.before_note)
        return await super().note_resume_mark(lease, mark)


class FailingLedger(SqlLedger):
    """``before_…`` and ``after_…``: as in FailingQueue. ``asked``: calls to be appended; ``refused``: how often
    money was occupied or spent; ``releases``: runs of which something was released.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.before_append: list[Obstacle] = []
        self.before_reserve: list[Obstacle] = []
        self.after_reserve: list[Obstacle] = []
        self.before_release: list[Obstacle] = []
        self.before_sweep: list[Obstacle] = []
        self.asked: list[str] = []
        self.refused: list[Occupied | Exhausted] = []
        self.releases: list[RunId] = []
        self.balances_read = 0

    async def append(
        self, run: Run, calls: Sequence[ModelCall], charges: Mapping[str, Sequence[BudgetPeriod]]
    ) -> Sequence[BudgetBalance]:
        """See the port."""
        self.asked.extend(call.call_id for call in calls)
        await _meet(self.before_append)
        return await super().append(run, calls, charges)

    async def reserve(
        self, run: Run, reservation: Reservation, periods: Sequence[BudgetPeriod]
    ) -> Held | Occupied | Exhausted:
        """See the port."""
        await _meet(self.before_reserve)
        answer = await super().reserve(run, reservation, periods)
        if not isinstance(answer, Held):
            self.refused.append(answer)
        await _meet(self.after_reserve)
        return answer

    async def release(self, run: Run) -> None:
        """See the port."""
        self.releases.append(run.run_id)
        await _meet(self.before_release)
        await super().release(run)

    async def sweep(self, before: datetime) -> int:
        """See the port."""
        await _meet(self.before_sweep)
        return await super().sweep(before)

    async def balances(self, tenant: TenantId, periods: Sequence[BudgetPeriod]) -> Sequence[BudgetBalance]:
        """See the port."""
        self.balances_read += 1
        return await super().balances(tenant, periods)


class FailingLog:
    """An event log whose ``open`` fails or pauses."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self.before_open: list[Obstacle] = []

    async def open(self, run: Run) -> EventWriter:
        """See the port."""
        await _meet(self.before_open)
        return await self._log.open(run)

    def follow(self, run: Run, *, after: EventId | None) -> AsyncGenerator[Sequence[Event], None]:
        """See the port."""
        return self._log.follow(run, after=after)

    async def wait(self, run: Run) -> Run | None:
        """See the port."""
        return await self._log.wait(run)

    async def read(self, run: Run) -> Sequence[Event]:
        """See the port."""
        return await self._log.read(run)

    def ended(self, run: Run) -> None:
        """See the port."""
        self._log.ended(run)

    def hand_over(self) -> None:
        """See the port."""
        self._log.hand_over()
