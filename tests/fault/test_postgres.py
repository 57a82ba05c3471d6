"""One server on Postgres under faults: the database restarts or stays away, the server is killed (catalogue 11)."""

import asyncio
from collections.abc import Generator

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.postgres import PostgresServer, postgres_server, start, stop
from tests.support.provider.script import Hold, Rule, ToolUse, Turn
from tests.support.rig import Rig
from tests.support.transcript import Transcript, follow

RUNS = 20


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def env(postgres: PostgresServer) -> Generator[dict[str, str]]:
    url = postgres.create()
    yield {
        "ROADWORTHY_DATABASE_URL": url,
        "ROADWORTHY_KEY_PEPPER": "the-pepper-of-the-test",
        "ROADWORTHY_AUTO_MIGRATE": "true",
        "MAX_CONCURRENT_REQUESTS": str(RUNS),
    }
    postgres.drop(url)


async def test_runs_that_are_under_way_while_the_database_restarts_all_finish(
    rig: Rig, postgres: PostgresServer, env: dict[str, str]
) -> None:
    server = await rig.serve(env=env)
    rig.provider.script(rules=(Rule(when="held", turns=(Turn(text="one two three", hold=Hold(at=2)),) * RUNS),))
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(client.post("/agent/invoke", json={"message": "held", "thread_id": f"t{number}"}))
                for number in range(RUNS)
            ]
            await rig.provider.wait_for(lambda calls: sum(call.held for call in calls) == RUNS)
            stop(postgres)
            for _ in range(RUNS):
                rig.provider.release()
            postgres.process = start(postgres.folder).process
        answers = [task.result() for task in asked]
        assert [(answer.status_code, answer.json()["response"]) for answer in answers] == [
            (200, "one two three")
        ] * RUNS
    check_invariants(server, rig.provider.ledger)


async def test_while_the_database_is_away_new_runs_are_refused_until_it_is_back(
    rig: Rig, postgres: PostgresServer, env: dict[str, str]
) -> None:
    server = await rig.serve(env=env)
    # Two turns: the outage may be longer than a lease, and then the run's next attempt asks anew.
    turns = (Turn(text="one two three", hold=Hold(at=2)), Turn(text="one two three"))
    rig.provider.script(rules=(Rule(when="held", turns=turns),))
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            running = group.create_task(client.post("/agent/invoke", json={"message": "held", "thread_id": "held"}))
            await rig.provider.wait_for(lambda calls: any(call.held for call in calls))
            stop(postgres)
            rig.provider.release()
            await rig.not_ready(client)
            assert [one["name"] for one in (await client.get("/readyz")).json()["problems"]] == [
                "database",
                "checkpoints",
            ]
            assert (await client.get("/livez")).status_code == 200
            refused = await asyncio.gather(
                *(client.post("/agent/invoke", json={"message": f"say: {number}"}) for number in range(10)),
                client.get("/agent/threads"),
            )
            for answer in refused:
                assert (answer.status_code, answer.json()["code"]) == (503, "storage"), answer.text
                assert int(answer.headers["retry-after"]) > 0
            postgres.process = start(postgres.folder).process
            await rig.ready(client)
        assert running.result().json()["response"] == "one two three"
        after = await client.post("/agent/invoke", json={"message": "say: after"})
        assert (after.status_code, after.json()["response"]) == (200, "after")
    assert "Traceback" not in server.logs
    check_invariants(server, rig.provider.ledger)


async def test_a_killed_servers_run_goes_on_at_the_next_start_and_its_stream_with_it(
    rig: Rig, env: dict[str, str]
) -> None:
    server = await rig.serve(env=env)
    transcript = Transcript()
    async with server.client() as client:
        body = {"message": 'tool: slow_note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}
        async with client.stream("POST", "/agent/stream", json=body) as response:
            async for frame in transcript.read(response):
                if frame["type"] == "tool_call":
                    break
            await rig.effect("slow_note", phase="begin")
            await server.kill()
        rig.open_gate("a")
        await server.start()
        await follow(client, transcript)
        run = await rig.final(client, transcript.run_id)
    assert (run["status"], run["response"], run["attempt"]) == ("success", "done", 2)
    assert rig.effects.count("slow_note") == 1
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger, transcripts=[transcript])


async def test_what_tools_did_before_a_kill_is_known_and_settled_on_the_command_line(
    rig: Rig, env: dict[str, str]
) -> None:
    tools = (ToolUse(name="note", args={"text": "x"}),), (ToolUse(name="transfer", args={"text": "x"}),)
    turns = (*(Turn(tools=one) for one in tools), Turn(text="done"))
    rig.provider.script(rules=(Rule(when="pay", turns=turns, pick="by_position"),))
    server = await rig.serve("paying.py:graph", env=env)
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            body = {"message": "pay", "thread_id": "t", "on_disconnect": "continue"}
            lost = group.create_task(_lost(client, body))
            await rig.effect("transfer", phase="begin")
            await server.kill()
            await lost
        server.change("DELETE FROM events WHERE n > 1")
        await server.start()
        ((run_id,),) = [one.values() for one in server.rows("SELECT run_id FROM runs")]
        run = await rig.final(client, run_id)
        assert run["error"]["code"] == "needs_review", run
        assert [one["name"] for one in run["tool_calls"]] == ["note"]
        call = run["reviews"][0]["tool_call_id"]
        _, out, _ = await server.run_cli("runs", "show", run_id)
        assert call in out
        code, _, err = await server.run_cli("runs", "resolve", run_id, "--tool-call", call, "--result", "it arrived")
        assert (code, "can be resumed" in err) == (0, True), err
        code, _, err = await server.run_cli("runs", "resolve", run_id, "--tool-call", call, "--run-again")
        assert (code, "asks for no review" in err) == (1, True), err
        resumed = (await client.post(f"/agent/runs/{run_id}/resume")).json()
        assert (resumed["status"], resumed["response"]) == ("success", "done"), resumed
    assert (rig.effects.count("note"), rig.effects.count("transfer", phase="begin")) == (1, 1)
    check_invariants(server, rig.provider.ledger)


async def _lost(client: httpx.AsyncClient, body: dict[str, str]) -> None:
    with pytest.raises(httpx.TransportError):
        await client.post("/agent/invoke", json=body)
