"""Lets the watch of a call hear at once what Anthropic says about its input.

Anthropic counts the prompt in the first event of a stream; LangChain's client drops that and passes on what the last
event repeats. A call that ends in between would be billed by a guess. ``model_calls`` switches this on, and takes the
counts out of the chunk again: LangChain tells callbacks of a chunk before it adds it to the message.
"""

import logging
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from types import ModuleType
from typing import Concatenate, ParamSpec

from langchain_core.messages import AIMessageChunk, BaseMessage

from roadworthy.domain.usage import Tokens
from roadworthy.runtimes.langgraph.current import current_attempt

_log = logging.getLogger(__name__)

_CLIENT = "langchain_anthropic.chat_models"
_METHOD = "_make_message_chunk_from_anthropic_event"
_KEY = "roadworthy_message_start"

_Options = ParamSpec("_Options")


def hear_message_start() -> None:
    """Make Anthropic's client, if it is loaded, pass on the counts of a stream's start. To be called before a call."""
    client = sys.modules.get(_CLIENT)
    if client is not None:
        attach(client)


def take_start(message: BaseMessage) -> Tokens | None:
    """What the start of the stream said, taken out of a chunk; None when it said nothing, or has been taken."""
    metadata: dict[str, object] = message.response_metadata
    said = metadata.pop(_KEY, None)
    return said if isinstance(said, Tokens) else None


@lru_cache(maxsize=8)  # once for a client
def attach(client: ModuleType) -> bool:
    """Wrap the client's method; False, with a line in the log, when this version has no such method."""
    model: object = getattr(client, "ChatAnthropic", None)
    method: object = getattr(model, _METHOD, None)
    if not callable(method):
        _log.warning(
            "this version of langchain-anthropic works otherwise than expected: what a call has cost that is cancelled "
            "or cut off will be estimated more roughly"
        )
        return False
    setattr(model, _METHOD, _telling(method))
    return True


def _telling(
    make_chunk: Callable[Concatenate[object, object, _Options], object],
) -> Callable[Concatenate[object, object, _Options], object]:
    @wraps(make_chunk)
    def telling(model: object, event: object, *args: _Options.args, **options: _Options.kwargs) -> object:
        made = make_chunk(model, event, *args, **options)
        # Outside an attempt nobody would take the counts out again.
        if getattr(event, "type", None) == "message_start" and current_attempt.get() is not None:
            _note(made, getattr(getattr(event, "message", None), "usage", None))
        return made

    return telling


def _note(made: object, usage: object) -> None:
    chunk: object = made[0] if isinstance(made, tuple) and made else None
    if usage is not None and isinstance(chunk, AIMessageChunk):
        chunk.response_metadata[_KEY] = _tokens(usage)


def _tokens(usage: object) -> Tokens:
    """Anthropic's counts as ours: its ``input_tokens`` leaves out what was read from and written to the cache."""
    read = _count(usage, "cache_read_input_tokens")
    by_lifetime: object = getattr(usage, "cache_creation", None)
    write_1h = _count(by_lifetime, "ephemeral_1h_input_tokens")
    write = max(
        _count(usage, "cache_creation_input_tokens"), _count(by_lifetime, "ephemeral_5m_input_tokens") + write_1h
    )
    return Tokens(
        input=_count(usage, "input_tokens") + read + write,
        cache_read=read,
        cache_write=write,
        cache_write_1h=write_1h,
    )


def _count(counts: object, name: str) -> int:
    value: object = getattr(counts, name, None)
    return value if isinstance(value, int) else 0
