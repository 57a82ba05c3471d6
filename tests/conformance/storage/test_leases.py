"""Leases on Postgres: by whose clock they expire, who may renew them, and what a worker that has lost one cannot do."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Generator, Sequence
from dataclasses import replace
from datetime import timedelta

import psycopg
import pytest
import sqlalchemy as sa

from roadworthy.domain.errors import LeaseLost, StorageUnavailable
from roadworthy.domain.event import Event, EventId
from roadworthy.domain.lease import LeaseTerms
from roadworthy.domain.run import Run, RunError, RunResult, RunStatus
from roadworthy.storage.database_clock import clock_of
from roadworthy.storage.event_log import SqlEventLog
from roadworthy.storage.leases import PostgresLeases
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.live_events import NoLiveEvents
from roadworthy.storage.postgres import PostgresDatabase, open_postgres
from roadworthy.storage.queue import SqlRunQueue
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.tables import events, reservations, runs
from tests.conformance.storage.backends import Templates, look, register, url_of
from tests.conformance.storage.factories import EXPIRED, TickingClock, delta, lease_of, new_run
from tests.conformance.storage.spending import call, reservation
from tests.support.postgres import name_of

DONE = RunResult(response="done")
GONE = RunResult(error=RunError(code="poisoned", message="gone"))
LONG = timedelta(minutes=5)


@pytest.fixture
async def database(templates: Templates) -> AsyncGenerator[PostgresDatabase]:
    url = templates.server.create(name_of(templates.url))
    try:
        async with open_postgres(url) as database:
            register(database, url)
            yield database
    finally:
        templates.server.drop(url)


@pytest.fixture
def leases(database: PostgresDatabase) -> Generator[PostgresLeases]:
    leases = PostgresLeases(database, LeaseTerms(length=LONG))
    yield leases
    leases.close()


@pytest.fixture
def beside(database: PostgresDatabase) -> Generator["psycopg.Connection[tuple[object, ...]]"]:
    with psycopg.connect(url_of(database), autocommit=True) as connection:
        yield connection


def queue_of(database: PostgresDatabase, *, lease: timedelta = LONG, ahead: timedelta = timedelta(0)) -> SqlRunQueue:
    clock = TickingClock()
    clock._now += ahead  # pyright: ignore[reportPrivateUsage]
    return SqlRunQueue(database, clock, lease=lease)


async def running(queue: SqlRunQueue, thread: str = "thread", worker: str = "worker") -> Run:
    accepted = await queue.accept(new_run(thread=thread), claim_for=worker, max_pending=100, idempotency=None)
    assert accepted.run.status is RunStatus.RUNNING
    return accepted.run


async def taken_over(database: PostgresDatabase, beside: "psycopg.Connection[tuple[object, ...]]", run: Run) -> Run:
    """The run in the hands of another worker."""
    beside.execute("UPDATE runs SET lease_until = 0")
    queue = queue_of(database)
    assert await queue.reap(run, losses=1, progress_mark=None) is not None
    again = await queue.claim(run.run_id, worker="another")
    assert again is not None
    return again


async def test_a_run_is_nobodys_only_when_its_lease_has_expired(database: PostgresDatabase) -> None:
    kept, dead = queue_of(database), queue_of(database, lease=EXPIRED)
    accepted, claimed = await running(kept, "a"), await running(dead, "b")
    waiting = (await kept.accept(new_run(thread="c"), claim_for=None, max_pending=9, idempotency=None)).run
    assert await kept.claim(waiting.run_id, worker="worker") is not None
    assert [run.run_id for run in await kept.orphans()] == [claimed.run_id]
    assert await kept.reap(accepted, losses=1, progress_mark=None) is None
    assert await kept.end_orphan(accepted, RunStatus.ERROR, GONE) is None
    assert await kept.reap(claimed, losses=1, progress_mark=None) is not None


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1)])
async def test_a_worker_whose_clock_is_an_hour_off_expires_nobody_and_is_not_expired(
    database: PostgresDatabase, ahead: timedelta
) -> None:
    right, wrong = queue_of(database), queue_of(database, ahead=ahead)
    theirs, own = await running(right, "a"), await running(wrong, "b")
    for queue in (right, wrong):
        assert await queue.orphans() == []
        for run in (theirs, own):
            assert await queue.reap(run, losses=1, progress_mark=None) is None


async def test_one_renewal_extends_all_leases_of_a_worker_and_nobody_elses(
    database: PostgresDatabase, leases: PostgresLeases
) -> None:
    queue = queue_of(database)
    mine = [await running(queue, f"t-{n}") for n in range(3)]
    other = await running(queue, "other", worker="another")
    before = dict(_ends(database))
    held = await asyncio.to_thread(leases.renew, "worker")
    assert sorted(held, key=lambda lease: lease.run_id) == sorted(map(lease_of, mine), key=lambda lease: lease.run_id)
    after = dict(_ends(database))
    assert all(after[run.run_id] > before[run.run_id] for run in mine)
    assert after[other.run_id] == before[other.run_id]


async def test_a_renewal_brings_nothing_back_and_says_what_is_left(
    database: PostgresDatabase, leases: PostgresLeases
) -> None:
    queue, dead = queue_of(database), queue_of(database, lease=EXPIRED)
    kept, ended, late = await running(queue, "a"), await running(queue, "b"), await running(dead, "c")
    assert await queue.finish(lease_of(ended), RunStatus.SUCCESS, DONE, events=()) is not None
    assert await asyncio.to_thread(leases.renew, "worker") == [lease_of(kept)]
    assert [run.run_id for run in await queue.orphans()] == [late.run_id]


async def test_a_renewal_that_comes_before_the_reaper_keeps_the_run(
    database: PostgresDatabase, leases: PostgresLeases, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    queue = queue_of(database)
    run = await running(queue)
    beside.execute("UPDATE runs SET lease_until = 0")
    (orphan,) = await queue.orphans()
    beside.execute("UPDATE runs SET lease_until = 9e18::bigint")
    assert await queue.reap(orphan, losses=1, progress_mark=None) is None
    assert await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=()) is not None


async def test_a_renewal_whose_connection_broke_tries_another(
    database: PostgresDatabase, leases: PostgresLeases, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    run = await running(queue_of(database))
    await asyncio.to_thread(leases.renew, "worker")
    beside.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()")
    assert await asyncio.to_thread(leases.renew, "worker") == [lease_of(run)]


async def test_a_renewal_that_is_locked_out_gives_up_in_time(
    database: PostgresDatabase, leases: PostgresLeases, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    await running(queue_of(database))
    with beside.transaction():
        beside.execute("SELECT FROM runs FOR UPDATE")
        async with asyncio.timeout(20):
            with pytest.raises(StorageUnavailable):
                await asyncio.to_thread(leases.renew, "worker")


async def test_who_has_lost_a_run_changes_nothing_of_it(
    database: PostgresDatabase, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    queue, ledger = queue_of(database), SqlLedger(database)
    run = await running(queue)
    assert await queue.note_resume_mark(lease_of(run), "mark")
    again = await taken_over(database, beside, run)
    assert await queue.finish(lease_of(run), RunStatus.SUCCESS, DONE, events=()) is None
    assert await queue.release(lease_of(run), events=[Event(id=EventId(1, 1, 1), body=delta("late"))]) is None
    assert not await queue.note_resume_mark(lease_of(run), "late")
    with pytest.raises(LeaseLost):
        await ledger.reserve(run, reservation(), [])
    assert look(database, sa.select(reservations.c.call_id), sa.select(events.c.n)) == [[], []]
    assert await SqlRunStore(database).get(run.owner, run.run_id) == again
    await ledger.reserve(again, reservation(), [])
    await ledger.reserve(again, reservation(), [])


async def test_a_call_that_was_made_is_on_record_once_whoever_comes_first(
    database: PostgresDatabase, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    ledger = SqlLedger(database)
    run = await running(queue_of(database))
    again = await taken_over(database, beside, run)
    lost = replace(call("in-flight"), outcome="lost")
    await ledger.append(again, [lost], {})
    await ledger.append(run, [call("in-flight"), call("unheard")], {})
    recorded = {one.call_id: one.outcome for one in await ledger.of_run(run.owner, run.run_id)}
    assert recorded == {"in-flight": "lost", "unheard": call().outcome}


async def test_events_of_a_dead_attempt_are_refused_and_its_neighbours_are_not(
    database: PostgresDatabase, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    queue, store = queue_of(database), SqlRunStore(database)
    run, neighbour = await running(queue, "a"), await running(queue, "b")
    async with SqlEventLog(database, store, linger=timedelta(hours=1), live=NoLiveEvents()) as zombie:
        writers = [await zombie.open(one) for one in (run, neighbour)]
        again = await taken_over(database, beside, run)
        for writer in writers:
            writer.append(delta("late"))
    stored = {one.run_id: len(await SqlEventLog(database, store).read(one)) for one in (again, neighbour)}
    assert stored == {run.run_id: 0, neighbour.run_id: 2}


async def test_the_next_attempt_begins_behind_a_flush_that_is_under_way(
    database: PostgresDatabase, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    queue, store = queue_of(database, lease=EXPIRED), SqlRunStore(database)
    run = await running(queue)
    assert await queue.reap(run, losses=1, progress_mark=None) is not None
    with beside.transaction():
        # As the flush of attempt 1 does it.
        beside.execute("SELECT FROM runs WHERE attempt = 1 FOR SHARE")
        claim = asyncio.get_running_loop().create_task(queue.claim(run.run_id, worker="another"))
        await asyncio.to_thread(_until_waiting, beside)
        assert not claim.done()
    assert await claim is not None
    assert await store.get(run.owner, run.run_id) == claim.result()


async def test_of_two_reapers_one_wins(database: PostgresDatabase) -> None:
    queues = [queue_of(database, lease=EXPIRED) for _ in range(2)]
    dead = [await running(queues[0], f"t-{n}") for n in range(10)]
    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        tasks = [group.create_task(queue.reap(run, losses=1, progress_mark=None)) for run in dead for queue in queues]
    assert sum(task.result() is not None for task in tasks) == len(dead)


async def test_renewals_and_flushes_do_not_lock_each_other_out(
    database: PostgresDatabase, leases: PostgresLeases
) -> None:
    queue, store = queue_of(database), SqlRunStore(database)
    busy = [await running(queue, f"t-{n}") for n in range(8)]
    stop = threading.Event()

    def renew() -> int:
        rounds = 0
        while not stop.is_set():
            assert len(leases.renew("worker")) == len(busy)
            rounds += 1
        return rounds

    async with asyncio.timeout(40), SqlEventLog(database, store, linger=timedelta(0), live=NoLiveEvents()) as log:
        writers = [await log.open(run) for run in busy]
        renewing = asyncio.get_running_loop().create_task(asyncio.to_thread(renew))
        try:
            for _ in range(60):
                for writer in writers:
                    writer.append(delta("x"))
                await asyncio.sleep(0.005)
        finally:
            stop.set()
        assert await renewing > 3
    assert sum([len(await SqlEventLog(database, store).read(run)) for run in busy]) == 61 * len(busy)


async def test_the_clock_is_the_databases_whatever_the_machine_says(
    database: PostgresDatabase, beside: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    machine = iter([100.0, 100.0])
    clock = await clock_of(database, monotonic=lambda: next(machine, 100.0))
    before, after = clock.now(), beside.execute("SELECT clock_timestamp()").fetchone()
    assert after is not None
    assert timedelta(0) <= after[0] - before < timedelta(minutes=1)  # pyright: ignore[reportOperatorIssue]
    late = iter([100.0, 500.0, 500.0])
    slow = await clock_of(database, monotonic=lambda: next(late, 500.0))
    seen = slow.now()
    again = iter([500.0, 900.0])
    slow._monotonic = lambda: next(again, 500.0)  # pyright: ignore[reportPrivateUsage]
    await slow.look()
    assert slow.now() == seen


def _ends(database: PostgresDatabase) -> Sequence[tuple[str, int]]:
    (rows,) = look(database, sa.select(runs.c.run_id, runs.c.lease_until))
    return [(run_id, end) for run_id, end in rows]


def _until_waiting(beside: "psycopg.Connection[tuple[object, ...]]") -> None:
    while True:
        row = beside.execute("SELECT count(*) FROM pg_locks WHERE NOT granted").fetchone()
        if row is not None and row[0]:
            return
