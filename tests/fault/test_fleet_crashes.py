"""Kill -9 in a fleet of three: another replica goes on, nothing is lost or doubled (catalogue 1 to 10).

Nobody starts the dead again unless a test says so: what happens is done by those who live. That it is done within a
lease is no measurement here but a bound on the waiting; attempts, events and ledgers tell what happened.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress

import httpx
import psycopg
import pytest

from tests.support.fleet import API, WORKER, Fleet
from tests.support.provider.script import Fault, Hold, Rule, ToolUse, Turn
from tests.support.transcript import Transcript, follow, stream_into, text_of

HELLO = {"message": "say: hello there", "thread_id": "t", "on_disconnect": "continue"}
NOTING = {"message": 'tool: slow_note {"text": "a"}\nsay: done', "thread_id": "t", "on_disconnect": "continue"}
KEY = {"Idempotency-Key": "once"}
# A lease, a reaper's round and a start, on a machine that is busy.
TAKEN_OVER = 40


@pytest.mark.parametrize("point", ["before-accept", "after-accept", "before-finish", "after-finish"])
async def test_a_key_is_one_run_whatever_replica_is_asked_after_a_crash(fleet: Fleet, point: str) -> None:
    await fleet.begin(crash_at=point)
    await post_until_killed(fleet, HELLO, KEY)
    dead = await fleet.crashed()
    stored = fleet.rows("SELECT run_id FROM runs")
    assert len(stored) == (0 if point == "before-accept" else 1)
    first, second = fleet.others(dead)
    async with fleet.client(first) as one, fleet.client(second) as other:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(client.post("/agent/invoke", json=HELLO, headers=KEY)) for client in (one, other)
            ]
        await fleet.start(dead)
        async with fleet.client(dead) as back:
            answers = [*(task.result() for task in tasks), await back.post("/agent/invoke", json=HELLO, headers=KEY)]
    assert [answer.status_code for answer in answers] == [200] * 3, [answer.text for answer in answers]
    assert answers[0].json()["response"] == "hello there"
    assert answers[0].json() == answers[1].json() == answers[2].json()
    runs = fleet.rows("SELECT run_id, attempt FROM runs")
    assert [row["run_id"] for row in runs] == [answers[0].json()["run_id"]]
    assert runs[0]["attempt"] == (1 if point in {"before-accept", "after-finish"} else 2)
    # 8a: the graph had finished, so going on costs nothing; 9: nor does asking for what is stored.
    assert len(fleet.provider.ledger) == 1
    await fleet.settled()
    fleet.check()


async def test_a_runs_end_is_not_stored_before_its_calls_are(fleet: Fleet) -> None:
    """9: a replica that dies right after the end is stored; the ledger was slow, on a connection of its own."""
    await fleet.begin(crash_at="after-finish")
    with psycopg.connect(fleet.database_url) as beside:
        beside.execute("LOCK TABLE model_calls IN SHARE MODE")
        async with asyncio.TaskGroup() as group:
            group.create_task(post_until_killed(fleet, HELLO))
            waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
            await fleet.until(lambda: bool(fleet.rows(waiting)))
            with suppress(TimeoutError):  # all the time it takes to do it the wrong way round
                await fleet.crashed(3)
            assert [row["status"] for row in fleet.rows("SELECT status FROM runs")] == ["running"]
            beside.rollback()
    await fleet.crashed()
    assert [row["status"] for row in fleet.rows("SELECT status FROM runs")] == ["success"]
    fleet.check()


async def test_a_model_call_cut_by_a_crash_is_bought_once_more_while_readers_elsewhere_just_go_on(
    fleet: Fleet,
) -> None:
    """3: one reader was connected to the replica that died, the other to one that lived."""
    held = Turn(text="one two three four five six", hold=Hold(at=3, gate="g"))
    fleet.provider.script(rules=(Rule(when="count", turns=(held, Turn(text="uno dos tres"))),))
    await fleet.begin()
    lost, other = Transcript(), Transcript()
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        async with streaming(fleet, {**HELLO, "message": "count"}, lost):
            executor = await fleet.executor(lost.run_id)
            reading = group.create_task(follow_at(fleet, fleet.others(executor)[0], other, lost.run_id))
            await fleet.until(lambda: "two" in other.text())
            await fleet.kill(executor)
        async with asyncio.timeout(TAKEN_OVER):
            await follow(client, lost)
            await reading
        run = (await client.get(f"/agent/runs/{lost.run_id}")).json()
    assert (run["status"], run["attempt"], run["usage"]["estimated"]) == ("success", 2, True)
    for transcript in (lost, other):
        assert transcript.text() == run["response"] == "uno dos tres"
        assert [frame["attempt"] for frame in transcript.of_type("attempt")] == [2]
    assert len(fleet.provider.ledger) == 2
    await fleet.settled()
    fleet.check(transcripts=[lost, other], in_flight=1)


async def test_a_crash_between_model_and_tool_costs_no_call_and_the_tool_is_done_once(fleet: Fleet) -> None:
    """4 to 6: the text of before is kept, and not said twice."""
    noting = Turn(text="let me note", tools=(ToolUse(name="slow_note", args={"text": "a"}),))
    fleet.provider.script(rules=(Rule(when="note it", turns=(noting, Turn(text="done")), pick="by_position"),))
    await fleet.begin()
    transcript = Transcript()
    async with fleet.client() as client:
        async with streaming(fleet, {**NOTING, "message": "note it"}, transcript, until="tool_call"):
            await fleet.effect("slow_note", phase="begin")
            await fleet.until(lambda: bool(fleet.rows("SELECT 1 FROM events WHERE type LIKE '%tool%'")))
            await fleet.until(lambda: bool(fleet.rows("SELECT 1 FROM model_calls")))
            await fleet.kill(await fleet.executor(transcript.run_id))
        fleet.open_gate("a")
        async with asyncio.timeout(TAKEN_OVER):
            await follow(client, transcript)
        run = await fleet.final(client, transcript.run_id)
    assert (run["status"], run["attempt"]) == ("success", 2), run
    assert transcript.text() == "let me notedone"
    assert transcript.of_type("retract") == []
    assert fleet.effects.count("slow_note") == 1
    assert len(fleet.provider.ledger) == 2
    await fleet.settled()
    fleet.check(transcripts=[transcript])


async def test_a_replica_that_only_accepts_dies_and_its_runs_do_not_notice(fleet: Fleet) -> None:
    held = Turn(text="one two three four five six", hold=Hold(at=3))
    fleet.provider.script(rules=(Rule(when="count", turns=(held,)),))
    await fleet.begin(roles=(API, API, WORKER))
    lost = Transcript()
    async with fleet.client(1) as client:
        async with streaming(fleet, {**HELLO, "message": "count"}, lost, replica=0, until="content"):
            assert await fleet.executor(lost.run_id) == 2
            await fleet.kill(0)
        fleet.provider.release()
        await follow(client, lost)
        run = await fleet.final(client, lost.run_id)
    assert (run["status"], run["attempt"], run["response"]) == ("success", 1, "one two three four five six")
    assert lost.text() == run["response"]
    assert lost.of_type("attempt") == []
    assert len(fleet.provider.ledger) == 1
    await fleet.settled()
    fleet.check(transcripts=[lost])


async def test_what_was_accepted_while_no_worker_lived_is_executed_by_the_next_one(fleet: Fleet) -> None:
    await fleet.begin(roles=(API, API, WORKER))
    await fleet.kill(2)
    async with fleet.client(0) as client, fleet.client(1) as other, asyncio.TaskGroup() as group:
        waiting = group.create_task(client.post("/agent/invoke", json=HELLO, headers=KEY))
        run_id = (await fleet.one_run())["run_id"]
        repeated = group.create_task(other.post("/agent/invoke", json=HELLO, headers=KEY))
        await fleet.start(2)
        run = await fleet.final(other, run_id)
    assert waiting.result().json() == repeated.result().json()
    assert waiting.result().json()["run_id"] == run_id
    assert (run["status"], run["attempt"]) == ("success", 1)
    await fleet.settled()
    fleet.check()


CRASHES = ["mid-stream", "before-checkpoint"]
MORE_CRASHES = [
    "after-response",
    "before-effect",
    "after-effect",
    "after-tool-result",
    "before-reserve",
    "before-response",
    "before-append",
    "after-append",
    "before-tool",
    "after-tool-noted",
    "before-tool-result",
    "after-checkpoint",
    "before-writes",
    "after-writes",
]


@pytest.mark.parametrize("point", [*CRASHES, *(pytest.param(one, marks=pytest.mark.soak) for one in MORE_CRASHES)])
async def test_a_replica_that_dies_at_a_point_of_a_run_leaves_it_to_the_others(fleet: Fleet, point: str) -> None:
    """3 to 8, with a tool that declares nothing and one that is idempotent."""
    say = [
        Turn(text="first", tools=(ToolUse(name="note", args={"text": "x"}),), ms_per_token=5),
        Turn(text="then", tools=(ToolUse(name="charge", args={"text": "x"}),), ms_per_token=5),
        Turn(text="That is all there is to be done.", ms_per_token=5),
    ]
    fleet.provider.script(rules=(Rule(when="errands", turns=tuple(say), pick="by_position"),))
    skip = {"mid-stream": 0}.get(point, 1)
    await fleet.begin("matrix.py:agent", crash_at=point, env={"CRASH_SKIP": str(skip)})
    transcript = Transcript()
    body = {"message": "errands", "thread_id": "t", "on_disconnect": "continue"}
    async with fleet.client() as client:
        with pytest.raises(httpx.TransportError):
            await stream_into(client, body, transcript)
        dead = await fleet.crashed()
        async with asyncio.timeout(TAKEN_OVER):
            await follow(client, transcript)
        run = await fleet.final(client, transcript.run_id)
        thread = (await client.get("/agent/threads/t")).json()
    assert (run["status"], run["attempt"], run["response"]) == ("success", 2, say[-1].text), run
    assert list(transcript.texts().values()) == [turn.text for turn in say]
    roles = [message["role"] for message in thread["messages"]]
    assert roles == ["user", *["assistant", "tool"] * 2, "assistant"]
    extra = len(fleet.provider.ledger) - len(say)
    assert extra == (1 if point in {"mid-stream", "before-response"} else 0), extra
    assert len({effect.key for effect in fleet.effects.read() if effect.name == "charge"}) == 1
    assert fleet.effects.count("charge") == 1
    assert fleet.effects.count("note") <= 1 + (point in {"after-effect", "before-tool-result"})
    (worker,) = fleet.rows("SELECT worker FROM runs")
    assert worker["worker"] not in fleet.names(dead)
    await fleet.settled()
    fleet.check(transcripts=[transcript], in_flight=extra)


@pytest.mark.soak
async def test_a_message_behind_an_earlier_failure_survives_its_replica(fleet: Fleet) -> None:
    """8b: the earlier run failed with work pending; the new one dies before its first checkpoint."""
    await fleet.begin(crash_at="after-accept")
    fleet.crash_mark.touch()
    answer = Rule(when="hello there", turns=(Turn(text="hello there"),))
    failing = Turn(fault=Fault(kind="error", at="first_byte", status=529))
    fleet.provider.script(rules=(answer, Rule(when="first", turns=(failing,))))
    async with fleet.client() as client:
        failed = await client.post("/agent/invoke", json={"message": "first", "thread_id": "t"})
        assert failed.status_code == 502, failed.text
        fleet.crash_mark.unlink()
        await post_until_killed(fleet, HELLO)
        await fleet.crashed()
        second = fleet.rows("SELECT run_id FROM runs WHERE ord = 2")[0]["run_id"]
        run = await fleet.final(client, second, TAKEN_OVER)
        thread = (await client.get("/agent/threads/t")).json()
    assert (run["status"], run["response"]) == ("success", "hello there")
    assert [m["content"] for m in thread["messages"] if m["role"] == "user"][-1] == HELLO["message"]
    await fleet.settled()
    fleet.check()


@pytest.mark.soak
async def test_an_answer_is_given_to_its_own_question_only_whoever_asks_the_next(fleet: Fleet) -> None:
    """8c: two questions in one node; the run that answers the first dies when the graph has reached the second."""
    await fleet.begin("crashing.py:questions", crash_at="before-finish")
    fleet.crash_mark.touch()
    async with fleet.client() as client:
        first = await client.post("/agent/invoke", json={"input": {"answers": []}, "thread_id": "t"})
        assert first.json()["status"] == "interrupted", first.text
        fleet.crash_mark.unlink()
        with pytest.raises(httpx.TransportError):
            await client.post(f"/agent/runs/{first.json()['run_id']}/resume", json={"value": "yes"})
        await fleet.crashed()
        second = fleet.rows("SELECT run_id FROM runs WHERE ord = 2")[0]["run_id"]
        run = await fleet.final(client, second, TAKEN_OVER)
        assert run["status"] == "interrupted", run
        assert [one["value"] for one in run["interrupts"]] == ["second?"]
        last = await client.post(f"/agent/runs/{second}/resume", json={"value": "no"})
    assert last.json()["output"]["answers"] == ["yes", "no"], last.text
    await fleet.settled()
    fleet.check()


@pytest.mark.timeout(180)
async def next_death(fleet: Fleet, number: int) -> None:
    """Let the poisoned run take a replica with it, and start that one again as an orchestrator would."""
    fleet.open_gate(f"x-{number}")
    await fleet.effect("die_later", count=number, seconds=TAKEN_OVER)
    await fleet.start(await fleet.crashed())


async def test_a_run_that_kills_three_replicas_is_quarantined_and_its_neighbours_finish(fleet: Fleet) -> None:
    """10: each death is another replica's."""
    await fleet.begin()
    poison = {"message": 'tool: die_later {"text": "x"}', "thread_id": "poison", "on_disconnect": "continue"}
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        for number in range(6):
            text = f'tool: slow_note {{"text": "n{number}"}}\nsay: fine {number}'
            body = {"message": text, "thread_id": f"n{number}", "on_disconnect": "continue"}
            group.create_task(lost(client, body))
        await fleet.effect("slow_note", phase="begin", count=6)
        group.create_task(lost(client, poison))
        await next_death(fleet, 1)
        runs = {row["thread_id"]: row["run_id"] for row in fleet.rows("SELECT thread_id, run_id FROM runs")}
        poisonous = runs.pop("poison")
        # A note that is written as its server dies may be written twice: the next death waits for them.
        for number in range(6):
            fleet.open_gate(f"n{number}")
        ended = [await fleet.final(client, run_id, TAKEN_OVER) for run_id in runs.values()]
        await next_death(fleet, 2)
        await next_death(fleet, 3)
        quarantined = await fleet.final(client, poisonous, TAKEN_OVER)
        after = await client.post("/agent/invoke", json={"message": "say: alive", "thread_id": "other"})
    assert quarantined["error"]["code"] == "poisoned"
    assert sorted(run["response"] for run in ended) == [f"fine {number}" for number in range(6)]
    assert after.json()["response"] == "alive"
    assert len({effect.pid for effect in fleet.effects.read() if effect.name == "die_later"}) == 3
    assert fleet.effects.count("die_later") == 3
    assert Counter(effect.key for effect in fleet.effects.read() if effect.phase == "effect" and effect.key != "x") == {
        f"n{number}": 1 for number in range(6)
    }
    await fleet.settled()
    fleet.check()


async def test_a_crash_takes_a_third_of_the_runs_and_all_of_them_finish_in_their_threads_order(fleet: Fleet) -> None:
    """Each of nine threads has a run under way, and one behind it that another replica has accepted."""
    await fleet.begin()
    names = [f"r{number}" for number in range(9)]
    async with fleet.client() as client, asyncio.TaskGroup() as group:
        for name in names:
            text = f'tool: slow_note {{"text": "{name}"}}\nsay: {name} done'
            group.create_task(lost(client, {"message": text, "thread_id": name, "on_disconnect": "continue"}))
        await fleet.effect("slow_note", phase="begin", count=len(names))
        for name in names:
            text = f"say: {name} again"
            group.create_task(lost(client, {"message": text, "thread_id": name, "on_disconnect": "continue"}))
        await fleet.until(lambda: len(fleet.rows("SELECT 1 FROM runs")) == 2 * len(names))
        executing = fleet.rows("SELECT worker, count(*) AS runs FROM runs WHERE status = 'running' GROUP BY 1")
        assert len(executing) == 3, executing
        await fleet.kill(0)
        for name in names:
            fleet.open_gate(name)
        await fleet.settled(TAKEN_OVER)
        threads = [(await client.get(f"/agent/threads/{name}")).json()["messages"] for name in names]
    for name, messages in zip(names, threads, strict=True):
        answers = [text_of(one) for one in messages if one["role"] == "assistant"]
        assert answers == ["", f"{name} done", f"{name} again"]
    assert fleet.effects.count("slow_note") == len(names)
    attempts = Counter(row["attempt"] for row in fleet.rows("SELECT attempt FROM runs"))
    assert attempts[1] + attempts[2] == 2 * len(names)
    assert attempts[2] >= 3
    assert len(fleet.provider.ledger) == 3 * len(names)
    fleet.check()


async def lost(client: httpx.AsyncClient, body: Mapping[str, object]) -> None:
    """Send a request whose answer may never come."""
    try:
        await client.post("/agent/invoke", json=body)
    except httpx.TransportError:
        return


async def post_until_killed(fleet: Fleet, body: Mapping[str, object], headers: dict[str, str] | None = None) -> None:
    """Send a request to a replica that dies on it."""
    async with fleet.client() as client:
        with pytest.raises(httpx.TransportError):
            await client.post("/agent/invoke", json=body, headers=headers)


@asynccontextmanager
async def streaming(
    fleet: Fleet,
    body: Mapping[str, object],
    transcript: Transcript,
    *,
    replica: int | None = None,
    until: str = "content",
) -> AsyncGenerator[None]:
    """A stream that is read up to its first frame of a type, and stays open for the body."""
    async with (
        fleet.client(replica) as client,
        client.stream("POST", "/agent/stream", json=dict(body)) as response,
    ):
        async for frame in transcript.read(response):
            if frame["type"] == until:
                break
        yield


async def follow_at(fleet: Fleet, replica: int, transcript: Transcript, run_id: str) -> None:
    """Read a run to its end at one replica."""
    async with fleet.client(replica) as client:
        await follow(client, transcript, run_id)
