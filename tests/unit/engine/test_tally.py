"""What a run's events add up to."""

from datetime import UTC, datetime

import pytest

from roadworthy.domain.event import (
    ContentDelta,
    ContentRetracted,
    Event,
    EventId,
    RunEvent,
    ToolCallFinished,
    ToolCallStarted,
)
from roadworthy.domain.run import RunError, ToolCall
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.engine.tally import Tally, left_behind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = datetime(2026, 1, 2, tzinfo=UTC)


def call(number: int, *, estimated: bool = False) -> ModelCall:
    return ModelCall(
        call_id=str(number),
        node="model",
        provider="p",
        model="m",
        tokens=Tokens(input=10, output=number),
        estimated=estimated,
        outcome="complete",
        started_at=NOW,
        finished_at=NOW,
    )


def started(tool: str) -> ToolCallStarted:
    return ToolCallStarted(id=tool, name=tool, args={"a": 1})


def finished(tool: str) -> ToolCallFinished:
    return ToolCallFinished(id=tool, name=tool, result="r", error=None, duration_ms=3)


def numbered(*bodies: RunEvent) -> list[Event]:
    return [Event(id=EventId(1, 1, n), body=body) for n, body in enumerate(bodies, 1)]


def test_a_partial_response_is_the_last_message_that_was_not_retracted() -> None:
    tally = Tally()
    for message, text in [("a", "one "), ("a", "more"), ("b", "void")]:
        tally.add(ContentDelta(message_id=message, text=text), NOW)
    tally.add(ContentRetracted(message_id="b"))
    assert tally.result().response == "one more"


def test_the_first_token_keeps_its_time() -> None:
    tally = Tally()
    tally.add(ContentDelta(message_id="a", text="x"), NOW)
    tally.add(ContentDelta(message_id="a", text="y"), LATER)
    assert tally.result().first_token_at == NOW


def test_a_running_tool_is_counted_until_it_ends() -> None:
    tally = Tally()
    tally.add(started("t"))
    assert tally.tools_running == 1
    tally.add(finished("t"))
    assert tally.tools_running == 0
    assert tally.result().tool_calls == (ToolCall(id="t", name="t", args={"a": 1}, result="r", duration_ms=3),)


def test_a_later_attempt_takes_over_finished_tools_and_paid_calls_but_no_cut_off_tool() -> None:
    tally = Tally()
    tally.inherit(numbered(started("t"), finished("t"), started("cut")), [call(1), call(2, estimated=True)], [])
    result = tally.result()
    assert [one.id for one in result.tool_calls] == ["t"]
    assert tally.tools_running == 0
    assert tally.tool_calls == 1
    assert (result.usage.model_calls, result.usage.tokens.total, result.usage.estimated) == (2, 23, True)


def test_a_tool_of_which_the_log_missed_the_end_or_everything_is_taken_from_what_the_runtime_keeps() -> None:
    tally = Tally()
    kept = [ToolCall(id=id_, name=id_, args={}, result="kept", duration_ms=1) for id_ in ("whole", "half", "none")]
    tally.inherit(numbered(started("whole"), finished("whole"), started("half"), started("cut")), [], kept)
    result = tally.result()
    assert [(one.id, one.result) for one in result.tool_calls] == [("whole", "r"), ("half", "kept"), ("none", "kept")]
    assert (tally.tool_calls, tally.tools_running) == (3, 0)


@pytest.mark.parametrize("crashed", [True, False])
def test_what_a_crash_left_behind_is_marked_as_an_estimate(*, crashed: bool) -> None:
    error = RunError(code="poisoned", message="m")
    result = left_behind([], [call(1)], [], error, crashed=crashed)
    assert (result.usage.model_calls, result.usage.estimated) == (1, crashed)
    assert result.error == error


def test_a_tool_that_a_node_starts_again_runs_once() -> None:
    tally = Tally()
    tally.add(started("t"))
    tally.add(started("t"))
    tally.add(started("u"))
    assert tally.tools_running == 2
    tally.add(finished("t"))
    tally.add(finished("t"))
    assert tally.tools_running == 1


def test_a_final_response_wins_over_the_partial_text() -> None:
    tally = Tally()
    tally.add(ContentDelta(message_id="a", text="partial"))
    assert tally.result(response="").response == ""
    assert tally.result().response == "partial"
