"""Two replicas on one Postgres: whatever they do at the same moment, it is as if one had come after the other."""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa

from roadworthy.domain.budget import BudgetScope, Held
from roadworthy.domain.errors import Conflict, QueueFull, RateLimited
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.ids import KeyId, RunId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import RateScope
from roadworthy.domain.run import Run, RunResult, RunStatus
from roadworthy.domain.thread import ThreadRef
from roadworthy.ports.queue import IdempotencyRecord
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.locks import FIRST_KEY, REMOVAL
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.postgres import PostgresDatabase, open_postgres
from roadworthy.storage.postgres_connection import lock_number
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.tables import api_keys, events, runs
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.transaction import Row
from tests.conformance.storage.backends import Templates, look, register, url_of
from tests.conformance.storage.factories import (
    ALICE,
    BOB,
    EXPIRED,
    OPERATOR,
    START,
    TickingClock,
    delta,
    lease_of,
    new_run,
)
from tests.conformance.storage.spending import books, budget, call, claimed, period, reservation, stored
from tests.conformance.storage.test_queue_at_once import at_once
from tests.conformance.storage.test_stores import key
from tests.support.postgres import name_of

DONE = RunResult(response="done")


@dataclass(frozen=True)
class Replica:
    """One process's view: a pool of its own and a clock of its own."""

    name: str
    database: PostgresDatabase
    clock: TickingClock

    @property
    def queue(self) -> SqlRunQueue:
        return SqlRunQueue(self.database, self.clock, lease=EXPIRED)

    @property
    def ledger(self) -> SqlLedger:
        return SqlLedger(self.database)

    async def accept(self, thread: str, owner: Owner = ALICE, *, claim: bool = False) -> Run:
        claim_for = self.name if claim else None
        run = new_run(owner, thread)
        return (await self.queue.accept(run, claim_for=claim_for, max_pending=1_000, idempotency=None)).run


@pytest.fixture
async def replicas(templates: Templates) -> AsyncGenerator[Sequence[Replica]]:
    url = templates.server.create(name_of(templates.url))
    try:
        async with AsyncExitStack() as stack:
            opened = [await stack.enter_async_context(open_postgres(url)) for _ in range(2)]
            for database in opened:
                register(database, url)
            yield [Replica(f"replica-{n}", database, TickingClock()) for n, database in enumerate(opened)]
    finally:
        templates.server.drop(url)


@pytest.fixture
def beside(replicas: Sequence[Replica]) -> Generator["psycopg.Connection[Row]"]:
    """A transaction of the test's own in the replicas' database."""
    with psycopg.connect(url_of(replicas[0].database)) as connection:
        yield connection


def until_waiting(beside: "psycopg.Connection[Row]", count: int) -> None:
    """Return when that many others wait for a lock."""
    while True:
        row = beside.execute("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted").fetchone()
        if row is not None and row[0] >= count:
            return


async def test_fifty_accepts_with_one_key_make_one_run(replicas: Sequence[Replica]) -> None:
    record = IdempotencyRecord(key="key", body_hash="hash")

    async def one(n: int) -> tuple[RunId, bool]:
        accepted = await replicas[n % 2].queue.accept(
            new_run(thread=f"thread-{n}"), claim_for="w" if n % 3 else None, max_pending=1_000, idempotency=record
        )
        return accepted.run.run_id, accepted.replayed

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(50)]
    assert len({task.result()[0] for task in tasks}) == 1
    assert sum(not task.result()[1] for task in tasks) == 1
    (rows,) = look(replicas[0].database, sa.select(runs.c.run_id))
    assert len(rows) == 1


async def test_a_threads_runs_are_numbered_without_a_gap_and_one_of_them_runs(replicas: Sequence[Replica]) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(replicas[n % 2].accept("thread", claim=True)) for n in range(40)]
    accepted = [task.result() for task in tasks]
    assert sorted(run.ord for run in accepted) == list(range(1, 41))
    assert [run.ord for run in accepted if run.status is RunStatus.RUNNING] == [1]


async def test_each_run_is_claimed_once_and_a_threads_runs_in_their_order(replicas: Sequence[Replica]) -> None:
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for n in range(60):
            owner = ALICE if n % 2 else BOB
            group.create_task(replicas[n % 2].accept(f"thread-{n % 10}", owner))
    started: list[tuple[Owner, ThreadId, int]] = []
    running: set[tuple[Owner, ThreadId]] = set()

    async def worker(replica: Replica) -> None:
        while waiting := await replica.queue.waiting():
            for one in waiting:
                run = await replica.queue.claim(one.run_id, worker=replica.name)
                if run is None:
                    continue
                place = (run.owner, run.thread_id)
                assert place not in running
                running.add(place)
                started.append((*place, run.ord))
                await asyncio.sleep(0)
                running.remove(place)
                assert await replica.queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=()) is not None

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        for n in range(8):
            group.create_task(worker(replicas[n % 2]))
    assert len(started) == len(set(started)) == 60
    for place in {one[:2] for one in started}:
        ordinals = [one[2] for one in started if one[:2] == place]
        assert ordinals == sorted(ordinals)


async def test_one_of_many_claims_of_one_run_wins_and_one_end_counts(replicas: Sequence[Replica]) -> None:
    pending = await replicas[0].accept("thread")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        claims = [
            group.create_task(replicas[n % 2].queue.claim(pending.run_id, worker=replicas[n % 2].name))
            for n in range(20)
        ]
    (run,) = [task.result() for task in claims if task.result() is not None]
    assert run is not None
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        ends = [
            group.create_task(replicas[0].queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=())),
            group.create_task(replicas[1].queue.reap(run, losses=1, progress_mark=None)),
            group.create_task(replicas[1].queue.release(lease_of(run))),
            group.create_task(replicas[0].queue.end_orphan(run, RunStatus.ERROR, DONE)),
        ]
    assert sum(task.result() is not None for task in ends) == 1


async def test_limits_of_runs_at_once_hold_across_replicas(replicas: Sequence[Replica]) -> None:
    limits = [*at_once(RateScope.USER, ALICE.user, 7), *at_once(RateScope.TENANT, ALICE.tenant, 10)]

    async def one(n: int) -> bool:
        run = new_run(ALICE if n % 2 else BOB, f"thread-{n}")
        mine = limits if n % 2 else limits[1:]
        try:
            await replicas[n // 2 % 2].queue.accept(
                run, claim_for="w", max_pending=1_000, idempotency=None, at_once=mine
            )
        except RateLimited:
            return False
        return True

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(80)]
    assert sum(task.result() for task in tasks) == 10
    assert sum(task.result() for task in tasks[1::2]) <= 7


async def test_the_queues_bound_is_exceeded_by_no_more_than_those_who_come_at_once(replicas: Sequence[Replica]) -> None:
    async def one(n: int) -> bool:
        owner = replace(ALICE, user=UserId(f"user-{n}"))
        try:
            await replicas[n % 2].queue.accept(
                new_run(owner, "thread"), claim_for=None, max_pending=20, idempotency=None
            )
        except QueueFull:
            return False
        return True

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(n)) for n in range(100)]
    # Each replica writes six at once; one of them comes last.
    assert 20 <= sum(task.result() for task in tasks) <= 20 + 2 * 6 - 1


async def test_reservations_never_exceed_a_budget(replicas: Sequence[Replica]) -> None:
    one, all_of_them = budget("user", limit=100), budget("tenant", limit=160, scope=BudgetScope.TENANT)
    await stored(replicas[0].database, one, all_of_them)
    started = [await claimed(replicas[n % 2].queue, new_run(ALICE if n % 4 else BOB, f"t-{n}")) for n in range(20)]

    async def reserve(n: int) -> int:
        run = started[n % 20]
        periods = [period(one, run), period(all_of_them, run)]
        answer = await replicas[n // 2 % 2].ledger.reserve(
            run, reservation(f"call-{n}"), periods[:: 1 if n % 3 else -1]
        )
        return isinstance(answer, Held)

    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        tasks = [group.create_task(reserve(n)) for n in range(120)]
    held = sum(task.result() for task in tasks)
    now = books(replicas[0].database)
    assert now.reserved["tenant"] == now.open["tenant"] == held * 10 <= 160
    assert now.reserved["user"] == now.open["user"] <= 200  # one budget of each user's
    assert held * 10 == 160 or now.reserved["user"] >= 100


async def test_a_call_is_charged_once_whoever_settles_it(replicas: Sequence[Replica]) -> None:
    one = budget(limit=10_000)
    await stored(replicas[0].database, one)
    started = [await claimed(replicas[0].queue, new_run(thread=f"t-{n}")) for n in range(20)]
    for run in started:
        await replicas[0].ledger.reserve(run, reservation(), [period(one, run)])
    async with asyncio.timeout(40), asyncio.TaskGroup() as group:
        for run in started:
            charges = {"call": [period(one, run)]}
            group.create_task(replicas[0].ledger.append(run, [call()], charges))
            group.create_task(
                replicas[1].ledger.append(replace(run, attempt=2), [replace(call(), outcome="lost")], charges)
            )
            group.create_task(replicas[0].ledger.release(run))
            group.create_task(replicas[1].ledger.append(run, [call()], charges))
    now = books(replicas[0].database)
    assert (now.cost, now.spent, now.reserved, now.open) == (200, {"budget": 200}, {"budget": 0}, {})


async def test_of_two_that_start_at_once_one_makes_the_first_key(
    replicas: Sequence[Replica], beside: "psycopg.Connection[Row]"
) -> None:
    beside.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number(FIRST_KEY),))
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        made = [
            group.create_task(SqlKeyStore(one.database, one.clock).insert_first(key(one.name), OPERATOR))
            for one in replicas
        ]
        await asyncio.to_thread(until_waiting, beside, len(replicas))
        beside.rollback()
    assert sorted(task.result() for task in made) == [False, True]
    (rows,) = look(replicas[0].database, sa.select(api_keys.c.key_id))
    assert len(rows) == 1


async def test_a_key_that_two_revoke_at_once_is_revoked_once_on_record(
    replicas: Sequence[Replica], beside: "psycopg.Connection[Row]"
) -> None:
    stores = [SqlKeyStore(one.database, one.clock) for one in replicas]
    await stores[0].insert(key("k"), OPERATOR)
    beside.execute("SELECT FROM api_keys FOR UPDATE")
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for n in range(2):
            moment = START + timedelta(seconds=n)
            group.create_task(stores[n].end(None, KeyId("k"), OPERATOR, revoked_at=moment, expires_at=None))
        await asyncio.to_thread(until_waiting, beside, 2)
        beside.commit()
    page = await SqlAuditLog(replicas[0].database).entries(None, since=None, limit=50, cursor=None)
    assert [entry.action for entry in page.items] == ["key.revoke", "key.create"]


async def test_what_the_audit_log_says_was_there_is_what_was_there(replicas: Sequence[Replica]) -> None:
    stores = [SqlPolicyStore(one.database, one.clock) for one in replicas]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        for n in range(20):
            group.create_task(stores[n % 2].set_budget(ALICE.tenant, budget(f"b-{n}", limit=n), OPERATOR))
    page = await SqlAuditLog(replicas[0].database).entries(None, since=None, limit=50, cursor=None)
    chain = page.items[::-1]
    assert [entry.before for entry in chain] == [None, *(entry.after for entry in chain[:-1])]


async def test_an_erased_thread_leaves_no_event_though_it_is_pruned_meanwhile(
    replicas: Sequence[Replica], beside: "psycopg.Connection[Row]"
) -> None:
    for _ in range(8):
        run = await replicas[0].accept("thread", claim=True)
        several = [Event(id=EventId(run.ord, 1, n + 1), body=delta("x")) for n in range(400)]
        assert await replicas[0].queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=several) is not None
    threads, ref = SqlThreadStore(replicas[0].database), ThreadRef(owner=ALICE, thread_id=ThreadId("thread"))
    # A pruner that is not done yet: it has deleted what the erasure is about to count.
    beside.execute("SELECT pg_advisory_xact_lock(%s)", (lock_number(REMOVAL),))
    beside.execute("DELETE FROM events WHERE n BETWEEN 2 AND 300")
    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        group.create_task(threads.erase(ref))
        await asyncio.to_thread(until_waiting, beside, 1)
        beside.commit()
    await threads.finish_erasure(ref)
    left, erased = look(replicas[0].database, sa.select(events.c.run_seq), sa.select(runs.c.seq))
    assert (list(left), list(erased)) == ([], [])


async def test_an_erasure_and_an_accept_do_not_pass_each_other(replicas: Sequence[Replica]) -> None:
    threads = SqlThreadStore(replicas[0].database)

    async def erase(n: int) -> None:
        ref = ThreadRef(owner=ALICE, thread_id=ThreadId(f"thread-{n % 5}"))
        try:
            await threads.erase(ref)
            await threads.finish_erasure(ref)
        except Conflict:
            return

    async def use(n: int) -> None:
        try:
            run = await replicas[1].accept(f"thread-{n % 5}", claim=True)
        except Conflict:
            return
        if run.status is RunStatus.RUNNING:
            assert await replicas[1].queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=()) is not None

    async with asyncio.timeout(50), asyncio.TaskGroup() as group:
        for n in range(40):
            group.create_task(use(n))
            group.create_task(erase(n))
