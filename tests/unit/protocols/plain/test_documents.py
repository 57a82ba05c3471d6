from datetime import timedelta

from roadworthy.domain.run import InputKind, Interrupt, RunError, RunRequest, RunResult, RunStatus, ToolCall
from roadworthy.http.encoding import to_json
from roadworthy.protocols.plain import wire
from roadworthy.protocols.plain.documents import agent_json, run_json
from tests.support.web.fakes import DEMO, MOMENT, make_run


def test_a_run_is_written_as_documented_with_all_that_it_left() -> None:
    run = make_run(
        status=RunStatus.ERROR,
        attempt=2,
        request=RunRequest(kind=InputKind.INPUT, payload=None, metadata={"ticket": 5}),
        started_at=MOMENT + timedelta(milliseconds=250),
        finished_at=MOMENT + timedelta(seconds=2),
        result=RunResult(
            response="partial",
            output={"messages": []},
            structured_response={"n": 1},
            tool_calls=[ToolCall(id="c", name="search", args={"q": "x"}, error="failed", duration_ms=7)],
            interrupts=[Interrupt(id="i", value="sure?")],
            error=RunError(code="agent_failed", message="it raised"),
        ),
    )
    document = wire.Run.model_validate_json(to_json(run_json(run)))
    assert (document.queue_ms, document.duration_ms) == (250, 1750)
    assert document.metadata == {"ticket": 5}
    assert document.error == wire.RunError(code="agent_failed", message="it raised")
    assert document.tool_calls[0].error == "failed"
    assert document.cost_usd is None
    assert document.created_at == MOMENT


def test_a_run_that_waits_has_no_times_yet() -> None:
    document = wire.Run.model_validate_json(to_json(run_json(make_run())))
    assert (document.started_at, document.queue_ms, document.duration_ms) == (None, None, None)


def test_a_run_that_never_began_spent_its_time_waiting() -> None:
    run = make_run(status=RunStatus.CANCELLED, finished_at=MOMENT + timedelta(seconds=3))
    document = wire.Run.model_validate_json(to_json(run_json(run)))
    assert (document.queue_ms, document.duration_ms) == (3000, None)


def test_an_agent_tells_what_it_takes() -> None:
    assert wire.Agent.model_validate_json(to_json(agent_json(DEMO))).accepts_message is True
