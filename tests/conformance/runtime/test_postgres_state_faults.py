"""What Postgres does to agents' state: lost connections, locks, deadlocks, restarts; and replicas that all start."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.runtimes.langgraph.postgres_checkpoints import FencedPostgresSaver, open_postgres_checkpoints
from roadworthy.runtimes.langgraph.postgres_tables import prepare_tables
from roadworthy.runtimes.langgraph.rows import Rows
from roadworthy.runtimes.langgraph.state import open_state
from roadworthy.runtimes.langgraph.state_places import PostgresTables
from roadworthy.runtimes.langgraph.store import StoreConfig
from roadworthy.storage.postgres_connection import Timeouts, connection_info
from roadworthy.storage.postgres_schema import migrate
from tests.conformance.runtime.test_postgres_saver import THREAD, checkpoint_of, count, place_of, put, values_of
from tests.support.postgres import PostgresServer, postgres_server, start, stop

BOUND = 50


@pytest.fixture
async def saver(database: str) -> AsyncIterator[FencedPostgresSaver]:
    async with open_postgres_checkpoints(place_of(database)) as opened:
        yield opened


def end_connections(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as beside:
        beside.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'roadworthy'"
        )


@asynccontextmanager
async def stalled(url: str) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
    """Nobody can write a checkpoint meanwhile."""
    async with await psycopg.AsyncConnection.connect(url) as beside:
        await beside.execute("LOCK TABLE checkpoints IN ACCESS EXCLUSIVE MODE")
        yield beside


async def until_somebody_waits(url: str) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as beside:
        query = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        while await (await beside.execute(query)).fetchone() is None:
            pass


async def test_a_connection_that_breaks_in_a_write_costs_nothing(saver: FencedPostgresSaver, database: str) -> None:
    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group, stalled(database):
        putting = group.create_task(put(saver, n=1))
        await until_somebody_waits(database)
        await asyncio.to_thread(end_connections, database)
        await until_somebody_waits(database)
        assert not putting.done()
    assert await values_of(saver) == {"n": 1}


async def test_a_database_that_keeps_breaking_is_unavailable_and_is_used_again_when_it_works(database: str) -> None:
    place = place_of(database, patience=timedelta(seconds=0.3))
    async with open_postgres_checkpoints(place) as saver, asyncio.timeout(BOUND):
        await put(saver, n=0)
        async with stalled(database):
            putting = asyncio.get_running_loop().create_task(put(saver, n=1))
            while not putting.done():
                await asyncio.to_thread(end_connections, database)
            with pytest.raises(StorageUnavailable):
                await putting
        assert await values_of(saver) == {"n": 0}
        await put(saver, n=2)
        assert await values_of(saver) == {"n": 2}


async def test_a_lock_that_nobody_gives_back_is_not_waited_for_for_ever(database: str) -> None:
    conninfo = connection_info(database, Timeouts(lock=timedelta(milliseconds=100)))
    async with open_postgres_checkpoints(PostgresTables(conninfo=conninfo)) as saver, asyncio.timeout(BOUND):
        async with stalled(database):
            with pytest.raises(StorageUnavailable, match="locked"):
                await put(saver, n=1)
        await put(saver, n=1)


async def test_a_statement_that_takes_too_long_is_given_up(database: str) -> None:
    conninfo = connection_info(database, Timeouts(statement=timedelta(milliseconds=100)))
    async with open_postgres_checkpoints(PostgresTables(conninfo=conninfo)) as saver, asyncio.timeout(BOUND):
        with pytest.raises(StorageUnavailable, match="too long"):
            await saver.database.fetch("SELECT pg_sleep(60)")
        await saver.check()


async def test_a_commit_whose_answer_was_lost_is_not_repeated(saver: FencedPostgresSaver, database: str) -> None:
    with psycopg.connect(database) as beside:
        beside.execute(
            "CREATE TABLE t (n INT); "
            "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); RETURN NULL; END $$; "
            "CREATE CONSTRAINT TRIGGER t_dies AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION die()"
        )
    tries: list[int] = []

    async def unit(rows: Rows) -> None:
        tries.append(await rows.run("INSERT INTO t VALUES (1)"))

    with pytest.raises(StorageUnavailable, match="may be stored or not"):
        await saver.rows.transact(unit)
    assert tries == [1]
    await saver.check()


async def test_a_unit_that_is_cancelled_is_whole_or_not_there(saver: FencedPostgresSaver) -> None:
    chance = random.Random(7)
    await saver.database.run("CREATE TABLE t (n INT)")

    async def unit(rows: Rows) -> None:
        for _ in range(3):
            assert await rows.run("INSERT INTO t VALUES (1)") == 1

    async with asyncio.timeout(BOUND):
        for _ in range(100):
            task = asyncio.get_running_loop().create_task(saver.rows.transact(unit))
            await asyncio.sleep(chance.uniform(0, 0.004))
            task.cancel()
            await asyncio.wait({task})
        before = await count(saver, "t")
        assert 0 < before < 300
        for _ in range(20):  # every connection still works
            await saver.rows.transact(unit)
    assert before % 3 == 0
    assert await count(saver, "t") == before + 60


async def test_transactions_in_each_others_way_are_both_done(saver: FencedPostgresSaver) -> None:
    both = asyncio.Barrier(2)
    tries: list[str] = []

    def unit(*names: str) -> Any:
        async def lock(rows: Rows) -> None:
            tries.append(names[0])
            await rows.lock(names[0])
            await rows.all("SELECT 1")  # has it now
            if len(tries) <= 2:
                await both.wait()
            await rows.lock(names[1])

        return lock

    async with asyncio.timeout(BOUND), asyncio.TaskGroup() as group:
        group.create_task(saver.rows.transact(unit("a", "b")))
        group.create_task(saver.rows.transact(unit("b", "a")))
    assert len(tries) == 3


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may end; whichever runs in its folder at the end is ended."""
    with postgres_server() as server:
        yield server


async def test_a_restart_is_waited_for(own_server: PostgresServer) -> None:
    url = own_server.create()
    await asyncio.to_thread(migrate, url)
    await prepare_tables(connection_info(url, Timeouts()))
    place = place_of(url, patience=timedelta(seconds=30))
    async with open_postgres_checkpoints(place) as saver, asyncio.timeout(BOUND):
        await asyncio.gather(*(put(saver, n=n) for n in range(20)))
        await asyncio.to_thread(stop, own_server)
        async with asyncio.TaskGroup() as group:
            for n in range(20):
                group.create_task(put(saver, n=n))
            own_server.process = (await asyncio.to_thread(start, own_server.folder)).process
        assert await count(saver, "checkpoints") == 40


async def test_a_server_that_stays_away_is_unavailable(tmp_path: Path) -> None:
    place = place_of(f"postgresql:///x?host={tmp_path}", patience=timedelta(milliseconds=200))
    async with asyncio.timeout(BOUND), open_postgres_checkpoints(place) as saver:
        for _ in range(2):
            with pytest.raises(StorageUnavailable):
                await put(saver, n=1)
        with pytest.raises(StorageUnavailable):
            await saver.check()
    with pytest.raises(StorageUnavailable):
        async with open_state(place, scope="user", config=StoreConfig()):
            pass


def embed(texts: list[str]) -> list[list[float]]:
    return [[0.0, 1.0] for _ in texts]


@pytest.mark.parametrize("index", [None, {"dims": 2, "embed": embed}])
async def test_replicas_that_start_on_an_empty_database_at_once_all_find_their_tables(
    server: PostgresServer, index: Any
) -> None:
    url = server.create()

    async def opened(number: int) -> None:
        place = place_of(url)
        async with open_state(place, scope="user", config=StoreConfig(index=index)) as (saver, _):
            await saver.aput({"configurable": {"thread_id": f"{number}", "checkpoint_ns": ""}}, checkpoint_of(), {}, {})

    try:
        async with asyncio.timeout(BOUND):
            await asyncio.gather(*(opened(number) for number in range(6)))
            await opened(6)
        with psycopg.connect(url) as beside:
            assert beside.execute("SELECT count(*) FROM checkpoints").fetchone() == (7,)
            assert beside.execute("SELECT count(*) FROM pg_index WHERE NOT indisvalid").fetchone() == (0,)
    finally:
        server.drop(url)


async def test_a_role_that_may_make_no_tables_can_use_those_that_are_there(
    server: PostgresServer, database: str
) -> None:
    with psycopg.connect(database) as beside:
        beside.execute("DROP ROLE IF EXISTS guest")
        beside.execute("CREATE ROLE guest LOGIN")
        beside.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        beside.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest")
    place = place_of(database.replace("postgres@", "guest@"))
    async with open_state(place, scope="user", config=StoreConfig()) as (saver, _):
        await saver.check()
        await saver.aput(THREAD, checkpoint_of(), {}, {})
