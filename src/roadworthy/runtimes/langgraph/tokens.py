"""Counts tokens of model calls: as the provider said, else by estimate.

``metering`` asks; the shapes are LangChain's ``UsageMetadata``.
"""

from collections.abc import Sequence

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.utils import count_tokens_approximately

from roadworthy.domain.usage import Tokens

_CHARS_PER_TOKEN = 4
# Anthropic splits cache writes by their lifetime and then reports 0 under the plain key.
_CACHE_WRITE_KEYS = ("cache_creation", "ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens")


def usage_of(message: BaseMessage) -> UsageMetadata | None:
    """What the provider said about a message's cost, if it did."""
    return message.usage_metadata if isinstance(message, AIMessage) else None


def as_tokens(usage: UsageMetadata) -> Tokens:
    """LangChain's counts as ours."""
    inputs = usage.get("input_token_details") or {}
    outputs = usage.get("output_token_details") or {}
    return Tokens(
        input=_count(usage.get("input_tokens")),
        output=_count(usage.get("output_tokens")),
        cache_read=_count(inputs.get("cache_read")),
        cache_write=sum(_count(inputs.get(key)) for key in _CACHE_WRITE_KEYS),
        reasoning=_count(outputs.get("reasoning")),
    )


def estimate(prompt: Sequence[BaseMessage], output_chars: int) -> Tokens:
    """What a call has about cost: its prompt and the characters that came back."""
    return Tokens(
        input=count_tokens_approximately(prompt),
        output=-(-output_chars // _CHARS_PER_TOKEN),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
