from datetime import timedelta

from roadworthy.domain.run import InputKind, Interrupt, RunError, RunRequest, RunResult, RunStatus, ToolCall
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.http.encoding import to_json
from roadworthy.protocols.plain import wire
from roadworthy.protocols.plain.documents import agent_json, model_call_json, run_json
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
            usage=Usage(model_calls=2, tokens=Tokens(input=9, cache_write_1h=3), cost_nanos=1_500_000),
        ),
    )
    document = wire.Run.model_validate_json(to_json(run_json(run)))
    assert (document.queue_ms, document.duration_ms) == (250, 1750)
    assert document.metadata == {"ticket": 5}
    assert document.error == wire.RunError(code="agent_failed", message="it raised")
    assert document.tool_calls[0].error == "failed"
    assert (document.cost_usd, document.usage.cost_usd, document.usage.unpriced_calls) == (0.0015, 0.0015, 0)
    assert document.usage.cache_write_1h_tokens == 3
    assert document.created_at == MOMENT


def test_a_cost_that_is_not_wholly_known_is_null() -> None:
    result = RunResult(usage=Usage(model_calls=2, cost_nanos=1_500_000, unpriced=1))
    document = wire.Run.model_validate_json(to_json(run_json(make_run(result=result))))
    assert (document.cost_usd, document.usage.cost_usd, document.usage.unpriced_calls) == (None, None, 1)


def test_a_model_call_is_written_as_documented() -> None:
    call = ModelCall(
        call_id="c",
        node="model",
        provider="anthropic",
        model="claude",
        tokens=Tokens(input=10, output=3),
        estimated=True,
        outcome="lost",
        started_at=MOMENT,
        finished_at=MOMENT + timedelta(seconds=1),
        cost_nanos=7,
    )
    document = wire.ModelCall.model_validate_json(to_json(model_call_json(call)))
    assert (document.outcome, document.total_tokens, document.cost_usd) == ("lost", 13, 7e-9)
    assert document.finished_at - document.started_at == timedelta(seconds=1)


def test_a_run_that_waits_has_no_times_yet() -> None:
    document = wire.Run.model_validate_json(to_json(run_json(make_run())))
    assert (document.started_at, document.queue_ms, document.duration_ms) == (None, None, None)


def test_a_run_that_never_began_spent_its_time_waiting() -> None:
    run = make_run(status=RunStatus.CANCELLED, finished_at=MOMENT + timedelta(seconds=3))
    document = wire.Run.model_validate_json(to_json(run_json(run)))
    assert (document.queue_ms, document.duration_ms) == (3000, None)


def test_an_agent_tells_what_it_takes() -> None:
    assert wire.Agent.model_validate_json(to_json(agent_json(DEMO))).accepts_message is True
