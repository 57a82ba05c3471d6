"""Kill -9 in and behind tools: what has a result is not done again, what must happen once is not guessed at."""

import asyncio
import sqlite3
from contextlib import closing
from typing import Any

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.provider.script import Rule, ToolUse, Turn
from tests.support.rig import Rig

NAMES = ("note", "charge", "transfer")
ALL = Turn(tools=tuple(ToolUse(name=name, args={"text": "x"}) for name in NAMES))
BODY = {"message": "pay", "thread_id": "t", "on_disconnect": "continue"}


def ask_for(rig: Rig, *turns: Turn) -> None:
    """What the model answers to the message of BODY."""
    rig.provider.script(rules=(Rule(when="pay", turns=turns, pick="by_position"),))


def known_calls(rig: Rig) -> dict[str, str]:
    """States of the tool calls that the server has noted, by tool."""
    file = rig.server.data / "checkpoints.sqlite"
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        return dict(connection.execute("SELECT name, state FROM tool_calls").fetchall())


async def killed(rig: Rig, client: httpx.AsyncClient, body: dict[str, Any], *begun: str, known: dict[str, str]) -> str:
    """Send a message and kill the server when tools have come so far. Returns the run's id."""

    async def lost() -> None:
        with pytest.raises(httpx.TransportError):
            await client.post("/agent/invoke", json=body)

    async with asyncio.TaskGroup() as group:
        group.create_task(lost())
        for name in begun:
            await rig.effect(name, phase="begin")
        await rig.until(lambda: known.items() <= known_calls(rig).items())
        await rig.server.kill()
    return str((await rig.only_run())["run_id"])


async def results(client: httpx.AsyncClient) -> list[Any]:
    """What the model was told by its tools."""
    thread = (await client.get("/agent/threads/t")).json()
    return [message["content"] for message in thread["messages"] if message["role"] == "tool"]


@pytest.mark.parametrize("agent", ["graph", "plain", "nested"])
async def test_tools_that_a_crash_cut_off_behave_as_declared(rig: Rig, agent: str) -> None:
    """7: one has a result, one has taken effect under its key, one has taken effect and must not run again."""
    ask_for(rig, ALL, Turn(text="done"))
    server = await rig.serve(f"paying.py:{agent}")
    rig.open_gate("before-x")
    async with server.client() as client:
        body = {**BODY, "durability": "sync" if agent == "plain" else "async"}
        run_id = await killed(rig, client, body, *NAMES[1:], known={"note": "finished", "transfer": "started"})
        rig.open_gate("charge-x")
        await server.start()
        run = await rig.final(client, run_id)
        assert (run["status"], run["error"]["code"]) == ("error", "needs_review"), run
        (review,) = run["reviews"]
        assert (review["name"], review["args"]) == ("transfer", {"text": "x"})
        call = review["tool_call_id"]
        refused = await client.post(f"/agent/runs/{run_id}/resume")
        assert (refused.status_code, call in refused.json()["detail"]) == (409, True), refused.text

        _, out, _ = await server.run_cli("runs", "show", run_id)
        assert call in out
        code, _, err = await server.run_cli("runs", "resolve", run_id, "--tool-call", call, "--result", "it arrived")
        assert (code, "can be resumed" in err) == (0, True), err
        code, _, err = await server.run_cli("runs", "resolve", run_id, "--tool-call", call, "--run-again")
        assert (code, "asks for no review" in err) == (1, True), err
        resumed = (await client.post(f"/agent/runs/{run_id}/resume")).json()
        assert (resumed["status"], resumed["response"]) == ("success", "done"), resumed
        assert await results(client) == ["noted x", "charged x", "it arrived"]
    assert [rig.effects.count(name) for name in NAMES] == [1, 1, 1]
    keys = {effect.key for effect in rig.effects.read() if effect.name == "charge"}
    assert keys == {f"default/admin/t:{key}" for key in (key.rsplit(":", 1)[1] for key in keys)}
    assert len(keys) == 1
    assert rig.effects.count("charge", phase="begin") >= 2
    assert rig.effects.count("transfer", phase="begin") == 1
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)


async def test_a_tool_that_was_killed_before_its_effect_can_be_run_again(rig: Rig) -> None:
    """6: nobody but a human can know that it did nothing."""
    ask_for(rig, Turn(tools=ALL.tools[2:]), Turn(text="done"))
    server = await rig.serve("paying.py:graph")
    async with server.client() as client:
        run_id = await killed(rig, client, BODY, "transfer", known={"transfer": "started"})
        await server.start()
        run = await rig.final(client, run_id)
        assert run["error"]["code"] == "needs_review", run
        path, call = f"/agent/runs/{run_id}/resolve", run["reviews"][0]["tool_call_id"]
        unknown = await client.post(path, json={"tool_call_id": "nonsense", "run_again": True})
        neither = await client.post(path, json={"tool_call_id": call})
        assert (unknown.status_code, neither.status_code) == (404, 422)
        resolved = await client.post(path, json={"tool_call_id": call, "run_again": True})
        assert (resolved.status_code, resolved.json()["reviews"]) == (200, []), resolved.text
        rig.open_gate("before-x")
        rig.open_gate("after-x")
        resumed = (await client.post(f"/agent/runs/{run_id}/resume")).json()
        assert (resumed["status"], resumed["response"]) == ("success", "done"), resumed
        assert [one["result"] for one in resumed["tool_calls"]] == ["transferred x"]
        other = await client.post(f"/agent/runs/{resumed['run_id']}/resolve", json={"tool_call_id": call, "result": 1})
        assert other.status_code == 409
    assert rig.effects.count("transfer") == 1
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)


async def test_a_message_after_a_review_tells_the_model_that_nobody_knows(rig: Rig) -> None:
    ask_for(rig, Turn(tools=ALL.tools[2:]))
    server = await rig.serve("paying.py:graph")
    async with server.client() as client:
        run_id = await killed(rig, client, BODY, "transfer", known={"transfer": "started"})
        await server.start()
        await rig.final(client, run_id)
        after = await client.post("/agent/invoke", json={"message": "say: never mind", "thread_id": "t"})
        assert after.json()["response"] == "never mind", after.text
        assert await results(client) == ["This call was cut off. It is not known whether it took effect."]
        assert len((await client.get(f"/agent/runs/{run_id}")).json()["reviews"]) == 1
        assert (await client.post(f"/agent/runs/{run_id}/resume")).status_code == 409
    check_invariants(server, rig.provider.ledger)


@pytest.mark.parametrize("durability", ["async", "sync"])
async def test_a_tool_whose_result_is_stored_does_not_run_again(rig: Rig, durability: str) -> None:
    """5: the crash comes between the tool's result and the step's checkpoint."""
    server = await rig.serve(crash_at="after-tool-result")
    body = {"message": 'tool: note {"text": "a"}\nsay: done', "thread_id": "t", "durability": durability}
    async with server.client() as client:
        with pytest.raises(httpx.TransportError):
            await client.post("/agent/invoke", json={**body, "on_disconnect": "continue"})
        assert await server.exited() == -9
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["response"], run["attempt"]) == ("success", "done", 2), run
    assert [(one["name"], one["result"]) for one in run["tool_calls"]] == [("note", "noted a")]
    assert rig.effects.count("note") == 1
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)
