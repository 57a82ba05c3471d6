"""What callers see of rates, budgets and costs."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from roadworthy.domain.errors import BudgetExceeded, RateLimited, SpentBudget
from roadworthy.domain.rate_status import RateStatus
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.http.usage_report import UsageReport
from roadworthy.ports.ledger import UsageRow
from roadworthy.protocols.plain import wire
from tests.support.web.calls import calling
from tests.support.web.fakes import MOMENT, Fakes, RunResult, RunStatus, failed, make_run

ASK = {"message": "hi"}
RATE = RateStatus(
    policy="requests-per-key", limit=60, window=timedelta(minutes=1), remaining=59, resets_in=timedelta(seconds=60)
)
RATE_HEADERS = ('"requests-per-key";q=60;w=60', '"requests-per-key";r=59;t=60')


@pytest.fixture
def fakes() -> Fakes:
    fakes = Fakes()
    fakes.runs.answer = (RunStatus.SUCCESS, RunResult(response="ho"))
    return fakes


def rates_of(answer: httpx.Response) -> tuple[str | None, str | None]:
    return answer.headers.get("ratelimit-policy"), answer.headers.get("ratelimit")


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (RunStatus.SUCCESS, RunResult()),
        (RunStatus.ERROR, failed("agent_failed")),
        (RunStatus.TIMEOUT, failed("timeout")),
    ],
)
@pytest.mark.parametrize("path", ["/agent/invoke", "/agent/stream"])
async def test_a_run_that_was_accepted_tells_how_the_limits_stand_whatever_becomes_of_it(
    fakes: Fakes, path: str, status: RunStatus, result: RunResult
) -> None:
    fakes.runs.answer = (status, result)
    fakes.runs.rates = [RATE]
    async with calling(fakes) as client:
        answer = await client.post(path, json=ASK, headers={"Idempotency-Key": "k"})
        joined = await client.post(path, json=ASK, headers={"Idempotency-Key": "k"})
    assert rates_of(answer) == rates_of(joined) == RATE_HEADERS


@pytest.mark.parametrize("accept", ["application/json", "text/event-stream"])
async def test_resume_tells_how_the_limits_stand_too(fakes: Fakes, accept: str) -> None:
    asked = make_run(status=RunStatus.INTERRUPTED)
    fakes.runs.put(asked)
    fakes.runs.rates = [RATE]
    async with calling(fakes) as client:
        answer = await client.post(f"/agent/runs/{asked.run_id}/resume", headers={"Accept": accept})
        seen = await client.get(f"/agent/runs/{asked.run_id}")
    assert answer.headers["content-type"].startswith(accept)
    assert rates_of(answer) == RATE_HEADERS
    assert rates_of(seen) == (None, None)


async def test_without_limits_no_header_tells_of_them(fakes: Fakes) -> None:
    async with calling(fakes) as client:
        assert rates_of(await client.post("/agent/invoke", json=ASK)) == (None, None)


async def test_a_request_over_its_limit_is_told_when_to_come_back(fakes: Fakes) -> None:
    full = replace(RATE, remaining=0, resets_in=timedelta(seconds=3.5))
    fakes.runs.refusal = RateLimited("too many", retry_after=full.resets_in, rates=[full])
    async with calling(fakes) as client:
        answer = await client.post("/agent/invoke", json=ASK)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert (answer.headers["retry-after"], answer.headers["ratelimit"]) == ("4", '"requests-per-key";r=0;t=4')


async def test_a_spent_budget_is_a_problem_that_says_which_one(fakes: Fakes) -> None:
    spent = SpentBudget(scope="user", window="day", allowed_nanos=10**9, spent_nanos=2 * 10**9, resets_at=MOMENT)
    fakes.runs.refusal = BudgetExceeded("used up", spent=spent)
    async with calling(fakes) as client:
        answer = await client.post("/agent/stream", json=ASK)
    assert (answer.status_code, answer.json()["code"], "retry-after" in answer.headers) == (
        402,
        "budget_exceeded",
        False,
    )
    assert answer.json()["budget"] == {
        "scope": "user",
        "window": "day",
        "limit_usd": 1.0,
        "spent_usd": 2.0,
        "resets_at": "2026-01-02T03:04:05Z",
    }


async def test_model_calls_are_shown_when_they_are_asked_for(fakes: Fakes) -> None:
    fakes.runs.model_calls = [
        ModelCall(
            call_id="c",
            node="model",
            provider="anthropic",
            model="claude",
            tokens=Tokens(input=10, output=3),
            estimated=False,
            outcome="complete",
            started_at=MOMENT,
            finished_at=MOMENT,
            cost_nanos=4_200_000,
        )
    ]
    run = make_run(status=RunStatus.SUCCESS)
    fakes.runs.put(run)
    async with calling(fakes) as client:
        without = await client.get(f"/agent/runs/{run.run_id}")
        answer = await client.get(f"/agent/runs/{run.run_id}?include=model_calls")
        strange = await client.get(f"/agent/runs/{run.run_id}?include=secrets")
        unknown = await client.get(f"/agent/runs/{'0' * 32}?include=model_calls")
    assert "model_calls" not in without.json()
    (call,) = wire.RunDetail.model_validate_json(answer.content).model_calls
    assert (call.model, call.cost_usd) == ("claude", 0.0042)
    assert (strange.status_code, unknown.status_code) == (422, 404)


async def test_own_usage_is_that_of_the_caller_alone(fakes: Fakes) -> None:
    fakes.usage.rows = [UsageRow(group=("anthropic:claude",), runs=2, usage=Usage(model_calls=3, cost_nanos=10**9))]
    path = "/agent/usage?by=model&since=2026-01-01&until=2026-01-31"
    async with calling(fakes) as client:
        answer = await client.get(path)
        table = await client.get(f"{path}&format=csv")
    report = UsageReport.model_validate_json(answer.content)
    assert [(row.model, row.runs, row.cost_usd) for row in report.rows] == [("anthropic:claude", 2, 1.0)]
    assert table.text.splitlines()[1].startswith("anthropic:claude,2,3,")
    assert {query.user for query in fakes.usage.asked} == {"alice"}
    assert fakes.usage.asked[0].until == datetime(2026, 2, 1, tzinfo=UTC)


@pytest.mark.parametrize("asked", ["by=tenant", "by=day,,user", "since=yesterday", "until=2026-02-30", "format=xml"])
async def test_usage_of_something_strange_is_refused(fakes: Fakes, asked: str) -> None:
    async with calling(fakes) as client:
        answer = await client.get(f"/agent/usage?{asked}")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, asked.partition("=")[0])
    assert fakes.usage.asked == []
