"""``/metrics`` on the real application: what callers did is counted, and only the operator sees it."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.domain.ids import TenantId
from roadworthy.domain.principal import USER_SCOPES, Scope
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.services.budget_rules import BudgetAsked
from tests.integration.test_http_money import CENT, OPERATOR, PRICES, TENANT, paid
from tests.support.web.admin import client_of, code_of, new_key
from tests.support.web.real import Real, real_app

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
async def real(tmp_path: Path) -> AsyncIterator[Real]:
    prices = tmp_path / "prices.toml"
    prices.write_text(PRICES)
    async with real_app(tmp_path / "data", more=[paid()], price_file=prices) as real:
        yield real


@pytest.fixture
async def alice(real: Real) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(real, real.alice) as client:
        yield client


async def numbers(real: Real) -> Numbers:
    async with client_of(real, await new_key(real, Scope.METRICS_READ)) as client:
        answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def value(found: Numbers, name: str, **labels: str) -> float:
    return found.get((f"roadworthy_{name}", frozenset(labels.items())), 0)


async def invoke(client: httpx.AsyncClient, agent: str) -> httpx.Response:
    return await client.post("/agent/invoke", json={"message": "hi", "agent": agent})


async def test_runs_calls_tokens_and_cost_are_counted(real: Real, alice: httpx.AsyncClient) -> None:
    assert (await invoke(alice, "paid")).status_code == 200
    assert (await invoke(alice, "failing")).status_code == 500
    assert (await alice.post("/agent/stream", json={"message": "hi", "agent": "echo"})).status_code == 200
    found = await numbers(real)
    assert value(found, "runs_total", agent="paid", status="success", code="") == 1
    assert value(found, "runs_total", agent="failing", status="error", code="agent_failed") == 1
    assert value(found, "runs_total", agent="echo", status="success", code="") == 1
    who = {"provider": "scripted", "model": "scripted"}
    assert value(found, "model_calls_total", **who, outcome="complete") == 2
    assert value(found, "tokens_total", **who, kind="output") == 20
    assert value(found, "cost_usd_total", **who) == pytest.approx(0.2)
    assert value(found, "run_first_token_seconds_count", agent="paid") == 1
    assert value(found, "model_calls_unjournalled_total", **who) == 0
    assert value(found, "http_responses_total", method="POST", status="500") == 1
    assert (value(found, "slots"), value(found, "open_streams")) == (10, 0)
    assert value(found, "slots_held") <= 1, "a run's end is told a moment before its slot is free"


async def test_soft_and_hard_limits_are_counted(real: Real, alice: httpx.AsyncClient) -> None:
    asked = BudgetAsked(scope=BudgetScope.USER, window=BudgetWindow.DAY, limit_nanos=5 * CENT)
    await real.container.budgets.set(TENANT, asked, OPERATOR)
    assert (await invoke(alice, "paid")).status_code == 402, "the first call spends it, the second is not made"
    assert (await invoke(alice, "paid")).status_code == 402, "nothing is left at admission"
    limit = RateLimit(tenant=TENANT, scope=RateScope.USER, kind=RateKind.REQUESTS, limit=1)
    await real.container.limits.set(limit, OPERATOR)
    await invoke(alice, "echo")
    assert (await invoke(alice, "echo")).status_code == 429
    found = await numbers(real)
    assert value(found, "budget_soft_limits_total", scope="user", window="day") == 1
    assert value(found, "limits_hit_total", limit="budget_exceeded", at="run") == 1
    assert value(found, "limits_hit_total", limit="budget_exceeded", at="admission") == 2
    assert value(found, "limits_hit_total", limit="rate_limited", at="admission") == 1


async def test_a_held_slot_is_shown(real: Real, alice: httpx.AsyncClient) -> None:
    async with alice.stream("POST", "/agent/stream", json={"message": "hi", "agent": "echo"}) as response:
        await response.aread()
    started = await alice.post("/agent/invoke", json={"message": "hi", "agent": "asking"})
    assert started.json()["status"] == "interrupted"
    assert value(await numbers(real), "runs_total", agent="asking", status="interrupted", code="") == 1


@pytest.mark.parametrize(
    ("scopes", "tenant", "status"),
    [
        ({Scope.METRICS_READ}, "default", 200),
        ({Scope.ADMIN}, "default", 200),
        (set(Scope) - {Scope.METRICS_READ, Scope.ADMIN}, "default", 403),
        (USER_SCOPES, "default", 403),
        ({Scope.ADMIN}, "other", 403),
        ({Scope.METRICS_READ}, "other", 403),
    ],
)
async def test_the_numbers_are_the_operators(real: Real, scopes: set[Scope], tenant: str, status: int) -> None:
    async with client_of(real, await new_key(real, *scopes, tenant=tenant)) as client:
        assert (await client.get("/metrics")).status_code == status


async def test_without_a_key_there_are_no_numbers(real: Real) -> None:
    async with client_of(real, None) as client:
        assert code_of(await client.get("/metrics")) == (401, "unauthenticated")


async def test_openmetrics_is_spoken_to_who_asks_for_it(real: Real) -> None:
    async with client_of(real, await new_key(real, Scope.METRICS_READ)) as client:
        answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_the_operators_tenant_is_where_the_first_key_is(real: Real) -> None:
    first = real.container.first_key
    assert first is not None
    assert first.key.owner.tenant == TenantId("default")
