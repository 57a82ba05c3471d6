"""Any RunQueue: limits of unfinished runs at once, counted where a run is stored; what a known key is answered."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.errors import IdempotencyMismatch, NotFound, RateLimited
from roadworthy.domain.ids import KeyId, TenantId, ThreadId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import AppliedLimit, RateKind, RateLimit, RateScope
from roadworthy.domain.run import CancelReason, MultitaskStrategy, Run, RunError, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.queue import Accepted, IdempotencyRecord, RunQueue
from roadworthy.ports.store import ThreadStore
from tests.conformance.storage.factories import ALICE, BOB, STRANGER, lease_of, new_run

RECORD = IdempotencyRecord(key="key", body_hash="hash")
GONE = RunResult(error=RunError(code="cancelled", message="stopped"))
KEY, OTHER_KEY = KeyId("key-1"), KeyId("key-2")


def at_once(scope: RateScope, subject: str, most: int, tenant: TenantId = ALICE.tenant) -> Sequence[AppliedLimit]:
    limit = RateLimit(tenant=tenant, scope=scope, kind=RateKind.RUNS, limit=most)
    return [AppliedLimit(limit=limit, subject=subject)]


ALICES = at_once(RateScope.USER, ALICE.user, 2)


async def accept(
    queue: RunQueue,
    owner: Owner = ALICE,
    thread: str = "thread",
    *,
    limits: Sequence[AppliedLimit] = ALICES,
    worker: str | None = "worker",
    key_id: KeyId | None = None,
    record: IdempotencyRecord | None = None,
    strategy: MultitaskStrategy = MultitaskStrategy.ENQUEUE,
) -> Accepted:
    run = replace(new_run(owner, thread, strategy=strategy), key_id=key_id)
    return await queue.accept(run, claim_for=worker, max_pending=1_000, idempotency=record, at_once=limits)


async def test_waiting_and_running_runs_count_until_the_limit(queue: RunQueue, threads: ThreadStore) -> None:
    await accept(queue, thread="running")
    await accept(queue, thread="waiting", worker=None)
    for worker in ("worker", None):
        with pytest.raises(RateLimited) as refused:
            await accept(queue, thread="refused", worker=worker)
    assert refused.value.retry_after == timedelta(seconds=5)
    assert "runs-per-user" in refused.value.message
    assert not any(name in refused.value.message for name in (ALICE.user, ALICE.tenant))
    (status,) = refused.value.rates
    assert (status.policy, status.limit, status.remaining, status.window) == ("runs-per-user", 2, 0, timedelta(0))
    with pytest.raises(NotFound):
        await threads.get(ThreadRef(owner=ALICE, thread_id=ThreadId("refused")))


@pytest.mark.parametrize("strategy", MultitaskStrategy)
async def test_the_limit_comes_before_what_the_thread_would_do(queue: RunQueue, strategy: MultitaskStrategy) -> None:
    active = (await accept(queue)).run
    for thread in ("thread", "another"):
        await accept(queue, thread=thread, limits=())
    with pytest.raises(RateLimited):
        await accept(queue, strategy=strategy)
    assert await queue.cancel_requests("worker") == []
    assert await queue.finish(lease_of(active), RunStatus.SUCCESS, RunResult(), events=()) is not None


@pytest.mark.parametrize("strategy", [MultitaskStrategy.INTERRUPT, MultitaskStrategy.ROLLBACK])
async def test_the_run_that_is_replaced_does_not_count(queue: RunQueue, strategy: MultitaskStrategy) -> None:
    limits = [*at_once(RateScope.USER, ALICE.user, 1), *at_once(RateScope.KEY, KEY, 1)]
    first = (await accept(queue, limits=limits, key_id=KEY)).run
    assert (await accept(queue, limits=limits, key_id=KEY, strategy=strategy)).superseded == first.run_id
    # The one that waits for the thread now counts: it is not under way.
    with pytest.raises(RateLimited):
        await accept(queue, limits=limits, key_id=KEY, strategy=strategy)
    # Nor does one on another thread make room.
    with pytest.raises(RateLimited):
        await accept(queue, thread="other", limits=limits, key_id=KEY, strategy=strategy)


async def test_a_replaced_run_makes_room_only_where_it_counted(queue: RunQueue) -> None:
    await accept(queue, limits=(), key_id=OTHER_KEY)
    await accept(queue, thread="busy", limits=(), key_id=KEY)
    limits = at_once(RateScope.KEY, KEY, 1)
    with pytest.raises(RateLimited):
        await accept(queue, limits=limits, key_id=KEY, strategy=MultitaskStrategy.INTERRUPT)
    assert await queue.cancel_requests("worker") == []


async def test_another_user_and_another_tenant_have_their_own(queue: RunQueue) -> None:
    for thread in ("one", "two"):
        await accept(queue, thread=thread)
    await accept(queue, BOB, limits=at_once(RateScope.USER, BOB.user, 1))
    await accept(queue, STRANGER, limits=at_once(RateScope.USER, STRANGER.user, 1, STRANGER.tenant))


async def test_a_tenant_s_limit_counts_all_of_its_users(queue: RunQueue) -> None:
    limits = at_once(RateScope.TENANT, ALICE.tenant, 2)
    for owner in (ALICE, BOB):
        await accept(queue, owner, limits=limits)
    for owner in (ALICE, BOB):
        with pytest.raises(RateLimited, match="runs-per-tenant"):
            await accept(queue, owner, limits=limits)
    await accept(queue, STRANGER, limits=at_once(RateScope.TENANT, STRANGER.tenant, 1, STRANGER.tenant))


async def test_a_key_s_limit_counts_all_users_it_speaks_for(queue: RunQueue) -> None:
    limits = at_once(RateScope.KEY, KEY, 2)
    for owner in (ALICE, BOB):
        await accept(queue, owner, limits=limits, key_id=KEY)
    with pytest.raises(RateLimited, match="runs-per-key"):
        await accept(queue, limits=limits, key_id=KEY)
    await accept(queue, limits=at_once(RateScope.KEY, OTHER_KEY, 1), key_id=OTHER_KEY)
    await accept(queue, limits=(), key_id=None)


async def test_of_several_limits_each_holds(queue: RunQueue) -> None:
    limits = [*at_once(RateScope.USER, ALICE.user, 9), *at_once(RateScope.TENANT, ALICE.tenant, 1)]
    await accept(queue, limits=limits)
    with pytest.raises(RateLimited, match="runs-per-tenant") as refused:
        await accept(queue, thread="another", limits=limits)
    assert [(one.policy, one.remaining) for one in refused.value.rates] == [
        ("runs-per-user", 8),
        ("runs-per-tenant", 0),
    ]


@pytest.mark.parametrize("scope", [RateScope.USER, RateScope.TENANT])
async def test_a_hundred_accepts_at_once_never_exceed_the_limit(queue: RunQueue, scope: RateScope) -> None:
    limits = at_once(scope, ALICE.user if scope is RateScope.USER else ALICE.tenant, 10)

    async def one(n: int) -> Run | None:
        try:
            return (
                await accept(queue, thread=f"thread-{n % 20}", limits=limits, worker="worker" if n % 3 else None)
            ).run
        except RateLimited:
            return None

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(100)]
    assert sum(task.result() is not None for task in tasks) == 10


async def test_accepts_and_ends_in_a_muddle_never_exceed_the_limit(queue: RunQueue) -> None:
    limits, unfinished, most = at_once(RateScope.USER, ALICE.user, 3), 0, 0

    async def client(name: str) -> None:
        nonlocal unfinished, most
        for _ in range(10):
            try:
                run = (await accept(queue, thread=name, limits=limits)).run
            except RateLimited:
                continue
            # From after it is stored until before it is ended: never more than there are.
            unfinished += 1
            most = max(most, unfinished)
            await queue.waiting()
            await asyncio.sleep(0)
            unfinished -= 1
            await queue.finish(lease_of(run), RunStatus.SUCCESS, RunResult(), events=())

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for n in range(10):
            group.create_task(client(f"thread-{n}"))
    assert 2 <= most <= 3
    for n in range(3):
        await accept(queue, thread=f"after-{n}", limits=limits)


async def test_an_end_of_any_kind_frees_the_place(queue: RunQueue) -> None:
    limits = at_once(RateScope.USER, ALICE.user, 1)
    for status in (RunStatus.SUCCESS, RunStatus.ERROR, RunStatus.INTERRUPTED):
        run = (await accept(queue, limits=limits)).run
        assert await queue.finish(lease_of(run), status, RunResult(), events=()) is not None
    pending = (await accept(queue, limits=limits, worker=None)).run
    await queue.request_cancel(pending, CancelReason.REQUESTED)
    with pytest.raises(RateLimited):
        await accept(queue, limits=limits)
    assert await queue.end_pending(pending, RunStatus.CANCELLED, GONE) is not None
    await accept(queue, limits=limits)


async def test_a_run_whose_worker_died_holds_its_place_until_it_is_reaped_and_ended(queue: RunQueue) -> None:
    limits = at_once(RateScope.USER, ALICE.user, 1)
    lost = (await accept(queue, limits=limits)).run
    assert [run.run_id for run in await queue.orphans()] == [lost.run_id]
    with pytest.raises(RateLimited):
        await accept(queue, thread="another", limits=limits)
    assert await queue.end_orphan(lost, RunStatus.ERROR, GONE) is not None
    again = (await accept(queue, limits=limits)).run
    assert await queue.reap(again, losses=1, progress_mark=None) is not None
    with pytest.raises(RateLimited):
        await accept(queue, limits=limits)
    resumed = await queue.claim(again.run_id, worker="worker")
    assert resumed is not None
    assert await queue.finish(lease_of(resumed), RunStatus.SUCCESS, RunResult(), events=()) is not None
    await accept(queue, limits=limits)


async def test_a_known_key_is_answered_before_any_limit(queue: RunQueue) -> None:
    limits = at_once(RateScope.USER, ALICE.user, 1)
    first = await accept(queue, limits=limits, record=RECORD)
    again = await accept(queue, limits=limits, record=RECORD)
    assert again == replace(first, replayed=True)
    with pytest.raises(RateLimited):
        await accept(queue, limits=limits, record=IdempotencyRecord(key="new", body_hash="hash"))
    assert await queue.find_replay(ALICE, IdempotencyRecord(key="new", body_hash="hash")) is None


async def test_a_replay_is_found_by_its_owner_and_body(queue: RunQueue) -> None:
    assert await queue.find_replay(ALICE, RECORD) is None
    stored = (await accept(queue, record=RECORD)).run
    assert await queue.find_replay(ALICE, RECORD) == stored
    with pytest.raises(IdempotencyMismatch):
        await queue.find_replay(ALICE, IdempotencyRecord(key="key", body_hash="another"))
    for owner in (BOB, STRANGER):
        assert await queue.find_replay(owner, RECORD) is None
    assert await queue.finish(lease_of(stored), RunStatus.SUCCESS, RunResult(response="x"), events=()) is not None
    found = await queue.find_replay(ALICE, RECORD)
    assert found is not None
    assert (found.status, found.result.response) == (RunStatus.SUCCESS, "x")
