from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from roadworthy.domain import errors
from roadworthy.domain.rate_status import RateStatus
from roadworthy.http.problems import MAX_FIELD_ERRORS, STATUS, problem_of, problem_response, status_of

REQUEST = Request({"type": "http", "state": {"request_id": "r1"}})


def family(kind: type[errors.RoadworthyError] = errors.RoadworthyError) -> Iterator[type[errors.RoadworthyError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def ours(kind: type[errors.RoadworthyError]) -> bool:
    return kind.__module__ == errors.__name__


EVERY = sorted({kind for kind in family() if ours(kind)}, key=lambda kind: kind.__name__)

EXPECTED = {
    "malformed_body": 400,
    "unauthenticated": 401,
    "budget_exceeded": 402,
    "price_unknown": 402,
    "permission_denied": 403,
    "not_found": 404,
    "cancelled": 409,
    "conflict": 409,
    "invalid_transition": 409,
    "thread_busy": 409,
    "agent_mismatch": 409,
    "body_too_large": 413,
    "unsupported_media_type": 415,
    "invalid_request": 422,
    "idempotency_mismatch": 422,
    "limit_exceeded": 429,
    "rate_limited": 429,
    "agent_error": 500,
    "agent_failed": 500,
    "config": 500,
    "internal": 500,
    "lease_lost": 500,
    "limit_reached": 500,
    "needs_review": 500,
    "poisoned": 500,
    "provider_unavailable": 502,
    "circuit_open": 503,
    "draining": 503,
    "queue_full": 503,
    "storage": 503,
    "unavailable": 503,
    "timeout": 504,
    "storage_full": 507,
}


def test_every_error_of_the_core_has_the_status_that_is_documented() -> None:
    assert {kind.code: status_of(kind) for kind in EVERY} == EXPECTED


def test_every_status_in_the_table_is_reached_by_some_error() -> None:
    assert {status_of(kind) for kind in EVERY} == set(STATUS.values())


@pytest.mark.parametrize("kind", EVERY)
def test_every_error_becomes_a_problem_with_its_code(kind: type[errors.RoadworthyError]) -> None:
    response = problem_response(problem_of(kind("what is wrong")), REQUEST)
    body: dict[str, Any] = orjson.loads(response.body)
    hidden = kind in (errors.LeaseLost, errors.ConfigError)
    assert response.media_type == "application/problem+json"
    assert response.status_code == body["status"] == status_of(kind)
    assert body["code"] == ("internal" if hidden else kind.code)
    assert (body["detail"] == "what is wrong") is not hidden
    assert body["type"] == f"urn:roadworthy:problem:{body['code']}"
    assert body["request_id"] == "r1"


def test_a_new_error_takes_the_status_of_its_parent() -> None:
    class Fresh(errors.ThreadBusy):
        code = "fresh"

    assert status_of(Fresh) == 409
    assert problem_of(Fresh("x")).code == "fresh"


def test_texts_of_unknown_exceptions_are_not_shown() -> None:
    problem = problem_of(ValueError("password=hunter2"))
    assert (problem.status, problem.code) == (500, "internal")
    assert "hunter2" not in problem.detail


def test_an_unauthenticated_caller_is_told_how_to_authenticate() -> None:
    assert problem_of(errors.Unauthenticated("no")).headers == {"WWW-Authenticate": "Bearer"}


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (errors.QueueFull("x", retry_after=timedelta(seconds=1.2)), "2"),
        (errors.RateLimited("x", retry_after=timedelta(milliseconds=1)), "1"),
        (errors.Draining("x"), "5"),
        (errors.RateLimited("x"), None),
    ],
)
def test_the_time_to_wait_is_told_in_whole_seconds(error: errors.RoadworthyError, seconds: str | None) -> None:
    assert problem_of(error).headers.get("Retry-After") == seconds


def test_a_rate_that_refuses_tells_how_all_limits_stand() -> None:
    rate = RateStatus(
        policy="requests-per-key",
        limit=60,
        window=timedelta(minutes=1),
        remaining=0,
        resets_in=timedelta(seconds=7.5),
    )
    refusal = errors.RateLimited("too many", retry_after=rate.resets_in, rates=[rate])
    assert problem_of(refusal).headers == {
        "Retry-After": "8",
        "RateLimit-Policy": '"requests-per-key";q=60;w=60',
        "RateLimit": '"requests-per-key";r=0;t=8',
    }


@pytest.mark.parametrize(
    ("resets_at", "told"), [(None, None), (datetime(2026, 2, 1, tzinfo=UTC), "2026-02-01T00:00:00Z")]
)
def test_a_spent_budget_tells_what_how_much_and_until_when(resets_at: datetime | None, told: str | None) -> None:
    spent = errors.SpentBudget(
        scope="user", window="month", allowed_nanos=5 * 10**9, spent_nanos=5_020_000_000, resets_at=resets_at
    )
    refusal = errors.BudgetExceeded("used up", spent=spent)
    body: dict[str, Any] = orjson.loads(problem_response(problem_of(refusal, more={"run": None}), REQUEST).body)
    assert body["budget"] == {
        "scope": "user",
        "window": "month",
        "limit_usd": 5,
        "spent_usd": 5.02,
        "resets_at": told,
    }
    assert (body["status"], body["detail"], body["run"]) == (402, "used up", None)
    assert "Retry-After" not in problem_of(refusal).headers


def test_the_field_at_fault_is_named() -> None:
    assert problem_of(errors.InvalidRequest("too long", field="message")).fields == [("message", "too long")]


def test_a_flood_of_invalid_fields_is_cut() -> None:
    many = [{"loc": ("body", f"f{n}" + "x" * 10_000), "msg": "Extra inputs", "type": "extra"} for n in range(1000)]
    problem = problem_of(RequestValidationError(many))
    assert len(problem.fields) == MAX_FIELD_ERRORS
    assert len(problem.detail) < 2000


def test_members_of_a_dialect_are_added() -> None:
    response = problem_response(problem_of(errors.Draining("x"), more={"run": {"run_id": "a"}}), REQUEST)
    assert orjson.loads(response.body)["run"] == {"run_id": "a"}


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (405, "method_not_allowed"), (418, "i'm_a_teapot")])
def test_refusals_of_the_router_are_problems_too(status: int, code: str) -> None:
    problem = problem_of(HTTPException(status, headers={"Allow": "GET"}))
    assert (problem.status, problem.code, problem.headers) == (status, code, {"Allow": "GET"})
