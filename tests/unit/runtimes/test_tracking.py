"""Threads and connections: who still works, and what one transaction holds."""

import asyncio
import os
import sqlite3
import stat
import threading
from contextlib import closing
from pathlib import Path

import pytest

from roadworthy.domain.errors import LeaseLost, StorageUnavailable
from roadworthy.domain.ids import TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.thread import ThreadRef
from roadworthy.runtimes.langgraph.exits import ProcessExit
from roadworthy.runtimes.langgraph.keys import store_prefix, thread_key
from roadworthy.runtimes.langgraph.sqlite import Connection, open_file
from roadworthy.runtimes.langgraph.threads import TrackingExecutor, WorkTracker

BOUND = 10


async def test_a_tracker_waits_for_its_own_threads_only() -> None:
    asyncio.get_running_loop().set_default_executor(TrackingExecutor(8))
    mine, others = threading.Event(), threading.Event()

    async def start(gate: threading.Event) -> WorkTracker:
        tracker = WorkTracker()
        tracker.enter()
        running = threading.Event()

        def work() -> None:
            running.set()
            gate.wait(BOUND)

        asyncio.get_running_loop().run_in_executor(None, work)
        await asyncio.to_thread(running.wait, BOUND)
        return tracker

    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
        one, two = group.create_task(start(mine)), group.create_task(start(others))
    first, second = one.result(), two.result()
    assert not first.idle
    mine.set()
    await first.wait_idle()
    assert first.idle
    assert not second.idle
    others.set()
    await second.wait_idle()


async def test_calls_that_never_got_a_thread_are_not_waited_for() -> None:
    executor = TrackingExecutor(1)
    loop = asyncio.get_running_loop()
    loop.set_default_executor(executor)
    tracker = WorkTracker()
    tracker.enter()
    gate = threading.Event()
    running = loop.run_in_executor(None, gate.wait, BOUND)
    queued = loop.run_in_executor(None, gate.wait, BOUND)
    queued.cancel()
    gate.set()
    async with asyncio.timeout(BOUND):
        await running
        await tracker.wait_idle()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_a_call_that_asks_the_process_to_exit_has_failed(error: BaseException) -> None:
    def leave() -> None:
        raise error

    with TrackingExecutor(1) as executor:
        failed = executor.submit(leave).exception(BOUND)
    assert isinstance(failed, ProcessExit)
    assert failed.__cause__ is error


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.sqlite"


async def opened(file: Path) -> Connection:
    connection = Connection(lambda: open_file(file, isolation_level=""))
    await connection
    return connection


async def test_waiting_work_shares_a_commit_and_stands_or_falls_alone(file: Path) -> None:
    connection = await opened(file)
    try:
        await connection.transact(lambda c: c.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)"))

        def insert(n: int, *, fail: bool = False) -> None:
            def work(c: sqlite3.Connection) -> int:
                c.execute("INSERT INTO t VALUES (?)", (n,))
                if fail:
                    raise LeaseLost("lost")
                return n

            works.append(work)

        works: list[object] = []
        insert(1)
        insert(2, fail=True)
        insert(1)
        insert(3)
        results = await asyncio.gather(*(connection.transact(w) for w in works), return_exceptions=True)  # type: ignore[arg-type]
        assert results[0] == 1
        assert isinstance(results[1], LeaseLost)
        assert isinstance(results[2], StorageUnavailable)
        assert results[3] == 3
        assert await connection.transact(lambda c: c.execute("SELECT n FROM t ORDER BY n").fetchall()) == [(1,), (3,)]
    finally:
        await connection.close()


async def test_a_cancelled_callers_work_is_whole_and_holds_up_nobody(file: Path) -> None:
    connection = await opened(file)
    try:
        await connection.transact(lambda c: c.execute("CREATE TABLE t (n INTEGER)"))
        entered, leave = threading.Event(), threading.Event()

        def slow(c: sqlite3.Connection) -> None:
            c.execute("INSERT INTO t VALUES (1)")
            entered.set()
            leave.wait(BOUND)

        async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
            first = group.create_task(connection.transact(slow))
            await asyncio.to_thread(entered.wait, BOUND)
            second = group.create_task(connection.transact(lambda c: c.execute("INSERT INTO t VALUES (2)")))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.sleep(0)
            leave.set()
        assert second.done()
        assert await connection.transact(lambda c: c.execute("SELECT n FROM t").fetchall()) == [(1,), (2,)]
    finally:
        await connection.close()


def test_no_two_owners_share_a_name() -> None:
    def key(tenant: str, user: str, thread: str) -> str:
        return thread_key(
            ThreadRef(owner=Owner(tenant=TenantId(tenant), user=UserId(user)), thread_id=ThreadId(thread))
        )

    names = [
        ("a", "b", "c"),
        ("a|b", "c", "d"),
        ("a", "b|c", "d"),
        ("a", "b", "c:d"),
        ("a.b", "c", "d"),
        ("a", "b.c", "d"),
    ]
    assert len({key(*name) for name in names}) == len(names)
    owners = [Owner(tenant=TenantId(t), user=UserId(u)) for t, u in (("a", "b"), ("a", "b.c"), ("a.b", "c"))]
    prefixes = {store_prefix(owner, shared_by_tenant=False) for owner in owners}
    assert len(prefixes) == len(owners)
    assert all("." not in label for prefix in prefixes for label in prefix)
    assert len({store_prefix(owner, shared_by_tenant=True) for owner in owners}) == 2


def test_a_new_file_and_its_log_are_the_users_own(file: Path) -> None:
    before = os.umask(0)
    try:
        with closing(open_file(file, isolation_level=None)) as connection:
            connection.execute("CREATE TABLE t (n INTEGER)")
            modes = {one.name: stat.S_IMODE(one.stat().st_mode) for one in file.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(["x.sqlite", "x.sqlite-shm", "x.sqlite-wal"], 0o600)
