"""The checkpointer on Postgres: LangGraph's own conformance suite, what comes back, and what Postgres does to it."""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, Checkpoint, empty_checkpoint
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.conformance.capabilities import Capability
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.runtimes.langgraph.postgres_checkpoints import FencedPostgresSaver, open_postgres_checkpoints
from roadworthy.runtimes.langgraph.postgres_tables import prepare_tables
from roadworthy.runtimes.langgraph.rows import Rows
from roadworthy.runtimes.langgraph.state import open_state
from roadworthy.runtimes.langgraph.state_places import PostgresTables
from roadworthy.runtimes.langgraph.store import StoreConfig
from roadworthy.storage.postgres_connection import Timeouts, connection_info
from roadworthy.storage.postgres_schema import migrate
from tests.support.postgres import PostgresServer, name_of, postgres_server, start, stop

THREAD: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
TABLES = ("checkpoints", "checkpoint_writes", "checkpoint_blobs", "journal", "tool_calls")
BOUND = 50


def place_of(url: str, **options: Any) -> PostgresTables:
    return PostgresTables(conninfo=connection_info(url, Timeouts()), **options)


@pytest.fixture
async def saver(database: str) -> AsyncIterator[FencedPostgresSaver]:
    async with open_postgres_checkpoints(place_of(database)) as opened:
        yield opened


async def test_langgraphs_own_suite_passes(server: PostgresServer, state_template: str) -> None:
    made: list[str] = []

    @checkpointer_test(name="roadworthy")
    async def ours() -> AsyncGenerator[FencedPostgresSaver]:
        made.append(server.create(name_of(state_template)))
        async with open_postgres_checkpoints(place_of(made[-1])) as opened:
            yield opened

    try:
        report = await validate(ours)
    finally:
        for url in made:
            server.drop(url)
    assert {name: result.failures for name, result in report.results.items() if result.failures} == {}
    assert {name for name, result in report.results.items() if result.passed} == {one.value for one in Capability}


def checkpoint_of(**values: object) -> Checkpoint:
    return {**empty_checkpoint(), "channel_values": values, "channel_versions": dict.fromkeys(values, "1")}


async def put(saver: FencedPostgresSaver, **values: object) -> RunnableConfig:
    return await saver.aput(THREAD, checkpoint_of(**values), {}, dict.fromkeys(values, "1"))


async def values_of(saver: BaseCheckpointSaver[Any]) -> dict[str, Any]:
    found = await saver.aget_tuple(THREAD)
    assert found is not None
    return found.checkpoint["channel_values"]


async def count(saver: FencedPostgresSaver, table: str) -> int:
    return int((await saver.database.fetch(f"SELECT count(*) FROM {table}"))[0][0])


class Colour(StrEnum):
    """JSON would make a mere text of it."""

    RED = "red"


VALUES: dict[str, object] = {
    "nul": "a\0b",
    "long": "x" * 100_000,
    "lines": "a\nb\t\u2028c",
    "emoji": "ü 🚗",
    "short": "s",
    "none": None,
    "yes": True,
    "no": False,
    "whole": 3,
    "huge": 10**15,
    "float": 1.0,
    "large float": 1e22,
    "minus zero": -0.0,
    "infinite": float("inf"),
    "bytes": b"\0\xff",
    "list": [1, [2, {"a": None}]],
    "messages": [HumanMessage("a\0b", id="1"), AIMessage("c" * 9000, id="2")],
    "empty": [],
}


async def test_what_was_stored_comes_back(saver: FencedPostgresSaver, database: str) -> None:
    await put(saver, **VALUES)
    async with open_postgres_checkpoints(place_of(database)) as other:
        found = await values_of(other)
    assert {name: (type(value), repr(value)) for name, value in found.items()} == {
        name: (type(value), repr(value)) for name, value in VALUES.items()
    }


async def test_what_tasks_wrote_comes_back(saver: FencedPostgresSaver) -> None:
    config = await put(saver)
    await saver.aput_writes(config, list(VALUES.items()), "task", "path")
    await saver.aput_writes(config, [("lost", 1)], "task", "path")  # the first of an index counts
    await saver.aput_writes(config, [("__error__", "one"), ("__error__", "two")], "task")
    await saver.aput_writes(config, [("__error__", "three")], "task")  # of these the last
    await saver.aput_writes(config, [], "nothing")
    found = await saver.aget_tuple(THREAD)
    assert found is not None
    assert found.pending_writes is not None
    written = [(channel, value) for _, channel, value in found.pending_writes]
    assert sorted(written, key=str) == sorted([*VALUES.items(), ("__error__", "three")], key=str)


async def test_only_types_that_are_known_to_be_safe_come_back_to_life(saver: FencedPostgresSaver) -> None:
    await put(saver, colour=Colour.RED, colours=[Colour.RED])
    found = await values_of(saver)
    assert [type(found["colour"]), type(found["colours"][0])] == [str, str]
    known = saver.with_allowlist([(Colour.__module__, Colour.__name__)])
    assert await values_of(known) == {"colour": Colour.RED, "colours": [Colour.RED]}
    assert [type((await values_of(known))["colour"])] == [Colour]


def talking() -> Any:
    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"{len(state['messages'])} heard")]}

    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer").compile()


async def test_langgraphs_own_saver_and_ours_go_on_with_each_others_threads(
    saver: FencedPostgresSaver, database: str
) -> None:
    graph = talking()
    async with AsyncPostgresSaver.from_conn_string(database) as stock:
        for turn, used in enumerate([stock, saver, stock, saver]):
            state = await graph.copy(update={"checkpointer": used}).ainvoke(
                {"messages": [HumanMessage(f"{turn}")]}, THREAD
            )
            assert len(state["messages"]) == 2 * (turn + 1)
        history = [[one async for one in used.alist(THREAD)] for used in (stock, saver)]
    assert history[0] == history[1]
    assert len(history[0]) == 12


async def test_a_thread_goes_whole_and_another_stays(
    saver: FencedPostgresSaver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("roadworthy.runtimes.langgraph.postgres_checkpoints._ROWS_AT_ONCE", 3)
    for n in range(10):
        config = await put(saver, text=f"{n}" * 2000)
        await saver.aput_writes(config, [("text", f"w{n}")], "task")
    nowhere: RunnableConfig = {"configurable": {"thread_id": "t", "checkpoint_ns": "", "checkpoint_id": "none"}}
    await saver.aput_writes(nowhere, [("n", 1)], "task")
    await saver.acopy_thread("t", "u")
    before = [await count(saver, table) for table in TABLES]
    await saver.adelete_thread("t")
    await saver.adelete_thread("t")
    assert [2 * await count(saver, table) for table in TABLES] == before
    assert await saver.aget_tuple({"configurable": {"thread_id": "u"}}) is not None
    await saver.adelete_thread("u")
    assert [await count(saver, table) for table in TABLES] == [0] * len(TABLES)


async def test_many_savers_at_once_need_no_more_connections_than_there_are(database: str) -> None:
    graph = talking()
    async with open_postgres_checkpoints(place_of(database, connections=2)) as saver, asyncio.timeout(BOUND):
        served = graph.copy(update={"checkpointer": saver})

        async def turn(number: int) -> int:
            config: RunnableConfig = {"configurable": {"thread_id": f"{number}"}}
            for _ in range(2):
                await served.ainvoke({"messages": [HumanMessage("hi")]}, config)
            # Each looks at the thread again while it goes through its history.
            return len([await served.aget_state(one.config) async for one in served.aget_state_history(config)])

        assert await asyncio.gather(*(turn(number) for number in range(20))) == [6] * 20
        with psycopg.connect(database) as beside:
            query = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            row = beside.execute(query).fetchone()
        assert row is not None
        assert row[0] <= 2 + 1


async def test_a_write_that_is_cancelled_is_whole_or_not_there(saver: FencedPostgresSaver) -> None:
    chance = random.Random(7)
    async with asyncio.timeout(BOUND):
        for _ in range(100):
            task = asyncio.get_running_loop().create_task(put(saver, text="x" * 2000))
            await asyncio.sleep(chance.uniform(0, 0.003))
            task.cancel()
            await asyncio.wait({task})
        assert await count(saver, "checkpoint_blobs") in {0, 1}
        for _ in range(20):  # every connection still works
            await put(saver, text="x" * 2000)
    found = [one async for one in saver.alist(THREAD)]
    assert len(found) == await count(saver, "checkpoints") >= 20
    assert all(one.checkpoint["channel_values"] == {"text": "x" * 2000} for one in found)


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
