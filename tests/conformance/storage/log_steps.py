"""Steps of a run that the event log's tests share."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run, RunError, RunResult, RunStatus
from roadworthy.ports.event_log import EventWriter
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.transaction import Database, Unit
from tests.conformance.storage.factories import ALICE, lease_of, new_run

T = TypeVar("T")

NOW = timedelta(0)
NEVER = timedelta(days=1)
DONE = RunResult(response="done")
FAILED = RunResult(error=RunError(code="agent_failed", message="it broke"))


async def started(queue: SqlRunQueue, owner: Owner = ALICE) -> Run:
    return (await queue.accept(new_run(owner), claim_for="worker", max_pending=9, idempotency=None)).run


async def finish(queue: SqlRunQueue, run: Run, writer: EventWriter, result: RunResult = DONE) -> Run:
    ended = await queue.finish(lease_of(run), RunStatus.SUCCESS, result, events=writer.take_unflushed())
    assert ended is not None
    writer.close(ended)
    return ended


@dataclass
class Gated:
    """A database whose writes wait at a gate, before or behind the real one, and may then fail."""

    inner: Database
    behind: bool = False
    error: Exception | None = None
    in_order: bool = False

    def __post_init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.done = asyncio.Event()

    async def write(self, unit: Unit[T]) -> T:
        if self.error is not None:
            await self._wait()
            raise self.error
        if not self.behind:
            await self._wait()
        value = await self.inner.write(unit)
        if self.behind:
            await self._wait()
        self.done.set()
        return value

    async def read(self, unit: Unit[T], *, scan: bool = False) -> T:
        return await self.inner.read(unit, scan=scan)

    async def close(self) -> None:
        return None

    async def _wait(self) -> None:
        self.reached.set()
        await self.open.wait()


@asynccontextmanager
async def crashing(log: SqlEventLog) -> AsyncGenerator[SqlEventLog]:
    """The log of a process that dies at the end: nothing is stored on the way out."""
    yield log


async def lost_and_claimed(queue: SqlRunQueue, run: Run) -> Run:
    assert await queue.reap(run, losses=1, progress_mark=None) is not None
    again = await queue.claim(run.run_id, worker="another")
    assert again is not None
    return again
