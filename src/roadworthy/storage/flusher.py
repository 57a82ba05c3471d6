"""Makes events durable soon after they were shown: one task for all runs. Owned by ``event_log.py``.

The first new event starts a short linger, then everything that has come up is written in one unit; what comes while
that is under way waits for the next. A write that fails is tried again later: the events stay in memory. Only events
that bring down a unit all by themselves are given up: they are reported, and nobody else's wait for them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.event import Event
from roadworthy.domain.ids import RunId
from roadworthy.storage import statements as sql
from roadworthy.storage.event_rows import event_rows
from roadworthy.storage.run_log import RunLog
from roadworthy.storage.transaction import Database, Param, Transaction

_log = logging.getLogger(__name__)

LINGER = timedelta(milliseconds=100)
RETRY = timedelta(seconds=1)
# Events of one run and of one unit: a write must not keep the others waiting for long.
_MAX_OF_RUN = 500
_MAX_OF_UNIT = 2_000


class Flusher:
    """``run`` is the task; everything else is called beside it. ``on_clean`` hears of logs with nothing left to do.

    ``fenced``: other processes may take runs over. What an attempt has said is not stored any more once its successor
    has begun: that one has told where it went on from.
    """

    def __init__(
        self,
        database: Database,
        *,
        linger: timedelta,
        retry: timedelta,
        on_clean: Callable[[RunLog], None],
        fenced: bool = False,
    ) -> None:
        self._database = database
        self._fenced = fenced
        self._linger = linger
        self._retry = retry
        self._on_clean = on_clean
        self._queue: dict[RunId, RunLog] = {}
        self._work = asyncio.Event()
        self._stop = asyncio.Event()

    def add(self, log: RunLog) -> None:
        """Note that a log has new events."""
        if not log.queued:
            log.queued = True
            self._queue[log.run_id] = log
            self._work.set()

    def forget(self, log: RunLog) -> None:
        """The log's events are taken care of elsewhere."""
        log.queued = False
        self._queue.pop(log.run_id, None)

    async def flush(self, log: RunLog) -> None:
        """Make every event of one log durable now.

        Raises:
            StorageUnavailable: it cannot be done; the events stay in memory.
        """
        while log.durable < log.end:
            await self._write([log])

    async def run(self) -> None:
        """Flush until ``stop``, and then once more whatever is left; a database that fails then ends it."""
        while not self._stop.is_set() or self._queue:
            await self._work.wait()
            await self._pause(self._linger)
            logs = self._next()
            try:
                await self._write_all(logs)
            except StorageUnavailable:
                if self._stop.is_set():
                    return
                for log in logs:
                    self.add(log)
                await self._pause(self._retry)

    def stop(self) -> None:
        """Make ``run`` end soon."""
        self._stop.set()
        self._work.set()

    async def _pause(self, length: timedelta) -> None:
        """Wait, but no longer than until ``stop``."""
        try:
            async with asyncio.timeout(length.total_seconds()):
                await self._stop.wait()
        except TimeoutError:
            return

    def _next(self) -> list[RunLog]:
        """Logs off the queue, with as many events as fit into one unit."""
        logs: list[RunLog] = []
        room = _MAX_OF_UNIT
        while self._queue and room > 0:
            log = self._queue.pop(next(iter(self._queue)))
            log.queued = False
            logs.append(log)
            room -= min(log.end - log.durable, _MAX_OF_RUN)
        if not self._queue and not self._stop.is_set():
            self._work.clear()
        return logs

    async def _write_all(self, logs: Sequence[RunLog]) -> None:
        """Write some events of every log: together, or each log's alone when that fails for no reason of storage.

        Raises:
            StorageUnavailable: the database fails. A log may be written already; nothing is stored twice.
        """
        try:
            if logs:
                await self._write(logs)
        except StorageUnavailable:
            raise
        except Exception:  # noqa: BLE001 -- worker loop: a defect in one run's events must not end everybody's
            for log in logs:
                await self._write_alone(log)

    async def _write_alone(self, log: RunLog) -> None:
        start, count = log.durable, len(log.unflushed(_MAX_OF_RUN))
        try:
            await self._write([log])
        except StorageUnavailable:
            raise
        except Exception:  # noqa: BLE001 -- worker loop: as in ``_write_all``
            _log.exception("%d events of the run %s could not be stored and are lost", count, log.run_id)
            self._settle(log, start + count)

    async def _write(self, logs: Sequence[RunLog]) -> None:
        # In the order in which whoever locks several runs does it.
        ordered = sorted(logs, key=lambda log: log.run_id)
        batches = [(log, log.durable, log.unflushed(_MAX_OF_RUN)) for log in ordered]
        known = [(log.run_id, None if self._fenced else log.seq, events) for log, _, events in batches]
        keys = await self._database.write(_Write(known, fenced=self._fenced))
        for (log, start, events), seq in zip(batches, keys, strict=True):
            log.seq = seq
            self._settle(log, start + len(events))

    def _settle(self, log: RunLog, position: int) -> None:
        """The log's events before ``position`` are done with."""
        log.flushed(position)
        if log.durable < log.end:
            self.add(log)
        elif not log.queued:
            self._on_clean(log)


class _Write:
    """The unit of work. Returns the keys of the runs, None for one that was erased meanwhile (or taken over, when that
    is ``fenced``): its events go too.
    """

    def __init__(self, batches: Sequence[tuple[RunId, int | None, Sequence[Event]]], *, fenced: bool) -> None:
        self._batches = batches
        self._fenced = fenced

    def __call__(self, tx: Transaction) -> Sequence[int | None]:
        keys: list[int | None] = []
        rows: list[Sequence[Param]] = []
        for run_id, known, events in self._batches:
            seq = known
            if seq is None:
                seq = self._key(tx, run_id, events)
            if seq is not None:
                rows.extend(event_rows(seq, events))
            keys.append(seq)
        if rows:
            tx.insert(sql.INSERT_EVENTS, rows)
        return keys

    def _key(self, tx: Transaction, run_id: RunId, events: Sequence[Event]) -> int | None:
        if self._fenced and events:
            found = tx.one(sql.LOCK_ATTEMPT, run_id=run_id, attempt=events[0].id.attempt)
        else:
            found = tx.one(sql.RUN_SEQ, run_id=run_id)
        return None if found is None else int(found[0])
