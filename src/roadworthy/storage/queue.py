"""``ports/queue.py`` over SQL: every movement of a run is one unit of work, a compare-and-set on (status, attempt).

Called by ``services/runs.py`` (accept, cancel) and the engine (the rest). A unit that finds that somebody was faster
raises ``_Overtaken``, so that what it did to the thread is undone, and the caller gets None.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import NoReturn

from roadworthy.domain.errors import NotFound
from roadworthy.domain.event import Event
from roadworthy.domain.fleet import FleetCaps
from roadworthy.domain.ids import AgentName, RunId, TenantId, UserId
from roadworthy.domain.lease import Lease, LeaseTerms
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit
from roadworthy.domain.run import CancelReason, Run, RunResult, RunStatus
from roadworthy.ports.clock import Clock
from roadworthy.ports.queue import Accepted, IdempotencyRecord, Waiting
from roadworthy.storage import statements as sql
from roadworthy.storage.accept import Acceptance, known_run
from roadworthy.storage.documents import result_text
from roadworthy.storage.event_rows import event_rows
from roadworthy.storage.fleet_caps import Capped, check_caps, room
from roadworthy.storage.locks import REMOVAL
from roadworthy.storage.rows import micros, run_from
from roadworthy.storage.transaction import Database, Param, Row, Statement, Transaction, UniqueViolation, Unit

# Lease losses after which a run executes alone in its worker.
_ISOLATED_FROM = 2
# Idempotency records that one transaction forgets: the others' writes must not wait for long.
_PRUNED_AT_ONCE = 500
_MICROSECOND = timedelta(microseconds=1)
_LEASE = LeaseTerms().length
_UNCAPPED = FleetCaps()


class SqlRunQueue:
    """``ports.queue.RunQueue``. ``clock`` dates what happens to runs. ``lease``: how long a start's lasts, by the
    database's clock; on SQLite there are none, because the folder's lock says whose runs they are.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        *,
        lease: timedelta = _LEASE,
        caps: FleetCaps = _UNCAPPED,
    ) -> None:
        self._database = database
        self._clock = clock
        self._lease = lease // _MICROSECOND
        self._caps = caps

    async def accept(
        self,
        run: Run,
        *,
        claim_for: str | None,
        max_pending: int,
        idempotency: IdempotencyRecord | None,
        at_once: Sequence[AppliedLimit] = (),
    ) -> Accepted:
        """See the port. When the caller is cancelled while it waits, the run may be stored all the same."""
        acceptance = Acceptance(
            run=run,
            claim_for=claim_for,
            max_pending=max_pending,
            idempotency=idempotency,
            at_once=at_once,
            now=self._clock.now(),
            lease=self._lease,
            caps=self._caps,
        )
        try:
            return await self._database.write(acceptance)
        except (UniqueViolation, Capped):
            # A lost race for the thread, or too many run already: the run waits its turn.
            return await self._database.write(replace(acceptance, claim_for=None))

    async def find_replay(self, owner: Owner, record: IdempotencyRecord) -> Run | None:
        """See the port."""
        return await self._database.read(lambda tx: known_run(tx, owner, record))

    async def waiting(self) -> Sequence[Waiting]:
        """See the port."""

        def unit(tx: Transaction) -> tuple[Sequence[Row], Sequence[Row]]:
            return tx.all(sql.WAITING), tx.all(sql.RUNNING_BY) if self._caps.any else ()

        rows, running = await self._database.read(unit)
        has_room = room(self._caps, running)
        return [
            Waiting(tenant=TenantId(tenant), user=UserId(user), run_id=RunId(run_id), isolated=losses >= _ISOLATED_FROM)
            for tenant, user, agent, run_id, losses in rows
            if has_room(TenantId(tenant), AgentName(agent))
        ]

    async def pending(self) -> int:
        """See the port."""
        row = await self._database.read(lambda tx: tx.one(sql.COUNT_PENDING))
        return 0 if row is None else int(row[0])

    async def claim(self, run_id: RunId, *, worker: str) -> Run | None:
        """See the port."""
        now = micros(self._clock.now())

        def unit(tx: Transaction) -> Row:
            if not tx.run(sql.TAKE_THREAD, run_id=run_id):
                _overtaken()
            row = tx.one(sql.START_RUN, run_id=run_id, worker=worker, now=now, lease=self._lease) or _overtaken()
            if self._caps.any:
                run = run_from(row)
                check_caps(tx, self._caps, run.owner.tenant, run.agent)
            return row

        return _run_or_none(await self._attempt(unit))

    async def finish(
        self, lease: Lease, status: RunStatus, result: RunResult, *, events: Sequence[Event]
    ) -> Run | None:
        """See the port."""
        row = await self._attempt(
            _Ending(
                lease=lease,
                statement=sql.FINISH_RUN,
                status=status,
                result=result,
                now=self._clock.now(),
                events=events,
            )
        )
        return _run_or_none(row, result)

    async def release(self, lease: Lease, *, events: Sequence[Event] = ()) -> Run | None:
        """See the port."""
        return await self._give_back(lease, sql.RELEASE_RUN, events)

    async def orphans(self) -> Sequence[Run]:
        """See the port. On Postgres those whose lease has expired by its clock."""
        return [run_from(row) for row in await self._database.read(lambda tx: tx.all(sql.ORPHANS), scan=True)]

    async def reap(self, run: Run, *, losses: int, progress_mark: str | None) -> Run | None:
        """See the port."""
        return await self._give_back(_lease_of(run), sql.REAP_RUN, (), losses=losses, progress_mark=progress_mark)

    async def end_orphan(self, run: Run, status: RunStatus, result: RunResult) -> Run | None:
        """See the port. The ending counts as an attempt of its own: the returned run's ``attempt`` is one higher."""
        row = await self._attempt(
            _Ending(
                lease=_lease_of(run),
                statement=sql.END_ORPHAN,
                status=status,
                result=result,
                now=self._clock.now(),
                events=(),
            )
        )
        return _run_or_none(row, result)

    async def end_pending(self, run: Run, status: RunStatus, result: RunResult) -> Run | None:
        """See the port. For a run that had started once, the ending counts as an attempt, as in ``end_orphan``."""
        now, lease = micros(self._clock.now()), _lease_of(run)

        def unit(tx: Transaction) -> Row:
            tx.run(sql.DROP_PENDING, **_named(lease))
            ended = tx.one(
                sql.END_PENDING,
                **_named(lease),
                attempt_was=lease.attempt,
                status=status.value,
                result=result_text(result),
                now=now,
            )
            return ended or _overtaken()

        return _run_or_none(await self._attempt(unit), result)

    async def request_cancel(self, run: Run, reason: CancelReason) -> Run:
        """See the port.

        Raises:
            NotFound: the run was erased meanwhile.
        """
        named = _named(_lease_of(run))

        def unit(tx: Transaction) -> Row | None:
            return tx.one(sql.REQUEST_CANCEL, **named, reason=reason.value) or tx.one(sql.GET_RUN, **named)

        row = await self._database.write(unit)
        if row is None:
            raise NotFound("no such run")
        return run_from(row)

    async def note_resume_mark(self, lease: Lease, mark: str) -> bool:
        """See the port."""
        changed = await self._database.write(
            lambda tx: tx.run(sql.NOTE_RESUME_MARK, **_named(lease), attempt_was=lease.attempt, mark=mark)
        )
        return changed == 1

    async def expired(self, moment: datetime) -> Sequence[Run]:
        """See the port."""
        rows = await self._database.read(lambda tx: tx.all(sql.EXPIRED, moment=micros(moment)))
        return [run_from(row) for row in rows]

    async def cancel_requests(self, worker: str) -> Sequence[tuple[RunId, CancelReason]]:
        """See the port."""
        rows = await self._database.read(lambda tx: tx.all(sql.CANCEL_REQUESTS, worker=worker))
        return [(RunId(run_id), CancelReason(reason)) for run_id, reason in rows]

    async def prune(self, before: datetime) -> int:
        """See the port."""

        def unit(tx: Transaction) -> int:
            tx.lock(REMOVAL)
            return tx.run(sql.PRUNE_IDEMPOTENCY, before=micros(before), limit=_PRUNED_AT_ONCE)

        return await self._database.write(unit)

    async def _give_back(
        self, lease: Lease, statement: Statement, events: Sequence[Event], **params: Param
    ) -> Run | None:
        now = micros(self._clock.now())

        def unit(tx: Transaction) -> Row:
            if not tx.run(sql.LEAVE_THREAD, **_named(lease), back=1, now=now):
                _overtaken()
            row = tx.one(statement, **_named(lease), attempt_was=lease.attempt, **params) or _overtaken()
            if events:
                tx.insert(sql.INSERT_EVENTS, list(event_rows(row[0], events)))
            return row

        return _run_or_none(await self._attempt(unit))

    async def _attempt(self, unit: Unit[Row]) -> Row | None:
        try:
            return await self._database.write(unit)
        except (_Overtaken, Capped, UniqueViolation):
            return None


class _Overtaken(Exception):
    """Somebody else moved the run first."""


class _Ending:
    """The unit that ends a running attempt: leave the thread, set the run, store its last events."""

    def __init__(
        self,
        *,
        lease: Lease,
        statement: Statement,
        status: RunStatus,
        result: RunResult,
        now: datetime,
        events: Sequence[Event],
    ) -> None:
        self._lease = lease
        self._statement = statement
        self._status = status
        self._result = result
        self._now = micros(now)
        self._events = events

    def __call__(self, tx: Transaction) -> Row:
        named = _named(self._lease)
        if not tx.run(sql.LEAVE_THREAD, **named, back=0, now=self._now):
            _overtaken()
        row = tx.one(
            self._statement,
            **named,
            attempt_was=self._lease.attempt,
            status=self._status.value,
            result=result_text(self._result),
            now=self._now,
        )
        if row is None:
            _overtaken()
        if self._events:
            tx.insert(sql.INSERT_EVENTS, list(event_rows(row[0], self._events)))
        return row


def _overtaken() -> NoReturn:
    raise _Overtaken


def _lease_of(run: Run) -> Lease:
    return Lease(run_id=run.run_id, owner=run.owner, attempt=run.attempt, worker="")


def _named(lease: Lease) -> dict[str, str]:
    return {"tenant": lease.owner.tenant, "owner": lease.owner.user, "run_id": lease.run_id}


def _run_or_none(row: Row | None, result: RunResult | None = None) -> Run | None:
    return None if row is None else run_from(row, result=result)
