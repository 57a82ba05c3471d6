"""What Postgres does to us, and what becomes of it: a restart, a crash, a lost connection, a lock, a deadlock."""

import asyncio
import os
import signal
import threading
from collections.abc import Generator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest

from roadworthy.domain.errors import InvalidRequest, StorageUnavailable
from roadworthy.domain.ids import KeyId, RunId
from roadworthy.storage import postgres_schema
from roadworthy.storage import statements as sql
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.postgres import PostgresDatabase, Sizes, open_postgres
from roadworthy.storage.postgres_connection import Timeouts
from roadworthy.storage.rows import key_params
from roadworthy.storage.runs import SqlRunStore
from roadworthy.storage.transaction import Transaction
from tests.conformance.storage.factories import ALICE, OPERATOR, TickingClock
from tests.conformance.storage.test_stores import key
from tests.support.postgres import PostgresServer, name_of, postgres_server, start, stop

SHORT = timedelta(milliseconds=200)


@pytest.fixture
def url(server: PostgresServer, migrated_url: str) -> Generator[str]:
    url = server.create(name_of(migrated_url))
    yield url
    server.drop(url)


@pytest.fixture
def own_server() -> Generator[PostgresServer]:
    """A server that the test may end; whichever runs in its folder at the end is ended."""
    with postgres_server() as server:
        yield server


def keys_of(database: PostgresDatabase) -> SqlKeyStore:
    return SqlKeyStore(database, TickingClock())


def restart(server: PostgresServer) -> None:
    server.process = start(server.folder).process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
async def test_a_restart_is_waited_for(own_server: PostgresServer, how: signal.Signals) -> None:
    url = own_server.create()
    await asyncio.to_thread(postgres_schema.migrate, url)
    async with asyncio.timeout(50), open_postgres(url, patience=timedelta(seconds=30)) as database:
        keys = keys_of(database)
        async with asyncio.TaskGroup() as group:  # every lane has a connection
            for n in range(30):
                group.create_task(keys.insert(key(f"before-{n:02}"), OPERATOR))
                group.create_task(keys.find(KeyId("x")))
        await asyncio.to_thread(stop, own_server, how)
        async with asyncio.TaskGroup() as group:
            found = group.create_task(keys.find(KeyId("before-00")))
            tasks = [group.create_task(keys.insert(key(f"meanwhile-{n:02}"), OPERATOR)) for n in range(30)]
            await asyncio.to_thread(restart, own_server)
        assert found.result() is not None
        assert all(task.result() for task in tasks)
        assert len(await keys.list(None)) == 60


async def test_a_server_that_stays_away_is_unavailable(tmp_path: Path) -> None:
    async with asyncio.timeout(30), open_postgres(f"postgresql:///x?host={tmp_path}", patience=SHORT) as database:
        keys = keys_of(database)
        with pytest.raises(StorageUnavailable):
            await keys.insert(key("refused"), OPERATOR)
        with pytest.raises(StorageUnavailable):
            await keys.find(KeyId("refused"))


async def test_a_connection_that_breaks_in_a_unit_costs_nothing(url: str) -> None:
    tries: list[int] = []

    def unit(tx: Transaction) -> int:
        inserted = tx.run(sql.INSERT_KEY, **key_params(key("once")))
        tries.append(inserted)
        if len(tries) == 1:
            end_others(url)
        tx.one(sql.FIND_KEY, key_id="once")
        return inserted

    async with asyncio.timeout(30), open_postgres(url) as database:
        assert await database.write(unit) == 1
        assert tries == [1, 1]
        assert len(await keys_of(database).list(None)) == 1


async def test_a_read_that_has_begun_to_collect_is_not_begun_again(url: str) -> None:
    collected: list[object] = []

    def unit(tx: Transaction) -> None:
        collected.append(tx.one(sql.ANY_KEY))
        end_others(url)
        collected.append(tx.one(sql.ANY_KEY))

    async with asyncio.timeout(30), open_postgres(url) as database:
        with pytest.raises(StorageUnavailable):
            await database.read(unit)
        assert collected == [None]
        assert await keys_of(database).find(KeyId("x")) is None


def end_others(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as beside:
        beside.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'roadworthy'"
        )


async def test_a_lock_that_stays_is_unavailable_and_then_forgotten(url: str) -> None:
    async with asyncio.timeout(30), open_postgres(url, timeouts=Timeouts(lock=SHORT)) as database:
        keys = keys_of(database)
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE api_keys IN SHARE MODE")
            with pytest.raises(StorageUnavailable, match="locked"):
                await keys.insert(key("refused"), OPERATOR)
        assert await keys.insert(key("stored"), OPERATOR)


async def test_a_statement_that_takes_too_long_is_ended(url: str) -> None:
    slow = Timeouts(statement=SHORT, lock=timedelta(seconds=20))
    async with asyncio.timeout(30), open_postgres(url, timeouts=slow) as database:
        with psycopg.connect(url) as other:
            other.execute("LOCK TABLE api_keys IN SHARE MODE")
            with pytest.raises(StorageUnavailable, match="too long"):
                await keys_of(database).insert(key("refused"), OPERATOR)


async def test_two_units_in_a_deadlock_both_succeed(url: str) -> None:
    async with asyncio.timeout(30), open_postgres(url) as database:
        keys = keys_of(database)
        for name in "ab":
            await keys.insert(key(name), OPERATOR)
        met = threading.Barrier(2)
        tries: list[str] = []

        def unit(tx: Transaction, first: str, second: str) -> None:
            tries.append(first)
            tx.one(sql.LOCK_KEY, key_id=first)
            if len(tries) <= 2:
                met.wait(20)
            tx.one(sql.LOCK_KEY, key_id=second)

        async with asyncio.TaskGroup() as group:
            group.create_task(database.write(lambda tx: unit(tx, "a", "b")))
            group.create_task(database.write(lambda tx: unit(tx, "b", "a")))
        assert len(tries) == 3


async def test_a_unit_that_swallows_an_error_of_its_transaction_is_a_defect(url: str) -> None:
    def unit(tx: Transaction) -> None:
        tx.run(sql.INSERT_KEY, **key_params(key("lost")))
        with pytest.raises(psycopg.DataError):
            tx.one(sql.RUNS_OF_THREAD, tenant="", owner="", thread_id="", before="no number", limit=1)

    async with open_postgres(url) as database:
        with pytest.raises(psycopg.ProgrammingError):
            await database.write(unit)
        assert await keys_of(database).list(None) == []


async def test_nothing_is_stored_under_a_name_with_a_nul(url: str) -> None:
    async with open_postgres(url) as database:
        assert await SqlRunStore(database).find_any(ALICE.tenant, RunId("a\0b")) is None
        with pytest.raises(InvalidRequest, match="NUL"):
            await keys_of(database).insert(key("a\0b"), OPERATOR)


async def test_what_the_url_says_wins_and_every_wait_has_its_end(url: str) -> None:
    given = f"{url}&application_name=mine&options=-c%20lock_timeout%3D7s"
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "application_name")
    async with open_postgres(given) as database:

        def unit(tx: Transaction) -> list[str]:
            connection = getattr(tx, "connection")  # noqa: B009 -- the driver's, below the protocol
            return [connection.execute(f"SHOW {name}").fetchone()[0] for name in names]

        assert await database.write(unit) == ["10s", "7s", "15s", "mine"]


async def test_a_server_that_stands_still_is_given_up_although_its_network_works(own_server: PostgresServer) -> None:
    url = own_server.create()
    await asyncio.to_thread(postgres_schema.migrate, url)
    quick = Timeouts(connect=SHORT, statement=SHORT, silence=SHORT)
    sizes = Sizes(writers=1, readers=1)
    async with asyncio.timeout(50), open_postgres(url, sizes=sizes, timeouts=quick, patience=SHORT) as database:
        keys = keys_of(database)
        assert await keys.insert(key("before"), OPERATOR)
        assert await keys.find(KeyId("before"))
        everybody = processes_of(own_server)
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        try:
            for attempt in (keys.find(KeyId("before")), keys.insert(key("meanwhile"), OPERATOR)):
                with pytest.raises(StorageUnavailable):
                    await attempt
        finally:
            for pid in everybody:
                os.kill(pid, signal.SIGCONT)
        async with asyncio.timeout(20):
            while True:
                with suppress(StorageUnavailable):
                    assert await keys.insert(key("after"), OPERATOR)
                    break


def processes_of(server: PostgresServer) -> list[int]:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    return [server.pid, *map(int, children)]
