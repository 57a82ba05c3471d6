"""What clients can do: leave, lag, repeat, hurry, and send nonsense (catalogue 22, 23, 25 to 28)."""

import asyncio
import json
import socket
from typing import Any

import httpx
import pytest

from tests.support.invariants import check_invariants, open_descriptors
from tests.support.provider.script import Hold, Rule, Turn
from tests.support.rig import Rig
from tests.support.transcript import Transcript, follow, stream


@pytest.mark.parametrize("route", ["invoke", "stream"])
async def test_a_client_that_leaves_stops_the_run_and_the_providers_meter(rig: Rig, route: str) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="one two three four", hold=Hold(at=2)),)),))
    server = await rig.serve()
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            request = group.create_task(_drop(client, route))
            await rig.provider.wait_for(lambda calls: len(calls) == 1 and calls[0].held)
            request.cancel()
        (gone,) = await rig.provider.wait_for_outcome("client_gone", seconds=5)
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["error"]["code"]) == ("cancelled", "disconnected")
    assert run["usage"]["estimated"] is True
    assert gone.client_gone_mono is not None
    check_invariants(server, rig.provider.ledger)


async def test_a_run_that_shall_continue_outlives_its_client_and_is_replayable(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="one two three four", hold=Hold(at=2)),)),))
    server = await rig.serve()
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            request = group.create_task(_drop(client, "stream", on_disconnect="continue"))
            await rig.provider.wait_for(lambda calls: len(calls) == 1 and calls[0].held)
            request.cancel()
        rig.provider.release()
        run_id = (await rig.only_run())["run_id"]
        run = await rig.final(client, run_id)
        replay = await follow(client, Transcript(), run_id)
    assert (run["status"], run["response"]) == ("success", "one two three four")
    assert replay.text() == "one two three four"
    assert replay.done is not None
    check_invariants(server, rig.provider.ledger, transcripts=[replay])


async def test_a_cancel_is_acknowledged_and_closes_the_providers_connection(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text="one two three four", hold=Hold(at=2)),)),))
    server = await rig.serve()
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            request = group.create_task(stream(client, {"message": "hi"}))
            (call,) = await rig.provider.wait_for(lambda calls: len(calls) == 1 and calls[0].held)
            run_id = (await rig.only_run())["run_id"]
            loop = asyncio.get_running_loop()
            asked = loop.time()
            answer = await client.post(f"/agent/runs/{run_id}/cancel", json={})
            assert answer.status_code == 202
        (gone,) = await rig.provider.wait_for_outcome("client_gone", seconds=5)
        run = await rig.final(client, run_id)
    assert call.call_id == gone.call_id
    assert gone.client_gone_mono is not None
    assert gone.client_gone_mono - asked < 5, "monotonic clocks are one machine's"
    assert run["status"] == "cancelled"
    assert request.result().done is not None
    assert request.result().frames[-1]["status"] == "cancelled"
    check_invariants(server, rig.provider.ledger, transcripts=[request.result()])


async def test_fifty_requests_with_one_key_are_one_run(rig: Rig) -> None:
    server = await rig.serve()
    body = {"message": "say: once", "thread_id": "t"}
    headers = {"Idempotency-Key": "k"}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(client.post("/agent/invoke", json=body, headers=headers)) for _ in range(50)]
        answers = [task.result() for task in tasks]
        changed = await client.post("/agent/invoke", json={**body, "message": "say: other"}, headers=headers)
        streamed = await stream(client, body, headers=headers)
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["run_id"] for answer in answers}) == 1
    assert streamed.run_id == answers[0].json()["run_id"]
    assert (changed.status_code, changed.json()["code"]) == (422, "idempotency_mismatch")
    assert len(rig.provider.ledger) == 1
    check_invariants(server, rig.provider.ledger, transcripts=[streamed])


@pytest.mark.parametrize("strategy", ["enqueue", "reject", "interrupt", "rollback"])
async def test_two_messages_on_one_thread_leave_a_serial_history(rig: Rig, strategy: str) -> None:
    rig.provider.script(rules=(Rule(when="first", turns=(Turn(text="one two three four", hold=Hold(at=2)),)),))
    server = await rig.serve()
    second = {"message": "say: two", "thread_id": "t", "multitask_strategy": strategy}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            early = group.create_task(client.post("/agent/invoke", json={"message": "first", "thread_id": "t"}))
            await rig.provider.wait_for(lambda calls: len(calls) == 1 and calls[0].held)
            late = group.create_task(client.post("/agent/invoke", json=second))
            if strategy == "enqueue":
                await rig.until(lambda: len(server.rows("SELECT 1 FROM runs")) == 2)
            if strategy in {"enqueue", "reject"}:
                if strategy == "reject":
                    await late
                rig.provider.release()
        thread = (await client.get("/agent/threads/t")).json()
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
    check_invariants(server, rig.provider.ledger)


async def test_a_reconnect_at_every_event_gives_the_same_stream(rig: Rig) -> None:
    server = await rig.serve()
    text = 'think: let me see\ntool: note {"text": "a"}\nsay: one two three four'
    async with server.client() as client:
        whole = await stream(client, {"message": text})
        for index in range(len(whole.frames)):
            resumed = Transcript(last_id=whole.frames[index].get("id"))
            await follow(client, resumed, whole.run_id)
            assert whole.frames[: index + 1] + resumed.frames == whole.frames, index
        replay = await follow(client, Transcript(), whole.run_id)
    assert replay.frames == whole.frames
    check_invariants(server, rig.provider.ledger, transcripts=[whole])


async def test_a_replay_after_a_restart_is_the_stream_that_was_seen(rig: Rig) -> None:
    server = await rig.serve()
    async with server.client() as client:
        whole = await stream(client, {"message": 'tool: note {"text": "a"}\nsay: one two three four'})
        await server.crash_and_restart()
        replay = await follow(client, Transcript(), whole.run_id)
    assert replay.frames == whole.frames
    check_invariants(server, rig.provider.ledger, transcripts=[whole])


async def test_a_reader_that_does_not_read_is_dropped_and_can_come_back(rig: Rig) -> None:
    """22: the run is not slowed, the memory is bounded, the position is resumable."""
    long = " ".join(f"word{number}" for number in range(20_000))
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text=long),)),))
    server = await rig.serve(env={"ROADWORTHY_SLOW_READER_TIMEOUT": "1"})
    async with server.client() as client:
        await client.post("/agent/invoke", json={"message": "say: warm", "thread_id": "warm"})
        baseline = open_descriptors(server.pid)
        slow = _slow_reader(server.port, server.admin_key, {"message": "hi", "on_disconnect": "continue"})
        try:
            await rig.until(lambda: len(server.rows("SELECT run_id FROM runs")) == 2)
            (row,) = server.rows("SELECT run_id FROM runs WHERE thread_id != 'warm'")
            run = await rig.final(client, row["run_id"], seconds=60)
            assert run["status"] == "success"
            await rig.until(lambda: open_descriptors(server.pid) <= baseline, 30)
        finally:
            slow.close()
        again = await follow(client, Transcript(), run["run_id"])
    assert again.text() == run["response"] == long
    check_invariants(server, rig.provider.ledger, transcripts=[again])


BAD_BODIES: list[tuple[str, bytes, str]] = [
    ("empty", b"", "malformed_body"),
    ("empty message", b'{"message": ""}', "invalid_request"),
    ("long message", json.dumps({"message": "x" * 4001}).encode(), "invalid_request"),
    ("number", b'{"message": 5}', "invalid_request"),
    ("null", b'{"message": null}', "invalid_request"),
    ("nul", rb'{"message": "a\u0000b"}', "malformed_body"),
    ("surrogate", rb'{"message": "\ud800"}', "malformed_body"),
    ("utf-8", b'{"message": "\xff"}', "malformed_body"),
    ("deep", b'{"message": ' + b"[" * 5000 + b"]" * 5000 + b"}", "malformed_body"),
    ("huge", json.dumps({"message": "x" * 10_000_000}).encode(), "body_too_large"),
    ("unknown agent", b'{"message": "hi", "agent": "nobody"}', "not_found"),
    ("bad thread", b'{"message": "hi", "thread_id": "a/b"}', "invalid_request"),
    ("broken", b'{"message": "hi"', "malformed_body"),
    ("unknown field", b'{"message": "hi", "massage": 1}', "invalid_request"),
    ("both", b'{"message": "hi", "input": {}}', "invalid_request"),
    ("neither", b"{}", "invalid_request"),
    ("a list", b"[]", "invalid_request"),
    ("nan", b'{"input": {"x": NaN}}', "malformed_body"),
]


async def test_nonsense_is_refused_clearly_and_reaches_no_model(rig: Rig) -> None:
    server = await rig.serve()
    async with server.client() as client:
        for name, body, code in BAD_BODIES:
            for route in ("invoke", "stream"):
                headers = {"Content-Type": "application/json"}
                answer = await client.post(f"/agent/{route}", content=body, headers=headers)
                assert 400 <= answer.status_code < 500, (name, answer.text)
                assert answer.headers["content-type"] == "application/problem+json", name
                assert answer.json()["code"] == code, (name, answer.text)
                assert answer.json()["request_id"] == answer.headers["x-request-id"]
        typed = await client.post("/agent/invoke", content=b'{"message": "hi"}', headers={"Content-Type": "text/plain"})
        assert (typed.status_code, typed.json()["code"]) == (415, "unsupported_media_type")
        for path in ("runs/x", "runs/" + "0" * 32, "threads/a%2Fb", "threads/none", "runs/%00", "threads/%00"):
            answer = await client.get(f"/agent/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found"), path
    assert rig.provider.ledger == ()
    assert server.rows("SELECT (SELECT count(*) FROM runs) + (SELECT count(*) FROM threads) AS n") == [{"n": 0}]


async def test_a_refusal_before_the_body_is_read_is_received(rig: Rig) -> None:
    server = await rig.serve()
    body = json.dumps({"message": "x" * 3_900_000}).encode()
    async with httpx.AsyncClient(base_url=server.url) as client:
        for headers in ({}, {"Authorization": "Bearer rw_live_wrong_wrong_wrong"}):
            answer = await client.post("/agent/invoke", content=body, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        wrong = await client.post("/nowhere", content=body)
        assert wrong.status_code == 404
        huge = await client.post("/agent/invoke", content=body * 3)
        assert (huge.status_code, huge.json()["code"]) == (413, "body_too_large")


async def test_resources_return_to_their_baseline(rig: Rig) -> None:
    """I7: after a burst of all kinds of ends, no descriptor and no slot is left behind."""
    rig.provider.script(rules=(Rule(when="warm", turns=(Turn(text="warm", hold=Hold()),) * 10),))
    server = await rig.serve(env={"REQUEST_TIMEOUT": "30"})
    # All slots at one time, so that as many connections to the provider are open as ever will be.
    async with server.client() as client, asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(client.post("/agent/invoke", json={"message": "warm", "thread_id": f"w{number}"}))
        await rig.provider.wait_for(lambda calls: sum(call.held for call in calls) == 10)
        for _ in range(10):
            rig.provider.release()
    async with server.client() as client:
        baseline = open_descriptors(server.pid)
        async with asyncio.TaskGroup() as group:
            for number in range(40):
                kind = ("say: x", 'tool: broken {"text": "x"}', 'tool: note {"text": "x"}\nsay: y')[number % 3]
                group.create_task(client.post("/agent/invoke", json={"message": kind, "thread_id": f"b{number}"}))
    await rig.until(lambda: open_descriptors(server.pid) <= baseline + 2, 30)
    async with server.client() as client:
        assert (await client.get("/readyz")).status_code == 200
    check_invariants(server, rig.provider.ledger)


async def _drop(client: httpx.AsyncClient, route: str, on_disconnect: str = "cancel") -> None:
    body: dict[str, Any] = {"message": "hi", "on_disconnect": on_disconnect}
    async with client.stream("POST", f"/agent/{route}", json=body) as response:
        async for _ in response.aiter_bytes():
            pass


def _slow_reader(port: int, key: str, body: dict[str, Any]) -> socket.socket:
    """A client that asks for a stream and then reads nothing."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    content = json.dumps(body).encode()
    head = (
        f"POST /agent/stream HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    sock.sendall(head.encode() + content)
    return sock
