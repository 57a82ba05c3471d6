"""Any RunStore, ThreadStore and KeyStore."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.errors import InvalidRequest, NotFound, ThreadBusy
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.ids import AgentName, KeyId, RunId, ThreadId
from roadworthy.domain.principal import ApiKey, Owner, Scope
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.queue import IdempotencyRecord, RunQueue
from roadworthy.ports.store import KeyStore, RunStore, ThreadStore
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import ALICE, BOB, OPERATOR, START, STRANGER, delta, lease_of, new_run


async def finished(queue: RunQueue, owner: Owner = ALICE, thread: str = "thread") -> Run:
    accepted = await queue.accept(new_run(owner, thread), claim_for="worker", max_pending=0, idempotency=None)
    ended = await queue.finish(
        lease_of(accepted.run),
        RunStatus.SUCCESS,
        RunResult(response="done"),
        events=[Event(id=EventId(accepted.run.ord, 1, 1), body=delta("x"))],
    )
    assert ended is not None
    return ended


def ref(thread: str = "thread", owner: Owner = ALICE) -> ThreadRef:
    return ThreadRef(owner=owner, thread_id=ThreadId(thread))


async def test_a_run_of_another_user_does_not_exist(queue: RunQueue, runs: RunStore) -> None:
    run = await finished(queue)
    for owner in (BOB, STRANGER):
        with pytest.raises(NotFound):
            await runs.get(owner, run.run_id)
        assert (await runs.list_of_thread(owner, run.thread_id, limit=9, cursor=None)).items == []
    assert await runs.find_any(STRANGER.tenant, run.run_id) is None
    assert await runs.find_any(ALICE.tenant, run.run_id) == run
    assert await runs.find_any(None, run.run_id) == run
    assert await runs.find_any(None, RunId("nothing")) is None


async def test_runs_of_a_thread_come_in_pages_latest_first(queue: RunQueue, runs: RunStore) -> None:
    stored = [await finished(queue) for _ in range(5)]
    seen: list[Run] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await runs.list_of_thread(ALICE, ThreadId("thread"), limit=2, cursor=cursor)
        seen, cursor, pages = [*seen, *page.items], page.cursor, pages + 1
    assert (seen, pages) == (stored[::-1], 3)


async def test_an_operator_lists_runs_of_all_or_of_a_tenant_by_status(queue: RunQueue, runs: RunStore) -> None:
    alices, bobs, strangers = [await finished(queue, owner) for owner in (ALICE, BOB, STRANGER)]
    waiting = (await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=None)).run
    everybody = await runs.list_of_tenant(None, status=None, limit=3, cursor=None)
    assert list(everybody.items) == [waiting, strangers, bobs]
    rest = await runs.list_of_tenant(None, status=None, limit=3, cursor=everybody.cursor)
    assert (list(rest.items), rest.cursor) == ([alices], None)
    acme = await runs.list_of_tenant(ALICE.tenant, status=RunStatus.SUCCESS, limit=9, cursor=None)
    assert list(acme.items) == [bobs, alices]


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1,5", "9" * 40, "\u0661"])
async def test_a_made_up_cursor_is_refused(runs: RunStore, threads: ThreadStore, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        await runs.list_of_thread(ALICE, ThreadId("thread"), limit=9, cursor=cursor)
    with pytest.raises(InvalidRequest):
        await threads.list(ALICE, limit=9, cursor=cursor)


async def test_threads_come_in_pages_the_latest_used_first(queue: RunQueue, threads: ThreadStore) -> None:
    for name in ("one", "two", "three", "one"):
        await finished(queue, thread=name)
    await finished(queue, BOB, "one")
    first = await threads.list(ALICE, limit=2, cursor=None)
    second = await threads.list(ALICE, limit=2, cursor=first.cursor)
    assert [thread.ref.thread_id for thread in [*first.items, *second.items]] == ["one", "three", "two"]
    assert second.cursor is None
    assert (first.items[0].next_ord, first.items[0].agent, first.items[0].active_run) == (3, "demo", None)


async def test_a_thread_of_another_user_does_not_exist(queue: RunQueue, threads: ThreadStore) -> None:
    await finished(queue)
    for owner in (BOB, STRANGER):
        with pytest.raises(NotFound):
            await threads.get(ref(owner=owner))
        assert not await threads.erase(ref(owner=owner))
    assert (await threads.get(ref())).ref == ref()


async def test_a_thread_with_an_unfinished_run_is_not_erased(queue: RunQueue, threads: ThreadStore) -> None:
    waiting = (await queue.accept(new_run(), claim_for=None, max_pending=9, idempotency=None)).run
    with pytest.raises(ThreadBusy):
        await threads.erase(ref())
    assert await queue.claim(waiting.run_id, worker="worker") is not None
    with pytest.raises(ThreadBusy):
        await threads.erase(ref())


async def test_erasing_a_thread_takes_its_runs_events_and_keys_but_no_one_else_s(
    queue: RunQueue, runs: RunStore, threads: ThreadStore, database: Database
) -> None:
    log = SqlEventLog(database, runs)
    record = IdempotencyRecord(key="key", body_hash="hash")
    other, bobs = await finished(queue, thread="other"), await finished(queue, BOB)
    accepted = await queue.accept(new_run(), claim_for="worker", max_pending=0, idempotency=record)
    ended = await queue.finish(lease_of(accepted.run), RunStatus.SUCCESS, RunResult(), events=())
    assert ended is not None
    gone = [ended, await finished(queue)]
    assert await threads.erase(ref())
    await threads.finish_erasure(ref())
    assert not await threads.erase(ref())
    for run in gone:
        assert await runs.find_any(None, run.run_id) is None
        assert list(await log.read(run)) == []
    for run in (other, bobs):
        assert await runs.find_any(None, run.run_id) == run
        assert len(await log.read(run)) == 1
    again = await queue.accept(new_run(), claim_for="worker", max_pending=0, idempotency=record)
    assert (again.replayed, again.run.ord) == (False, 1)


async def test_an_erased_thread_s_name_is_taken_until_the_erasure_is_finished(
    queue: RunQueue, threads: ThreadStore
) -> None:
    await finished(queue)
    kept = await finished(queue, thread="kept")
    assert await threads.unfinished_erasures() == []
    assert await threads.erase(ref())
    assert await threads.erase(ref())
    assert await threads.unfinished_erasures() == [ref()]
    with pytest.raises(NotFound):
        await threads.get(ref())
    assert [one.ref.thread_id for one in (await threads.list(ALICE, limit=9, cursor=None)).items] == [kept.thread_id]
    for worker in ("worker", None):
        with pytest.raises(ThreadBusy, match="being erased"):
            await queue.accept(new_run(), claim_for=worker, max_pending=9, idempotency=None)
        with pytest.raises(ThreadBusy, match="being erased"):
            await queue.accept(new_run(agent="another"), claim_for=worker, max_pending=9, idempotency=None)
    assert (await finished(queue, BOB)).ord == 1
    await threads.finish_erasure(ref())
    await threads.finish_erasure(ref("kept"))
    assert await threads.unfinished_erasures() == []
    assert (await threads.get(ref("kept"))).next_ord == 2
    assert (await finished(queue)).ord == 1


def key(name: str, owner: Owner = ALICE, minute: int = 0) -> ApiKey:
    return ApiKey(
        key_id=KeyId(name),
        owner=owner,
        name=f"key of {owner.user}",
        digest=bytes(range(32)),
        scopes=frozenset({Scope.RUNS_READ, Scope.ADMIN}),
        agents=frozenset({AgentName("demo"), AgentName("assistant")}),
        created_at=START + timedelta(minutes=minute),
        expires_at=START + timedelta(days=1),
    )


async def test_a_key_is_found_as_it_was_stored(keys: KeyStore) -> None:
    stored = key("one")
    assert not await keys.any()
    assert await keys.insert(stored, OPERATOR)
    assert await keys.any()
    assert await keys.find(KeyId("one")) == stored
    assert await keys.find(KeyId("two")) is None
    unbound = replace(key("two"), agents=None, expires_at=None)
    assert await keys.insert(unbound, OPERATOR)
    assert await keys.find(KeyId("two")) == unbound


async def test_a_key_id_is_given_once(keys: KeyStore) -> None:
    assert await keys.insert(key("one"), OPERATOR)
    assert not await keys.insert(key("one", BOB), OPERATOR)
    found = await keys.find(KeyId("one"))
    assert found is not None
    assert found.owner == ALICE


async def test_only_where_there_is_no_key_a_first_one_is_stored(keys: KeyStore) -> None:
    assert await keys.insert_first(key("one"), OPERATOR)
    assert not await keys.insert_first(key("two", BOB), OPERATOR)
    assert [stored.key_id for stored in await keys.list(None)] == ["one"]


async def test_keys_are_listed_oldest_first_by_tenant(keys: KeyStore) -> None:
    first, second, foreign = key("b", minute=1), key("a", BOB, minute=2), key("c", STRANGER)
    for stored in (second, foreign, first):
        await keys.insert(stored, OPERATOR)
    assert list(await keys.list(ALICE.tenant)) == [first, second]
    assert list(await keys.list(None)) == [foreign, first, second]


async def test_a_key_is_revoked_by_its_tenant_only(keys: KeyStore) -> None:
    await keys.insert(key("one"), OPERATOR)
    assert not await keys.end(STRANGER.tenant, KeyId("one"), OPERATOR, revoked_at=START, expires_at=None)
    assert await keys.end(ALICE.tenant, KeyId("one"), OPERATOR, revoked_at=START, expires_at=None)
    assert await keys.end(None, KeyId("one"), OPERATOR, revoked_at=START + timedelta(days=9), expires_at=None)
    assert not await keys.end(None, KeyId("two"), OPERATOR, revoked_at=START, expires_at=None)
    assert await keys.find(KeyId("one")) == replace(key("one"), revoked_at=START)


async def test_a_grace_period_ends_a_key_sooner_never_later(keys: KeyStore) -> None:
    await keys.insert(key("one"), OPERATOR)
    for hours, expected in ((48, 24), (2, 2), (3, 2)):
        await keys.end(ALICE.tenant, KeyId("one"), OPERATOR, revoked_at=None, expires_at=START + timedelta(hours=hours))
        found = await keys.find(KeyId("one"))
        assert found is not None
        assert (found.expires_at, found.revoked_at) == (START + timedelta(hours=expected), None)
    await keys.insert(replace(key("two"), expires_at=None), OPERATOR)
    await keys.end(None, KeyId("two"), OPERATOR, revoked_at=None, expires_at=START)
    found = await keys.find(KeyId("two"))
    assert found is not None
    assert found.expires_at == START


async def test_last_use_only_moves_forward(keys: KeyStore) -> None:
    await keys.insert(key("one"), OPERATOR)
    for hours in (2, 1):
        await keys.touch(ALICE.tenant, KeyId("one"), START + timedelta(hours=hours))
    await keys.touch(STRANGER.tenant, KeyId("one"), START + timedelta(hours=9))
    found = await keys.find(KeyId("one"))
    assert found is not None
    assert found.last_used_at == START + timedelta(hours=2)


async def test_reads_see_what_an_awaited_write_stored(keys: KeyStore) -> None:
    async def insert_and_find(number: int) -> bool:
        await keys.insert(key(f"key {number}"), OPERATOR)
        return await keys.find(KeyId(f"key {number}")) is not None

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(insert_and_find(number)) for number in range(50)]
    assert all(task.result() for task in tasks)
