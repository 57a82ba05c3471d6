"""Kill -9 at each point of a run's life, then a restart: nothing lost, nothing doubled (catalogue 1 to 10)."""

import asyncio
from collections.abc import Mapping

import httpx
import pytest

from tests.support.invariants import check_invariants
from tests.support.provider.script import Fault, Hold, Rule, ToolUse, Turn
from tests.support.rig import Rig
from tests.support.transcript import Transcript, follow, stream

HELLO = {"message": "say: hello there", "thread_id": "t", "on_disconnect": "continue"}
KEY = {"Idempotency-Key": "once"}


async def invoke_until_killed(rig: Rig, body: Mapping[str, object], headers: dict[str, str] | None = None) -> None:
    """Send a request to a server that dies on it."""
    async with rig.server.client() as client:
        with pytest.raises(httpx.TransportError):
            await client.post("/agent/invoke", json=body, headers=headers)
    assert await rig.server.exited() == -9


@pytest.mark.parametrize("point", ["before-accept", "after-accept", "before-finish", "after-finish"])
async def test_a_client_that_repeats_its_key_after_a_crash_gets_one_run(rig: Rig, point: str) -> None:
    server = await rig.serve(crash_at=point)
    await invoke_until_killed(rig, HELLO, KEY)
    stored = server.rows("SELECT run_id FROM runs")
    assert len(stored) == (0 if point == "before-accept" else 1)
    calls_before = len(rig.provider.ledger)
    await server.start()
    async with server.client() as client:
        answer = await client.post("/agent/invoke", json=HELLO, headers=KEY)
        replay = await client.post("/agent/invoke", json=HELLO, headers=KEY)
    assert answer.status_code == 200, answer.text
    assert answer.json()["response"] == "hello there"
    assert replay.json() == answer.json()
    assert [row["run_id"] for row in server.rows("SELECT run_id FROM runs")] == [answer.json()["run_id"]]
    if stored:
        assert answer.json()["run_id"] == stored[0]["run_id"]
    # 8a: the graph had finished, so going on costs nothing; 9: nor does asking for what is stored.
    assert len(rig.provider.ledger) == (1 if point in {"before-accept", "after-accept"} else calls_before) == 1
    check_invariants(server, rig.provider.ledger)


async def test_a_model_call_cut_by_a_crash_is_bought_once_more_and_never_mixed(rig: Rig) -> None:
    held = Turn(text="one two three four five six", hold=Hold(at=3, gate="g"))
    rig.provider.script(rules=(Rule(when="count", turns=(held, Turn(text="uno dos tres"))),))
    server = await rig.serve()
    transcript = Transcript()
    body = {"message": "count", "thread_id": "t", "on_disconnect": "continue"}
    async with server.client() as client:
        async with client.stream("POST", "/agent/stream", json=body) as response:
            async for frame in transcript.read(response):
                if frame["type"] == "content" and "two" in transcript.text():
                    break
        await server.crash_and_restart()
        await follow(client, transcript)
        run = (await client.get(f"/agent/runs/{transcript.run_id}")).json()
    assert run["status"] == "success"
    assert run["attempt"] == 2
    assert run["response"] == transcript.text() == "uno dos tres"
    assert transcript.of_type("attempt")[0]["attempt"] == 2
    assert run["usage"]["estimated"] is True
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger, transcripts=[transcript], in_flight=1)


async def test_text_that_reached_the_state_before_a_crash_is_kept_and_not_said_twice(rig: Rig) -> None:
    noting = Turn(text="let me note", tools=(ToolUse(name="slow_note", args={"text": "a"}),))
    rig.provider.script(rules=(Rule(when="note it", turns=(noting, Turn(text="done")), pick="by_position"),))
    server = await rig.serve()
    transcript = Transcript()
    body = {"message": "note it", "thread_id": "t", "on_disconnect": "continue"}
    async with server.client() as client:
        async with client.stream("POST", "/agent/stream", json=body) as response:
            async for frame in transcript.read(response):
                if frame["type"] == "tool_call":
                    break
            # The step's checkpoint is on its way beside the tool: wait for the tool, then for the durable events.
            await rig.effect("slow_note", phase="begin")
            await rig.until(lambda: bool(server.rows("SELECT 1 FROM events WHERE type LIKE '%tool%'")))
        await server.kill()
        rig.open_gate("a")
        await server.start()
        await follow(client, transcript)
    assert transcript.text() == "let me notedone"
    assert transcript.of_type("retract") == []
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger, transcripts=[transcript])


async def test_a_tool_killed_before_its_effect_takes_effect_once(rig: Rig) -> None:
    server = await rig.serve()
    body = {"message": 'tool: slow_note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_lost(client, body))
            await rig.effect("slow_note", phase="begin")
            await server.kill()
        assert lost.result()
        rig.open_gate("a")
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert run["status"] == "success", run
    assert run["response"] == "done"
    assert rig.effects.count("slow_note") == 1
    assert [call["name"] for call in run["tool_calls"]] == ["slow_note"]
    # 5: the crash came between two model calls, so none of them is bought again.
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)


@pytest.mark.parametrize("point", ["before-checkpoint", "after-checkpoint"])
@pytest.mark.parametrize("durability", ["async", "sync"])
async def test_a_crash_inside_a_checkpoint_leaves_a_state_that_goes_on(rig: Rig, point: str, durability: str) -> None:
    server = await rig.serve(crash_at=point)
    body = {**HELLO, "message": 'tool: note {"text": "a"}\nsay: done', "durability": durability}
    await invoke_until_killed(rig, body)
    await server.start()
    async with server.client() as client:
        run = await rig.final(client, (await rig.only_run())["run_id"])
        again = await stream(client, {"message": "say: more", "thread_id": "t"})
        thread = (await client.get("/agent/threads/t")).json()
    assert (run["status"], run["response"]) == ("success", "done")
    assert again.text() == "more"
    roles = [message["role"] for message in thread["messages"]]
    assert roles == ["user", "assistant", "tool", "assistant", "user", "assistant"]
    check_invariants(server, rig.provider.ledger, in_flight=1)


async def test_a_new_message_is_not_lost_behind_an_earlier_failure(rig: Rig) -> None:
    """8b: the earlier run failed with work pending; the new one dies before its first checkpoint."""
    server = await rig.serve(crash_at="after-accept")
    rig.crash_mark.touch()
    # The failed message stays in the history, and the API reads two user messages in a row as one.
    answer = Rule(when="hello there", turns=(Turn(text="hello there"),))
    rig.provider.script(rules=(answer, Rule(when="first", turns=(Turn(fault=_overloaded()),))))
    async with server.client() as client:
        failed = await client.post("/agent/invoke", json={"message": "first", "thread_id": "t"})
        assert failed.status_code == 502, failed.text
        rig.crash_mark.unlink()
        with pytest.raises(httpx.TransportError):
            await client.post("/agent/invoke", json=HELLO)
        assert await server.exited() == -9
        await server.start()
        second = server.rows("SELECT run_id FROM runs WHERE ord = 2")[0]["run_id"]
        run = await rig.final(client, second)
        thread = (await client.get("/agent/threads/t")).json()
    assert (run["status"], run["response"]) == ("success", "hello there")
    assert [m["content"] for m in thread["messages"] if m["role"] == "user"][-1] == HELLO["message"]
    check_invariants(server, rig.provider.ledger)


async def test_an_answer_is_given_to_its_own_question_only(rig: Rig) -> None:
    """8c: two questions in one node; the run that answers the first dies when the graph has reached the second."""
    server = await rig.serve("crashing.py:questions", crash_at="before-finish", env={"CRASH_SKIP": "1"})
    async with server.client() as client:
        first = await client.post("/agent/invoke", json={"input": {"answers": []}, "thread_id": "t"})
        assert first.json()["status"] == "interrupted", first.text
        with pytest.raises(httpx.TransportError):
            await client.post(f"/agent/runs/{first.json()['run_id']}/resume", json={"value": "yes"})
        assert await server.exited() == -9
        await server.start()
        second = server.rows("SELECT run_id FROM runs WHERE ord = 2")[0]["run_id"]
        run = await rig.final(client, second)
        assert run["status"] == "interrupted", run
        assert [one["value"] for one in run["interrupts"]] == ["second?"]
        last = await client.post(f"/agent/runs/{second}/resume", json={"value": "no"})
    assert last.json()["output"]["answers"] == ["yes", "no"], last.text


async def test_a_run_that_kills_its_worker_is_quarantined_and_its_neighbours_are_not(rig: Rig) -> None:
    """10: three deaths without progress; the neighbour was under way at the first of them."""
    server = await rig.serve()
    poison = {"message": 'tool: die {"text": "x"}', "thread_id": "poison", "on_disconnect": "continue"}
    neighbour = {"message": 'tool: slow_note {"text": "n"}\nsay: fine', "thread_id": "n", "on_disconnect": "continue"}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_lost(client, neighbour))
            await rig.effect("slow_note", phase="begin")
            with pytest.raises(httpx.TransportError):
                await client.post("/agent/invoke", json=poison)
            assert await server.exited() == -9
        assert lost.result()
        rig.open_gate("n")
        for deaths in (2, 3):
            await server.start(wait=False)
            await rig.effect("die", count=deaths)
            assert await server.exited() == -9
        await server.start()
        runs = {row["thread_id"]: row for row in server.rows("SELECT * FROM runs")}
        quarantined = await rig.final(client, runs["poison"]["run_id"])
        fine = await rig.final(client, runs["n"]["run_id"])
        after = await client.post("/agent/invoke", json={"message": "say: alive", "thread_id": "other"})
    assert quarantined["error"]["code"] == "poisoned"
    assert (fine["status"], fine["response"]) == ("success", "fine")
    assert after.json()["response"] == "alive"
    assert rig.effects.count("die") == 3
    check_invariants(server, rig.provider.ledger, in_flight=0)


async def test_a_crash_takes_ten_runs_and_all_of_them_finish(rig: Rig) -> None:
    server = await rig.serve()
    names = [f"r{number}" for number in range(10)]
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            for name in names:
                text = f'tool: slow_note {{"text": "{name}"}}\nsay: {name} done'
                body = {"message": text, "thread_id": name, "on_disconnect": "continue"}
                group.create_task(_lost(client, body))
            await rig.effect("slow_note", phase="begin", count=len(names))
            await server.kill()
        for name in names:
            rig.open_gate(name)
        await server.start()
        runs = server.rows("SELECT run_id, thread_id FROM runs")
        async with asyncio.timeout(20):
            ended = [await rig.final(client, row["run_id"]) for row in runs]
    assert sorted(run["response"] for run in ended) == sorted(f"{name} done" for name in names)
    assert rig.effects.count("slow_note") == len(names)
    check_invariants(server, rig.provider.ledger)


async def _lost(client: httpx.AsyncClient, body: Mapping[str, object]) -> bool:
    """Send a request whose answer will never come."""
    try:
        await client.post("/agent/invoke", json=body)
    except httpx.TransportError:
        return True
    return False


def _overloaded() -> Fault:
    return Fault(kind="error", at="first_byte", status=529)


async def test_calls_are_bounded_for_a_run_whatever_its_attempts(rig: Rig) -> None:
    server = await rig.serve(env={"ROADWORTHY_MAX_MODEL_CALLS": "2"})
    text = 'tool: note {"text": "a"}\ntool: slow_note {"text": "b"}\nsay: never'
    body = {"message": text, "thread_id": "t", "on_disconnect": "continue"}
    async with server.client() as client:
        async with asyncio.TaskGroup() as group:
            lost = group.create_task(_lost(client, body))
            await rig.effect("slow_note", phase="begin")
            await server.kill()
        assert lost.result()
        rig.open_gate("b")
        await server.start()
        run = await rig.final(client, (await rig.only_run())["run_id"])
    assert (run["status"], run["error"]["code"]) == ("error", "limit_reached"), run
    assert len(rig.provider.ledger) == 2
    check_invariants(server, rig.provider.ledger)
