"""What a budget promises when many spend at once, when money runs out, and when somebody leaves."""

import asyncio
from collections import Counter
from collections.abc import Sequence

import httpx
import pytest

from tests.support.bill import TOLERANCE
from tests.support.invariants import check_invariants
from tests.support.provider.ledger import LedgerEntry
from tests.support.provider.prices import charged_nanos
from tests.support.provider.script import Hold, Rule, Turn
from tests.support.rig import NANOS, Rig
from tests.support.transcript import Transcript, stream

ANSWER_TOKENS = 100
ANSWER = "four" * ANSWER_TOKENS
MANY = {"MAX_CONCURRENT_REQUESTS": "50", "ROADWORTHY_QUEUE_SIZE": "200"}


# Where less is reserved than answers cost, calls in flight cost more than is held for them.
@pytest.mark.parametrize("reserved_tokens", [ANSWER_TOKENS, ANSWER_TOKENS // 4])
async def test_a_hundred_runs_at_once_overdraw_a_budget_for_ten_calls_by_the_written_bound_at_most(
    rig: Rig, reserved_tokens: int
) -> None:
    plain, held = Turn(text=ANSWER), Turn(text=ANSWER, hold=Hold())
    rig.provider.script(
        rules=(Rule(when="pay", turns=(plain,)), Rule(when="pay", turns=(held,), pick="for_ever")),
    )
    server = await rig.serve(env={**MANY, "ROADWORTHY_RESERVED_OUTPUT_TOKENS": str(reserved_tokens)})
    async with server.client() as client:
        await _pay(client, "first")
        price = charged_nanos(rig.provider.ledger[0])
        await rig.set_budget(client, 10 * price)
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(_pay(client, f"user{number % 10}")) for number in range(100)]
            await rig.until(lambda: len(server.rows("SELECT 1 FROM runs")) == 101)
            reserved = int(server.rows("SELECT nanos FROM reservations LIMIT 1")[0]["nanos"])
            await rig.provider.wait_for(lambda calls: sum(call.held for call in calls) == 10 * price // reserved)
            for _ in range(100):
                rig.provider.release()
    answers = Counter(_ending(task.result()) for task in asked)
    bought = rig.provider.ledger[1:]
    paid = sum(map(charged_nanos, bought))
    beyond = _most_at_once(bought) * max(0, price - reserved)
    assert 10 * price <= paid <= 10 * price + price + beyond, (paid / price, beyond / price)
    assert answers == {"success": len(bought), "budget_exceeded": 100 - len(bought)}
    check_invariants(server, rig.provider.ledger)


async def test_twenty_runs_of_a_user_keep_to_the_budget_that_each_of_them_has(rig: Rig) -> None:
    server = await rig.serve(env=MANY)
    async with server.client() as client:
        warm = await client.post("/agent/invoke", json={"message": "say: warm"})
        await rig.set_budget(client, 3 * round(warm.json()["cost_usd"] * NANOS), scope="run")
        names = [f"run{number:02}" for number in range(20)]
        steps = "\n".join('tool: note {"text": "x"}' for _ in range(6))
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(_stopped(client, f"pace: 5\n{steps}\nsay: {name}"))
    for name in names:
        calls = [call for call in rig.provider.ledger if name in call.last_user_text]
        assert 3 * charged_nanos(rig.provider.ledger[0]) <= sum(map(charged_nanos, calls))
        assert sum(map(charged_nanos, calls[:-1])) < 3 * charged_nanos(rig.provider.ledger[0]), "one call too many"
    assert _most_at_once(rig.provider.ledger) > 5
    check_invariants(server, rig.provider.ledger)


async def test_twenty_runs_of_a_key_share_its_budget_and_another_key_is_free(rig: Rig) -> None:
    server = await rig.serve(env={**MANY, "ROADWORTHY_RESERVED_OUTPUT_TOKENS": str(ANSWER_TOKENS)})
    message = f"pace: 2\nsay: {ANSWER}"
    async with server.client() as admin:
        warm = await admin.post("/agent/invoke", json={"message": message})
        key = (await admin.post("/admin/keys", json={"user": "alice"})).json()
        five = 5 * round(warm.json()["cost_usd"] * NANOS)
        await rig.set_budget(admin, five, scope="key", subject=key["key_id"])
        async with server.client(key["key"]) as client, asyncio.TaskGroup() as group:
            asked = [group.create_task(client.post("/agent/invoke", json={"message": message})) for _ in range(20)]
        other = await admin.post("/agent/invoke", json={"message": message})
    answers = Counter(_ending(task.result()) for task in asked)
    assert answers == {"success": 5, "budget_exceeded": 15}
    assert other.status_code == 200, other.text
    assert len(rig.provider.ledger) == 7
    check_invariants(server, rig.provider.ledger)


async def test_a_client_that_leaves_mid_stream_is_billed_for_what_was_said(rig: Rig) -> None:
    rig.provider.script(rules=(Rule(when="hi", turns=(Turn(text=ANSWER, hold=Hold(at=60)),)),))
    server = await rig.serve()
    transcript = Transcript()
    async with server.client() as client:
        await rig.set_budget(client, NANOS, scope="user")
        async with client.stream("POST", "/agent/stream", json={"message": "hi"}) as response:
            async for _ in transcript.read(response):
                if len(transcript.text()) == 60 * 4:
                    break
        (gone,) = await rig.provider.wait_for_outcome("client_gone")
        run = await rig.final(client, transcript.run_id)
        shown = (await client.get(f"/agent/runs/{transcript.run_id}?include=model_calls")).json()
    (row,) = server.rows("SELECT * FROM model_calls")
    assert (row["outcome"], row["estimated"], row["input_tokens"]) == ("cancelled", 1, gone.input_tokens)
    assert row["cost_nanos"] == pytest.approx(charged_nanos(gone), rel=TOLERANCE)
    assert (run["status"], run["cost_usd"]) == ("cancelled", row["cost_nanos"] / NANOS)
    assert [call["estimated"] for call in shown["model_calls"]] == [True]
    await rig.until(lambda: not server.rows("SELECT * FROM reservations"))
    check_invariants(server, rig.provider.ledger)


async def test_a_run_whose_budget_is_used_up_goes_on_after_a_top_up(rig: Rig) -> None:
    server = await rig.serve()
    steps = "\n".join(f'tool: note {{"text": "{number}"}}' for number in range(4))
    body = {"message": f"{steps}\nsay: all done", "thread_id": "t"}
    async with server.client() as client:
        warm = await client.post("/agent/invoke", json={"message": "say: warm"})
        budget = await rig.set_budget(client, 2 * round(warm.json()["cost_usd"] * NANOS))
        stopped = await stream(client, body)
        error, done = stopped.frames[-2:]
        assert (error["type"], error["code"], done["status"]) == ("error", "budget_exceeded", "error")
        assert len(rig.provider.ledger) == 1 + 2
        resume = f"/agent/runs/{stopped.run_id}/resume"
        for refused in (await client.post(resume), await client.post("/agent/invoke", json=body)):
            assert (refused.status_code, refused.json()["code"]) == (402, "budget_exceeded"), refused.text
        code, _, err = await server.run_cli("budgets", "top-up", budget, "1")
        assert code == 0, err
        went_on = await client.post(resume)
        thread = (await client.get("/agent/threads/t")).json()
    assert (went_on.status_code, went_on.json()["response"]) == (200, "all done"), went_on.text
    assert len(rig.provider.ledger) == 1 + 5, "no call is made twice"
    assert [message["role"] for message in thread["messages"]] == ["user", *["assistant", "tool"] * 4, "assistant"]
    assert rig.effects.count("note") == 4
    check_invariants(server, rig.provider.ledger, transcripts=[stopped])


async def _pay(client: httpx.AsyncClient, user: str) -> httpx.Response:
    return await client.post("/agent/invoke", json={"message": "pay for this"}, headers={"X-On-Behalf-Of": user})


async def _stopped(client: httpx.AsyncClient, message: str) -> None:
    answer = await client.post("/agent/invoke", json={"message": message})
    assert (answer.status_code, answer.json()["code"]) == (402, "budget_exceeded"), answer.text


def _ending(answer: httpx.Response) -> str:
    """How a run ended, or why it was not accepted."""
    assert answer.status_code in {200, 402}, answer.text
    return str(answer.json()["status" if answer.status_code == 200 else "code"])


def _most_at_once(calls: Sequence[LedgerEntry]) -> int:
    """How many calls the provider had open at one time."""
    begins = [(call.received_mono, 1) for call in calls]
    ends = [(call.ended_mono, -1) for call in calls if call.ended_mono is not None]
    now = most = 0
    for _, change in sorted([*begins, *ends]):
        now += change
        most = max(most, now)
    return most
