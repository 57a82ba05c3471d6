"""The events of a stream as pydantic models. They document the stream; ``encode.py`` writes it without them."""

from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from roadworthy.protocols.plain.wire import Interrupt, ModelCall, RunStatus, Usage


class _Event(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern=r"^[0-9]+-[0-9]+-[0-9]+$")


class RunEvent(_Event):
    """First of all: the ids of the run."""

    type: Literal["run"]
    run_id: str
    thread_id: str
    agent: str


class AttemptEvent(_Event):
    """The run was taken up again after a crash. What was shown after `last_valid` is void (null: everything)."""

    type: Literal["attempt"]
    attempt: int
    last_valid: str | None


class ContentEvent(_Event):
    """The next piece of the answer's text."""

    type: Literal["content"]
    message_id: str
    content: str
    node: str


class RetractEvent(_Event):
    """The text of `message_id` is void: the model call behind it failed."""

    type: Literal["retract"]
    message_id: str


class ToolCallEvent(_Event):
    """A tool is about to run."""

    type: Literal["tool_call"]
    tool_call_id: str
    name: str
    args: JsonValue


class ToolResultEvent(_Event):
    """A tool has ended."""

    type: Literal["tool_result"]
    tool_call_id: str
    name: str
    result: JsonValue
    error: str | None
    duration_ms: int


class CustomEvent(_Event):
    """What the agent itself wrote to the stream."""

    type: Literal["custom"]
    data: JsonValue


class UsageEvent(_Event):
    """A model call has ended; `total` is the run's sum so far."""

    type: Literal["usage"]
    call: ModelCall
    total: Usage


class InterruptEvent(_Event):
    """The agent waits for a human."""

    type: Literal["interrupt"]
    interrupts: list[Interrupt]


class ErrorEvent(_Event):
    """Why the run did not succeed. Followed by `done`."""

    type: Literal["error"]
    code: str
    message: str


class DoneEvent(_Event):
    """Last of all."""

    type: Literal["done"]
    status: RunStatus
    run_id: str
    thread_id: str
    usage: Usage
    cost_usd: float | None


class HandoverEvent(BaseModel):
    """The stream stops before the run's end: ask `resume` again, with the last event's id. Has no id itself."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["handover"]
    run_id: str
    resume: str


StreamEvent: TypeAlias = Annotated[
    RunEvent
    | AttemptEvent
    | ContentEvent
    | RetractEvent
    | ToolCallEvent
    | ToolResultEvent
    | CustomEvent
    | UsageEvent
    | InterruptEvent
    | ErrorEvent
    | DoneEvent
    | HandoverEvent,
    Field(discriminator="type"),
]
