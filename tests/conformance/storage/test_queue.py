"""Any RunQueue: what accept, claim and the endings of a run promise."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.errors import NotFound
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.run import CancelReason, Run, RunError, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.queue import Accepted, RunQueue
from roadworthy.ports.store import RunStore, ThreadStore
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.transaction import Counters, Database
from tests.conformance.storage.backends import counters
from tests.conformance.storage.factories import ALICE, BOB, START, STRANGER, delta, lease_of, new_run

DONE = RunResult(response="done", output={"answer": 42})
GONE = RunResult(error=RunError(code="cancelled", message="stopped"))


async def accept(queue: RunQueue, run: Run, *, worker: str | None = None, max_pending: int = 10) -> Accepted:
    return await queue.accept(run, claim_for=worker, max_pending=max_pending, idempotency=None)


async def started(queue: RunQueue, run: Run | None = None) -> Run:
    accepted = await accept(queue, new_run() if run is None else run, worker="worker")
    assert accepted.run.status is RunStatus.RUNNING
    return accepted.run


async def test_claim_takes_a_waiting_run(queue: RunQueue, runs: RunStore, threads: ThreadStore) -> None:
    waiting = (await accept(queue, new_run())).run
    run = await queue.claim(waiting.run_id, worker="worker")
    assert run is not None
    assert (run.status, run.attempt) == (RunStatus.RUNNING, 1)
    assert run.started_at is not None
    assert await runs.get(ALICE, run.run_id) == run
    assert (await threads.get(ThreadRef(owner=ALICE, thread_id=run.thread_id))).active_run == run.run_id
    assert await queue.claim(waiting.run_id, worker="worker") is None


async def test_claim_keeps_the_order_of_a_thread(queue: RunQueue) -> None:
    first, second = [(await accept(queue, new_run())).run for _ in range(2)]
    assert await queue.claim(second.run_id, worker="worker") is None
    run = await queue.claim(first.run_id, worker="worker")
    assert run is not None
    assert await queue.claim(second.run_id, worker="worker") is None
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    assert await queue.claim(second.run_id, worker="worker") is not None


async def test_a_cancelled_waiting_run_neither_starts_nor_holds_up_the_next(queue: RunQueue) -> None:
    first, second = [(await accept(queue, new_run())).run for _ in range(2)]
    await queue.request_cancel(first, CancelReason.REQUESTED)
    assert await queue.claim(first.run_id, worker="worker") is None
    assert [waiting.run_id for waiting in await queue.waiting()] == [second.run_id]
    assert await queue.claim(second.run_id, worker="worker") is not None
    assert await queue.end_pending(first, RunStatus.CANCELLED, GONE) is not None


async def test_fifty_claims_of_one_run_are_won_once(queue: RunQueue) -> None:
    waiting = (await accept(queue, new_run())).run
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(queue.claim(waiting.run_id, worker=f"worker {n}")) for n in range(50)]
    assert sum(task.result() is not None for task in tasks) == 1


async def test_waiting_names_the_oldest_claimable_run_of_each_user(queue: RunQueue) -> None:
    busy = await started(queue, new_run(thread="busy"))
    behind = (await accept(queue, new_run(thread="busy"))).run
    alices = (await accept(queue, new_run(thread="idle"))).run
    await accept(queue, new_run(thread="idle"))
    bobs = (await accept(queue, new_run(BOB))).run
    strangers = (await accept(queue, new_run(STRANGER))).run
    assert [waiting.run_id for waiting in await queue.waiting()] == [alices.run_id, bobs.run_id, strangers.run_id]
    await queue.finish(lease_of(busy), RunStatus.SUCCESS, DONE, events=())
    assert (await queue.waiting())[0].run_id == behind.run_id


async def test_finish_ends_the_run_and_frees_the_thread(queue: RunQueue, runs: RunStore, threads: ThreadStore) -> None:
    run = await started(queue)
    ended = await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    assert ended is not None
    assert (ended.status, ended.result, ended.attempt) == (RunStatus.SUCCESS, DONE, 1)
    assert ended.finished_at is not None
    assert await runs.get(ALICE, run.run_id) == ended
    assert (await threads.get(ThreadRef(owner=ALICE, thread_id=run.thread_id))).active_run is None


async def test_finish_stores_its_last_events_with_the_end(queue: RunQueue, runs: RunStore, database: Database) -> None:
    run = await started(queue)
    events = [Event(id=EventId(1, 1, n), body=delta(str(n))) for n in range(1, 121)]
    ended = await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=events)
    assert ended is not None
    assert list(await SqlEventLog(database, runs).read(ended)) == events


async def test_a_lost_lease_finishes_nothing(queue: RunQueue, runs: RunStore) -> None:
    run = await started(queue)
    assert await queue.reap(run, losses=1, progress_mark="mark") is not None
    again = await queue.claim(run.run_id, worker="another")
    assert again is not None
    assert again.attempt == 2
    assert await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=()) is None
    assert await queue.release(lease_of(run)) is None
    assert await queue.reap(run, losses=2, progress_mark=None) is None
    assert await queue.end_orphan(run, RunStatus.ERROR, GONE) is None
    assert not await queue.note_resume_mark(lease_of(run), "mark")
    assert await runs.get(ALICE, run.run_id) == again


async def test_a_foreign_owner_s_lease_moves_nothing(queue: RunQueue, runs: RunStore) -> None:
    run = await started(queue)
    stolen = replace(lease_of(run), owner=STRANGER)
    assert await queue.finish(stolen, RunStatus.SUCCESS, DONE, events=()) is None
    assert await queue.release(stolen) is None
    assert await runs.get(ALICE, run.run_id) == run


async def test_release_gives_the_run_back_unharmed(queue: RunQueue) -> None:
    run = await started(queue)
    released = await queue.release(lease_of(run))
    assert released == replace(run, status=RunStatus.PENDING)
    again = await queue.claim(run.run_id, worker="another")
    assert again is not None
    assert (again.attempt, again.losses, again.started_at) == (2, 0, run.started_at)


async def test_a_released_run_goes_before_what_came_later(queue: RunQueue) -> None:
    run = await started(queue)
    later = (await accept(queue, new_run())).run
    await queue.release(lease_of(run))
    assert await queue.claim(later.run_id, worker="worker") is None
    assert await queue.claim(run.run_id, worker="worker") is not None


async def test_two_losses_isolate_a_run(queue: RunQueue) -> None:
    run = await started(queue)
    for losses, isolated in ((1, False), (2, True)):
        reaped = await queue.reap(run, losses=losses, progress_mark="mark")
        assert reaped is not None
        assert (reaped.losses, reaped.progress_mark, reaped.status) == (losses, "mark", RunStatus.PENDING)
        assert [waiting.isolated for waiting in await queue.waiting()] == [isolated]
        claimed = await queue.claim(run.run_id, worker="worker")
        assert claimed is not None
        run = claimed


async def test_every_running_row_is_an_orphan_at_start(queue: RunQueue) -> None:
    running = [await started(queue, new_run(thread=name)) for name in ("one", "two")]
    await accept(queue, new_run(thread="three"))
    assert list(await queue.orphans()) == running


async def test_the_end_of_an_orphan_counts_as_an_attempt(queue: RunQueue, threads: ThreadStore) -> None:
    run = await started(queue)
    ended = await queue.end_orphan(run, RunStatus.TIMEOUT, GONE)
    assert ended is not None
    assert (ended.status, ended.attempt, ended.result) == (RunStatus.TIMEOUT, 2, GONE)
    assert (await threads.get(ThreadRef(owner=ALICE, thread_id=run.thread_id))).active_run is None


async def test_a_run_that_never_started_ends_with_attempt_zero(queue: RunQueue, runs: RunStore) -> None:
    waiting = (await accept(queue, new_run())).run
    ended = await queue.end_pending(waiting, RunStatus.CANCELLED, GONE)
    assert ended is not None
    assert (ended.status, ended.attempt, ended.started_at) == (RunStatus.CANCELLED, 0, None)
    assert await queue.end_pending(waiting, RunStatus.CANCELLED, GONE) is None
    assert await runs.get(ALICE, waiting.run_id) == ended
    assert (await started(queue)).ord == 2


async def test_a_run_that_waits_again_ends_with_an_attempt_of_its_own(queue: RunQueue) -> None:
    released = await queue.release(lease_of(await started(queue)))
    assert released is not None
    ended = await queue.end_pending(released, RunStatus.CANCELLED, GONE)
    assert ended is not None
    assert ended.attempt == 2


async def test_a_running_run_is_not_ended_as_a_pending_one(queue: RunQueue, threads: ThreadStore) -> None:
    waiting = (await accept(queue, new_run())).run
    run = await queue.claim(waiting.run_id, worker="worker")
    assert run is not None
    assert await queue.end_pending(waiting, RunStatus.CANCELLED, GONE) is None
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    assert await threads.erase(ThreadRef(owner=ALICE, thread_id=run.thread_id))


async def test_the_first_reason_to_cancel_stays(queue: RunQueue) -> None:
    run = await started(queue)
    first = await queue.request_cancel(run, CancelReason.DISCONNECTED)
    second = await queue.request_cancel(run, CancelReason.REQUESTED)
    assert first == second == replace(run, cancel_requested=CancelReason.DISCONNECTED)


async def test_cancelling_an_ended_run_changes_nothing(queue: RunQueue) -> None:
    run = await started(queue)
    ended = await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    assert await queue.request_cancel(run, CancelReason.REQUESTED) == ended


async def test_cancelling_an_erased_run_finds_nothing(queue: RunQueue, threads: ThreadStore) -> None:
    run = await started(queue)
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    await threads.erase(ThreadRef(owner=ALICE, thread_id=run.thread_id))
    with pytest.raises(NotFound):
        await queue.request_cancel(run, CancelReason.REQUESTED)


async def test_a_resume_mark_is_kept(queue: RunQueue, runs: RunStore) -> None:
    run = await started(queue)
    assert await queue.note_resume_mark(lease_of(run), "mark")
    assert (await runs.get(ALICE, run.run_id)).resume_mark == "mark"


async def test_expired_names_pending_runs_past_their_deadline_or_cancelled(queue: RunQueue) -> None:
    late = (await accept(queue, new_run(thread="late", deadline_at=START))).run
    await accept(queue, new_run(thread="patient"))
    unwanted = (await accept(queue, new_run(thread="unwanted"))).run
    await queue.request_cancel(unwanted, CancelReason.REQUESTED)
    await started(queue, new_run(thread="running", deadline_at=START))
    expired = await queue.expired(START + timedelta(seconds=1))
    assert [run.run_id for run in expired] == [late.run_id, unwanted.run_id]


async def test_a_run_without_waiting_takes_two_transactions_and_five_statements(
    queue: RunQueue, database: Database
) -> None:
    run = await started(queue)
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=[Event(id=EventId(1, 1, 1), body=delta("x"))])
    assert counters(database) == Counters(transactions=2, written=5, read=0)


async def test_a_run_that_waits_takes_three_transactions_and_eight_statements(
    queue: RunQueue, database: Database
) -> None:
    waiting = (await accept(queue, new_run())).run
    run = await queue.claim(waiting.run_id, worker="worker")
    assert run is not None
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=[Event(id=EventId(1, 1, 1), body=delta("x"))])
    assert (counters(database).transactions, counters(database).written) == (3, 8)
