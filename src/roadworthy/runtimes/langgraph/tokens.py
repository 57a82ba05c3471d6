"""Counts tokens of model calls: as the provider said, else by estimate.

``model_calls`` asks; the shapes are LangChain's ``UsageMetadata`` and messages. How estimates are made is described in
``docs/prices.md``.
"""

import json
from collections.abc import Iterable, Mapping, Sequence

from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.ai import UsageMetadata

from roadworthy.domain.usage import CHARS_PER_TOKEN, Tokens, tokens_of
from roadworthy.runtimes.langgraph.messages import text_of

# Its role, and where it begins and ends.
_TOKENS_PER_MESSAGE = 3
# About what providers take for an image or a page; the length of its base64 text says nothing.
_TOKENS_PER_ATTACHMENT = 1500
_ATTACHMENTS = frozenset({"image", "image_url", "audio", "input_audio", "video", "file", "document", "media"})
# In an AI message's content these repeat its `tool_calls`.
_CALLS = frozenset({"tool_use", "tool_call", "tool_call_chunk", "function_call", "input_json_delta"})
_UNCOUNTED = frozenset({"type", "id", "index", "signature", "encrypted_content", "cache_control"})

# Anthropic splits cache writes by their lifetime and then reports 0 under the plain key.
_CACHE_WRITE_1H = "ephemeral_1h_input_tokens"
_CACHE_WRITE_5M = "ephemeral_5m_input_tokens"
# OpenAI's counts of calls in another service tier than the usual one.
_TIERS = ("", "flex_", "priority_")


def usage_of(message: BaseMessage) -> UsageMetadata | None:
    """What the provider said about a message's cost, if it did. Nothing but zeros says nothing."""
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    return usage if usage is not None and (_count(usage, "input_tokens") or _count(usage, "output_tokens")) else None


def as_tokens(usage: UsageMetadata) -> Tokens:
    """LangChain's counts as ours.

    A part that is larger than its whole is taken for one that the provider did not count in.
    """
    inputs = usage.get("input_token_details") or {}
    outputs = usage.get("output_token_details") or {}
    read = _tiered(inputs, "cache_read")
    write_1h = _count(inputs, _CACHE_WRITE_1H)
    # By lifetime or in one sum; a client that tells both tells the same tokens twice.
    write = max(_tiered(inputs, "cache_creation"), _count(inputs, _CACHE_WRITE_5M) + write_1h)
    reasoning = _tiered(outputs, "reasoning")
    whole_input, whole_output = _count(usage, "input_tokens"), _count(usage, "output_tokens")
    return Tokens(
        input=whole_input + (read + write if read + write > whole_input else 0),
        output=whole_output + (reasoning if reasoning > whole_output else 0),
        cache_read=read,
        cache_write=write,
        cache_write_1h=write_1h,
        reasoning=reasoning,
    )


def is_contradictory(usage: UsageMetadata) -> bool:
    """Whether a part of the counts is larger than its whole, so that the sum is a guess."""
    tokens = as_tokens(usage)
    return tokens.input > _count(usage, "input_tokens") or tokens.output > _count(usage, "output_tokens")


def estimate_input(prompt: Iterable[BaseMessage], tools: Iterable[object] = ()) -> int:
    """About how many tokens a prompt has, with the definitions of the tools that the model may call."""
    return sum(_message_tokens(message) for message in prompt) + sum(
        tokens_of(len(json.dumps(tool, default=repr))) for tool in tools
    )


def estimate(prompt: Sequence[BaseMessage], output_chars: int, tools: Iterable[object] = ()) -> Tokens:
    """What a call has about cost: its prompt and the characters that came back."""
    return Tokens(input=estimate_input(prompt, tools), output=tokens_of(output_chars))


def answer_chars(message: BaseMessage) -> int:
    """The length of a whole answer: text, thinking and what it calls tools with."""
    calls = message.tool_calls if isinstance(message, AIMessage) else ()
    args = sum(len(json.dumps(call["args"], default=repr)) for call in calls)
    return len(text_of(message.content)) + thinking_chars(message) + args


def silent_chars(chunk: BaseMessage) -> int:
    """The length of what a piece of an answer has beside its text: thinking and tool arguments."""
    length = thinking_chars(chunk)
    if isinstance(chunk, AIMessageChunk) and chunk.tool_call_chunks:
        length += sum(len(part.get("args") or "") for part in chunk.tool_call_chunks)
    return length


def thinking_chars(message: BaseMessage) -> int:
    """The length of the thinking that is shown: as content blocks, or beside the content."""
    content: object = message.content
    beside: object = message.additional_kwargs.get("reasoning_content")
    length = len(beside) if isinstance(beside, str) else 0
    if isinstance(content, list):
        # Most blocks of a stream are text, and this is asked for each of them.
        length += sum(_thinking(block) for block in content if isinstance(block, dict) and block.get("type") != "text")
    return length


def _thinking(block: Mapping[object, object]) -> int:
    """A block of Anthropic (``thinking``), of LangChain (``reasoning``), of OpenAI (``summary``) or of Bedrock."""
    return sum(_length(block.get(key)) for key in ("thinking", "reasoning", "summary", "reasoning_content"))


def _message_tokens(message: BaseMessage) -> int:
    content: object = message.content
    chars = _length(content)
    if isinstance(message, AIMessage):
        chars += sum(len(call["name"]) + len(json.dumps(call["args"], default=repr)) for call in message.tool_calls)
    return tokens_of(chars) + _TOKENS_PER_MESSAGE


def _length(value: object) -> int:
    """The length of all text in a content, whatever its blocks; an attachment is as long as what it is counted for."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_length(part) for part in value)
    if not isinstance(value, dict) or value.get("type") in _CALLS:
        return 0
    if value.get("type") in _ATTACHMENTS:
        return _TOKENS_PER_ATTACHMENT * CHARS_PER_TOKEN
    return sum(_length(part) for key, part in value.items() if key not in _UNCOUNTED)


def _tiered(details: Mapping[str, object], name: str) -> int:
    return sum(_count(details, tier + name) for tier in _TIERS)


def _count(counts: Mapping[str, object], key: str) -> int:
    value = counts.get(key)
    return max(0, value) if isinstance(value, int) else 0
