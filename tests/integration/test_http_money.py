"""Rates, budgets and costs as callers meet them, on the real engine with a model that has a price."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_core.messages import BaseMessage
from langgraph.graph import START, MessagesState, StateGraph

from roadworthy.domain.audit import Actor
from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.domain.ids import AgentName, TenantId
from roadworthy.domain.principal import Scope
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.http.usage_report import UsageReport
from roadworthy.protocols.plain import wire
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.services.budget_rules import BudgetAsked
from roadworthy.services.budgets import BudgetStatus
from tests.support.scripted_model import ScriptedChatModel, ScriptedTurn, text_of
from tests.support.web.real import Real, real_app

TENANT = TenantId("default")
OPERATOR = Actor(name="operator")
ASK = {"message": "hi", "agent": "paid"}
CENT = 10_000_000
# A call answers with ten tokens, at a cent each.
PRICES = '["scripted:scripted"]\ninput = 0\noutput = 10000\n'
CALL_USD = 0.1


def paid(name: str = "paid", provider: str = "scripted") -> LoadedAgent:
    """Calls its model twice, in two steps."""
    model = ScriptedChatModel(turns=(ScriptedTurn(text=text_of(10)),), provider=provider)

    async def call(state: MessagesState) -> dict[str, list[BaseMessage]]:
        return {"messages": [await model.ainvoke(state["messages"])]}

    graph = StateGraph(MessagesState).add_node("first", call).add_node("second", call)
    compiled: Any = graph.add_edge(START, "first").add_edge("first", "second").compile()
    return LoadedAgent(name=AgentName(name), graph=compiled)


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    agents = [paid(), paid("unknown", "nobody")]
    async with real_app(tmp_path / "data", more=agents, price_file=prices) as real:
        yield real


@pytest.fixture
async def alice(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(real.app)
    headers = {"x-api-key": real.alice}
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


async def give(real: Real, cents: int, scope: BudgetScope = BudgetScope.USER) -> BudgetStatus:
    window = BudgetWindow.RUN if scope is BudgetScope.RUN else BudgetWindow.DAY
    asked = BudgetAsked(scope=scope, window=window, limit_nanos=cents * CENT)
    return await real.container.budgets.set(TENANT, asked, OPERATOR)


async def limit(real: Real, kind: RateKind, most: int) -> None:
    rate = RateLimit(tenant=TENANT, scope=RateScope.USER, kind=kind, limit=most)
    await real.container.limits.set(rate, OPERATOR)


def events_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data:")]


async def test_a_run_tells_what_it_cost_in_every_place(alice: httpx.AsyncClient) -> None:
    streamed = events_of((await alice.post("/agent/stream", json=ASK)).text)
    calls = [event for event in streamed if event["type"] == "usage"]
    assert [event["call"]["cost_usd"] for event in calls] == [CALL_USD, CALL_USD]
    assert [event["total"]["cost_usd"] for event in calls] == [CALL_USD, 2 * CALL_USD]
    done = streamed[-1]
    assert (done["type"], done["cost_usd"], done["usage"]["output_tokens"]) == ("done", 2 * CALL_USD, 20)
    shown = await alice.get(f"/agent/runs/{done['run_id']}?include=model_calls")
    run = wire.RunDetail.model_validate_json(shown.content)
    assert (run.cost_usd, run.usage.unpriced_calls, run.usage.estimated) == (2 * CALL_USD, 0, False)
    assert [(call.node, call.output_tokens, call.cost_usd) for call in run.model_calls] == [
        ("first", 10, CALL_USD),
        ("second", 10, CALL_USD),
    ]
    again = await alice.get(f"/agent/runs/{done['run_id']}/stream")
    assert events_of(again.text) == streamed


async def test_a_model_without_a_price_runs_and_its_cost_is_not_known(real: Real, alice: httpx.AsyncClient) -> None:
    body = ASK | {"agent": "unknown"}
    run = wire.Run.model_validate_json((await alice.post("/agent/invoke", json=body)).content)
    assert (run.status, run.cost_usd, run.usage.unpriced_calls) == ("success", None, 2)
    await give(real, 1000)
    refused = await alice.post("/agent/invoke", json=body)
    assert (refused.status_code, refused.json()["code"]) == (402, "price_unknown")
    assert refused.json()["run"]["usage"]["model_calls"] == 0
    path = f"/agent/runs/{refused.json()['run']['run_id']}/resume"
    assert (await alice.post(path)).json()["code"] == "price_unknown", (
        "it can be resumed, but the price is still unknown"
    )


async def test_a_spent_budget_stops_the_run_between_two_calls_and_a_top_up_lets_it_go_on(
    real: Real, alice: httpx.AsyncClient
) -> None:
    budget = (await give(real, 5)).budget
    stopped = events_of((await alice.post("/agent/stream", json=ASK | {"thread_id": "t"})).text)
    error, done = stopped[-2:]
    assert (error["code"], done["status"], done["cost_usd"]) == ("budget_exceeded", "error", CALL_USD)
    assert "the daily budget of this user is used up: $0.10 of $0.05" in error["message"]

    path = f"/agent/runs/{done['run_id']}/resume"
    for refused in (await alice.post(path), await alice.post("/agent/invoke", json=ASK)):
        assert (refused.status_code, refused.json()["code"]) == (402, "budget_exceeded")
        assert refused.json()["budget"].items() >= {"scope": "user", "window": "day", "spent_usd": CALL_USD}.items()
        assert "run" not in refused.json()

    await real.container.budgets.top_up(TENANT, budget.budget_id, 100 * CENT, OPERATOR, subject="alice")
    resumed = wire.Run.model_validate_json((await alice.post(path)).content)
    assert (resumed.status, resumed.cost_usd, resumed.usage.model_calls) == ("success", CALL_USD, 1)
    thread = wire.ThreadDetail.model_validate_json((await alice.get("/agent/threads/t")).content)
    assert [message.role for message in thread.messages] == ["user", "assistant", "assistant"]


async def test_a_budget_of_each_run_stops_one_and_not_the_next(real: Real, alice: httpx.AsyncClient) -> None:
    await give(real, 5, BudgetScope.RUN)
    for _ in range(2):
        answer = await alice.post("/agent/invoke", json=ASK)
        assert (answer.status_code, answer.json()["code"]) == (402, "budget_exceeded")
        assert answer.json()["run"]["cost_usd"] == CALL_USD


async def test_a_known_idempotency_key_finds_its_run_though_the_budget_is_spent(
    real: Real, alice: httpx.AsyncClient
) -> None:
    await give(real, 15)
    first = await alice.post("/agent/invoke", json=ASK, headers={"Idempotency-Key": "k"})
    again = await alice.post("/agent/invoke", json=ASK, headers={"Idempotency-Key": "k"})
    other = await alice.post("/agent/invoke", json=ASK, headers={"Idempotency-Key": "other"})
    assert (first.status_code, again.status_code, other.status_code) == (200, 200, 402)
    assert first.json()["run_id"] == again.json()["run_id"]


async def test_rates_are_told_and_obeyed_for_each_user(real: Real, alice: httpx.AsyncClient) -> None:
    await limit(real, RateKind.REQUESTS, 2)
    body = {"message": "hi"}
    answers = [await alice.post("/agent/invoke", json=body) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert [answer.headers["ratelimit-policy"] for answer in answers] == ['"requests-per-user";q=2;w=60'] * 3
    left = [answer.headers["ratelimit"].split(";")[1] for answer in answers]
    assert left == ["r=1", "r=0", "r=0"]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 120
    bobs = await alice.post("/agent/invoke", json=body, headers={"x-api-key": real.bob})
    assert bobs.status_code == 200


async def test_a_limit_of_runs_at_once_is_told_like_the_others(real: Real, alice: httpx.AsyncClient) -> None:
    await limit(real, RateKind.RUNS, 1)
    asks = [alice.post("/agent/invoke", json=ASK | {"thread_id": f"t{number}"}) for number in range(2)]
    answers = await asyncio.gather(*asks)
    assert sorted(answer.status_code for answer in answers) == [200, 429]
    (refused,) = [answer for answer in answers if answer.status_code == 429]
    assert refused.headers["ratelimit-policy"] == '"runs-per-user";q=1;qu="concurrent-requests"'
    assert refused.headers["ratelimit"] == '"runs-per-user";r=0'
    assert int(refused.headers["retry-after"]) > 0


async def test_a_rotated_key_stays_under_its_limits(real: Real, alice: httpx.AsyncClient) -> None:
    owner = (await real.container.keys.authenticate(real.alice)).owner
    scopes = frozenset({Scope.RUNS_READ, Scope.RUNS_WRITE, Scope.KEYS_WRITE})
    old = await real.container.keys.create(owner, OPERATOR, scopes=scopes)
    for subject in (old.key.key_id, None):
        asked = BudgetAsked(scope=BudgetScope.KEY, window=BudgetWindow.DAY, subject=subject, limit_nanos=5 * CENT)
        await real.container.budgets.set(TENANT, asked, OPERATOR)
    rate = RateLimit(tenant=TENANT, scope=RateScope.KEY, kind=RateKind.RUNS, limit=3, subject=old.key.key_id)
    await real.container.limits.set(rate, OPERATOR)

    spent = await alice.post("/agent/invoke", json=ASK, headers={"x-api-key": old.text})
    assert spent.json()["code"] == "budget_exceeded"
    path = f"/admin/keys/{old.key.key_id}/rotate"
    new = (await alice.post(path, headers={"x-api-key": old.text})).json()
    refused = await alice.post("/agent/invoke", json=ASK, headers={"x-api-key": new["key"]})
    assert (refused.status_code, refused.json()["code"]) == (402, "budget_exceeded")
    for status in await real.container.budgets.list(TENANT, scope=BudgetScope.KEY, subject=new["key_id"]):
        assert status.balance is not None
        assert status.balance.spent_nanos == 10 * CENT
    limits = await real.container.limits.list(TENANT)
    assert {(one.subject, one.limit) for one in limits} == {(old.key.key_id, 3), (new["key_id"], 3)}


async def test_used_up_tokens_refuse_the_next_run(real: Real, alice: httpx.AsyncClient) -> None:
    await limit(real, RateKind.TOKENS, 5)
    assert (await alice.post("/agent/invoke", json=ASK)).status_code == 200
    refused = await alice.post("/agent/invoke", json=ASK)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert refused.headers["ratelimit"].startswith('"tokens-per-user";r=0;t=')


async def test_own_usage_is_summed_up_and_nobody_elses(real: Real, alice: httpx.AsyncClient) -> None:
    for _ in range(2):
        await alice.post("/agent/invoke", json=ASK | {"thread_id": "t"})
    assert (await alice.delete("/agent/threads/t")).status_code == 204
    report = UsageReport.model_validate_json((await alice.get("/agent/usage?by=agent,model")).content)
    (row,) = report.rows
    assert (row.agent, row.model, row.runs, row.model_calls) == ("paid", "scripted:scripted", 2, 4)
    assert (row.cost_usd, row.output_tokens, row.unpriced_calls) == (4 * CALL_USD, 40, 0)
    table = await alice.get("/agent/usage?by=day&format=csv")
    (line,) = csv.DictReader(io.StringIO(table.text))
    assert (line["cost_usd"], line["runs"]) == ("0.4", "2")
    bobs = await alice.get("/agent/usage", headers={"x-api-key": real.bob})
    assert bobs.json()["rows"] == []
