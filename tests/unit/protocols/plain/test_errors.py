import pytest

from roadworthy.domain.run import RunResult, RunStatus
from roadworthy.protocols.plain.errors import outcome_problem
from tests.support.web.fakes import failed, make_run


@pytest.mark.parametrize(
    ("status", "code", "answer"),
    [
        (RunStatus.CANCELLED, "cancelled", 409),
        (RunStatus.CANCELLED, "superseded", 409),
        (RunStatus.CANCELLED, "disconnected", 409),
        (RunStatus.TIMEOUT, "timeout", 504),
        (RunStatus.ERROR, "budget_exceeded", 402),
        (RunStatus.ERROR, "price_unknown", 402),
        (RunStatus.ERROR, "provider_unavailable", 502),
        (RunStatus.ERROR, "storage", 503),
        (RunStatus.ERROR, "storage_full", 507),
        (RunStatus.ERROR, "agent_failed", 500),
        (RunStatus.ERROR, "limit_reached", 500),
        (RunStatus.ERROR, "needs_review", 500),
        (RunStatus.ERROR, "poisoned", 500),
        (RunStatus.ERROR, "some_later_code", 500),
    ],
)
def test_a_run_without_an_answer_is_a_problem_that_holds_it(status: RunStatus, code: str, answer: int) -> None:
    run = make_run(status=status, result=failed(code, "why"))
    problem = outcome_problem(run)
    assert problem is not None
    assert (problem.status, problem.code, problem.detail) == (answer, code, "why")
    assert problem.more["run"]["run_id"] == run.run_id  # type: ignore[index]
    assert ("Retry-After" in problem.headers) == (answer == 503)


@pytest.mark.parametrize("status", [RunStatus.SUCCESS, RunStatus.INTERRUPTED])
def test_an_answer_or_a_question_is_no_problem(status: RunStatus) -> None:
    assert outcome_problem(make_run(status=status)) is None


def test_a_run_without_a_reason_still_has_a_code() -> None:
    problem = outcome_problem(make_run(status=RunStatus.TIMEOUT, result=RunResult()))
    assert problem is not None
    assert (problem.status, problem.code) == (504, "timeout")
