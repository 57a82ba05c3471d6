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
    """``run`` is the task; everything else is called beside it. ``on_clean`` hears of logs with nothing left to do."""

    def __init__(
        self, database: Database, *, linger: timedelta, retry: timedelta, on_clean: Callable[[RunLog], None]
    ) -> None:
        self._database = database
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
        await self._database.write(_Write([(log.run_id, events) for log, _, events in batches]))
        for log, start, events in batches:
            self._settle(log, start + len(events))

    def _settle(self, log: RunLog, position: int) -> None:
        """The log's events before ``position`` are done with."""
        log.flushed(position)
        if log.durable < log.end:
            self.add(log)
        elif not log.queued:
            self._on_clean(log)


class _Write:
    """The unit of work. The events of an attempt that has lost its run are refused, and those of a run that was erased
    meanwhile: they are gone.
    """

    def __init__(self, batches: Sequence[tuple[RunId, Sequence[Event]]]) -> None:
        self._batches = batches

    def __call__(self, tx: Transaction) -> None:
        rows: list[Sequence[Param]] = []
        for run_id, events in self._batches:
            if not events:
                continue
            found = tx.one(sql.SEQ_OF_ATTEMPT, run_id=run_id, attempt=events[0].id.attempt)
            if found is not None:
                rows.extend(event_rows(int(found[0]), events))
        if rows:
            tx.insert(sql.INSERT_EVENTS, rows)
