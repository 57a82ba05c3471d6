"""Any EventLog: what it keeps in memory, when it lets go, and how events become durable."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import pytest

from roadworthy.domain.errors import StorageFull
from roadworthy.domain.event import CustomData, Event
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.storage import flusher
from roadworthy.storage.event_rows import event_rows
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.run_log import MAX_EVENTS
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.transaction import Database, Param, T, Unit
from tests.conformance.storage.factories import BOB, delta, everything, ids, lease_of, until
from tests.conformance.storage.log_steps import DONE, NEVER, NOW, finish, lost_and_claimed, started
from tests.conformance.storage.replicas import LOG_KINDS, Logs
from tests.conformance.storage.test_stores import ref

pytestmark = pytest.mark.parametrize(("backend", "log_kind"), LOG_KINDS, indirect=True)


async def test_memory_is_given_back_when_a_run_has_ended_and_nobody_reads(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs(linger=NOW) as log:
        async with aclosing(log.follow(run, after=None)) as follower:
            pending = asyncio.get_running_loop().create_task(anext(follower))
            await asyncio.sleep(0)
            await finish(queue, run, await log.open(run))
            await pending
            assert log.held == 1
        assert log.held == 0
        assert len(await everything(log, run)) == 2
        assert log.held == 0


async def test_a_very_long_run_is_not_kept_in_memory_and_a_slow_reader_misses_nothing(
    queue: SqlRunQueue, logs: Logs
) -> None:
    run = await started(queue)
    async with asyncio.timeout(60), logs(linger=NOW) as log:
        async with aclosing(log.follow(run, after=None)) as slow:
            writer = await log.open(run)
            seen = list(await anext(slow))
            for number in range(3 * MAX_EVENTS):
                writer.append(delta(str(number)))
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: log.held_events <= MAX_EVENTS)
            ended = await finish(queue, run, writer)
            seen.extend([event async for batch in slow for event in batch])
        whole = await everything(log, ended)
    assert seen == whole
    assert [event.id.n for event in whole] == list(range(1, 3 * MAX_EVENTS + 3))


@pytest.mark.parametrize("attempt", [1, 2])
async def test_a_slow_reader_who_came_before_the_attempt_began_misses_nothing(
    queue: SqlRunQueue, logs: Logs, attempt: int
) -> None:
    run = await started(queue)
    if attempt > 1:
        run = await lost_and_claimed(queue, run)
    async with asyncio.timeout(60), logs(linger=NOW) as log:
        async with aclosing(log.follow(run, after=None)) as slow:
            waiting = asyncio.get_running_loop().create_task(anext(slow))
            for _ in range(10):
                await asyncio.sleep(0)
            assert not waiting.done()
            writer = await log.open(run)
            seen = list(await waiting)
            for number in range(9_500):
                writer.append(delta(str(number)))
                if number % 50 == 0:
                    await asyncio.sleep(0)
            await until(lambda: log.held_events <= MAX_EVENTS)
            ended = await finish(queue, run, writer)
            seen.extend([event async for batch in slow for event in batch])
        whole = await everything(log, ended)
    assert [(event.id.attempt, event.id.n) for event in whole] == [(attempt, n) for n in range(1, 9_503)]
    assert seen == whole


async def stored(logs: Logs, run: Run, *, count: int) -> Sequence[Event]:
    """The run's events in the database, as soon as there are so many."""
    async with asyncio.timeout(10):
        while len(events := await logs().read(run)) < count:  # noqa: ASYNC110 -- as in ``until``
            await asyncio.sleep(0)
    return events


@dataclass
class Gated:
    """A database whose writes wait at a gate, before or behind the real one, and may then fail."""

    inner: Database
    behind: bool = False
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.reached = asyncio.Event()
        self.open = asyncio.Event()
        self.done = asyncio.Event()

    @property
    def in_line(self) -> bool:
        return self.inner.in_line

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


@pytest.mark.parametrize("order", ["flush before end", "end before flush", "flush fails"])
async def test_events_whose_flush_is_under_way_at_the_end_are_stored_once(
    queue: SqlRunQueue, logs: Logs, database: Database, order: str
) -> None:
    run = await started(queue)
    error = StorageFull("full") if order == "flush fails" else None
    gated = Gated(database, behind=order == "flush before end", error=error)
    async with asyncio.timeout(30), logs(gated, linger=NOW, retry=NEVER) as log:
        writer = await log.open(run)
        writer.append(delta("in flight"))
        await gated.reached.wait()
        writer.append(delta("behind"))
        events = writer.take_unflushed()
        ended = await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=events)
        assert ended is not None
        writer.close(ended)
        gated.open.set()
    replay = await everything(logs(), ended)
    assert ids(replay) == ["1-1-1", "1-1-2", "1-1-3", "1-1-4"]
    assert [event.body for event in replay[1:3]] == [delta("in flight"), delta("behind")]


async def test_events_handed_out_for_the_end_stay_in_memory_until_they_are_stored(
    queue: SqlRunQueue, logs: Logs, database: Database
) -> None:
    run = await started(queue)
    gated = Gated(database, behind=True)
    async with asyncio.timeout(30), logs(gated, linger=NOW) as log:
        async with aclosing(log.follow(run, after=None)) as slow:
            writer = await log.open(run)
            seen = list(await anext(slow))
            for number in range(MAX_EVENTS + 100):
                writer.append(delta(str(number)))
            await gated.reached.wait()
            events = writer.take_unflushed()
            gated.open.set()
            await gated.done.wait()
            while len(seen) < MAX_EVENTS + 101:
                seen.extend(await anext(slow))
            ended = await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=events)
            assert ended is not None
            writer.close(ended)
            seen.extend([event async for batch in slow for event in batch])
        assert seen == await everything(log, ended)


async def test_a_flush_that_failed_is_tried_again(queue: SqlRunQueue, logs: Logs, database: Database) -> None:
    run = await started(queue)
    gated = Gated(database, error=StorageFull("full"))
    gated.open.set()
    async with asyncio.timeout(30), logs(gated, linger=NOW, retry=NOW) as log:
        shown = (await log.open(run)).append(delta("kept"))
        await gated.reached.wait()
        gated.error = None
    assert shown in await logs().read(run)


async def test_an_event_that_cannot_be_encoded_is_stored_as_a_marker_in_its_place(
    queue: SqlRunQueue, logs: Logs
) -> None:
    run = await started(queue)
    hostile = CustomData(data={"n": 10**5_000})
    async with asyncio.timeout(30), logs(linger=NOW) as log:
        writer = await log.open(run)
        writer.append(hostile)
        writer.append(delta("behind"))
        await stored(logs, run, count=3)
        writer.append(hostile)
        ended = await finish(queue, run, writer)
    marker = CustomData(data={"error": "this event could not be stored"})
    events = await stored(logs, ended, count=4)
    assert ids(events) == ["1-1-1", "1-1-2", "1-1-3", "1-1-4"]
    assert [event.body for event in events[1:]] == [marker, delta("behind"), marker]


async def test_a_run_whose_events_cannot_be_stored_is_reported_and_holds_up_no_other(
    queue: SqlRunQueue,
    logs: Logs,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def rows(seq: int, events: Sequence[Event]) -> Iterator[Sequence[Param]]:
        if any(event.body == delta("poison") for event in events):
            raise ZeroDivisionError
        return event_rows(seq, events)

    monkeypatch.setattr(flusher, "event_rows", rows)
    run, other = await started(queue), await started(queue, BOB)
    async with asyncio.timeout(30), logs(linger=NOW) as log:
        writer, others = await log.open(run), await log.open(other)
        writer.append(delta("poison"))
        others.append(delta("neighbour"))
        assert (await stored(logs, other, count=2))[1].body == delta("neighbour")
        await until(lambda: any(run.run_id in record.getMessage() for record in caplog.records))
        writer.append(delta("later"))
        assert [event.body for event in await stored(logs, run, count=1)] == [delta("later")]
        await finish(queue, run, writer)
        await finish(queue, other, others)
        assert log.held == 0
    assert {record.levelname for record in caplog.records} == {"ERROR"}


async def test_an_erased_run_s_late_events_are_dropped(queue: SqlRunQueue, threads: SqlThreadStore, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs(linger=NEVER) as log:
        writer = await log.open(run)
        await queue.release(lease_of(run))
        writer.close(None)
        waiting = replace(run, status=RunStatus.PENDING)
        assert await queue.end_pending(waiting, RunStatus.CANCELLED, RunResult()) is not None
        assert await threads.erase(ref())
    await threads.finish_erasure(ref())
    again = await started(queue)
    assert await logs().read(again) == []


async def test_hundreds_of_followers_each_see_the_whole_run(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(60), logs(linger=NOW) as log:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(everything(log, run)) for _ in range(200)]
            writer = await log.open(run)
            for number in range(50):
                writer.append(delta(str(number)))
                await asyncio.sleep(0)
            tasks[0].cancel()
            await asyncio.sleep(0)
            await finish(queue, run, writer)
        assert all(ids(task.result()) == [f"1-1-{n}" for n in range(1, 53)] for task in tasks[1:])
        assert log.held == 0
