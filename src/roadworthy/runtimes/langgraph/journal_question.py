"""What a model is asked, as a short text that is the same in every process: a part of the journal's key.

Only what the model gets to see counts: a message's id or usage may differ between two attempts that ask the same.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from types import FunctionType
from typing import Any

from langchain_core.messages import BaseMessage

_DIGEST_BYTES = 16
# Beside its type and content.
_SEEN = ("name", "additional_kwargs", "tool_calls", "invalid_tool_calls", "tool_call_id", "status")
# How Python shows an object that has nothing better to say: another address in another process.
_ADDRESS = " at 0x"


def question_of(
    messages: Sequence[BaseMessage],
    serialized: Mapping[str, Any] | None,
    invocation_params: Mapping[str, Any],
    metadata: Mapping[str, Any],
) -> str | None:
    """Messages and model, as LangChain's start callback names them; None when another process would name them
    differently.
    """
    model = (
        metadata.get("ls_provider"),
        metadata.get("ls_model_name"),
        (serialized or {}).get("id"),
        _plain((serialized or {}).get("kwargs")),
        invocation_params,
    )
    digest = blake2b(digest_size=_DIGEST_BYTES)
    try:
        digest.update(json.dumps(model, default=_shown).encode())
        for message in messages:
            # Not ``getattr``: pydantic takes ten times as long to say that there is no such field.
            fields = message.__dict__
            seen = (message.type, message.content, *map(fields.get, _SEEN))
            digest.update(json.dumps(seen, default=_shown).encode())
    except (TypeError, ValueError, RecursionError):
        return None
    return digest.hexdigest()


def _plain(value: object) -> object:
    """Without what LangChain could not serialize, such as clients: it shows their addresses."""
    if isinstance(value, dict):
        if value.get("lc") and value.get("type") == "not_implemented":
            return None
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _shown(value: object) -> str:
    """Of a value that JSON has no form for.

    Raises:
        ValueError: nothing about it lasts.
    """
    # What was made inside of a function shares its name with its siblings.
    if isinstance(value, type | FunctionType) and "<" not in value.__qualname__:
        return f"{value.__module__}.{value.__qualname__}"
    shown = repr(value)
    if _ADDRESS in shown:
        raise ValueError("shown by its address")
    return shown
