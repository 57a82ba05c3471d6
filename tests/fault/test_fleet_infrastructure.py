"""A fleet of three whose parts fail beneath it: Postgres, Redis, the network, a clock (catalogue 11 to 15, 18)."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import timedelta

import httpx
import psycopg
import pytest

from roadworthy.domain.lease import LeaseTerms
from roadworthy.storage.schema import REVISIONS
from tests.support.fault_proxy import FaultProxy
from tests.support.fleet import API, WORKER, Fleet
from tests.support.postgres import PostgresServer, name_of, start, stop
from tests.support.provider.script import Hold, Rule, ToolUse, Turn
from tests.support.server import free_port
from tests.support.transcript import Transcript, follow, stream
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.timeout(120)

LEASE = LeaseTerms().length.total_seconds()
SLOTS = {"MAX_CONCURRENT_REQUESTS": "25"}
HELD = Turn(text="one two three", hold=Hold(at=2))
EVENTS = "SELECT run_seq, attempt, n, type FROM events ORDER BY 1, 2, 3"
AHEAD, BEHIND = {"CLOCK_OFF": "3600"}, {"CLOCK_OFF": "-3600"}


@pytest.fixture
async def postgres_proxy(fleet_postgres: PostgresServer) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy(fleet_postgres.folder / ".s.PGSQL.5432") as proxy:
        yield proxy


@pytest.fixture
async def redis_proxy(fleet_valkey: ValkeyServer) -> AsyncGenerator[FaultProxy]:
    async with FaultProxy(fleet_valkey.port) as proxy:
        yield proxy


def through(proxy: FaultProxy, fleet: Fleet) -> dict[str, str]:
    """Settings by which a replica reaches Postgres through a proxy."""
    return {"ROADWORTHY_DATABASE_URL": f"postgresql://postgres@127.0.0.1:{proxy.port}/{name_of(fleet.database_url)}"}


# --- Postgres ---------------------------------------------------------------------------------------------------------


async def test_fifty_runs_outlive_a_restart_of_postgres(fleet: Fleet, fleet_postgres: PostgresServer) -> None:
    count = 50
    await fleet.begin(env=SLOTS)
    fleet.provider.script(rules=(Rule(when="held", turns=(HELD,) * count),))
    async with fleet.client() as client:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(invoke(client, "held", f"t{number}")) for number in range(count)]
            await fleet.provider.wait_for(lambda calls: sum(call.held for call in calls) == count, 30)
            stop(fleet_postgres)
            for _ in range(count):
                fleet.provider.release()
            fleet_postgres.process = start(fleet_postgres.folder).process
        assert {(task.result().status_code, task.result().json()["response"]) for task in asked} == {
            (200, "one two three")
        }
    await fleet.settled()
    assert "Traceback" not in fleet.logs
    fleet.check()


@pytest.mark.soak
async def test_while_postgres_is_away_for_longer_than_a_lease_new_runs_are_refused_and_old_ones_go_on_after(
    fleet: Fleet, fleet_postgres: PostgresServer
) -> None:
    count = 12
    await fleet.begin(env=SLOTS)
    fleet.provider.script(rules=(Rule(when="held", turns=(*(HELD,) * count, *(Turn(text="again"),) * count)),))
    async with fleet.client() as client:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(invoke(client, "held", f"t{number}")) for number in range(count)]
            await fleet.provider.wait_for(lambda calls: sum(call.held for call in calls) == count, 30)
            stop(fleet_postgres)
            for number in fleet.apis:
                async with fleet.client(number) as one:
                    await fleet.not_ready(one, 30)
            # Each of them gives its runs up before anybody can take them.
            await fleet.until(lambda: fleet.logs.count("leases_given_up") == len(fleet.apis), 30)
            refused = await asyncio.gather(
                *(invoke(client, f"say: {number}") for number in range(9)),
                *(client.get("/agent/threads") for _ in fleet.apis),
            )
            for answer in refused:
                assert (answer.status_code, answer.json()["code"]) == (503, "storage"), answer.text
                assert int(answer.headers["retry-after"]) > 0
            assert (await client.get("/livez")).status_code == 200
            fleet_postgres.process = start(fleet_postgres.folder).process
        answers = {(task.result().status_code, task.result().json().get("response")) for task in asked}
        assert answers == {(200, "again")}
        for number in fleet.apis:
            async with fleet.client(number) as one:
                await fleet.ready(one, 30)
                assert (await invoke(one, "say: after")).json()["response"] == "after"
    await fleet.settled()
    assert "Traceback" not in fleet.logs
    fleet.check(in_flight=count)


# Streams of a proxy that were cut are collected after their loop.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_connections_that_are_cut_and_slow_cost_no_run(
    fleet: Fleet, postgres_proxy: FaultProxy, redis_proxy: FaultProxy
) -> None:
    count = 15
    postgres_proxy.latency = redis_proxy.latency = 0.005
    await fleet.begin(
        env={**SLOTS, **through(postgres_proxy, fleet), "ROADWORTHY_REDIS_URL": f"redis://127.0.0.1:{redis_proxy.port}"}
    )
    turn = Turn(tools=(ToolUse(name="note", args={"text": "x"}),), ms_per_token=5)
    answer = Turn(text="some words that come one by one", ms_per_token=30)
    fleet.provider.script(rules=(Rule(when="go", turns=(turn, answer), pick="by_position"),))
    async with fleet.client() as client:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(stream(client, {"message": "go", "thread_id": f"t{number}"}))
                for number in range(count)
            ]
            await fleet.provider.wait_for(lambda calls: len(calls) >= count, 30)
            for _ in range(6):
                postgres_proxy.reset()
                redis_proxy.reset()
                await asyncio.sleep(0.25)
        seen = [task.result() for task in asked]
        assert not [frame for one in seen for frame in one.of_type("error")]
        assert {one.text() for one in seen} == {answer.text}
        assert {(one.done or {}).get("status") for one in seen} == {"success"}
    await fleet.settled()
    assert fleet.effects.count("note") == count
    fleet.check(transcripts=seen)


async def test_a_replica_that_is_cut_off_past_its_lease_loses_its_run_to_a_peer(
    fleet: Fleet, postgres_proxy: FaultProxy
) -> None:
    await fleet.begin(replica_env={0: through(postgres_proxy, fleet)})
    held = Turn(text="words of the first", hold=Hold(at=2))
    peers = Turn(text="words of its peer", hold=Hold(at=0, gate="peer"))
    fleet.provider.script(rules=(Rule(when="held", turns=(held, peers)),))
    mine, others = Transcript(), Transcript()
    async with fleet.client(0) as cut_off, fleet.client(1) as peer, asyncio.TaskGroup() as group:
        reading = group.create_task(read(cut_off, mine, "held"))
        await fleet.provider.wait_for(lambda calls: any(call.held for call in calls))
        await fleet.until(lambda: bool(mine.of_type("content")))
        assert await fleet.executor(mine.run_id) == 0
        following = group.create_task(follow(peer, others, mine.run_id))
        postgres_proxy.blackhole()
        refusing = group.create_task(invoke(cut_off, "say: no"))
        assert await fleet.executor(mine.run_id, attempt=2) != 0
        fleet.provider.release("peer")
        run = await fleet.final(peer, mine.run_id)
        await following
        await fleet.not_ready(cut_off, 30)
        assert (await cut_off.get("/livez")).status_code == 200
        refused = await refusing
        assert (refused.status_code, refused.json()["code"]) == (503, "storage"), refused.text
        assert int(refused.headers["retry-after"]) > 0
        fleet.provider.release()
        postgres_proxy.heal()
        await fleet.ready(cut_off, 30)
        await reading
        assert (await invoke(cut_off, "say: back")).json()["response"] == "back"
    assert (run["status"], run["response"], run["attempt"]) == ("success", "words of its peer", 2)
    assert (mine.text(), others.text()) == ("words of its peer", "words of its peer")
    await fleet.settled()
    fleet.check(transcripts=[mine, others], in_flight=1)


async def test_a_replica_that_stood_still_for_two_leases_writes_nothing_more_of_its_run(fleet: Fleet) -> None:
    await fleet.begin()
    held = Turn(text="words of the first", hold=Hold(at=2))
    rules = (Rule(when="held", turns=(held, held, Turn(text="words of a peer"), Turn(text="words of a peer"))),)
    fleet.provider.script(rules=rules)
    mine, others = Transcript(), Transcript()
    async with fleet.client(0) as stopped, fleet.client(1) as peer, asyncio.TaskGroup() as group:
        reading = group.create_task(read(stopped, mine, "held"))
        invoking = group.create_task(invoke(stopped, "held", "second"))
        await fleet.provider.wait_for(lambda calls: sum(call.held for call in calls) == 2)
        await fleet.until(lambda: bool(mine.of_type("content")))
        (second,) = (row["run_id"] for row in fleet.rows("SELECT * FROM runs WHERE thread_id = 'second'"))
        assert [await fleet.executor(run_id) for run_id in (mine.run_id, second)] == [0, 0]
        fleet.hold(0)
        begun = asyncio.get_running_loop().time()
        # Its answers are complete, and wait at its sockets.
        fleet.provider.release()
        fleet.provider.release()
        await follow(peer, others, mine.run_id)
        runs = [await fleet.final(peer, run_id) for run_id in (mine.run_id, second)]
        before = fleet.rows(EVENTS)
        await asyncio.sleep(max(0.0, begun + 2 * LEASE - asyncio.get_running_loop().time()))
        fleet.go_on(0)
        await reading
        assert (await invoking).json()["response"] == "words of a peer"
        assert (await invoke(stopped, "say: back")).json()["response"] == "back"
        await fleet.settled()
        again = [(await peer.get(f"/agent/runs/{run['run_id']}")).json() for run in runs]
    for run in (*runs, *again):
        assert (run["status"], run["response"], run["attempt"]) == ("success", "words of a peer", 2)
    ours = {row["run_seq"] for row in before}
    assert [row for row in fleet.rows(EVENTS) if row["run_seq"] in ours] == before
    assert (mine.text(), others.text()) == ("words of a peer", "words of a peer")
    fleet.check(transcripts=[mine, others], in_flight=2)


# --- Clocks, versions -------------------------------------------------------------------------------------------------


async def test_clocks_that_are_an_hour_off_neither_end_a_run_early_nor_take_one_over(fleet: Fleet) -> None:
    count = 8
    await fleet.begin(
        roles=(API, API, WORKER, WORKER),
        env={**SLOTS, "REQUEST_TIMEOUT": "60"},
        replica_env={0: AHEAD, 1: BEHIND, 2: AHEAD, 3: BEHIND},
    )
    fleet.provider.script(rules=(Rule(when="held", turns=(HELD,) * count),))
    async with fleet.client() as client:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(invoke(client, "held", f"t{number}")) for number in range(count)]
            await fleet.provider.wait_for(lambda calls: sum(call.held for call in calls) == count, 30)
            workers = {row["worker"] for row in fleet.rows("SELECT worker FROM runs")}
            await asyncio.sleep(LEASE + 2)
            for _ in range(count):
                fleet.provider.release()
        assert {(task.result().status_code, task.result().json()["response"]) for task in asked} == {
            (200, "one two three")
        }
    assert workers == {fleet.names(2)[-1], fleet.names(3)[-1]}
    await fleet.settled()
    (now,) = (row["now"] for row in fleet.rows("SELECT now() AS now"))
    for run in fleet.rows("SELECT attempt, to_timestamp(created_at / 1e6) AS created FROM runs"):
        assert run["attempt"] == 1
        assert abs(now - run["created"]) < timedelta(minutes=5), run
    fleet.check()


@pytest.mark.soak
async def test_a_deadline_holds_by_the_databases_clock(fleet: Fleet) -> None:
    await fleet.begin(roles=(API, API, WORKER), env={"REQUEST_TIMEOUT": "3"}, replica_env={0: AHEAD, 1: BEHIND})
    fleet.provider.script(rules=(Rule(when="held", turns=(HELD,) * 2),))
    for number in fleet.apis:
        async with fleet.client(number) as client:
            assert (await invoke(client, "say: soon")).json()["response"] == "soon"
            answer = await invoke(client, "held")
            assert (answer.status_code, answer.json()["code"]) == (504, "timeout"), answer.text
    await fleet.settled()
    fleet.check()


@pytest.mark.soak
async def test_a_migration_and_a_rolling_restart_under_load_fail_no_request(fleet: Fleet) -> None:
    await fleet.begin(look_every=0.1)
    answers: list[httpx.Response] = []
    done = asyncio.Event()

    async def ask(client: httpx.AsyncClient, who: int) -> None:
        while not done.is_set():
            number = len(answers)
            body = {"message": f"say: {number}", "thread_id": f"t{who}"}
            answers.append(await insist(client, body, key=f"{who}-{number}"))

    async with fleet.client() as client:
        async with asyncio.TaskGroup() as group:
            for who in range(3):
                group.create_task(ask(client, who))
            await fleet.until(lambda: len(answers) > 10)
            await asyncio.to_thread(expand, fleet.database_url)
            migrated = len(answers)
            await fleet.until(lambda: len(answers) > migrated + 10)
            for number in fleet.apis:
                await fleet.restart(number, gently=True)
            restarted = len(answers)
            await fleet.until(lambda: len(answers) > restarted + 10)
            done.set()
        assert not [answer.text for answer in answers if answer.status_code != 200]
    await fleet.settled()
    fleet.check()


# --- Redis ------------------------------------------------------------------------------------------------------------


async def test_redis_may_be_emptied_and_restarted_under_streams(fleet: Fleet, fleet_valkey: ValkeyServer) -> None:
    await fleet.begin()
    text = " ".join(f"word{number}" for number in range(60))
    fleet.provider.script(rules=(Rule(when="go", turns=(Turn(text=text, ms_per_token=30),), pick="for_ever"),))
    mine, others = Transcript(), Transcript()
    async with fleet.client(0) as one, fleet.client(1) as two, asyncio.TaskGroup() as group:
        group.create_task(read(one, mine, "go"))
        await fleet.until(lambda: bool(mine.of_type("content")))
        group.create_task(follow(two, others, mine.run_id))
        await fleet.until(lambda: len(others.of_type("content")) > 5)
        for _ in range(3):
            fleet_valkey.run("FLUSHALL")
            reached = len(others.of_type("content"))
            await fleet.until(lambda reached=reached: len(others.of_type("content")) > reached + 3)
        fleet_valkey.stop()
        reached = len(others.of_type("content"))
        await fleet.until(lambda: len(others.of_type("content")) > reached)
        fleet_valkey.start()
        later = group.create_task(stream(two, {"message": "say: meanwhile"}))
    assert (mine.text(), others.text(), later.result().text()) == (text, text, "meanwhile")
    assert mine.frames == others.frames
    await fleet.settled()
    fleet.check(transcripts=[mine, others])


async def test_without_redis_everything_goes_on_and_rates_let_everybody_in(fleet: Fleet) -> None:
    fleet.redis_url = f"redis://127.0.0.1:{free_port()}/0"
    await fleet.begin()
    async with fleet.client() as client:
        limited = await client.put("/admin/rates", json={"scope": "tenant", "kind": "requests", "limit": 2})
        assert limited.status_code == 200, limited.text
        answers = await asyncio.gather(*(invoke(client, f"say: {number}") for number in range(9)))
        assert [answer.json().get("response") for answer in answers] == [str(number) for number in range(9)]
        async with fleet.client(0) as one, fleet.client(1) as two:
            mine = await stream(one, {"message": "say: some words", "thread_id": "t"})
            others = await follow(two, Transcript(), mine.run_id)
        assert mine.frames == others.frames
        for number in fleet.apis:
            async with fleet.client(number) as one:
                ready = await one.get("/readyz")
            assert ready.status_code == 200
            assert [trouble["name"] for trouble in ready.json()["degraded"]] == ["redis"]
    assert '"part": "rates"' in fleet.logs
    assert "Traceback" not in fleet.logs
    await fleet.settled()
    fleet.check(transcripts=[mine, others])


async def invoke(client: httpx.AsyncClient, message: str, thread_id: str | None = None) -> httpx.Response:
    body = {"message": message} if thread_id is None else {"message": message, "thread_id": thread_id}
    return await client.post("/agent/invoke", json=body)


async def insist(client: httpx.AsyncClient, body: Mapping[str, str], *, key: str) -> httpx.Response:
    """Ask again when a replica ends before the balancer has seen it: that is what the key is for."""
    while True:
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):
            answer = await client.post("/agent/invoke", json=body, headers={"Idempotency-Key": key})
            if answer.json().get("code") != "draining":
                return answer
            assert int(answer.headers["retry-after"]) > 0


async def read(client: httpx.AsyncClient, transcript: Transcript, message: str) -> None:
    """A new run, as its frames come."""
    async with client.stream("POST", "/agent/stream", json={"message": message}) as response:
        async for _ in transcript.read(response):
            pass


def expand(url: str) -> None:
    """What a later version's revisions do that only add, done by hand: this code knows nothing of it."""
    with psycopg.connect(url, autocommit=True) as connection:
        for table in ("runs", "threads", "events", "idempotency", "model_calls"):
            connection.execute(f"ALTER TABLE {table} ADD COLUMN later TEXT".encode())
        connection.execute("CREATE INDEX CONCURRENTLY runs_later ON runs (later)")
        connection.execute("UPDATE alembic_version SET version_num = %s", (f"9999_since_{REVISIONS[-1]}",))
