"""Events: the immutable facts that every stream, wait and replay is made of.

The holder of a run's lease numbers them: id = ``<run ordinal>-<attempt>-<n>``, n from 1 in each attempt; order in a
thread is ordinal, attempt, n. The runtime yields RunEvents, ``engine/execution.py`` numbers and appends them,
``services/streams.py`` follows them, a dialect encodes them. The terminal event is derived from the run's row.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from roadworthy.domain.ids import AgentName, RunId, ThreadId
from roadworthy.domain.json import JsonValue
from roadworthy.domain.run import Interrupt, RunError, RunStatus
from roadworthy.domain.usage import ModelCall, Usage

_EVENT_ID = re.compile(r"([0-9]{1,9})-([0-9]{1,9})-([0-9]{1,9})")


class EventId(NamedTuple):
    """Position of an event in its thread. Compares in thread order; ``str()`` is the form on the wire."""

    ord: int
    attempt: int
    n: int

    def __str__(self) -> str:
        return f"{self.ord}-{self.attempt}-{self.n}"

    @classmethod
    def parse(cls, text: str) -> "EventId | None":
        """The id written as ``text``, or None when it is not one."""
        match = _EVENT_ID.fullmatch(text)
        return cls(*(int(part) for part in match.groups())) if match else None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """First event of a run's first attempt."""

    run_id: RunId
    thread_id: ThreadId
    agent: AgentName


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptStarted:
    """First event of every later attempt. What a client was shown after ``last_valid`` did not survive."""

    attempt: int
    last_valid: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentDelta:
    """A piece of text of the message ``message_id``. ``node`` is the graph node that speaks."""

    message_id: str
    text: str
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContentRetracted:
    """The call that produced the message's partial text failed; the text is void."""

    message_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallStarted:
    """A tool is about to run."""

    id: str
    name: str
    args: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallFinished:
    """A tool ended with a ``result`` or a sanitised ``error``."""

    id: str
    name: str
    result: JsonValue
    error: str | None
    duration_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomData:
    """What the agent wrote to LangGraph's stream writer."""

    data: JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageReported:
    """A model call ended. ``total`` is the run's sum so far."""

    call: ModelCall
    total: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class InterruptRaised:
    """The graph waits for a human."""

    interrupts: tuple[Interrupt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnded:
    """The last event of a run, derived from its row. ``usage``: the sum over all of its model calls."""

    status: RunStatus
    error: RunError | None
    usage: Usage = Usage()


RunEvent: TypeAlias = (
    RunStarted
    | AttemptStarted
    | ContentDelta
    | ContentRetracted
    | ToolCallStarted
    | ToolCallFinished
    | CustomData
    | UsageReported
    | InterruptRaised
    | RunEnded
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A numbered RunEvent."""

    id: EventId
    body: RunEvent
