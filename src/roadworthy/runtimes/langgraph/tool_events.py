"""Turns the beginnings and ends of tool calls into events, each call once.

``metering`` reports what LangChain's callbacks tell; ``guards`` adds what they do not: timeouts, and calls of tools
that do not exist. Results are bounded, errors are named by class only.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from uuid import UUID

from langchain_core.messages import BaseMessage, ToolMessage
from langgraph.types import Command

from roadworthy.domain.event import ToolCallFinished, ToolCallStarted
from roadworthy.domain.json import JsonValue
from roadworthy.ports.clock import Clock
from roadworthy.ports.runtime import RuntimeEvent
from roadworthy.runtimes.langgraph.jsonable import clean_text, to_json

_ARGS_CHARS = 200_000


@dataclass(slots=True, kw_only=True)
class _Running:
    id: str
    name: str
    since: float


class ToolEvents:
    """One attempt's tool calls. Safe from any thread."""

    def __init__(self, emit: Callable[[RuntimeEvent], None], *, clock: Clock, max_chars: int) -> None:
        self._emit = emit
        self._clock = clock
        self._max_chars = max_chars
        self._running: dict[UUID | str, _Running] = {}
        self._lock = Lock()
        self.started_count = 0

    def start(
        self, run_id: UUID | str, name: str, inputs: Mapping[str, object] | None, text: str, call_id: str | None
    ) -> None:
        """A tool begins. ``inputs``, else ``text``, are its arguments; without ``call_id`` the run's id stands in."""
        running = _Running(id=call_id or str(run_id), name=name, since=self._clock.monotonic())
        with self._lock:
            self._running[run_id] = running
            self.started_count += 1
        args: JsonValue = to_json(inputs if inputs is not None else text, max_chars=_ARGS_CHARS)
        self._emit(ToolCallStarted(id=running.id, name=name, args=args))

    def end(self, run_id: UUID | str, output: object) -> None:
        """The tool returned ``output``; a message with status ``error`` is its own account of a failure."""
        self._finish(run_id, *outcome_of(output, self._max_chars))

    def fail(self, run_id: UUID | str, error: BaseException) -> None:
        """The tool raised."""
        self._finish(run_id, None, f"the tool failed with {type(error).__name__}")

    def give_up(self, call_id: str, reason: str) -> None:
        """The guard ended the model's call ``call_id``, unless it has ended already."""
        with self._lock:
            run_id = next((key for key, running in self._running.items() if running.id == call_id), None)
        if run_id is not None:
            self._finish(run_id, None, reason)

    def replay(self, call_id: str, name: str, args: object, output: object, duration_ms: int) -> None:
        """A call that was made before gave ``output`` then. It counts for nothing now."""
        self._emit(ToolCallStarted(id=call_id, name=name, args=to_json(args, max_chars=_ARGS_CHARS)))
        result, error = outcome_of(output, self._max_chars)
        self._emit(ToolCallFinished(id=call_id, name=name, result=result, error=error, duration_ms=duration_ms))

    def is_running(self, call_id: str) -> bool:
        """Whether the model's call ``call_id`` has begun and not ended."""
        with self._lock:
            return any(running.id == call_id for running in self._running.values())

    def _finish(self, run_id: UUID | str, result: JsonValue, error: str | None) -> None:
        with self._lock:
            running = self._running.pop(run_id, None)
        if running is None:
            return
        duration = round((self._clock.monotonic() - running.since) * 1000)
        self._emit(ToolCallFinished(id=running.id, name=running.name, result=result, error=error, duration_ms=duration))


def outcome_of(output: object, max_chars: int) -> tuple[JsonValue, str | None]:
    """Result and error of what a tool returned."""
    result = _result(output, max_chars)
    if not _is_error(output):
        return result, None
    return None, result if isinstance(result, str) else "the tool reported an error"


def cut_text(text: str, max_chars: int) -> str:
    """The text, or its beginning and a marker that says how much is missing."""
    if len(text) <= max_chars:
        return text
    return f"{text[:max_chars]}\n[{len(text) - max_chars} more characters were cut]"


def _result(output: object, max_chars: int) -> JsonValue:
    if isinstance(output, BaseMessage):
        content: object = output.content
        return (
            clean_text(cut_text(content, max_chars))
            if isinstance(content, str)
            else to_json(content, max_chars=max_chars)
        )
    if isinstance(output, Command):
        return _command_result(output, max_chars)
    if isinstance(output, str):
        return clean_text(cut_text(output, max_chars))
    return to_json(output, max_chars=max_chars)


def _command_result(command: "Command[str]", max_chars: int) -> JsonValue:
    """What the model reads of a tool that steers the graph: the message in its update."""
    update: object = command.update
    if isinstance(update, Mapping):
        for value in update.values():
            if isinstance(value, list) and value and isinstance(value[-1], ToolMessage):
                return _result(value[-1], max_chars)
    return None


def _is_error(output: object) -> bool:
    return isinstance(output, ToolMessage) and output.status == "error"
