from collections.abc import Iterator, MutableMapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from roadworthy.domain.errors import BudgetExceeded, LimitReached, PriceUnknown, RoadworthyError
from roadworthy.domain.ids import AgentName, RunId, TenantId, ThreadId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import InputKind, Run, RunError, RunRequest, RunResult, RunStatus, ToolCall
from roadworthy.domain.usage import Tokens, Usage
from roadworthy.telemetry.run_log import RunLog

T0 = datetime(2026, 1, 1, tzinfo=UTC)
MESSAGE = "my very private question"
RUN = Run(
    run_id=RunId("a" * 32),
    owner=Owner(tenant=TenantId("acme"), user=UserId("ann")),
    thread_id=ThreadId("t-1"),
    ord=1,
    agent=AgentName("demo"),
    request=RunRequest(
        kind=InputKind.INPUT, payload={"messages": [{"role": "user", "content": MESSAGE}]}, message_length=24
    ),
    request_id="req-1",
    key_id=None,
    status=RunStatus.SUCCESS,
    attempt=1,
    created_at=T0,
    deadline_at=T0 + timedelta(seconds=120),
    started_at=T0 + timedelta(milliseconds=40),
    finished_at=T0 + timedelta(milliseconds=1540),
    result=RunResult(
        response="a very private answer",
        tool_calls=[ToolCall(id="c1", name="search", args={"q": MESSAGE})],
        usage=Usage(model_calls=2, tokens=Tokens(input=100, output=20), estimated=True, cost_nanos=4_200_000),
        first_token_at=T0 + timedelta(milliseconds=340),
    ),
)


@pytest.fixture
def records() -> Iterator[list[MutableMapping[str, Any]]]:
    structlog.reset_defaults()
    with capture_logs() as captured:
        yield captured


def test_a_finished_run_leaves_one_record_with_all_that_an_operator_asks_for(records: list[dict[str, Any]]) -> None:
    RunLog().run_finished(RUN)
    assert records == [
        {
            "event": "run_finished",
            "log_level": "info",
            "request_id": "req-1",
            "run_id": "a" * 32,
            "thread_id": "t-1",
            "tenant": "acme",
            "user": "ann",
            "agent": "demo",
            "status": "success",
            "code": None,
            "attempt": 1,
            "message_length": 24,
            "queue_ms": 40,
            "duration_ms": 1500,
            "ttft_ms": 340,
            "tool_calls": 1,
            "model_calls": 2,
            "input_tokens": 100,
            "output_tokens": 20,
            "estimated": True,
            "cost_usd": 0.0042,
            "unpriced": 0,
            "unjournalled_calls": 0,
        }
    ]


def test_a_cost_that_is_not_wholly_known_is_not_told_as_one(records: list[dict[str, Any]]) -> None:
    usage = Usage(model_calls=2, cost_nanos=4_200_000, unpriced=1)
    RunLog().run_finished(replace(RUN, result=replace(RUN.result, usage=usage)))
    assert [(record["cost_usd"], record["unpriced"]) for record in records] == [(None, 1)]


@pytest.mark.parametrize("status", [RunStatus.ERROR, RunStatus.TIMEOUT])
def test_a_failed_run_is_a_warning_with_its_code(records: list[dict[str, Any]], status: RunStatus) -> None:
    error = RunError(code="provider_unavailable", message="the provider is down")
    RunLog().run_finished(replace(RUN, status=status, result=replace(RUN.result, error=error)))
    assert [(r["log_level"], r["status"], r["code"]) for r in records] == [
        ("warning", status.value, "provider_unavailable")
    ]


def test_a_run_that_never_started_only_waited(records: list[dict[str, Any]]) -> None:
    RunLog().run_finished(
        replace(RUN, status=RunStatus.CANCELLED, started_at=None, attempt=0, result=RunResult(error=None))
    )
    (record,) = records
    assert (record["queue_ms"], record["duration_ms"], record["ttft_ms"]) == (1540, 0, None)


def test_no_record_holds_the_text_of_a_message(records: list[dict[str, Any]]) -> None:
    log = RunLog()
    log.run_finished(RUN)
    log.attempt_failed(RUN, ValueError(f"cannot answer {MESSAGE!r}"))
    assert "private" not in str(records)


def test_a_failed_attempt_keeps_the_whole_chain_of_its_causes(records: list[dict[str, Any]]) -> None:
    def agent() -> None:
        raise KeyError("weather")

    error: BaseException | None = None
    try:
        try:
            agent()
        except KeyError as cause:
            raise RuntimeError("the agent raised") from cause
    except RuntimeError as caught:
        error = caught
    assert error is not None
    RunLog().attempt_failed(RUN, error)
    (record,) = records
    assert (record["event"], record["error_type"], record["attempt"]) == ("attempt_failed", "RuntimeError", 1)
    assert "KeyError: 'weather'" in record["exception"]
    assert "in agent" in record["exception"]


@pytest.mark.parametrize(
    "error", [BudgetExceeded("it is used up"), PriceUnknown("nobody knows"), LimitReached("20 model calls")]
)
def test_an_attempt_that_reached_a_limit_is_told_without_a_traceback(
    records: list[dict[str, Any]], error: RoadworthyError
) -> None:
    RunLog().attempt_failed(RUN, error)
    (record,) = records
    assert (record["event"], record["log_level"], record["run_id"]) == ("attempt_stopped", "info", RUN.run_id)
    assert (record["code"], record["reason"]) == (error.code, error.message)
    assert "exception" not in record


def test_an_endless_traceback_is_cut_in_the_middle(records: list[dict[str, Any]]) -> None:
    RunLog().attempt_failed(RUN, ValueError("x" * 100_000))
    (record,) = records
    assert "[cut]" in record["exception"]
    assert len(record["exception"]) < 21_000


def test_a_note_of_the_worker_is_written_as_it_is(records: list[dict[str, Any]]) -> None:
    RunLog().worker_note("runs_recovered", count=3)
    assert records == [{"event": "runs_recovered", "count": 3, "log_level": "info"}]
