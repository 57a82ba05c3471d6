"""Tells a finished model message from one that the provider cut off.

A politely cut stream looks like success; only the missing stop field gives it away. A provider whose habit is unknown
is not judged, which the log says once.
"""

import logging
from collections.abc import Mapping
from functools import lru_cache

from langchain_core.messages import BaseMessage

_log = logging.getLogger(__name__)

# Any one of the fields will do: OpenAI's two APIs end their messages differently.
_FINISH = ("finish_reason", "status")
_STOP_FIELDS: Mapping[str, tuple[str, ...]] = {
    "anthropic": ("stop_reason",),
    "openai": _FINISH,
    "azure": _FINISH,
    "google_genai": ("finish_reason",),
    "google_vertexai": ("finish_reason",),
    "ollama": ("done_reason",),
    "roadworthy": ("stop_reason",),
}


def stop_reason(message: BaseMessage) -> str | None:
    """Why the message ended, in its provider's word; None when nothing says so."""
    metadata: Mapping[str, object] = message.response_metadata
    found = (metadata.get(field) for field in ("stop_reason", "finish_reason", "done_reason"))
    return next((reason for reason in found if isinstance(reason, str)), None)


def is_cut(message: BaseMessage, provider: str) -> bool | None:
    """Whether the message lacks its provider's stop field; None when that provider's habit is unknown."""
    metadata: Mapping[str, object] = message.response_metadata
    named = metadata.get("model_provider")
    name = named if isinstance(named, str) else provider
    fields = _STOP_FIELDS.get(name) or _STOP_FIELDS.get(provider)
    if fields is None:
        note_unjudged(name)
        return None
    return not any(metadata.get(field) for field in fields)


@lru_cache(maxsize=100)  # once a name
def note_unjudged(provider: str) -> None:
    """Tell the operator that answers of this provider are believed to be complete."""
    _log.info(
        "answers of the provider %.100s cannot be checked for having been cut off: how it ends them is not known",
        provider or "(unnamed)",
    )
