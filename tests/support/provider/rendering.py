"""Turns a `Turn` into what the API sends: the SSE events in their order, or one JSON message.

Event order follows https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from tests.support.provider.messages import sign_thinking
from tests.support.provider.script import StopReason, ToolUse, Turn
from tests.support.provider.tokens import split_tokens

JsonObject = dict[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One event to send, and the output tokens that it carries."""

    event: JsonObject
    tokens: int = 0
    is_tool_json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedBlock:
    """A content block, cut into one-token pieces; not `complete` if `max_tokens` ended it."""

    kind: Literal["thinking", "text", "tool_use"]
    pieces: tuple[str, ...]
    complete: bool
    tool: ToolUse | None = None
    tool_id: str = ""

    @property
    def text(self) -> str:
        """The pieces together."""
        return "".join(self.pieces)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole answer, ready to send in either form."""

    call_id: str
    model: str
    input_tokens: int
    turn: Turn
    blocks: tuple[PlannedBlock, ...]
    stop_reason: StopReason

    @property
    def output_tokens(self) -> int:
        """What the finished answer is billed; the real API never bills less than one token."""
        return max(1, sum(len(block.pieces) for block in self.blocks))

    def usage(self, output_tokens: int) -> JsonObject:
        """The usage object with `output_tokens` so far."""
        return {
            "input_tokens": self.input_tokens,
            "cache_creation_input_tokens": self.turn.cache_creation_tokens,
            "cache_read_input_tokens": self.turn.cache_read_tokens,
            "output_tokens": output_tokens,
        }

    def final_usage(self) -> JsonObject:
        """The usage object of the finished answer."""
        thinking = sum(len(block.pieces) for block in self.blocks if block.kind == "thinking")
        details: JsonObject = {"output_tokens_details": {"thinking_tokens": thinking}} if thinking else {}
        return self.usage(self.output_tokens) | details

    def ending(self) -> JsonObject:
        """`stop_reason` and its companions."""
        ending: JsonObject = {"stop_reason": self.stop_reason, "stop_sequence": None}
        if self.stop_reason == "refusal":
            ending["stop_details"] = {"type": "refusal", "category": None, "explanation": "The request was declined."}
        return ending


def plan_answer(turn: Turn, *, call_id: str, model: str, input_tokens: int, max_tokens: int) -> Plan:
    """Lay out `turn` as content blocks within `max_tokens`."""
    left = max_tokens
    blocks: list[PlannedBlock] = []
    for block in _whole_blocks(turn, call_id):
        pieces = block.pieces[:left]
        complete = len(pieces) == len(block.pieces)
        left -= len(pieces)
        blocks.append(
            PlannedBlock(kind=block.kind, pieces=pieces, complete=complete, tool=block.tool, tool_id=block.tool_id)
        )
        if not complete:
            break
    natural: StopReason = "tool_use" if turn.tools else "end_turn"
    truncated = any(not block.complete for block in blocks)
    stop_reason: StopReason = "max_tokens" if truncated else (turn.stop_reason or natural)
    return Plan(
        call_id=call_id,
        model=model,
        input_tokens=input_tokens,
        turn=turn,
        blocks=tuple(blocks),
        stop_reason=stop_reason,
    )


def stream_steps(plan: Plan) -> Iterator[Step]:
    """The events of a streamed answer, `message_start` to `message_stop`."""
    empty: JsonObject = {"content": [], "stop_reason": None, "stop_sequence": None, "usage": plan.usage(1)}
    yield Step(event={"type": "message_start", "message": _envelope(plan) | empty})
    for index, block in enumerate(plan.blocks):
        yield Step(event={"type": "content_block_start", "index": index, "content_block": _block_start(block)})
        if index == 0:
            yield Step(event={"type": "ping"})
        yield from _deltas(index, block)
        yield Step(event={"type": "content_block_stop", "index": index})
    yield Step(event={"type": "message_delta", "delta": plan.ending(), "usage": plan.final_usage()})
    yield Step(event={"type": "message_stop"})


def whole_message(plan: Plan) -> JsonObject:
    """The JSON body of an answer that is not streamed."""
    content: list[JsonValue] = [_block_json(block) for block in plan.blocks]
    return {**_envelope(plan), "content": content, **plan.ending(), "usage": plan.final_usage()}


def _whole_blocks(turn: Turn, call_id: str) -> Iterator[PlannedBlock]:
    if turn.thinking:
        yield PlannedBlock(kind="thinking", pieces=split_tokens(turn.thinking), complete=True)
    if turn.text:
        yield PlannedBlock(kind="text", pieces=split_tokens(turn.text), complete=True)
    for number, tool in enumerate(turn.tools):
        pieces = split_tokens(json.dumps(dict(tool.args)))
        tool_id = f"toolu_{call_id.removeprefix('msg_')}_{number}"
        yield PlannedBlock(kind="tool_use", pieces=pieces, complete=True, tool=tool, tool_id=tool_id)


def _envelope(plan: Plan) -> JsonObject:
    return {"id": plan.call_id, "type": "message", "role": "assistant", "model": plan.model}


def _block_start(block: PlannedBlock) -> JsonObject:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": "", "signature": ""}
        case "text":
            return {"type": "text", "text": ""}
        case "tool_use":
            return {"type": "tool_use", "id": block.tool_id, "name": _tool(block).name, "input": {}}


def _deltas(index: int, block: PlannedBlock) -> Iterator[Step]:
    if block.kind == "tool_use":
        yield Step(event=_delta(index, "input_json_delta", "partial_json", ""), is_tool_json=True)
    for piece in block.pieces:
        match block.kind:
            case "thinking":
                yield Step(event=_delta(index, "thinking_delta", "thinking", piece), tokens=1)
            case "text":
                yield Step(event=_delta(index, "text_delta", "text", piece), tokens=1)
            case "tool_use":
                yield Step(event=_delta(index, "input_json_delta", "partial_json", piece), tokens=1, is_tool_json=True)
    if block.kind == "thinking" and block.complete:
        yield Step(event=_delta(index, "signature_delta", "signature", sign_thinking(block.text)))


def _delta(index: int, kind: str, field: str, value: str) -> JsonObject:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, field: value}}


def _block_json(block: PlannedBlock) -> JsonObject:
    match block.kind:
        case "thinking":
            return {"type": "thinking", "thinking": block.text, "signature": sign_thinking(block.text)}
        case "text":
            return {"type": "text", "text": block.text}
        case "tool_use":
            args = dict(_tool(block).args) if block.complete else {}
            return {"type": "tool_use", "id": block.tool_id, "name": _tool(block).name, "input": args}


def _tool(block: PlannedBlock) -> ToolUse:
    if block.tool is None:
        msg = "a tool_use block is planned with its tool"
        raise ValueError(msg)
    return block.tool
