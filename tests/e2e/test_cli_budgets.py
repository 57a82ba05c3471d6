"""`roadworthy budgets` and `roadworthy rates` beside a running server."""

import asyncio
import json
from pathlib import Path

import httpx

from tests.e2e.command import run, serving

ASK = {"message": "How do I cancel a run?"}


async def _answers(client: httpx.AsyncClient, status: int) -> httpx.Response:
    """The answer once it has this status; the server notices a change within two seconds."""
    async with asyncio.timeout(30):
        while True:
            answer = await client.post("/agent/invoke", json=ASK)
            if answer.status_code == status:
                return answer


async def test_a_server_obeys_a_budget_and_its_top_up_within_seconds(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, server.client(server.first_key) as client:
        assert (await client.post("/agent/invoke", json=ASK)).status_code == 200
        code, out, err = await run(tmp_path, "budgets", "set", "--scope", "user", "--window", "day", "--limit", "0")
        budget_id = out.strip()
        assert (code, len(budget_id)) == (0, 32)
        assert "each user" in err
        refused = await _answers(client, 402)
        assert refused.json()["code"] == "budget_exceeded"
        code, out, err = await run(tmp_path, "budgets", "top-up", budget_id, "2.50", "--subject", "admin")
        assert (code, out) == (0, "")
        assert "admin has $2.50 left until" in err
        await _answers(client, 200)
        code, _, _ = await run(tmp_path, "budgets", "remove", budget_id)
        assert code == 0
        _, out, _ = await run(tmp_path, "budgets", "list", "--json")
        assert json.loads(out) == []


async def test_a_server_obeys_a_rate_limit_within_seconds(tmp_path: Path) -> None:
    place = ("--scope", "key", "--kind", "requests")
    async with serving(tmp_path) as server, server.client(server.first_key) as client:
        code, out, err = await run(tmp_path, "rates", "set", *place, "--limit", "1")
        assert (code, out) == (0, "")
        assert "at most 1 request a minute" in err
        refused = await _answers(client, 429)
        assert refused.json()["code"] == "rate_limited"
        assert int(refused.headers["retry-after"]) >= 1
        assert (await run(tmp_path, "rates", "remove", *place))[0] == 0
        await _answers(client, 200)


async def test_budgets_are_listed_with_what_is_left(tmp_path: Path) -> None:
    for args in (
        ("--scope", "tenant", "--window", "month", "--limit", "100", "--soft", "50", "--time-zone", "Europe/Berlin"),
        ("--scope", "user", "--window", "day", "--limit", "5"),
        ("--scope", "run", "--limit", "0.50"),
        ("--scope", "agent", "--subject", "demo", "--window", "total", "--soft", "7", "--tenant", "acme"),
    ):
        code, _, err = await run(tmp_path, "budgets", "set", *args)
        assert code == 0, err
    _, table, hint = await run(tmp_path, "budgets", "list")
    for text in ("the whole tenant", "each user", "each run", "agent demo", "$100.00", "$0.50", "Europe/Berlin"):
        assert text in table
    assert "--subject" in hint
    _, out, _ = await run(tmp_path, "budgets", "list", "--scope", "user", "--subject", "alice", "--json")
    (each,) = json.loads(out)
    assert (each["tenant"], each["limit_usd"], each["current"]["left_usd"]) == ("default", 5.0, 5.0)
    _, out, _ = await run(tmp_path, "budgets", "list", "--tenant", "acme", "--json")
    assert [(one["subject"], one["limit_usd"], one["soft_usd"]) for one in json.loads(out)] == [("demo", None, 7.0)]


async def test_rates_are_listed(tmp_path: Path) -> None:
    await run(tmp_path, "rates", "set", "--scope", "user", "--kind", "runs", "--limit", "2", "--subject", "bob")
    await run(tmp_path, "rates", "set", "--scope", "tenant", "--kind", "tokens", "--limit", "1000", "--tenant", "acme")
    _, table, _ = await run(tmp_path, "rates", "list")
    assert "user bob" in table
    assert "1000 tokens a minute" in table
    _, out, _ = await run(tmp_path, "rates", "list", "--tenant", "acme", "--json")
    assert json.loads(out) == [
        {
            "tenant": "acme",
            "scope": "tenant",
            "kind": "tokens",
            "subject": None,
            "limit": 1000,
            "policy": "tokens-per-tenant",
        }
    ]


async def test_a_mistake_is_told_in_one_line(tmp_path: Path) -> None:
    code, out, err = await run(tmp_path, "budgets", "set", "--scope", "user", "--window", "day", "--limit", "five")
    assert (code, out) == (2, "")
    assert err == "roadworthy: 'five' is no amount of USD: write it as in 12.50\n"
