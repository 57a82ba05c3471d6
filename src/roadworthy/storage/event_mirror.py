"""Runs that another process executes: keeps the RunLog of each one that is followed here up to date.

Used by ``event_log.py``; readers walk along a mirrored log as along one that is written here. What comes through
``live_events.py`` is taken as long as it continues what the log has. After a gap, and while nothing is carried, the
log's floor is raised to what the database has, and readers fetch it there. The run's row says how it ended.
"""

import asyncio
from collections import deque
from datetime import timedelta
from typing import NamedTuple, Protocol

from roadworthy.domain.errors import NotFound, StorageUnavailable
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run, RunStatus
from roadworthy.storage import statements as sql
from roadworthy.storage.flusher import Flusher
from roadworthy.storage.live_events import Feed, LiveEvent, LiveEvents
from roadworthy.storage.run_log import MAX_EVENTS, RunLog
from roadworthy.storage.transaction import Database, Transaction

# Behind every event of an attempt.
LAST = 10**9

# How often the database is asked about a run: for something that is known to come, for whatever may have come, and,
# while events are carried, in case that the last of them was lost. The first two grow up to ``_SLOW``.
_SOON = timedelta(milliseconds=50)
_GENTLY = timedelta(milliseconds=200)
_SLOW = timedelta(seconds=1)
_RARELY = timedelta(seconds=5)


class RunReader(Protocol):
    """What the log needs of ``ports.store.RunStore``: the row that says whether a run has ended."""

    async def get(self, owner: Owner, run_id: RunId) -> Run:
        """See ``RunStore.get``."""
        ...


class Mirrors:
    """One task for each log that is followed here and not written here. ``flusher`` stores what is left of a log's own
    events before others' join them.
    """

    def __init__(self, database: Database, runs: RunReader, flusher: Flusher, live: LiveEvents) -> None:
        self._database = database
        self._runs = runs
        self._flusher = flusher
        self._live = live
        self._tasks: dict[RunId, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def has(self, log: RunLog) -> bool:
        """Whether the log is kept up to date."""
        return log.run_id in self._tasks

    async def begin(self, log: RunLog, owner: Owner) -> None:
        """Look at the run once and keep its log up to date from then on, unless it is written here by then.

        Raises:
            NotFound: the run was erased.
            StorageUnavailable: the database cannot say how it stands.
        """
        mirror = self._mirror(log, owner)
        state = await mirror.state()
        if not (log.writing or log.ended is not None or self.has(log)):
            await mirror.look(state)
            self._keep(mirror, log)

    def resume(self, log: RunLog, owner: Owner) -> None:
        """Keep a log up to date whose run is no longer executed here."""
        if not self.has(log):
            self._keep(self._mirror(log, owner), log)

    def stop(self, log: RunLog) -> None:
        """The log is written here, or nobody follows it any more."""
        if (task := self._tasks.pop(log.run_id, None)) is not None:
            task.cancel()

    async def close(self) -> None:
        """Stop all of them."""
        for task in self._ending:
            task.cancel()
        await asyncio.gather(*self._ending, return_exceptions=True)

    def _mirror(self, log: RunLog, owner: Owner) -> "_Mirror":
        return _Mirror(log, owner, self._database, self._runs)

    def _keep(self, mirror: "_Mirror", log: RunLog) -> None:
        # Owned here: cancelled by ``stop``, awaited in ``close``.
        task = asyncio.get_running_loop().create_task(self._keep_up(mirror, log), name="event-mirror")
        self._tasks[log.run_id] = task
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _keep_up(self, mirror: "_Mirror", log: RunLog) -> None:
        while log.durable < log.end:
            try:
                await self._flusher.flush(log)
            except StorageUnavailable:
                await asyncio.sleep(_SLOW.total_seconds())
        feed = self._live.follow(log.run_id, mirror.position)
        try:
            await mirror.keep_up(feed)
        finally:
            feed.close()
            if self._tasks.get(log.run_id) is asyncio.current_task():
                del self._tasks[log.run_id]


class _State(NamedTuple):
    """A run's row and its last durable event."""

    status: RunStatus
    attempt: int
    last: EventId


class _Mirror:
    """One log that follows a run of another process."""

    def __init__(self, log: RunLog, owner: Owner, database: Database, runs: RunReader) -> None:
        self._log = log
        self._owner = owner
        self._database = database
        self._runs = runs
        self._held: deque[LiveEvent] = deque()
        # What cannot be taken before the database has everything up to here.
        self._wanted: EventId | None = None
        self._ending: EventId | None = None

    @property
    def position(self) -> EventId:
        """Of the last event that the log has, in memory or below its floor."""
        return EventId(self._log.ord, self._log.attempt, self._log.n)

    async def state(self) -> _State:
        """What the database says.

        Raises:
            NotFound: the run was erased.
            StorageUnavailable: it cannot say.
        """
        found = await self._database.read(self._state)
        if found is None:
            raise NotFound("no such run")
        return found

    def _state(self, tx: Transaction) -> "_State | None":
        row = tx.one(sql.RUN_STATE, run_id=self._log.run_id)
        if row is None:
            return None
        last = tx.one(sql.LAST_EVENT, run_id=self._log.run_id) or (0, 0)
        return _State(RunStatus(row[0]), row[1], EventId(self._log.ord, last[0], last[1]))

    async def look(self, state: _State) -> bool:
        """Bring the log up to what the database has. Whether there was anything new.

        Raises:
            NotFound: the run was erased.
            StorageUnavailable: the database cannot say.
        """
        log = self._log
        if state.status.final:
            await self._end()
            return True
        first = not log.verified
        log.verified = True
        # Attempts before the row's are over: whatever there is of them is in the database, and what comes late is void.
        stored = max(state.last, EventId(log.ord, state.attempt, 0))
        if first or stored > self.position:
            log.jump(stored)
            return True
        return False

    async def keep_up(self, feed: Feed) -> None:
        """Until the run has ended."""
        log = self._log
        pause = _SOON
        while log.ended is None and not log.gone:
            came = await feed.next(pause if self._owing or not feed.connected else _RARELY)
            self._held.extend(came)
            self._take()
            if came and not self._owing:
                pause = _GENTLY
                continue
            moved = await self._look_again()
            pause = (_SOON if self._owing else _GENTLY) if moved or came else min(_SLOW, 2 * pause)

    @property
    def _owing(self) -> bool:
        """Whether the log waits for something of the database."""
        return self._wanted is not None or self._ending is not None or len(self._log.events) > MAX_EVENTS

    async def _look_again(self) -> bool:
        """As ``look``, and what waited for it. An erased run's log is gone; a database that is away is asked later."""
        log = self._log
        try:
            if self._ending is not None:
                await self._end()
            if log.ended is not None:
                return True
            state = await self.state()
            moved = await self.look(state)
        except NotFound:
            log.gone = True
            log.turn()
            return True
        except StorageUnavailable:
            return False
        if len(log.events) > MAX_EVENTS:
            log.trim(log.index_after(state.last))
        if self._wanted is not None and (self.position >= self._wanted or self._wanted.attempt > state.attempt):
            self._drop_until(self._wanted)
        return moved

    def _drop_until(self, wanted: EventId) -> None:
        """Go on behind what was wanted: it is in the log now, or no worker can have said it."""
        if wanted > self.position:
            while self._held and self._held[0].id.attempt >= wanted.attempt:
                self._held.popleft()
        self._wanted = None
        self._take()

    def _take(self) -> None:
        """Append what continues the log; stop at what does not, and want what is missing."""
        log = self._log
        fresh: list[Event] = []
        attempt, n = log.attempt, log.n
        while self._held and self._wanted is None and len(log.events) + len(fresh) <= 2 * MAX_EVENTS:
            one = self._held[0]
            if (one.id.attempt, one.id.n) > (attempt, n):
                if one.id.n == 1 and one.id.attempt > attempt:
                    # It was sent after the attempts before had ended.
                    log.mirror(fresh)
                    fresh, attempt, n = [], one.id.attempt, 0
                    log.jump(EventId(log.ord, attempt, 0))
                if one.end:
                    self._ending = one.id
                elif one.id.attempt != attempt or one.id.n != n + 1:
                    self._wanted = one.id._replace(n=one.id.n - 1)
                    break
                elif one.event is None:
                    self._wanted = one.id
                else:
                    fresh.append(one.event)
                    n += 1
            self._held.popleft()
        log.mirror(fresh)

    async def _end(self) -> None:
        """The run's row may be final: if it is, so is the log."""
        log, said = self._log, self._ending
        row = await self._runs.get(self._owner, log.run_id)
        self._ending = None
        if not row.status.final:
            return
        if said is None or row.attempt != log.attempt or said != self.position._replace(n=log.n + 1):
            # Not all of it came: whatever there is, is in the database.
            log.jump(stored_part(row))
            log.attempt = 0
        log.verified = True
        log.ended = row
        log.turn()


def stored_part(run: Run) -> EventId:
    """The floor of a log that holds nothing: whatever there is of the run is in the database."""
    return EventId(run.ord, run.attempt, LAST if run.attempt else 0)
