"""Reviews in the plain API: shown with the run and in its problem, resolved by a body with one answer."""

from typing import Any

import pytest

from roadworthy.domain.review import RecordResult, RunAgain, ToolReview
from roadworthy.domain.run import Run, RunError
from roadworthy.protocols.plain import wire
from tests.support.web.calls import calling
from tests.support.web.fakes import MOMENT, Fakes, RunResult, RunStatus, make_run

STOPPED = RunResult(error=RunError(code="needs_review", message="say whether it took effect"))
SHOWN = {"tool_call_id": "c1", "name": "pay", "args": {"amount": 7}, "started_at": "2026-01-02T03:04:05Z"}


@pytest.fixture
def fakes() -> Fakes:
    return Fakes()


def parked(fakes: Fakes) -> Run:
    """A run that waits for one review."""
    run = make_run(status=RunStatus.ERROR, result=STOPPED)
    fakes.runs.put(run)
    fakes.runs.open_reviews.append(
        ToolReview(run_id=run.run_id, tool_call_id="c1", name="pay", args={"amount": 7}, started_at=MOMENT)
    )
    return run


async def test_a_run_shows_the_reviews_that_it_waits_for(fakes: Fakes) -> None:
    run = parked(fakes)
    async with calling(fakes) as client:
        answer = await client.get(f"/agent/runs/{run.run_id}")
    wire.RunDetail.model_validate_json(answer.content)
    assert answer.json()["reviews"] == [SHOWN]


async def test_the_problem_of_an_invoke_names_the_reviews(fakes: Fakes) -> None:
    fakes.runs.answer = (RunStatus.ERROR, STOPPED)
    async with calling(fakes) as client:
        answer = await client.post("/agent/invoke", json={"message": "hi"})
    assert (answer.status_code, answer.json()["code"]) == (500, "needs_review")
    wire.RunDetail.model_validate(answer.json()["run"])
    assert answer.json()["run"]["reviews"] == []


@pytest.mark.parametrize(
    ("body", "resolution"),
    [
        ({"result": "paid"}, RecordResult(result="paid")),
        ({"result": None, "run_again": False}, RecordResult(result=None)),
        ({"run_again": True}, RunAgain()),
    ],
)
async def test_a_review_is_resolved_with_one_answer(fakes: Fakes, body: Any, resolution: Any) -> None:
    run = parked(fakes)
    async with calling(fakes) as client:
        answer = await client.post(f"/agent/runs/{run.run_id}/resolve", json={"tool_call_id": "c1", **body})
    assert (answer.status_code, answer.json()["reviews"]) == (200, [])
    assert fakes.runs.resolutions == [resolution]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tool_call_id": "c1"},
        {"tool_call_id": "c1", "run_again": False},
        {"tool_call_id": "c1", "result": "paid", "run_again": True},
        {"tool_call_id": "", "run_again": True},
        {"result": "paid"},
    ],
)
async def test_a_resolution_that_says_nothing_or_two_things_is_refused(fakes: Fakes, body: Any) -> None:
    run = parked(fakes)
    async with calling(fakes) as client:
        answer = await client.post(f"/agent/runs/{run.run_id}/resolve", json=body)
    assert answer.status_code == 422, answer.text
    assert fakes.runs.resolutions == []


async def test_a_call_that_is_in_no_review_is_not_found(fakes: Fakes) -> None:
    run = parked(fakes)
    async with calling(fakes) as client:
        answer = await client.post(f"/agent/runs/{run.run_id}/resolve", json={"tool_call_id": "c2", "run_again": True})
    assert answer.status_code == 404
