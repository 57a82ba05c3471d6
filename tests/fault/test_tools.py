"""What tools can do to a run (catalogue 36 to 38), and what a stop does to tools."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.invariants import check_invariants, threads_of
from tests.support.provider.script import Rule, ToolUse, Turn
from tests.support.rig import Rig


async def test_a_hanging_tool_becomes_an_error_for_the_model_and_the_run_goes_on(rig: Rig) -> None:
    server = await rig.serve(env={"ROADWORTHY_TOOL_TIMEOUT": "1"})
    text = 'tool: slow_note {"text": "never"}\nsay: went on'
    async with server.client() as client:
        run = (await client.post("/agent/invoke", json={"message": text})).json()
    assert (run["status"], run["response"]) == ("success", "went on"), run
    assert "1 s" in run["tool_calls"][0]["error"]
    assert rig.effects.count("slow_note") == 0
    check_invariants(server, rig.provider.ledger)


async def test_a_tool_that_hangs_in_a_thread_holds_its_slot_until_it_ends(rig: Rig) -> None:
    env = {"ROADWORTHY_TOOL_TIMEOUT": "1", "MAX_CONCURRENT_REQUESTS": "1"}
    server = await rig.serve(env=env)
    text = 'tool: blocking_note {"text": "b"}\nsay: went on'
    async with server.client() as client:
        run = (await client.post("/agent/invoke", json={"message": text})).json()
        assert (run["status"], run["response"]) == ("success", "went on"), run
        async with asyncio.TaskGroup() as group:
            waiting = group.create_task(client.post("/agent/invoke", json={"message": "say: next", "thread_id": "w"}))
            await rig.until(lambda: bool(server.rows("SELECT 1 FROM runs WHERE thread_id = 'w'")))
            assert server.rows("SELECT status FROM runs WHERE thread_id = 'w'") == [{"status": "pending"}]
            ready = await client.get("/readyz")
            rig.open_gate("b")
        assert waiting.result().json()["response"] == "next"
        await rig.ready(client)
    assert ready.status_code == 503
    assert "slots" in str(ready.json())
    check_invariants(server, rig.provider.ledger)


async def test_a_thread_that_outlives_its_run_writes_nothing_any_more(rig: Rig, tmp_path: Path) -> None:
    server = await rig.serve("late.py:graph")
    gate, outcome = tmp_path / "late", tmp_path / "late.outcome"
    async with server.client() as client, asyncio.TaskGroup() as group:
        body = {"input": {"gate": str(gate)}, "thread_id": "t"}
        asked = group.create_task(client.post("/agent/invoke", json=body))
        await rig.until(lambda: bool(server.rows("SELECT 1 FROM runs WHERE status = 'running'")))
        (run,) = server.rows("SELECT run_id FROM runs")
        await client.post(f"/agent/runs/{run['run_id']}/cancel")
        assert (await asked).json()["run"]["status"] == "cancelled"
        gate.touch()
        await rig.until(outcome.exists)
        look = await client.post("/agent/invoke", json={"input": {"gate": ""}})
    assert outcome.read_text() == "LeaseLost"
    assert look.json()["output"]["found"] == []


async def test_a_process_whose_slots_are_all_stuck_ends_itself(rig: Rig) -> None:
    env = {"ROADWORTHY_TOOL_TIMEOUT": "1", "MAX_CONCURRENT_REQUESTS": "1", "ROADWORTHY_STUCK_TIMEOUT": "1"}
    server = await rig.serve(env=env)
    async with server.client() as client:
        await client.post("/agent/invoke", json={"message": 'tool: blocking_note {"text": "b"}\nsay: x'})
    assert await server.exited() > 0
    await server.start()
    async with server.client() as client:
        assert (await client.post("/agent/invoke", json={"message": "say: back"})).json()["response"] == "back"
    check_invariants(server, rig.provider.ledger)


async def test_a_raising_tool_gives_a_sanitised_result_and_the_run_goes_on(rig: Rig) -> None:
    server = await rig.serve()
    text = 'tool: broken {"text": "x"}\nsay: went on'
    async with server.client() as client:
        run = (await client.post("/agent/invoke", json={"message": text, "thread_id": "t"})).json()
        thread = (await client.get("/agent/threads/t")).text
    assert (run["status"], run["response"]) == ("success", "went on"), run
    assert run["tool_calls"][0]["error"]
    assert "secret detail" not in str(run)
    assert "secret detail" not in thread
    check_invariants(server, rig.provider.ledger)


async def test_a_huge_tool_result_is_capped_with_a_marker(rig: Rig) -> None:
    server = await rig.serve(env={"ROADWORTHY_TOOL_OUTPUT_MAX": "5000"})
    text = 'tool: huge {"size": 100000000}\nsay: went on'
    async with server.client() as client:
        run = (await client.post("/agent/invoke", json={"message": text, "thread_id": "t"})).json()
        thread = (await client.get("/agent/threads/t")).json()
    assert (run["status"], run["response"]) == ("success", "went on"), run
    (result,) = [message["content"] for message in thread["messages"] if message["role"] == "tool"]
    assert len(str(result)) < 6000
    assert str(result).endswith("[99995000 more characters were cut]")
    check_invariants(server, rig.provider.ledger)


async def test_a_cancel_during_a_tool_leaves_a_thread_that_works(rig: Rig) -> None:
    """I5: a dangling tool call would make every later message a 400."""
    server = await rig.serve()
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            body = {"message": 'tool: slow_note {"text": "never"}', "thread_id": "t"}
            cut = group.create_task(client.post("/agent/invoke", json=body))
            await rig.effect("slow_note", phase="begin")
            run_id = (await rig.only_run())["run_id"]
            assert (await client.post(f"/agent/runs/{run_id}/cancel")).status_code == 202
        assert (cut.result().status_code, cut.result().json()["code"]) == (409, "cancelled")
        after = await client.post("/agent/invoke", json={"message": "say: fine", "thread_id": "t"})
    assert after.json()["response"] == "fine", after.text
    check_invariants(server, rig.provider.ledger)


async def test_sync_tools_block_nobody(rig: Rig) -> None:
    server = await rig.serve()
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            text = 'tool: blocking_note {"text": "b"}\nsay: late'
            late = group.create_task(client.post("/agent/invoke", json={"message": text}))
            await rig.effect("blocking_note", phase="begin")
            quick = await client.post("/agent/invoke", json={"message": "say: quick"})
            assert quick.json()["response"] == "quick"
            rig.open_gate("b")
        assert late.result().json()["response"] == "late"
    assert threads_of(server.pid) < 40
    check_invariants(server, rig.provider.ledger)


async def test_a_tool_whose_end_was_not_in_the_log_yet_is_in_the_run_after_a_kill(rig: Rig) -> None:
    turns = [Turn(tools=(ToolUse(name=name, args={"text": "x"}),)) for name in ("note", "slow_note")]
    rig.provider.script(rules=(Rule(when="work", turns=(*turns, Turn(text="done")), pick="by_position"),))
    server = await rig.serve()
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            body = {"message": "work", "thread_id": "t", "on_disconnect": "continue"}
            lost = group.create_task(_lost(client, body))
            await rig.effect("slow_note", phase="begin")
            await server.kill()
            await lost
        # As if the first flush had not come to its commit: by now it may have.
        assert server.rows("SELECT 1 FROM events")
        server.change("DELETE FROM events WHERE n > 1")
        rig.open_gate("x")
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["response"], run["attempt"]) == ("success", "done", 2), run
    assert [(one["name"], one["args"]) for one in run["tool_calls"]] == [
        (name, {"text": "x"}) for name in ("note", "slow_note")
    ]
    assert all(one["result"] and not one["error"] for one in run["tool_calls"])
    assert rig.effects.count("note") == 1
    assert len(rig.provider.ledger) == 3


async def _lost(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    with pytest.raises(httpx.TransportError):
        await client.post("/agent/invoke", json=body)
