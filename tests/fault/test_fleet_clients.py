"""What clients can do to a fleet whose replicas they choose among: repeat, hurry, come back (catalogue 25 to 27).

One fleet for the module: nothing here does it any harm.
"""

import asyncio
from collections.abc import AsyncGenerator
from functools import partial
from itertools import cycle

import httpx
import pytest
import pytest_asyncio

from tests.support.fleet import Fleet
from tests.support.postgres import PostgresServer
from tests.support.preloaded import Preloaded, PreloadedServer
from tests.support.provider.process import ProviderProcess
from tests.support.provider.script import Hold, Rule, Turn
from tests.support.transcript import Transcript, follow, stream, text_of
from tests.support.valkey import ValkeyServer

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def calm_fleet(
    fleet_forks: Preloaded,
    fleet_postgres: PostgresServer,
    fleet_valkey: ValkeyServer,
    fleet_provider: ProviderProcess,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncGenerator[Fleet]:
    """Begun on an empty database by three at once."""
    make = partial(PreloadedServer, fleet_forks)
    folder, url = tmp_path_factory.mktemp("fleet"), fleet_postgres.create()
    async with Fleet(folder, fleet_provider, url, redis_url=fleet_valkey.url, make_server=make) as fleet:
        await fleet.begin()
        yield fleet


async def test_fifty_requests_with_one_key_at_three_replicas_are_one_run(calm_fleet: Fleet) -> None:
    fleet, body, headers = calm_fleet, {"message": "say: once", "thread_id": "fifty"}, {"Idempotency-Key": "k"}
    calls = len(fleet.provider.ledger)
    async with fleet.client(0) as one, fleet.client(1) as two, fleet.client(2) as three:
        async with asyncio.TaskGroup() as group:
            asked = [
                group.create_task(client.post("/agent/invoke", json=body, headers=headers))
                for client, _ in zip(cycle((one, two, three)), range(50), strict=False)
            ]
        answers = [task.result() for task in asked]
        changed = [
            await client.post("/agent/invoke", json={**body, "message": "say: other"}, headers=headers)
            for client in (one, two, three)
        ]
        streamed = [await stream(client, body, headers=headers) for client in (one, two, three)]
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert {transcript.run_id for transcript in streamed} == {answers[0].json()["run_id"]}
    assert streamed[0].frames == streamed[1].frames == streamed[2].frames
    assert [(one.status_code, one.json()["code"]) for one in changed] == [(422, "idempotency_mismatch")] * 3
    assert len(fleet.rows("SELECT 1 FROM runs WHERE thread_id = 'fifty'")) == 1
    assert len(fleet.provider.ledger) - calls == 1
    await fleet.settled()
    fleet.check(transcripts=streamed)


@pytest.mark.parametrize("strategy", ["enqueue", "reject", "interrupt", "rollback"])
async def test_two_messages_on_one_thread_from_two_replicas_leave_a_serial_history(
    calm_fleet: Fleet, strategy: str
) -> None:
    fleet = calm_fleet
    held = Turn(text="one two three four", hold=Hold(at=2, gate=strategy))
    fleet.provider.script(rules=(Rule(when="first", turns=(held,)),))
    path, first = f"/agent/threads/{strategy}", {"message": "first", "thread_id": strategy}
    second = {"message": "say: two", "thread_id": strategy, "multitask_strategy": strategy}
    count = f"SELECT 1 FROM runs WHERE thread_id = '{strategy}'"
    async with fleet.client(0) as one, fleet.client(1) as two, fleet.client(2) as three:
        async with asyncio.TaskGroup() as group:
            early = group.create_task(one.post("/agent/invoke", json=first))
            await fleet.provider.wait_for(lambda calls: any(call.held for call in calls))
            late = group.create_task(two.post("/agent/invoke", json=second))
            if strategy == "enqueue":
                await fleet.until(lambda: len(fleet.rows(count)) == 2)
            if strategy in {"enqueue", "reject"}:
                if strategy == "reject":
                    await late
                fleet.provider.release(strategy)
        thread = (await three.get(path)).json()
    texts = [(message["role"], message["content"]) for message in thread["messages"]]
    users = [text for role, text in texts if role == "user"]
    match strategy:
        case "enqueue":
            assert early.result().json()["response"] == "one two three four"
            assert late.result().json()["response"] == "two"
            assert [role for role, _ in texts] == ["user", "assistant"] * 2
        case "reject":
            assert (late.result().status_code, late.result().json()["code"]) == (409, "thread_busy")
            assert users == ["first"]
        case "interrupt":
            assert early.result().json()["code"] == "superseded"
            assert late.result().json()["response"] == "two"
            assert users == ["first", "say: two"]
        case _:
            assert early.result().json()["code"] == "superseded"
            assert late.result().json()["response"] == "two"
            assert users == ["say: two"], "the first message is undone"
    await fleet.settled()
    fleet.check()


async def test_messages_sent_to_one_thread_from_all_replicas_at_once_take_turns(calm_fleet: Fleet) -> None:
    fleet, names = calm_fleet, [f"number {number}" for number in range(12)]
    async with fleet.client() as client:
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(client.post("/agent/invoke", json={"message": f"say: {name}", "thread_id": "turns"}))
        thread = (await client.get("/agent/threads/turns")).json()
    said = [(message["role"], text_of(message)) for message in thread["messages"]]
    assert [role for role, _ in said] == ["user", "assistant"] * len(names)
    assert [text for role, text in said if role == "user"] == [
        f"say: {text}" for role, text in said if role == "assistant"
    ]
    assert {text for role, text in said if role == "assistant"} == set(names)
    await fleet.settled()
    fleet.check()


async def test_a_reconnect_at_every_event_at_another_replica_gives_the_same_stream(calm_fleet: Fleet) -> None:
    fleet = calm_fleet
    text = 'think: let me see\ntool: note {"text": "a"}\nsay: one two three four'
    async with fleet.client(0) as one, fleet.client(1) as two, fleet.client(2) as three:
        whole = await stream(one, {"message": text})
        for index, client in zip(range(len(whole.frames)), cycle((two, three, one)), strict=False):
            resumed = Transcript(last_id=whole.frames[index].get("id"))
            await follow(client, resumed, whole.run_id)
            assert whole.frames[: index + 1] + resumed.frames == whole.frames, index
        for client in (one, two, three):
            assert (await follow(client, Transcript(), whole.run_id)).frames == whole.frames
    await fleet.settled()
    fleet.check(transcripts=[whole])


async def test_a_client_that_reads_one_event_at_each_replica_sees_the_uninterrupted_stream(calm_fleet: Fleet) -> None:
    """27, while the run is under way."""
    fleet = calm_fleet
    body = {"message": 'pace: 20\ntool: note {"text": "b"}\nsay: ' + "word " * 20, "on_disconnect": "continue"}
    restless = Transcript()
    async with (
        fleet.client(0) as one,
        fleet.client(1) as two,
        fleet.client(2) as three,
        asyncio.TaskGroup() as group,
        one.stream("POST", "/agent/stream", json=body) as response,
    ):
        async for _ in restless.read(response):
            break
        steady = [group.create_task(follow(client, Transcript(), restless.run_id)) for client in (one, two, three)]
        hops = cycle((two, three, one))
        while restless.done is None:
            await _read_one(next(hops), restless)
    whole = steady[0].result()
    assert whole.frames == steady[1].result().frames == steady[2].result().frames
    assert restless.frames == whole.frames
    assert len(whole.frames) > 20
    await fleet.settled()
    fleet.check(transcripts=[whole, restless])


async def _read_one(client: httpx.AsyncClient, transcript: Transcript) -> None:
    headers = {"Last-Event-ID": transcript.last_id} if transcript.last_id else {}
    async with client.stream("GET", f"/agent/runs/{transcript.run_id}/stream", headers=headers) as response:
        async for frame in transcript.read(response):
            if "id" in frame:
                return
