import json
from dataclasses import replace
from datetime import timedelta
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter

from roadworthy.domain.event import (
    AttemptStarted,
    ContentDelta,
    ContentRetracted,
    CustomData,
    EventId,
    InterruptRaised,
    RunEnded,
    RunEvent,
    RunStarted,
    ToolCallFinished,
    ToolCallStarted,
    UsageReported,
)
from roadworthy.domain.ids import AgentName, RunId, ThreadId
from roadworthy.domain.run import Interrupt, RunError, RunStatus
from roadworthy.domain.usage import ModelCall, Tokens, Usage
from roadworthy.protocols.plain.documents import usage_json
from roadworthy.protocols.plain.encode import ending_frames, event_frame, handover_frame, opening_frame
from roadworthy.protocols.plain.wire_events import StreamEvent
from tests.support.web.fakes import MOMENT, make_run

CALL = ModelCall(
    call_id="c",
    node="model",
    provider="anthropic",
    model="claude",
    tokens=Tokens(input=10, output=3, cache_read=2, cache_write=5, cache_write_1h=4),
    estimated=True,
    outcome="cancelled",
    started_at=MOMENT,
    finished_at=MOMENT + timedelta(seconds=1),
    cost_nanos=4_200_000,
    price_version="today",
)
SAMPLES: list[tuple[RunEvent, dict[str, Any]]] = [
    (
        RunStarted(run_id=RunId("r"), thread_id=ThreadId("t"), agent=AgentName("demo")),
        {"type": "run", "run_id": "r", "thread_id": "t", "agent": "demo"},
    ),
    (AttemptStarted(attempt=2, last_valid=None), {"type": "attempt", "attempt": 2, "last_valid": None}),
    (
        ContentDelta(message_id="m", text="line\nbreak", node="model"),
        {"type": "content", "message_id": "m", "content": "line\nbreak", "node": "model"},
    ),
    (ContentRetracted(message_id="m"), {"type": "retract", "message_id": "m"}),
    (
        ToolCallStarted(id="c", name="search", args={"q": "x"}),
        {"type": "tool_call", "tool_call_id": "c", "name": "search", "args": {"q": "x"}},
    ),
    (
        ToolCallFinished(id="c", name="search", result=["a"], error=None, duration_ms=5),
        {
            "type": "tool_result",
            "tool_call_id": "c",
            "name": "search",
            "result": ["a"],
            "error": None,
            "duration_ms": 5,
        },
    ),
    (CustomData(data={"done": 0.5}), {"type": "custom", "data": {"done": 0.5}}),
    (
        InterruptRaised(interrupts=(Interrupt(id="i", value="sure?"),)),
        {"type": "interrupt", "interrupts": [{"id": "i", "value": "sure?"}]},
    ),
]


def data_of(frame: bytes) -> dict[str, Any]:
    *_, line = frame.decode().removesuffix("\n\n").split("\n")
    return json.loads(line.removeprefix("data: "))


def documented(document: dict[str, Any]) -> bool:
    events = TypeAdapter[StreamEvent](StreamEvent)
    return events.validate_json(json.dumps(document), strict=True).type == document["type"]


@pytest.mark.parametrize(("body", "expected"), SAMPLES, ids=lambda value: type(value).__name__)
def test_an_event_is_written_as_documented(body: RunEvent, expected: dict[str, Any]) -> None:
    frame = event_frame(EventId(3, 2, 1), body)
    assert frame.startswith(b"id: 3-2-1\ndata: {")
    assert frame.count(b"\n") == 3, "a line break inside of the data would end it"
    assert data_of(frame) == {"id": "3-2-1", **expected}
    assert documented(data_of(frame))


def test_usage_tells_the_call_and_the_sum() -> None:
    total = Usage().plus([CALL, CALL])
    document = data_of(event_frame(EventId(1, 1, 2), UsageReported(call=CALL, total=total)))
    assert documented(document)
    assert document["call"]["model"] == "claude"
    assert document["call"]["total_tokens"] == 13
    assert document["total"]["model_calls"] == 2
    assert document["total"]["input_tokens"] == 20
    assert document["total"]["estimated"] is True
    assert (document["call"]["cost_usd"], document["total"]["cost_usd"]) == (0.0042, 0.0084)
    assert (document["call"]["cache_write_1h_tokens"], document["total"]["cache_write_1h_tokens"]) == (4, 8)


def test_a_cost_is_null_when_the_price_of_a_part_is_not_known() -> None:
    unpriced = replace(CALL, cost_nanos=None)
    total = Usage().plus([CALL, unpriced])
    usage = data_of(event_frame(EventId(1, 1, 2), UsageReported(call=unpriced, total=total)))
    assert (usage["call"]["cost_usd"], usage["total"]["cost_usd"], usage["total"]["unpriced_calls"]) == (None, None, 1)
    ((_, frame),) = ending_frames(
        make_run(attempt=1), EventId(1, 1, 9), RunEnded(status=RunStatus.SUCCESS, error=None, usage=total)
    )
    done = data_of(frame)
    assert (done["cost_usd"], done["usage"]["unpriced_calls"], done["usage"]["model_calls"]) == (None, 1, 2)
    assert documented(usage)
    assert documented(done)


def test_no_kind_of_event_is_forgotten() -> None:
    written = {type(body) for body, _ in SAMPLES} | {UsageReported, RunEnded}
    assert written == set(get_args(RunEvent))


def test_a_run_that_did_well_ends_with_done_alone() -> None:
    run = make_run(attempt=1)
    ended = RunEnded(status=RunStatus.SUCCESS, error=None, usage=Usage().plus([CALL]))
    ((position, frame),) = ending_frames(run, EventId(1, 1, 9), ended)
    assert position == EventId(1, 1, 9)
    assert data_of(frame) == {
        "id": "1-1-9",
        "type": "done",
        "status": "success",
        "run_id": run.run_id,
        "thread_id": "t",
        "usage": usage_json(ended.usage),
        "cost_usd": 0.0042,
    }
    assert documented(data_of(frame))


def test_a_run_that_failed_says_why_before_it_is_done() -> None:
    ended = RunEnded(status=RunStatus.TIMEOUT, error=RunError(code="timeout", message="too long"))
    (first, error), (second, done) = ending_frames(make_run(attempt=1), EventId(1, 1, 9), ended)
    assert (first, second) == (EventId(1, 1, 9), EventId(1, 1, 10))
    assert data_of(error) == {"id": "1-1-9", "type": "error", "code": "timeout", "message": "too long"}
    assert data_of(done)["status"] == "timeout"
    assert documented(data_of(error))


def test_a_stream_says_which_budget_ended_the_run() -> None:
    why = RunError(code="budget_exceeded", message="the daily budget of this user is used up: $5.02 of $5.00")
    (_, error), (_, done) = ending_frames(
        make_run(attempt=1), EventId(1, 1, 9), RunEnded(status=RunStatus.ERROR, error=why)
    )
    assert (data_of(error)["code"], data_of(error)["message"]) == (why.code, why.message)
    assert data_of(done)["status"] == "error"


def test_a_run_that_never_began_ends_behind_its_opening() -> None:
    run = make_run(status=RunStatus.CANCELLED)
    opening, _ = opening_frame(run)
    ((position, _),) = ending_frames(run, EventId(1, 0, 1), RunEnded(status=RunStatus.CANCELLED, error=None))
    assert position > opening


def test_a_handover_leaves_the_clients_position_alone() -> None:
    run = make_run()
    frame = handover_frame(run)
    assert frame.startswith(b"data: ")
    assert data_of(frame) == {
        "type": "handover",
        "run_id": run.run_id,
        "resume": f"/agent/runs/{run.run_id}/stream",
    }
    assert documented(data_of(frame))
