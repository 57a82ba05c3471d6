"""``ports/event_log.py`` in memory, spilled to SQL. Written by the engine, followed by ``services/streams.py``.

A run that executes, or that somebody follows, has a RunLog. Its writer appends to it and its readers walk along it, so
that a slow reader costs nothing; ``flusher.py`` stores what is new. What memory does not hold is read from the
database, by followers too: a run that ended long ago is only that. The log of an ended run goes with its last reader.

In a cluster the log of a run that another process executes is kept up to date by ``event_mirror.py``; see
``docs/adr/0018-live-events-travel-beside-the-database.md``.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from roadworthy.domain.errors import NotFound
from roadworthy.domain.event import AttemptStarted, Event, EventId, RunEnded, RunEvent, RunStarted
from roadworthy.domain.ids import RunId
from roadworthy.domain.run import Run
from roadworthy.storage import statements as sql
from roadworthy.storage.event_mirror import LAST, Mirrors, RunReader, stored_part
from roadworthy.storage.event_rows import event_from
from roadworthy.storage.flusher import LINGER, RETRY, Flusher
from roadworthy.storage.live_events import LiveEvents
from roadworthy.storage.run_log import RunLog
from roadworthy.storage.transaction import Database

# Events read from the database at once.
_PAGE = 500


class SqlEventWriter:
    """``ports.event_log.EventWriter``: one attempt's end of a RunLog."""

    def __init__(self, run: Run, log: RunLog, flusher: Flusher, owner: "SqlEventLog") -> None:
        self._run = run
        self._log = log
        self._flusher = flusher
        self._owner = owner

    def append(self, body: RunEvent) -> Event:
        """See the port."""
        event = self._log.append(body)
        if not self._log.queued:
            self._flusher.add(self._log)
        self._owner.show(self._log, event)
        return event

    def take_unflushed(self) -> Sequence[Event]:
        """See the port. Events whose flush is under way are handed out too: that flush may fail, and storing an event
        twice stores it once.
        """
        log = self._log
        self._flusher.forget(log)
        events = log.unflushed()
        log.durable = log.end
        log.handed = True
        return events

    def close(self, ended: Run | None) -> None:
        """See the port."""
        self._owner.closed(self._log, self._run, ended)


class SqlEventLog:
    """``ports.event_log.EventLog``. An async context: inside it, events become durable; leaving it stores the rest.

    ``linger``: how long a first new event waits for company. ``retry``: the pause after a write that failed. ``live``:
    other processes execute runs of this database too, and this is how they see each other's events soon.
    """

    def __init__(
        self,
        database: Database,
        runs: RunReader,
        *,
        linger: timedelta = LINGER,
        retry: timedelta = RETRY,
        live: LiveEvents | None = None,
    ) -> None:
        self._database = database
        self._runs = runs
        self._logs: dict[RunId, RunLog] = {}
        self._live = live
        self._flusher = Flusher(database, linger=linger, retry=retry, on_clean=self.let_go, fenced=live is not None)
        self._mirrors = None if live is None else Mirrors(database, runs, self._flusher, live)
        self._flushing: asyncio.Task[None] | None = None
        self.handed_over = False

    async def __aenter__(self) -> Self:
        # Owned here: awaited in __aexit__.
        self._flushing = asyncio.get_running_loop().create_task(self._flusher.run(), name="event-flusher")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._mirrors is not None:
            await self._mirrors.close()
        self._flusher.stop()
        if self._flushing is not None:
            await self._flushing

    @property
    def held(self) -> int:
        """Runs that are in memory."""
        return len(self._logs)

    @property
    def held_events(self) -> int:
        """Events that are in memory."""
        return sum(len(log.events) for log in self._logs.values())

    async def open(self, run: Run) -> SqlEventWriter:
        """See the port.

        Raises:
            StorageUnavailable: on a later attempt, the database cannot say what the earlier ones left.
        """
        log = self._logs.get(run.run_id)
        if log is None:
            log = self._logs[run.run_id] = RunLog(run, floor=EventId(run.ord, 0, 0))
        if self._mirrors is not None:
            self._mirrors.stop(log)
        writer = SqlEventWriter(run, log, self._flusher, self)
        if run.attempt == 1:
            log.begin(1, EventId(run.ord, 0, 0))
            writer.append(RunStarted(run_id=run.run_id, thread_id=run.thread_id, agent=run.agent))
            return writer
        log.writing = True  # so that nobody lets go of the log before the attempt begins
        try:
            await self._flusher.flush(log)
            last = await self._last_durable(run.run_id, run.ord)
        except BaseException:  # cancelled too: the log must not stay taken
            log.writing = False
            self.let_go(log)
            raise
        log.begin(run.attempt, EventId(run.ord, run.attempt, 0))
        writer.append(AttemptStarted(attempt=run.attempt, last_valid=None if last is None else str(last)))
        return writer

    async def follow(self, run: Run, *, after: EventId | None) -> AsyncGenerator[Sequence[Event], None]:
        """See the port. Close it (``contextlib.aclosing``) when leaving it early."""
        log = self._read(run)
        try:
            await self._verify(log, run)
            walk = _Walk(log, self, after if after is not None and after.ord == run.ord else EventId(run.ord, 0, 0))
            while batch := await walk.next():
                yield batch
            if log.ended is not None:
                terminal = await self._terminal(log, log.ended)
                if terminal.id != after:
                    yield [terminal]
        finally:
            log.readers -= 1
            self.let_go(log)

    async def wait(self, run: Run) -> Run | None:
        """See the port."""
        log = self._read(run)
        try:
            await self._verify(log, run)
            while log.ended is None and not self.handed_over:
                _check(log)
                await log.turned()
            return log.ended
        finally:
            log.readers -= 1
            self.let_go(log)

    async def read(self, run: Run) -> Sequence[Event]:
        """See the port."""
        log = self._logs.get(run.run_id)
        # What only other processes have shown, or an attempt that is over, may never be stored.
        if log is not None and self._mirrors is not None and not log.writing:
            log = None
        floor = EventId(run.ord, LAST, 0) if log is None else log.floor
        live = [] if log is None else list(log.events)
        stored: list[Event] = []
        position = EventId(run.ord, 0, 0)
        while position < floor and (batch := await self.stored(run.run_id, position, floor)):
            stored.extend(batch)
            position = batch[-1].id
        return [*stored, *live]

    def ended(self, run: Run) -> None:
        """See the port."""
        log = self._logs.get(run.run_id)
        if log is not None:
            log.ended = run
            log.turn()
            self.let_go(log)
        if self._live is not None:
            # Without a writer the end is an attempt of its own.
            self._live.send_end(run.run_id, EventId(run.ord, run.attempt, 1))

    def hand_over(self) -> None:
        """See the port."""
        self.handed_over = True
        for log in self._logs.values():
            log.turn()

    def show(self, log: RunLog, event: Event) -> None:
        """An event was numbered here: let other processes know."""
        if self._live is not None:
            self._live.send(log.run_id, event)

    def closed(self, log: RunLog, run: Run, ended: Run | None) -> None:
        """An attempt is no longer written here. ``ended`` None: somebody may go on with the run elsewhere."""
        log.writing = False
        log.ended = ended
        log.turn()
        if self._live is not None and ended is not None:
            self._live.send_end(log.run_id, EventId(log.ord, log.attempt, log.n + 1))
        if self._mirrors is not None and ended is None and log.readers:
            self._mirrors.resume(log, run.owner)
        self.let_go(log)

    def let_go(self, log: RunLog) -> None:
        """Free a log that nobody writes or reads and whose events are stored. The run may have another one already."""
        if self._mirrors is not None and not log.readers:
            self._mirrors.stop(log)
        in_use = log.writing or log.readers or log.queued or log.durable < log.end
        if not in_use and self._logs.get(log.run_id) is log:
            del self._logs[log.run_id]

    def _read(self, run: Run) -> RunLog:
        """The run's log, which stays at least as long as the new reader."""
        log = self._logs.get(run.run_id)
        if log is None:
            log = self._logs[run.run_id] = RunLog(run, floor=stored_part(run))
        log.readers += 1
        return log

    async def _verify(self, log: RunLog, run: Run) -> None:
        """Learn of an end that came before the log was there: ``run`` may be older. A later end is told to the log."""
        if self._mirrors is not None and not run.status.final:
            # Of a run that is written elsewhere, ends are told to who mirrors it.
            if not (log.writing or log.ended is not None or self._mirrors.has(log)):
                await self._mirrors.begin(log, run.owner)
            return
        if log.verified:
            return
        row = run if run.status.final else await self._runs.get(run.owner, run.run_id)
        if log.verified:
            return
        log.verified = True
        log.floor = stored_part(row)
        if row.status.final:
            log.ended = row
            log.turn()

    async def _terminal(self, log: RunLog, ended: Run) -> Event:
        """The RunEnded event, which follows the last event of the run's last attempt. Equal in every process."""
        n = log.n if log.attempt == ended.attempt else 0
        if log.attempt != ended.attempt and ended.attempt > 0:
            last = await self._last_durable(ended.run_id, ended.ord)
            n = last.n if last is not None and last.attempt == ended.attempt else 0
        result = ended.result
        return Event(
            id=EventId(ended.ord, ended.attempt, n + 1),
            body=RunEnded(status=ended.status, error=result.error, usage=result.usage),
        )

    async def stored(self, run_id: RunId, after: EventId, to: EventId) -> Sequence[Event]:
        """Some events behind ``after``, up to ``to``, from the database; empty when there are no more."""
        rows = await self._database.read(
            lambda tx: tx.all(
                sql.EVENTS_BETWEEN,
                run_id=run_id,
                attempt=after.attempt,
                n=after.n,
                to_attempt=to.attempt,
                to_n=to.n,
                limit=_PAGE,
            )
        )
        return [event_from(after.ord, row) for row in rows]

    async def _last_durable(self, run_id: RunId, ord_: int) -> EventId | None:
        row = await self._database.read(lambda tx: tx.one(sql.LAST_EVENT, run_id=run_id))
        return None if row is None else EventId(ord_, row[0], row[1])


class _Walk:
    """One reader's way along a log: through the database up to its floor, then through memory."""

    def __init__(self, log: RunLog, owner: SqlEventLog, position: EventId) -> None:
        self._log = log
        self._owner = owner
        # The last event seen, and how far the database was searched for the next ones.
        self._position = self._searched = position
        self._generation = -1
        # Of the next event in memory; None: to be looked for.
        self._index: int | None = None

    async def next(self) -> Sequence[Event]:
        """The next events; none when the run has ended or the server drains."""
        log = self._log
        while True:
            if self._generation != log.generation:
                # The list or its floor has moved, maybe down: what was searched says nothing about it.
                self._generation, self._searched, self._index = log.generation, self._position, None
            if self._searched < log.floor:
                if batch := await self._stored():
                    return batch
                continue
            if batch := self._live():
                return batch
            _check(log)
            if log.ended is not None or self._owner.handed_over:
                return ()
            await log.changed()

    async def _stored(self) -> Sequence[Event]:
        floor = self._log.floor
        batch = await self._owner.stored(self._log.run_id, self._position, floor)
        if batch:
            self._position, self._index = batch[-1].id, None
        else:
            self._searched = floor
        return batch

    def _live(self) -> Sequence[Event]:
        log = self._log
        if self._index is None:
            self._index = log.index_after(self._position)
        batch = log.events[self._index :]
        if batch and batch[0].id <= self._position:
            # Its reader was shown more, elsewhere, than a log had that follows another process.
            batch = log.events[log.index_after(self._position) :]
        if batch:
            self._index, self._position = len(log.events), batch[-1].id
        return batch


def _check(log: RunLog) -> None:
    """Raises NotFound when the run was erased meanwhile."""
    if log.gone:
        raise NotFound("no such run")
