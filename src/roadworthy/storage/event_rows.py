"""Events as rows: a stable type name and a JSON body with the fields of ``domain/event.py``.

Used by ``event_log.py`` and ``queue.py``. The terminal event has no row: it is derived from the run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime

from roadworthy.domain.event import (
    AttemptStarted,
    ContentDelta,
    ContentRetracted,
    CustomData,
    Event,
    EventId,
    InterruptRaised,
    RunEvent,
    RunStarted,
    ToolCallFinished,
    ToolCallStarted,
    UsageReported,
)
from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.storage import json_text
from roadworthy.storage.documents import Document, interrupts_from, read, usage_from
from roadworthy.storage.transaction import Param, Row


def _usage_reported(document: Document) -> UsageReported:
    call = document["call"]
    return UsageReported(
        call=ModelCall(
            call_id=call["call_id"],
            node=call["node"],
            provider=call["provider"],
            model=call["model"],
            tokens=Tokens(**call["tokens"]),
            estimated=call["estimated"],
            outcome=call["outcome"],
            started_at=datetime.fromisoformat(call["started_at"]),
            finished_at=datetime.fromisoformat(call["finished_at"]),
            cost_nanos=call.get("cost_nanos"),
            price_version=call.get("price_version", ""),
            journalled=call.get("journalled", True),
            message_id=call.get("message_id", ""),
        ),
        total=usage_from(document["total"]),
    )


_TYPES: Mapping[type[RunEvent], str] = {
    RunStarted: "run",
    AttemptStarted: "attempt",
    ContentDelta: "content",
    ContentRetracted: "retract",
    ToolCallStarted: "tool_call",
    ToolCallFinished: "tool_result",
    CustomData: "custom",
    UsageReported: "usage",
    InterruptRaised: "interrupt",
}
_READERS: Mapping[str, Callable[[Document], RunEvent]] = {
    "run": lambda document: RunStarted(**document),
    "attempt": lambda document: AttemptStarted(**document),
    "content": lambda document: ContentDelta(**document),
    "retract": lambda document: ContentRetracted(**document),
    "tool_call": lambda document: ToolCallStarted(**document),
    "tool_result": lambda document: ToolCallFinished(**document),
    "custom": lambda document: CustomData(**document),
    "usage": _usage_reported,
    "interrupt": lambda document: InterruptRaised(interrupts=interrupts_from(document["interrupts"])),
}


# In the place of an event that no encoder takes: the run's other events, and other runs', must not be lost with it.
_UNSTORABLE = CustomData(data={"error": "this event could not be stored"})


def event_rows(run_seq: int, events: Sequence[Event]) -> Iterator[Sequence[Param]]:
    """Rows of the events table, columns in its order."""
    for event in events:
        body = event.body
        try:
            text = json_text.dumps(body)
        except (TypeError, ValueError, RecursionError):
            body = _UNSTORABLE
            text = json_text.dumps(body)
        yield run_seq, event.id.attempt, event.id.n, _TYPES[type(body)], text


def event_from(ord_: int, row: Row) -> Event:
    """The event of a row ``(attempt, n, type, body)`` of the thread's run number ``ord_``."""
    attempt, n, type_, body = row
    return Event(id=EventId(ord_, attempt, n), body=_READERS[type_](read(body)))
