"""The plain API on the real engine: every route, with a second user too, and nothing stored by what is refused."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import AgentName
from roadworthy.protocols.plain import wire
from tests.integration.test_http_bad_input import CASES
from tests.support.web.fakes import ALICE
from tests.support.web.live import serving
from tests.support.web.raw import Wire, connected
from tests.support.web.real import Real, real_app

ASK = {"message": "hi", "thread_id": "t"}


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    async with real_app(tmp_path) as real:
        yield real


@pytest.fixture
async def port(real: Real) -> AsyncIterator[int]:
    async with serving(real.app) as port:
        yield port


@pytest.fixture
async def alice(real: Real, port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": real.alice}) as client:
        yield client


@pytest.fixture
async def bob(real: Real, port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": real.bob}) as client:
        yield client


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data:")]


async def soon(event: asyncio.Event) -> None:
    async with asyncio.timeout(10):
        await event.wait()


async def ended(client: httpx.AsyncClient, run_id: str) -> wire.Run:
    """The run once it is final: its stream ends then."""
    async with asyncio.timeout(10):
        await client.get(f"/agent/runs/{run_id}/stream")
    return wire.Run.model_validate_json((await client.get(f"/agent/runs/{run_id}")).content)


async def test_invoke_answers_and_the_thread_remembers(alice: httpx.AsyncClient) -> None:
    first = wire.Run.model_validate_json((await alice.post("/agent/invoke", json=ASK)).content)
    again = await alice.post("/agent/invoke", json=ASK | {"message": "ho"})
    assert (first.status, first.response, first.agent) == ("success", "you said: hi", "echo")
    thread = wire.ThreadDetail.model_validate_json((await alice.get("/agent/threads/t")).content)
    assert [message.content for message in thread.messages] == ["hi", "you said: hi", "ho", "you said: ho"]
    assert [run.run_id for run in thread.runs] == [again.json()["run_id"], first.run_id]
    assert (await alice.delete("/agent/threads/t")).status_code == 204
    assert (await alice.get("/agent/threads/t")).status_code == 404
    assert (await alice.get(f"/agent/runs/{first.run_id}")).status_code == 404


async def test_a_stream_reads_the_same_from_every_position(alice: httpx.AsyncClient) -> None:
    for agent in ("echo", "failing", "asking"):
        whole = events_of((await alice.post("/agent/stream", json={"message": "hi", "agent": agent})).text)
        path = f"/agent/runs/{whole[0]['run_id']}/stream"
        assert events_of((await alice.get(path)).text) == whole
        for index, event in enumerate(whole):
            rest = await alice.get(path, headers={"Last-Event-ID": event["id"]})
            assert events_of(rest.text) == whole[index + 1 :], (agent, index)
            assert rest.status_code == (204 if event["type"] == "done" else 200)


async def test_an_agent_that_raises_is_told_without_its_secrets(alice: httpx.AsyncClient) -> None:
    answer = await alice.post("/agent/invoke", json={"message": "hi", "agent": "failing"})
    assert (answer.status_code, answer.json()["code"]) == (500, "agent_failed")
    assert wire.Run.model_validate(answer.json()["run"]).status == "error"
    assert "secret" not in answer.text


async def test_an_interrupt_is_asked_and_answered_once(alice: httpx.AsyncClient) -> None:
    asked = await alice.post("/agent/invoke", json={"message": "hi", "agent": "asking"})
    run = wire.Run.model_validate_json(asked.content)
    assert (asked.status_code, run.status, run.interrupts[0].value) == (200, "interrupted", "sure?")
    path = f"/agent/runs/{run.run_id}/resume"
    answered = await alice.post(path, json={"value": "yes"}, headers={"Idempotency-Key": "k"})
    repeated = await alice.post(path, json={"value": "yes"}, headers={"Idempotency-Key": "k"})
    too_late = await alice.post(path, json={"value": "no"})
    assert answered.json()["response"] == "answered: yes"
    assert repeated.json()["run_id"] == answered.json()["run_id"]
    assert (too_late.status_code, too_late.json()["code"]) == (409, "conflict")


async def test_the_same_key_joins_a_run_under_way(real: Real, alice: httpx.AsyncClient) -> None:
    body = {"message": "hi", "agent": "held"}
    async with asyncio.TaskGroup() as group:
        asking = [
            group.create_task(alice.post(path, json=body, headers={"Idempotency-Key": "k"}))
            for path in ["/agent/invoke", "/agent/stream"] * 3
        ]
        await soon(real.gate.entered)
        real.gate.opened.set()
    ids = {events_of(task.result().text)[0]["run_id"] for task in asking[1::2]}
    ids |= {task.result().json()["run_id"] for task in asking[::2]}
    assert len(ids) == 1
    other = await alice.post("/agent/invoke", json=body | {"message": "ho"}, headers={"Idempotency-Key": "k"})
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_mismatch")


async def test_a_run_can_be_cancelled_while_it_is_watched(real: Real, alice: httpx.AsyncClient) -> None:
    async with asyncio.TaskGroup() as group:
        asking = group.create_task(alice.post("/agent/invoke", json=ASK | {"agent": "held"}))
        await soon(real.gate.entered)
        run_id = (await alice.get("/agent/threads/t")).json()["active_run_id"]
        cancelled = await alice.post(f"/agent/runs/{run_id}/cancel")
    assert cancelled.status_code == 202
    answer = asking.result()
    assert (answer.status_code, answer.json()["code"]) == (409, "cancelled")
    assert answer.json()["run"]["run_id"] == run_id
    await soon(real.gate.cancelled)


async def send(wire_: Wire, path: str, key: str, body: dict[str, Any], **headers: str) -> None:
    data = json.dumps(body).encode()
    headers |= {"content_type": "application/json", "content_length": str(len(data))}
    await wire_.head("POST", path, key=key, **headers)
    await wire_.send(data)


@pytest.mark.parametrize("path", ["/agent/invoke", "/agent/stream"])
@pytest.mark.parametrize(("policy", "status"), [("cancel", "cancelled"), ("continue", "success")])
async def test_the_policy_says_what_a_lost_connection_does(
    real: Real, port: int, alice: httpx.AsyncClient, path: str, policy: str, status: str
) -> None:
    async with connected(port) as wire_:
        await send(wire_, path, real.alice, ASK | {"agent": "held", "on_disconnect": policy})
        await soon(real.gate.entered)
    run_id = (await alice.get("/agent/threads/t")).json()["runs"][0]["run_id"]
    if policy == "cancel":
        await soon(real.gate.cancelled)
    else:
        assert (await alice.get("/livez")).status_code == 200
        real.gate.opened.set()
    run = await ended(alice, run_id)
    assert run.status == status
    assert (run.error.code if run.error else None) == ("disconnected" if policy == "cancel" else None)


@pytest.mark.parametrize("path", ["/agent/invoke", "/agent/stream"])
async def test_a_request_whose_connection_was_lost_is_answered_when_it_is_repeated(
    real: Real, port: int, alice: httpx.AsyncClient, path: str
) -> None:
    body = ASK | {"agent": "held"}
    async with connected(port) as wire_:
        await send(wire_, path, real.alice, body, idempotency_key="k")
        await soon(real.gate.entered)
    assert (await alice.get("/livez")).status_code == 200
    real.gate.opened.set()
    answer = await alice.post("/agent/invoke", json=body, headers={"Idempotency-Key": "k"})
    assert (answer.status_code, answer.json()["response"]) == (200, "let through")
    assert not real.gate.cancelled.is_set()


async def test_a_queued_run_tells_its_id_at_once(real: Real, port: int, alice: httpx.AsyncClient) -> None:
    async with connected(port) as first, connected(port) as second:
        await send(first, "/agent/stream", real.alice, ASK | {"agent": "held"})
        await soon(real.gate.entered)
        await send(second, "/agent/stream", real.alice, ASK | {"agent": "held"})
        await second.until(b'"type":"run","run_id":"')
        run_id = (await second.until(b'"'))[:-1].decode()
        assert (await alice.get(f"/agent/runs/{run_id}")).json()["status"] == "pending"
        assert (await alice.post(f"/agent/runs/{run_id}/cancel")).json()["status"] == "cancelled"
        await second.until(b'"type":"done","status":"cancelled"')
        whole = events_of((await alice.get(f"/agent/runs/{run_id}/stream")).text)
        assert [event["type"] for event in whole] == ["run", "error", "done"]
        for index, event in enumerate(whole):
            rest = await alice.get(f"/agent/runs/{run_id}/stream", headers={"Last-Event-ID": event["id"]})
            assert events_of(rest.text) == whole[index + 1 :]
        real.gate.opened.set()
        await first.until(b'"type":"done"')


async def test_what_is_refused_is_not_stored(real: Real, alice: httpx.AsyncClient) -> None:
    for name, (body, kind, status, code) in CASES.items():
        answer = await alice.post("/agent/invoke", content=body, headers={"content-type": kind})
        assert (answer.status_code, answer.json()["code"]) == (status, code), name
    for extra, status in [({"agent": "nobody"}, 404), ({"context": {"a": 1}}, 422)]:
        assert (await alice.post("/agent/stream", json=ASK | extra)).status_code == status
    for given in (None, {}, {"nope": 1}, [], "hi", {"messages": 5}):
        assert (await alice.post("/agent/invoke", json={"input": given, "thread_id": "t"})).status_code == 422
    assert (await alice.get("/agent/threads")).json() == {"threads": [], "next_cursor": None}


async def test_another_user_finds_nothing_on_any_route(
    real: Real, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    run = (await alice.post("/agent/invoke", json=ASK | {"agent": "asking"})).json()
    for method, path in [
        ("GET", f"/agent/runs/{run['run_id']}"),
        ("GET", f"/agent/runs/{run['run_id']}/stream"),
        ("POST", f"/agent/runs/{run['run_id']}/cancel"),
        ("POST", f"/agent/runs/{run['run_id']}/resume"),
        ("GET", "/agent/threads/t"),
        ("DELETE", "/agent/threads/t"),
    ]:
        answer = await bob.request(method, path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert (await bob.get("/agent/threads")).json()["threads"] == []
    own = await bob.post("/agent/invoke", json=ASK, headers={"Idempotency-Key": "k"})
    assert own.json()["output"]["messages"][0]["content"] == "hi"
    assert len(own.json()["output"]["messages"]) == 2, "the thread of the same name is another one"
    hers = await alice.post("/agent/invoke", json=ASK | {"thread_id": "u"}, headers={"Idempotency-Key": "k"})
    assert hers.json()["run_id"] != own.json()["run_id"]
    assert (await alice.get("/agent/threads/t")).json()["runs"][0]["run_id"] == run["run_id"]


async def test_the_settings_say_how_long_a_message_may_be(tmp_path: Path) -> None:
    async with real_app(tmp_path, message_max=5_000) as real, serving(real.app) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, headers={"x-api-key": real.alice}) as client:
            longest = await client.post("/agent/invoke", json={"message": "x" * 5_000})
            too_long = await client.post("/agent/invoke", json={"message": "x" * 5_001})
    assert longest.json()["response"] == "you said: " + "x" * 5_000
    assert (too_long.status_code, too_long.json()["errors"][0]["field"]) == (422, "message")


async def test_metadata_is_shown_with_every_run(alice: httpx.AsyncClient) -> None:
    given = {"ticket": 5, "nested": {"a": [1, None]}}
    asked = (await alice.post("/agent/invoke", json=ASK | {"agent": "asking", "metadata": given})).json()
    resumed = (await alice.post(f"/agent/runs/{asked['run_id']}/resume", json={"value": "yes"})).json()
    failed = (await alice.post("/agent/invoke", json={"message": "hi", "agent": "failing", "metadata": given})).json()
    seen = (await alice.get(f"/agent/runs/{asked['run_id']}")).json()
    runs = (await alice.get("/agent/threads/t")).json()["runs"]
    assert [run["metadata"] for run in (asked, resumed, failed["run"], seen, *runs)] == [given] * 6


async def test_a_key_for_some_agents_starts_only_those_and_still_reads_its_users_runs(
    real: Real, port: int, alice: httpx.AsyncClient
) -> None:
    run = (await alice.post("/agent/invoke", json=ASK | {"agent": "asking"})).json()
    key = await real.container.keys.create(ALICE, agents=frozenset({AgentName("echo")}), actor=Actor(name="test"))
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers={"x-api-key": key.text}) as limited:
        started = await limited.post("/agent/invoke", json={"message": "hi"})
        refused = await limited.post("/agent/invoke", json={"message": "hi", "agent": "asking"})
        resumed = await limited.post(f"/agent/runs/{run['run_id']}/resume", json={"value": "yes"})
        seen = await limited.get(f"/agent/runs/{run['run_id']}")
        threads = (await limited.get("/agent/threads")).json()["threads"]
        agents = (await limited.get("/agent/agents")).json()["agents"]
    assert started.json()["agent"] == "echo"
    assert [answer.json()["code"] for answer in (refused, resumed)] == ["permission_denied"] * 2
    assert seen.json() == run
    assert {thread["agent"] for thread in threads} == {"asking", "echo"}
    assert [agent["name"] for agent in agents] == ["echo"]


async def test_a_drain_hands_streams_over_and_names_the_run_to_waiters(tmp_path: Path) -> None:
    body = {"message": "hi", "agent": "held"}
    async with real_app(tmp_path, drain_timeout=timedelta(0)) as real, serving(real.app) as port:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, headers={"x-api-key": real.alice}) as client:
            async with asyncio.TaskGroup() as group:
                streaming = group.create_task(client.post("/agent/stream", json=body))
                await soon(real.gate.entered)
                real.gate.entered.clear()
                waiting = group.create_task(client.post("/agent/invoke", json=body))
                await soon(real.gate.entered)
                await real.container.drain()
            refused = await client.post("/agent/invoke", json=ASK)
            ready = await client.get("/readyz")
            handed_over = await client.get(f"/agent/runs/{waiting.result().json()['run']['run_id']}")
    assert [event["type"] for event in events_of(streaming.result().text)] == ["run", "handover"]
    assert (waiting.result().status_code, waiting.result().json()["code"]) == (503, "draining")
    assert handed_over.json()["status"] == "pending"
    assert (refused.status_code, refused.json()["code"], ready.status_code) == (503, "draining", 503)


@pytest.mark.parametrize("path", ["/health", "/livez", "/readyz"])
async def test_probes_answer_to_head_as_monitors_send_it(alice: httpx.AsyncClient, path: str) -> None:
    answer = await alice.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize("body", ["[]", '"text"', "5", "null"])
async def test_a_body_that_is_no_object_is_told_so(alice: httpx.AsyncClient, body: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await alice.post("/agent/invoke", content=body, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    assert "must be a JSON object" in answer.text
