"""The plain API's bodies as pydantic models: requests are validated with them, responses are documented by them.

Read by ``routes.py``; ``documents.py`` and ``encode.py`` write what the response models describe, without them, because
streams are hot.
"""

from datetime import datetime
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, ValidationInfo, WithJsonSchema
from pydantic import model_validator as check

from roadworthy.domain.run import DisconnectPolicy, Durability, MultitaskStrategy
from roadworthy.domain.thread import MAX_CONTENT_BLOCKS
from roadworthy.http import patterns
from roadworthy.http.deps import HttpLimits

MAX_METADATA: Final = 64


def _message(value: object, info: ValidationInfo) -> object:
    """Text, or content blocks with a ``type`` each; all text together is bounded."""
    if value is None:
        return None
    if not isinstance(info.context, HttpLimits):
        raise TypeError("a body is validated with the server's limits as context")
    texts = _texts(value)
    if any(not text.strip() for text in texts):
        raise ValueError("must not be empty or blank")
    if sum(map(len, texts)) > info.context.message_max:
        raise ValueError(f"must hold at most {info.context.message_max} characters of text")
    return value


def _texts(value: object) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not value or len(value) > MAX_CONTENT_BLOCKS:
        raise ValueError(f"must be a text, or a list of 1 to {MAX_CONTENT_BLOCKS} content blocks")
    return [text for block in value for text in _block_texts(block)]


def _block_texts(block: object) -> list[str]:
    match block:
        case {"type": "text", "text": str() as text}:
            return [text]
        case {"type": "text"}:
            raise ValueError("a content block of type `text` must have a `text`")
        case {"type": str()}:
            return []
        case _:
            raise ValueError("each content block must be an object with a `type`")


def message_schema(limit: int) -> dict[str, Any]:
    """JSON Schema of ``message`` under a limit of characters."""
    text = {"type": "string", "minLength": 1, "maxLength": limit, "pattern": r"\S"}
    blocks = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_CONTENT_BLOCKS,
        "items": {
            "type": "object",
            "required": ["type"],
            "properties": {"type": {"type": "string"}},
            "if": {"properties": {"type": {"const": "text"}}},
            "then": {"required": ["text"], "properties": {"text": text}},
        },
    }
    return {
        "title": "Message",
        "description": f"What the user says: text of 1 to {limit} characters, or content blocks (text, images, files).",
        "anyOf": [text, blocks, {"type": "null"}],
    }


Message = Annotated[JsonValue, PlainValidator(_message), WithJsonSchema(message_schema(HttpLimits().message_max))]
ThreadName = Annotated[str, Field(pattern=patterns.THREAD)]
AgentSlug = Annotated[str, Field(pattern=patterns.AGENT)]
OnDisconnect = Annotated[
    DisconnectPolicy | None,
    Field(
        description="What becomes of the new run when this connection ends before it does: `cancel` by default, "
        "`continue` by default when there is an `Idempotency-Key`, so that repeating the request finds the answer."
    ),
]

_ONE_OF_BOTH: Final[list[Any]] = [
    {
        "required": ["message"],
        "properties": {"message": {"type": ["string", "array"]}, "input": {"type": "null"}},
    },
    {"required": ["input"], "properties": {"message": {"type": "null"}}},
]


class RunBody(BaseModel):
    """What to run. Exactly one of `message` and `input` is given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": _ONE_OF_BOTH,
            "examples": [{"message": "How do I cancel a run?", "thread_id": "my-first-thread"}],
        },
    )

    message: Message = None
    input: JsonValue = Field(None, description="The agent's own input state, for agents that take more than a message.")
    thread_id: ThreadName | None = Field(
        None, description="The conversation to go on with; a new one begins under a name not used yet, or without one."
    )
    agent: AgentSlug | None = Field(None, description="Which agent to run; the server's first without it.")
    context: dict[str, JsonValue] | None = Field(None, description="The agent's run-time context.")
    metadata: dict[str, JsonValue] | None = Field(
        None, max_length=MAX_METADATA, description="Kept and shown with the run, for your own use."
    )
    on_disconnect: OnDisconnect = None
    multitask_strategy: MultitaskStrategy = Field(
        MultitaskStrategy.ENQUEUE,
        description="What to do when the thread has an unfinished run: wait for it, refuse this one with 409, stop it, "
        "or stop it and undo what it changed.",
    )
    durability: Durability = Field(
        Durability.ASYNC, description="Whether checkpoints are written beside the next step or before it."
    )

    @check(mode="after")
    def _one_of_message_and_input(self) -> "RunBody":
        if self.message is not None and self.input is not None:
            raise ValueError("give either `message` or `input`, not both")
        if self.message is None and "input" not in self.model_fields_set:
            raise ValueError("one of `message` and `input` is required")
        return self


class ResumeBody(BaseModel):
    """How to go on. All of it may be left out."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"value": {"approved": True}}]})

    value: JsonValue = Field(None, description="The answer to the interrupt; keyed by interrupt id when several wait.")
    on_disconnect: OnDisconnect = None


class ResolveBody(BaseModel):
    """What became of a tool call of unknown outcome. Exactly one of `result` and a true `run_again` is given."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "oneOf": [
                {"required": ["result"], "properties": {"run_again": {"const": False}}},
                {
                    "required": ["run_again"],
                    "properties": {"run_again": {"const": True}},
                    "not": {"required": ["result"]},
                },
            ],
            "examples": [{"tool_call_id": "toolu_1", "result": "The payment went through."}],
        },
    )

    tool_call_id: str = Field(min_length=1, max_length=256)
    result: JsonValue = Field(None, description="It took effect: what the model is told as the tool's result.")
    run_again: bool = Field(default=False, description="It did not take effect: run the tool again.")

    @check(mode="after")
    def _one_of_result_and_run_again(self) -> "ResolveBody":
        if self.run_again == ("result" in self.model_fields_set):
            raise ValueError("give either `result`, or `run_again` as true")
        return self


class CancelBody(BaseModel):
    """Nothing: `{}`, or no body at all."""

    model_config = ConfigDict(extra="forbid")


class _Response(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Counted(_Response):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cache_read_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    reasoning_tokens: int
    estimated: bool
    cost_usd: float | None


class Usage(_Counted):
    """Sum over model calls. `input_tokens` includes the cached ones, `output_tokens` the reasoning ones.

    `cost_usd` is null when `unpriced_calls` is not 0: the price of so many calls is not known.
    """

    model_calls: int
    unpriced_calls: int


class ModelCall(_Counted):
    """One call of a model. `outcome`: complete, failed, cut, cancelled or lost. `cost_usd` is null without a price."""

    provider: str
    model: str
    node: str
    outcome: str
    started_at: datetime
    finished_at: datetime


class ToolCall(_Response):
    """A tool call of this run. `result` and `error` are both null when it was cut off."""

    id: str
    name: str
    args: JsonValue
    result: JsonValue
    error: str | None
    duration_ms: int | None


class Interrupt(_Response):
    """A question that the agent asks a human."""

    id: str
    value: JsonValue


class RunError(_Response):
    """Why a run did not succeed."""

    code: str
    message: str


RunStatus: TypeAlias = Literal["pending", "running", "success", "error", "timeout", "cancelled", "interrupted"]


class Run(_Response):
    """One execution of an agent on a thread."""

    run_id: str
    thread_id: str
    agent: str
    status: RunStatus
    attempt: int
    response: str
    output: JsonValue
    structured_response: JsonValue
    tool_calls: list[ToolCall]
    error: RunError | None
    usage: Usage
    cost_usd: float | None
    interrupts: list[Interrupt]
    metadata: dict[str, JsonValue]
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    queue_ms: int | None
    duration_ms: int | None


class Review(_Response):
    """A tool call of unknown outcome: resolve it, then resume the run. `args` as the model gave them."""

    tool_call_id: str
    name: str
    args: JsonValue
    started_at: datetime


class RunDetail(Run):
    """A run; with its open reviews if it stopped for one, with each of its model calls if they were asked for."""

    reviews: list[Review] = Field(default_factory=list[Review])
    model_calls: list[ModelCall] = Field(default_factory=list[ModelCall])


class Thread(_Response):
    """A conversation. `active_run_id`: the run that is at work on it."""

    thread_id: str
    agent: str
    active_run_id: str | None
    created_at: datetime
    updated_at: datetime


class ThreadPage(_Response):
    """`next_cursor` is null on the last page."""

    threads: list[Thread]
    next_cursor: str | None


class ThreadMessage(_Response):
    """One message. `role`: user, assistant, system or tool."""

    id: str
    role: str
    content: JsonValue
    tool_calls: list[dict[str, JsonValue]]
    tool_call_id: str | None
    name: str | None
    stop_reason: str | None


class ThreadDetail(Thread):
    """A conversation with its messages, its whole state, and its latest 50 runs, the latest first."""

    messages: list[ThreadMessage]
    values: JsonValue
    runs: list[Run]


class Agent(_Response):
    """An agent that this key may run."""

    name: str
    description: str
    accepts_message: bool
    input_schema: dict[str, JsonValue]
    context_schema: dict[str, JsonValue] | None


class AgentList(_Response):
    """The first agent is the default."""

    agents: list[Agent]
