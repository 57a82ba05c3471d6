"""Adds up what an attempt's events amount to: the run's result so far, complete or partial.

``engine/execution.py`` feeds it; for later attempts it first takes over what earlier ones left in log, ledger
and the runtime's keeping.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

from roadworthy.domain.event import (
    ContentDelta,
    ContentRetracted,
    Event,
    InterruptRaised,
    RunEvent,
    ToolCallFinished,
    ToolCallStarted,
    UsageReported,
)
from roadworthy.domain.json import JsonValue
from roadworthy.domain.run import Interrupt, RunError, RunResult, ToolCall
from roadworthy.domain.usage import ModelCall, Usage


class Tally:
    """One per attempt. Text is kept per message, so that a retracted message leaves nothing behind."""

    def __init__(self) -> None:
        self.usage = Usage()
        self._calls: set[str] = set()
        self._running: set[str] = set()
        self._texts: dict[str, list[str]] = {}
        self._tools: dict[str, ToolCall] = {}
        self._interrupts: tuple[Interrupt, ...] = ()
        self._first_token_at: datetime | None = None

    @property
    def tools_running(self) -> int:
        """Tool calls that have started and not finished. One that a node starts again is still one."""
        return len(self._running)

    @property
    def tool_calls(self) -> int:
        """Tool calls so far."""
        return len(self._tools)

    def inherit(self, events: Sequence[Event], calls: Iterable[ModelCall], tools: Iterable[ToolCall]) -> None:
        """Take over the finished tool calls and the model calls of earlier attempts.

        ``tools``: those whose end the log may have missed. Whether a model call was journalled is in the log only.
        """
        outside: set[str] = set()
        for event in events:
            if isinstance(event.body, ToolCallStarted | ToolCallFinished):
                self.add(event.body)
            elif isinstance(event.body, UsageReported) and not event.body.call.journalled:
                outside.add(event.body.call.call_id)
        for tool in tools:
            if (told := self._tools.get(tool.id)) is None or told.duration_ms is None:
                self._tools[tool.id] = tool
        self._tools = {id_: call for id_, call in self._tools.items() if call.duration_ms is not None}
        self._running.clear()
        self.usage = Usage()
        for call in calls:
            self.count(replace(call, journalled=call.call_id not in outside))

    def knows(self, call: ModelCall) -> bool:
        """Whether the call is counted already."""
        return call.call_id in self._calls

    def add(self, body: RunEvent, moment: datetime | None = None) -> None:
        """Count one event."""
        match body:
            case ContentDelta():
                self._texts.setdefault(body.message_id, []).append(body.text)
                if self._first_token_at is None:
                    self._first_token_at = moment
            case ContentRetracted():
                self._texts.pop(body.message_id, None)
            case ToolCallStarted():
                self._tools[body.id] = ToolCall(id=body.id, name=body.name, args=body.args)
                self._running.add(body.id)
            case ToolCallFinished():
                self._finish_tool(body)
            case InterruptRaised():
                self._interrupts = body.interrupts
            case _:
                pass

    def count(self, call: ModelCall) -> Usage:
        """Count one model call; returns the new sum."""
        self._calls.add(call.call_id)
        self.usage = self.usage.plus((call,))
        return self.usage

    def result(
        self,
        *,
        error: RunError | None = None,
        response: str | None = None,
        output: JsonValue = None,
        structured_response: JsonValue = None,
    ) -> RunResult:
        """What the run amounts to. Without ``response`` the partial text of the last message stands in."""
        return RunResult(
            response=self._partial_text() if response is None else response,
            output=output,
            structured_response=structured_response,
            tool_calls=tuple(self._tools.values()),
            interrupts=self._interrupts,
            usage=self.usage,
            error=error,
            first_token_at=self._first_token_at,
        )

    def _finish_tool(self, body: ToolCallFinished) -> None:
        started = self._tools.get(body.id) or ToolCall(id=body.id, name=body.name, args=None)
        self._tools[body.id] = replace(started, result=body.result, error=body.error, duration_ms=body.duration_ms)
        self._running.discard(body.id)

    def _partial_text(self) -> str:
        return "".join(next(reversed(self._texts.values()), []))


def left_behind(
    events: Sequence[Event], calls: Iterable[ModelCall], tools: Iterable[ToolCall], error: RunError, *, crashed: bool
) -> RunResult:
    """The result of a run that ends without another attempt. ``crashed``: it may miss the call in flight then."""
    tally = Tally()
    tally.inherit(events, calls, tools)
    tally.usage = replace(tally.usage, estimated=tally.usage.estimated or crashed)
    return tally.result(error=error)
