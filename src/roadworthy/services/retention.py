"""What is kept how long: one pass deletes what is too old, in short transactions, beside the runs.

``bootstrap.py`` keeps it going once a minute. Below: ``ports/retention.py``, the queue's idempotency records,
``services/threads.py`` for whole threads, the runtime for checkpoints.
"""

import asyncio
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta

from roadworthy.domain.errors import StorageUnavailable, ThreadBusy
from roadworthy.ports.clock import Clock
from roadworthy.ports.queue import RunQueue
from roadworthy.ports.retention import RetentionStore, UsedThread
from roadworthy.ports.runtime import AgentRuntime
from roadworthy.ports.telemetry import Telemetry
from roadworthy.services.threads import Threads

PRUNE_EVERY = timedelta(minutes=1)
# After a transaction that removed something, so that the runs' own come through. A write beside a long backlog then
# takes its usual time; with 2 ms, one in a hundred waited for 24 ms.
_PAUSE = timedelta(milliseconds=10)
_THREADS_AT_ONCE = 100
# A use is dated before it is stored, so one that was stored last may carry an earlier date.
_OVERLAP = timedelta(seconds=30)
_EVER = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """How long things are kept (None: for ever), and how many of a living thread."""

    threads: timedelta | None
    events: timedelta | None
    idempotency: timedelta
    checkpoints: int
    outputs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pruned:
    """What one pass has removed. ``failed``: threads whose checkpoints could not be pruned."""

    threads: int = 0
    events: int = 0
    idempotency: int = 0
    outputs: int = 0
    checkpoints: int = 0
    failed: int = 0


class Retention:
    """See the module. One pass at a time."""

    def __init__(
        self,
        *,
        store: RetentionStore,
        queue: RunQueue,
        threads: Threads,
        runtime: AgentRuntime,
        clock: Clock,
        telemetry: Telemetry,
        kept: Kept,
        pause: timedelta = _PAUSE,
    ) -> None:
        self._store = store
        self._queue = queue
        self._threads = threads
        self._runtime = runtime
        self._clock = clock
        self._telemetry = telemetry
        self._kept = kept
        self._pause = pause.total_seconds()
        self._visited: datetime | None = None

    async def prune_once(self) -> Pruned:
        """One pass. What it leaves undone because of an error, the next one does.

        Raises:
            StorageUnavailable: a database does not answer.
        """
        idempotency = await self._forget_keys()
        events = await self._prune_events()
        threads = await self._erase_threads()
        return replace(await self._visit_threads(), idempotency=idempotency, events=events, threads=threads)

    async def _forget_keys(self) -> int:
        forgotten = 0
        while count := await self._queue.prune(self._clock.now() - self._kept.idempotency):
            forgotten += count
            await self._breathe(count)
        return forgotten

    async def _prune_events(self) -> int:
        if self._kept.events is None:
            return 0
        removed, more = 0, True
        while more:
            batch = await self._store.prune_events(self._clock.now() - self._kept.events)
            removed, more = removed + batch.removed, batch.more
            await self._breathe(batch.removed)
        return removed

    async def _erase_threads(self) -> int:
        await self._threads.remove_halves()
        if self._kept.threads is None:
            return 0
        before, erased, more = self._clock.now() - self._kept.threads, 0, True
        while more:
            more = False
            for ref in await self._store.unused_threads(before, limit=_THREADS_AT_ONCE):
                try:
                    gone = await self._threads.remove(ref, unused_since=before)
                except ThreadBusy:  # somebody uses or erases it, right now
                    continue
                erased, more = erased + gone, more or gone
                await self._breathe(gone)
        return erased

    async def _visit_threads(self) -> Pruned:
        """Look at what was used since the last pass: elsewhere nothing has come that could have pushed out the old."""
        begun = self._clock.now()
        visited = self._visited or await self._store.visited_until()
        # The clock may have been set back since.
        since = _EVER if visited is None else min(visited, begun) - _OVERLAP
        before = begun - self._kept.idempotency
        done = await self._trim_later(since - self._kept.idempotency, before)
        last: UsedThread | None = None
        while page := await self._store.used_threads(since, last, limit=_THREADS_AT_ONCE):
            for thread in page:
                done = await self._visit(thread, done, before)
            last = page[-1]
            await self._store.note_visited(last.used_at)
        self._visited = begun
        return done

    async def _trim_later(self, since: datetime, before: datetime) -> Pruned:
        """Trim what was too young when its thread was visited: a repeated request has to find the whole answer."""
        done = Pruned()
        last: UsedThread | None = None
        while page := await self._store.used_threads(since, last, limit=_THREADS_AT_ONCE):
            for last in page:
                if last.used_at > before:
                    return done
                done = await self._trim(last, done, before)
        return done

    async def _trim(self, thread: UsedThread, done: Pruned, before: datetime) -> Pruned:
        more = True
        while more:
            batch, thread = await self._store.trim_outputs(thread, keep=self._kept.outputs, before=before)
            done, more = replace(done, outputs=done.outputs + batch.removed), batch.more
            await self._breathe(batch.removed)
        return done

    async def _visit(self, thread: UsedThread, done: Pruned, before: datetime) -> Pruned:
        done = await self._trim(thread, done, before)
        if not await self._store.idle(thread.ref):
            return done  # its end will be a use, too
        try:
            removed = await self._runtime.prune_thread(thread.ref, keep=self._kept.checkpoints)
        except StorageUnavailable as error:
            if await self._runtime.ready() is not None:
                raise
            # What is wrong with one thread must not keep all others.
            self._telemetry.worker_note(
                "thread_not_pruned",
                tenant=thread.ref.owner.tenant,
                thread_id=thread.ref.thread_id,
                error=type(error.__cause__ or error).__name__,
            )
            return replace(done, failed=done.failed + 1)
        await self._breathe(removed)
        return replace(done, checkpoints=done.checkpoints + removed)

    async def _breathe(self, removed: int) -> None:
        await asyncio.sleep(self._pause if removed else 0)


async def keep_pruning(retention: Retention, telemetry: Telemetry, *, every: timedelta = PRUNE_EVERY) -> None:
    """A pass every minute, for ever."""
    while True:
        await asyncio.sleep(every.total_seconds())
        try:
            pruned = await retention.prune_once()
        except StorageUnavailable as error:
            telemetry.worker_note("pruning_given_up", error=error.message)
            continue  # the next minute will do
        counts = {name: count for name, count in asdict(pruned).items() if count}
        if counts:
            telemetry.worker_note("pruned", **counts)
