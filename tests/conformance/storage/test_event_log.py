"""Any EventLog: numbering, following live and later, attempts, and what a crash leaves."""

import asyncio

import pytest

from roadworthy.domain.errors import NotFound
from roadworthy.domain.event import AttemptStarted, EventId, RunEnded, RunStarted
from roadworthy.domain.run import RunResult, RunStatus
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.threads import SqlThreadStore
from tests.conformance.storage.factories import delta, everything, ids, lease_of, new_run
from tests.conformance.storage.log_steps import DONE, FAILED, NEVER, NOW, crashing, finish, lost_and_claimed, started
from tests.conformance.storage.replicas import LOG_KINDS, Logs
from tests.conformance.storage.test_stores import ref

pytestmark = pytest.mark.parametrize(("backend", "log_kind"), LOG_KINDS, indirect=True)


async def test_events_are_numbered_from_one_behind_the_start(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with logs(linger=NEVER) as log:
        writer = await log.open(run)
        assert [str(writer.append(delta(text)).id) for text in "ab"] == ["1-1-2", "1-1-3"]
        ended = await finish(queue, run, writer)
        events = await everything(log, ended)
    assert ids(events) == ["1-1-1", "1-1-2", "1-1-3", "1-1-4"]
    assert events[0].body == RunStarted(run_id=run.run_id, thread_id=run.thread_id, agent=run.agent)
    assert events[-1].body == RunEnded(status=RunStatus.SUCCESS, error=None)


async def test_a_live_follower_sees_what_a_later_one_sees_from_every_index(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs(linger=NOW) as log:
        async with asyncio.TaskGroup() as group:
            early = group.create_task(everything(log, run))
            writer = await log.open(run)
            for number in range(20):
                writer.append(delta(str(number)))
                await asyncio.sleep(0)
            late = group.create_task(everything(log, run))
            await asyncio.sleep(0)
            ended = await finish(queue, run, writer, FAILED)
        whole = early.result()
        assert late.result() == whole
        assert len(whole) == 22
        assert whole[-1].body == RunEnded(status=RunStatus.SUCCESS, error=FAILED.error)
        for stale in (run, ended):
            for index, event in enumerate(whole):
                assert await everything(log, stale, event.id) == whole[index + 1 :]


async def test_another_process_replays_the_same_events(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with logs(linger=NEVER) as log:
        writer = await log.open(run)
        for number in range(1_200):
            writer.append(delta(str(number)))
        ended = await finish(queue, run, writer)
        here = await everything(log, ended)
    there = logs()
    assert await everything(there, ended) == here
    assert await everything(there, run, here[700].id) == here[701:]
    assert list(await there.read(ended)) == here[:-1]


async def test_a_follower_of_a_pending_run_waits_for_its_start(queue: SqlRunQueue, logs: Logs) -> None:
    waiting = (await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=None)).run
    async with asyncio.timeout(30), logs() as log, asyncio.TaskGroup() as group:
        follower = group.create_task(everything(log, waiting))
        await asyncio.sleep(0)
        run = await queue.claim(waiting.run_id, worker="worker")
        assert run is not None
        await finish(queue, run, await log.open(run))
    assert ids(follower.result()) == ["1-1-1", "1-1-2"]


async def test_a_run_that_never_started_has_only_its_end(queue: SqlRunQueue, logs: Logs) -> None:
    waiting = (await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=None)).run
    async with asyncio.timeout(30), logs() as log:
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(everything(log, waiting))
            await asyncio.sleep(0)
            ended = await queue.end_pending(waiting, RunStatus.CANCELLED, RunResult())
            assert ended is not None
            log.ended(ended)
        assert ids(follower.result()) == ["1-0-1"]
        for stale in (waiting, ended):
            assert await everything(log, stale) == follower.result()
            assert await everything(log, stale, EventId(1, 0, 1)) == []


async def test_a_follower_who_comes_with_an_old_row_learns_of_the_end(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    log = logs()
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    async with asyncio.timeout(30):
        assert ids(await everything(log, run)) == ["1-1-1"]


async def test_followers_of_an_erased_run_find_nothing(queue: SqlRunQueue, threads: SqlThreadStore, logs: Logs) -> None:
    run = await started(queue)
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    await threads.erase(ref())
    log = logs()
    async with asyncio.timeout(30):
        for _ in range(2):
            with pytest.raises(NotFound):
                await everything(log, run)


async def test_what_was_shown_but_not_stored_is_retracted_by_the_next_attempt(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with crashing(logs(linger=NEVER)) as log:
        writer = await log.open(run)
        lost = [writer.append(delta(text)).id for text in "abc"]
    assert await queue.reap(run, losses=1, progress_mark=None) is not None
    again = await queue.claim(run.run_id, worker="another")
    assert again is not None
    async with asyncio.timeout(30), logs() as log:
        writer = await log.open(again)
        writer.append(delta("x"))
        ended = await finish(queue, again, writer)
        events = await everything(log, ended)
        assert ids(events) == ["1-2-1", "1-2-2", "1-2-3"]
        assert events[0].body == AttemptStarted(attempt=2, last_valid=None)
        for event_id in lost:
            assert await everything(log, ended, event_id) == events


async def test_the_next_attempt_names_the_last_event_that_survived(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with logs(linger=NEVER) as log:
        (await log.open(run)).append(delta("survives"))
    assert await queue.reap(run, losses=1, progress_mark=None) is not None
    again = await queue.claim(run.run_id, worker="another")
    assert again is not None
    async with asyncio.timeout(30), logs() as log:
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(everything(log, again))
            await asyncio.sleep(0)
            writer = await log.open(again)
            ended = await finish(queue, again, writer)
        events = follower.result()
        assert ids(events) == ["1-1-1", "1-1-2", "1-2-1", "1-2-2"]
        assert events[2].body == AttemptStarted(attempt=2, last_valid="1-1-2")
        assert await everything(log, ended) == events


async def test_a_released_run_goes_on_for_the_same_followers(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs(linger=NEVER) as log:
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(everything(log, run))
            await asyncio.sleep(0)
            writer = await log.open(run)
            writer.append(delta("first"))
            await queue.release(lease_of(run), events=writer.take_unflushed())
            writer.close(None)
            await asyncio.sleep(0)
            again = await queue.claim(run.run_id, worker="worker")
            assert again is not None
            writer = await log.open(again)
            writer.append(delta("second"))
            ended = await finish(queue, again, writer)
        assert ids(follower.result()) == ["1-1-1", "1-1-2", "1-2-1", "1-2-2", "1-2-3"]
        assert follower.result()[2].body == AttemptStarted(attempt=2, last_valid="1-1-2")
        assert await everything(log, ended) == follower.result()


async def test_an_orphan_s_end_never_has_the_id_of_an_event_that_was_shown(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with crashing(logs(linger=NEVER)) as log:
        writer = await log.open(run)
        shown = [EventId(1, 1, 1), *(writer.append(delta(text)).id for text in "abc")]
    ended = await queue.end_orphan(run, RunStatus.TIMEOUT, RunResult())
    assert ended is not None
    log = logs()
    async with asyncio.timeout(30):
        for event_id in (None, *shown):
            assert ids(await everything(log, ended, event_id)) == ["1-2-1"]
        assert await everything(log, ended, EventId(1, 2, 1)) == []


async def test_an_id_of_another_run_of_the_thread_means_from_the_start(queue: SqlRunQueue, logs: Logs) -> None:
    first = await started(queue)
    await queue.finish(lease_of(first), RunStatus.SUCCESS, DONE, events=())
    second = await started(queue)
    async with logs(linger=NEVER) as log:
        ended = await finish(queue, second, await log.open(second))
        assert ids(await everything(log, ended, EventId(1, 7, 7))) == ["2-1-1", "2-1-2"]


async def test_waiting_for_the_end_gives_the_final_row_whenever_one_comes(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs() as log:
        async with asyncio.TaskGroup() as group:
            early = group.create_task(log.wait(run))
            await asyncio.sleep(0)
            writer = await log.open(run)
            writer.append(delta("x"))
            await asyncio.sleep(0)
            assert not early.done()
            ended = await finish(queue, run, writer)
        assert early.result() == ended
        assert await log.wait(run) == ended
        assert await log.wait(ended) == ended
        assert log.held == 0


async def test_draining_ends_who_waits_for_the_end(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs() as log:
        async with asyncio.TaskGroup() as group:
            waiter = group.create_task(log.wait(run))
            await asyncio.sleep(0)
            writer = await log.open(run)
            log.hand_over()
        assert waiter.result() is None
        writer.close(None)


async def test_draining_ends_every_follower_without_an_end_of_the_run(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs() as log:
        async with asyncio.TaskGroup() as group:
            follower = group.create_task(everything(log, run))
            await asyncio.sleep(0)
            writer = await log.open(run)
            writer.append(delta("shown"))
            log.hand_over()
        assert ids(follower.result()) == ["1-1-1", "1-1-2"]
        assert await everything(log, run) == follower.result()
        writer.close(None)


async def test_leaving_the_log_stores_what_is_left(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with asyncio.timeout(30), logs(linger=NEVER) as log:
        writer = await log.open(run)
        shown = [writer.append(delta(str(number))) for number in range(2_600)]
        writer.close(None)
    assert list(await logs().read(run))[1:] == shown


async def test_read_joins_what_is_stored_and_what_is_not(queue: SqlRunQueue, logs: Logs) -> None:
    run = await started(queue)
    async with logs(linger=NEVER) as log:
        (await log.open(run)).append(delta("first attempt"))
    again = await lost_and_claimed(queue, run)
    async with logs(linger=NEVER) as log:
        writer = await log.open(again)
        writer.append(delta("second attempt"))
        assert ids(await log.read(again)) == ["1-1-1", "1-1-2", "1-2-1", "1-2-2"]
        assert ids(await log.read(run)) == ids(await log.read(again))
        writer.close(None)
