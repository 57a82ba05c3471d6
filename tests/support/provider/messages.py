"""The body of `POST /v1/messages`: its shape, and the rules for which Anthropic answers 400.

Wire models are lenient (unknown fields pass), the rules are not: a thread that breaks one would be stuck in production.
"""

import hashlib
import json
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from tests.support.provider.models import CATALOGUE, Model
from tests.support.provider.tokens import count_tokens

_ATTACHMENT_TOKENS = 1500


class InvalidMessages(Exception):
    """The request deserves a 400; the text is the provider's message."""


class Block(BaseModel):
    """A content block of any type; only the fields that the rules look at."""

    model_config = ConfigDict(extra="allow")

    type: str
    text: str = ""
    thinking: str = ""
    signature: str = ""
    id: str = ""
    name: str = ""
    input: JsonValue = None
    tool_use_id: str = ""
    content: JsonValue = None


class Message(BaseModel):
    """One message; `blocks` is its content in one form."""

    role: Literal["user", "assistant"]
    content: str | list[Block]

    @property
    def blocks(self) -> list[Block]:
        """The content; a plain string is one text block."""
        return [Block(type="text", text=self.content)] if isinstance(self.content, str) else self.content


class MessagesRequest(BaseModel):
    """The request; consecutive messages of one role are one turn, as for the real API."""

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: Annotated[int, Field(gt=0)]
    messages: Annotated[list[Message], Field(min_length=1)]
    system: str | list[Block] = ""
    stream: bool = False
    tools: list[dict[str, JsonValue]] = []

    def last_user_text(self) -> str:
        """The latest text a user wrote, a block a line; tool results are no text."""
        for message in reversed(self.messages):
            text = "\n".join(block.text for block in message.blocks if block.type == "text")
            if message.role == "user" and text:
                return text
        return ""

    def since_last_user_text(self) -> list[Message]:
        """The messages after the one that `last_user_text` comes from: the exchange of the running turn."""
        for position in range(len(self.messages) - 1, -1, -1):
            message = self.messages[position]
            if message.role == "user" and any(block.type == "text" and block.text for block in message.blocks):
                return self.messages[position + 1 :]
        return []

    def count_input_tokens(self) -> int:
        """Billed input: system, tool definitions, and every block."""
        system = self.system if isinstance(self.system, str) else "".join(block.text for block in self.system)
        tools = sum(count_tokens(json.dumps(tool, sort_keys=True)) for tool in self.tools)
        blocks = (block for message in self.messages for block in message.blocks)
        return count_tokens(system) + tools + sum(_block_tokens(block) for block in blocks)


def parse_messages(body: bytes) -> MessagesRequest:
    """The request in `body`, checked.

    Raises:
        InvalidMessages: the real API would answer 400 `invalid_request_error`.
    """
    try:
        request = MessagesRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        message = f"{place}: {first['msg']}" if place else "The request body is not valid JSON."
        raise InvalidMessages(message) from error
    _check_content(request.messages)
    _check_tools(_merged(request.messages))
    _check_size(request)
    return request


def sign_thinking(thinking: str) -> str:
    """The signature that a thinking block carries, and must carry when it comes back."""
    return "sig_" + hashlib.sha256(thinking.encode()).hexdigest()[:32]


def tool_result_text(block: Block) -> str:
    """The text of a `tool_result` block."""
    if isinstance(block.content, str):
        return block.content
    return "".join(_texts(block.content))


def _texts(content: JsonValue) -> Iterator[str]:
    for part in content if isinstance(content, list) else ():
        if isinstance(part, dict) and isinstance(text := part.get("text"), str):
            yield text


def _block_tokens(block: Block) -> int:
    match block.type:
        case "text":
            return count_tokens(block.text)
        case "thinking":
            return count_tokens(block.thinking)
        case "tool_use":
            return count_tokens(block.name + json.dumps(block.input, sort_keys=True))
        case "tool_result":
            return count_tokens(tool_result_text(block))
        case _:
            return _ATTACHMENT_TOKENS


def _merged(messages: list[Message]) -> list[tuple[str, list[Block]]]:
    turns: list[tuple[str, list[Block]]] = []
    for message in messages:
        if turns and turns[-1][0] == message.role:
            turns[-1][1].extend(message.blocks)
        else:
            turns.append((message.role, list(message.blocks)))
    return turns


def _check_content(messages: list[Message]) -> None:
    if messages[0].role != "user":
        msg = "messages: first message must use the user role"
        raise InvalidMessages(msg)
    for position, message in enumerate(messages):
        is_prefill = message.role == "assistant" and position == len(messages) - 1
        if not message.content and not is_prefill:
            msg = (
                f"messages.{position}: all messages must have non-empty content except for the optional final "
                "assistant message"
            )
            raise InvalidMessages(msg)
        for number, block in enumerate(message.blocks):
            _check_block(block, f"messages.{position}.content.{number}", is_prefill=is_prefill)


def _check_block(block: Block, place: str, *, is_prefill: bool) -> None:
    if block.type == "text" and not block.text.strip() and not is_prefill:
        msg = f"{place}: text content blocks must contain non-whitespace text"
        raise InvalidMessages(msg)
    if block.type == "thinking" and block.signature != sign_thinking(block.thinking):
        msg = f"{place}: Invalid `signature` in `thinking` block"
        raise InvalidMessages(msg)
    if block.type == "tool_use" and not isinstance(block.input, dict):
        msg = f"{place}.tool_use.input: Input should be a valid dictionary"
        raise InvalidMessages(msg)


def _check_tools(turns: list[tuple[str, list[Block]]]) -> None:
    asked: set[str] = set()
    seen: set[str] = set()
    # The empty last turn answers nothing: calls that the conversation ends with are unanswered too.
    for position, (_, blocks) in enumerate([*turns, ("user", [])]):
        answered = {block.tool_use_id for block in blocks if block.type == "tool_result"}
        if missing := asked - answered:
            msg = (
                f"messages.{position - 1}: `tool_use` ids were found without `tool_result` blocks immediately after: "
                f"{', '.join(sorted(missing))}. Each `tool_use` block must have a corresponding `tool_result` block in "
                "the next message."
            )
            raise InvalidMessages(msg)
        if unknown := answered - asked:
            msg = (
                f"messages.{position}: unexpected `tool_use_id` found in `tool_result` blocks: "
                f"{', '.join(sorted(unknown))}. Each `tool_result` block must have a corresponding `tool_use` block in "
                "the previous message."
            )
            raise InvalidMessages(msg)
        ids = [block.id for block in blocks if block.type == "tool_use"]
        if len(set(ids)) < len(ids) or seen & set(ids):
            msg = f"messages.{position}: `tool_use` ids must be unique"
            raise InvalidMessages(msg)
        asked = set(ids)
        seen |= asked


def _check_size(request: MessagesRequest) -> None:
    model = CATALOGUE.get(request.model, Model(id=request.model, display_name=request.model))
    if request.max_tokens > model.max_tokens:
        msg = f"max_tokens: {request.max_tokens} > {model.max_tokens}, which is the maximum allowed for {model.id}"
        raise InvalidMessages(msg)
    tokens = request.count_input_tokens()
    if tokens > model.max_input_tokens:
        msg = f"prompt is too long: {tokens} tokens > {model.max_input_tokens} maximum"
        raise InvalidMessages(msg)
