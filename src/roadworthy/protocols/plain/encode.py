"""Event → JSON → frame of a stream. ``wire_events.py`` describes what is written here.

Called for every token by ``stream.py``, so it builds plain dicts and lets orjson write them.
"""

from typing import TypeAlias, assert_never

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
from roadworthy.domain.run import Run
from roadworthy.http.encoding import to_json
from roadworthy.http.sse import frame
from roadworthy.protocols.plain.documents import Json, cost_json, model_call_json, usage_json

Lifecycle: TypeAlias = RunStarted | AttemptStarted | ContentRetracted | InterruptRaised


def event_frame(event_id: EventId, body: RunEvent) -> bytes:
    """The frame of any event but RunEnded, which ``ending_frames`` writes."""
    return _frame(str(event_id), _document(body))


def opening_frame(run: Run) -> tuple[EventId, bytes]:
    """The ``run`` event and its id. It can be told from the row, so nobody waits for a slot to learn the run's id."""
    event_id = EventId(run.ord, 1, 1)
    return event_id, event_frame(event_id, RunStarted(run_id=run.run_id, thread_id=run.thread_id, agent=run.agent))


def ending_frames(run: Run, event_id: EventId, body: RunEnded) -> list[tuple[EventId, bytes]]:
    """``error`` (when the run failed) and ``done``, each with its id. ``run`` may be older than its end.

    The first has the id of the event, the second the next number, which nothing else can have: a client that was cut
    off between the two gets just the second. A run that never had an attempt ends behind its ``run`` event.
    """
    first = event_id if event_id.attempt > 0 else EventId(run.ord, 1, 2)
    documents: list[Json] = []
    if body.error is not None:
        documents.append({"type": "error", "code": body.error.code, "message": body.error.message})
    documents.append(
        {
            "type": "done",
            "status": body.status.value,
            "run_id": run.run_id,
            "thread_id": run.thread_id,
            "usage": usage_json(body.usage),
            "cost_usd": cost_json(body.usage.known_cost_nanos),
        }
    )
    ids = [first._replace(n=first.n + offset) for offset in range(len(documents))]
    return [(one, _frame(str(one), document)) for one, document in zip(ids, documents, strict=True)]


def handover_frame(run: Run) -> bytes:
    """Says where the stream goes on. Without an id, so that the client keeps the last event's."""
    document = {"type": "handover", "run_id": run.run_id, "resume": f"/agent/runs/{run.run_id}/stream"}
    return frame(to_json(document), event_id=None)


def _frame(event_id: str, document: Json) -> bytes:
    return frame(to_json({"id": event_id, **document}), event_id=event_id)


def _document(body: RunEvent) -> Json:
    match body:
        case ContentDelta():
            return {"type": "content", "message_id": body.message_id, "content": body.text, "node": body.node}
        case ToolCallStarted():
            return {"type": "tool_call", "tool_call_id": body.id, "name": body.name, "args": body.args}
        case ToolCallFinished():
            return _tool_result(body)
        case CustomData():
            return {"type": "custom", "data": body.data}
        case UsageReported():
            return {"type": "usage", "call": model_call_json(body.call), "total": usage_json(body.total)}
        case RunEnded():
            raise ValueError("a run's end has frames of its own")
        case _:
            return _lifecycle(body)


def _lifecycle(body: Lifecycle) -> Json:
    match body:
        case RunStarted():
            return {"type": "run", "run_id": body.run_id, "thread_id": body.thread_id, "agent": body.agent}
        case AttemptStarted():
            return {"type": "attempt", "attempt": body.attempt, "last_valid": body.last_valid}
        case ContentRetracted():
            return {"type": "retract", "message_id": body.message_id}
        case InterruptRaised():
            return {"type": "interrupt", "interrupts": [{"id": one.id, "value": one.value} for one in body.interrupts]}
        case _:
            assert_never(body)


def _tool_result(body: ToolCallFinished) -> Json:
    return {
        "type": "tool_result",
        "tool_call_id": body.id,
        "name": body.name,
        "result": body.result,
        "error": body.error,
        "duration_ms": body.duration_ms,
    }
