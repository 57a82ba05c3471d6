"""Any RunQueue: what accept stores, claims, refuses and replays."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.errors import (
    AgentMismatch,
    Conflict,
    IdempotencyMismatch,
    NotFound,
    QueueFull,
    RateLimited,
    ThreadBusy,
)
from roadworthy.domain.ids import ThreadId
from roadworthy.domain.run import CancelReason, MultitaskStrategy, Run, RunError, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.queue import Accepted, IdempotencyRecord, RunQueue
from roadworthy.ports.store import RunStore, ThreadStore
from tests.conformance.storage.factories import ALICE, BOB, STRANGER, TickingClock, lease_of, new_run

DONE = RunResult(response="done", output={"answer": 42})
GONE = RunResult(error=RunError(code="cancelled", message="stopped"))


async def accept(queue: RunQueue, run: Run, *, worker: str | None = None, max_pending: int = 10) -> Accepted:
    return await queue.accept(run, claim_for=worker, max_pending=max_pending, idempotency=None)


async def started(queue: RunQueue, run: Run | None = None) -> Run:
    accepted = await accept(queue, new_run() if run is None else run, worker="worker")
    assert accepted.run.status is RunStatus.RUNNING
    return accepted.run


async def test_a_run_on_a_free_thread_starts_at_once_for_who_holds_a_slot(queue: RunQueue, runs: RunStore) -> None:
    accepted = await accept(queue, new_run(), worker="worker")
    assert (accepted.run.status, accepted.run.ord, accepted.run.attempt) == (RunStatus.RUNNING, 1, 1)
    assert accepted.run.started_at is not None
    assert await runs.get(ALICE, accepted.run.run_id) == accepted.run


async def test_without_a_slot_a_run_waits(queue: RunQueue, runs: RunStore) -> None:
    accepted = await accept(queue, new_run())
    assert (accepted.run.status, accepted.run.ord, accepted.run.attempt) == (RunStatus.PENDING, 1, 0)
    assert await runs.get(ALICE, accepted.run.run_id) == accepted.run


async def test_a_slot_does_not_jump_a_thread_s_queue(queue: RunQueue) -> None:
    first = await accept(queue, new_run())
    second = await accept(queue, new_run(), worker="worker")
    assert (first.run.ord, second.run.ord) == (1, 2)
    assert second.run.status is RunStatus.PENDING


async def test_threads_of_the_same_name_belong_to_their_owners(queue: RunQueue) -> None:
    for owner in (ALICE, BOB, STRANGER):
        run = await started(queue, new_run(owner))
        assert (run.ord, run.owner) == (1, owner)


async def test_a_full_queue_refuses_what_would_wait_and_stores_nothing(queue: RunQueue, threads: ThreadStore) -> None:
    await accept(queue, new_run(thread="first"), max_pending=1)
    with pytest.raises(QueueFull) as refused:
        await accept(queue, new_run(thread="second"), max_pending=1)
    assert refused.value.retry_after == timedelta(seconds=5)
    with pytest.raises(NotFound):
        await threads.get(ThreadRef(owner=ALICE, thread_id=ThreadId("second")))
    assert (await started(queue, new_run(thread="third"))).ord == 1


async def test_one_user_takes_up_no_more_than_half_of_the_queue(queue: RunQueue, threads: ThreadStore) -> None:
    for name in ("one", "two"):
        await accept(queue, new_run(thread=name), max_pending=4)
    with pytest.raises(RateLimited) as refused:
        await accept(queue, new_run(thread="three"), max_pending=4)
    assert refused.value.retry_after == timedelta(seconds=5)
    with pytest.raises(NotFound):
        await threads.get(ThreadRef(owner=ALICE, thread_id=ThreadId("three")))
    assert (await accept(queue, new_run(thread="three"), worker="worker", max_pending=4)).run.ord == 1
    for owner in (BOB, STRANGER):
        assert (await accept(queue, new_run(owner), max_pending=4)).run.ord == 1
    with pytest.raises(QueueFull):
        await accept(queue, new_run(BOB), max_pending=4)


async def test_reject_refuses_a_thread_with_an_active_run(queue: RunQueue) -> None:
    run = await started(queue)
    with pytest.raises(ThreadBusy):
        await accept(queue, new_run(strategy=MultitaskStrategy.REJECT), worker="worker")
    await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())
    assert (await started(queue, new_run(strategy=MultitaskStrategy.REJECT))).ord == 2


async def test_reject_refuses_a_thread_with_a_pending_run(queue: RunQueue) -> None:
    await accept(queue, new_run())
    with pytest.raises(ThreadBusy):
        await accept(queue, new_run(strategy=MultitaskStrategy.REJECT))


async def test_reject_waits_for_a_slot_on_a_free_thread(queue: RunQueue) -> None:
    accepted = await accept(queue, new_run(strategy=MultitaskStrategy.REJECT))
    assert accepted.run.status is RunStatus.PENDING


async def test_interrupt_asks_the_active_run_to_stop(queue: RunQueue, runs: RunStore) -> None:
    active = await started(queue)
    accepted = await accept(queue, new_run(strategy=MultitaskStrategy.INTERRUPT), worker="worker")
    assert accepted.superseded == active.run_id
    assert (accepted.run.status, accepted.run.rollback_of) == (RunStatus.PENDING, None)
    assert (await runs.get(ALICE, active.run_id)).cancel_requested is CancelReason.SUPERSEDED
    assert await queue.cancel_requests("worker") == [(active.run_id, CancelReason.SUPERSEDED)]
    assert await queue.cancel_requests("another") == []


async def test_rollback_names_the_run_whose_changes_are_undone(queue: RunQueue, runs: RunStore) -> None:
    active = await started(queue)
    accepted = await accept(queue, new_run(strategy=MultitaskStrategy.ROLLBACK))
    assert (accepted.superseded, accepted.run.rollback_of) == (active.run_id, active.run_id)
    assert await runs.get(ALICE, accepted.run.run_id) == accepted.run


async def test_rollback_of_nothing_is_an_ordinary_run(queue: RunQueue) -> None:
    done = await started(queue)
    await queue.finish(lease_of(done), RunStatus.SUCCESS, DONE, events=())
    accepted = await accept(queue, new_run(strategy=MultitaskStrategy.ROLLBACK), worker="worker")
    assert (accepted.superseded, accepted.run.rollback_of) == (None, None)


async def test_a_thread_keeps_its_agent(queue: RunQueue) -> None:
    await started(queue)
    with pytest.raises(AgentMismatch):
        await accept(queue, new_run(agent="another"))
    assert (await accept(queue, new_run())).run.ord == 2


async def test_a_run_may_insist_on_its_ordinal(queue: RunQueue) -> None:
    done = await started(queue, replace(new_run(), ord=1))
    await queue.finish(lease_of(done), RunStatus.INTERRUPTED, DONE, events=())
    for wrong in (1, 3):
        with pytest.raises(Conflict):
            await accept(queue, replace(new_run(), ord=wrong), worker="worker")
    assert (await started(queue, replace(new_run(), ord=2))).ord == 2


async def test_pending_counts_every_waiting_run(queue: RunQueue) -> None:
    assert await queue.pending() == 0
    run = await started(queue)
    await accept(queue, new_run())
    await accept(queue, new_run(BOB))
    assert await queue.pending() == 2
    await queue.release(lease_of(run))
    assert await queue.pending() == 3


async def test_the_same_key_and_body_is_the_same_run(queue: RunQueue) -> None:
    record = IdempotencyRecord(key="key", body_hash="hash")
    first = await queue.accept(new_run(), claim_for=None, max_pending=1, idempotency=record)
    again = await queue.accept(new_run(), claim_for="worker", max_pending=1, idempotency=record)
    assert (first.replayed, again.replayed) == (False, True)
    assert again.run == first.run


async def test_the_same_key_with_another_body_is_refused(queue: RunQueue) -> None:
    await queue.accept(
        new_run(), claim_for=None, max_pending=9, idempotency=IdempotencyRecord(key="key", body_hash="one")
    )
    with pytest.raises(IdempotencyMismatch):
        await queue.accept(
            new_run(), claim_for=None, max_pending=9, idempotency=IdempotencyRecord(key="key", body_hash="two")
        )


async def test_keys_of_two_users_are_two_keys(queue: RunQueue) -> None:
    record = IdempotencyRecord(key="key", body_hash="hash")
    for owner in (ALICE, BOB, STRANGER):
        accepted = await queue.accept(new_run(owner), claim_for=None, max_pending=9, idempotency=record)
        assert not accepted.replayed


async def test_a_refused_accept_does_not_use_up_its_key(queue: RunQueue) -> None:
    await accept(queue, new_run(thread="waiting"))
    record = IdempotencyRecord(key="key", body_hash="hash")
    with pytest.raises(QueueFull):
        await queue.accept(new_run(), claim_for=None, max_pending=1, idempotency=record)
    accepted = await queue.accept(new_run(), claim_for="worker", max_pending=1, idempotency=record)
    assert not accepted.replayed


async def test_old_idempotency_records_are_forgotten_the_oldest_first(queue: RunQueue, clock: TickingClock) -> None:
    first, second = (IdempotencyRecord(key=key, body_hash="hash") for key in ("first", "second"))
    one = await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=first)
    between = clock.now()
    two = await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=second)
    assert await queue.prune(between) == 1
    assert await queue.prune(between) == 0
    again = await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=first)
    kept = await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=second)
    assert (again.replayed, kept.replayed) == (False, True)
    assert (kept.run, again.run.ord) == (two.run, one.run.ord + 2)


async def test_a_great_many_old_records_are_forgotten_in_batches(queue: RunQueue, clock: TickingClock) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for n in range(501):
            record = IdempotencyRecord(key=str(n), body_hash="hash")
            group.create_task(queue.accept(new_run(), claim_for=None, max_pending=2_000, idempotency=record))
    assert [await queue.prune(clock.now()) for _ in range(3)] == [500, 1, 0]


async def test_fifty_accepts_with_one_key_are_one_run(queue: RunQueue, runs: RunStore) -> None:
    record = IdempotencyRecord(key="key", body_hash="hash")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(queue.accept(new_run(), claim_for="worker", max_pending=0, idempotency=record))
            for _ in range(50)
        ]
    accepted = [task.result() for task in tasks]
    assert len({one.run.run_id for one in accepted}) == 1
    assert sum(not one.replayed for one in accepted) == 1
    page = await runs.list_of_thread(ALICE, ThreadId("thread"), limit=100, cursor=None)
    assert len(page.items) == 1


async def test_fifty_accepts_on_one_thread_get_gapless_ordinals(queue: RunQueue) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(accept(queue, new_run(), worker="worker", max_pending=100)) for _ in range(50)]
    accepted = [task.result().run for task in tasks]
    assert sorted(run.ord for run in accepted) == list(range(1, 51))
    assert [run.ord for run in accepted if run.status is RunStatus.RUNNING] == [1]
