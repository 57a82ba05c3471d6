"""The parts of a run that are stored as one JSON document each: its request and its result.

Field names in the database are those of ``domain/run.py``. Reading tolerates missing fields that have a default.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, cast

from roadworthy.domain.run import (
    DisconnectPolicy,
    Durability,
    InputKind,
    Interrupt,
    MultitaskStrategy,
    RunError,
    RunRequest,
    RunResult,
    ToolCall,
)
from roadworthy.domain.usage import Tokens, Usage
from roadworthy.storage import json_text

# JSON read from a row that this module wrote.
Document = Mapping[str, Any]


def request_text(request: RunRequest) -> str:
    """A request as stored."""
    return json_text.dumps(request)


def request_from(text: str) -> RunRequest:
    """The request that ``request_text`` wrote."""
    document = read(text)
    return RunRequest(
        kind=InputKind(document["kind"]),
        payload=document["payload"],
        context=document["context"],
        metadata=document["metadata"],
        durability=Durability(document["durability"]),
        on_disconnect=DisconnectPolicy(document["on_disconnect"]),
        multitask_strategy=MultitaskStrategy(document["multitask_strategy"]),
        message_length=document["message_length"],
    )


def result_text(result: RunResult) -> str:
    """A result as stored."""
    return json_text.dumps(result)


def result_from(text: str | None) -> RunResult:
    """The result that ``result_text`` wrote; the empty one for a run that has none yet."""
    if text is None:
        return RunResult()
    document = read(text)
    error, first_token_at = document["error"], document["first_token_at"]
    return RunResult(
        response=document["response"],
        output=document["output"],
        structured_response=document["structured_response"],
        tool_calls=tuple(ToolCall(**call) for call in document["tool_calls"]),
        interrupts=interrupts_from(document["interrupts"]),
        usage=usage_from(document["usage"]),
        error=RunError(**error) if error is not None else None,
        first_token_at=datetime.fromisoformat(first_token_at) if first_token_at is not None else None,
    )


def usage_from(document: Document) -> Usage:
    """A usage sum inside a document."""
    return Usage(
        model_calls=document["model_calls"],
        tokens=Tokens(**document["tokens"]),
        estimated=document["estimated"],
        cost_nanos=document.get("cost_nanos", 0),
        # Calls were not priced before a document had this field.
        unpriced=document.get("unpriced", document["model_calls"]),
        unjournalled=document.get("unjournalled", 0),
    )


def interrupts_from(documents: list[Document]) -> tuple[Interrupt, ...]:
    """Interrupts inside a document."""
    return tuple(Interrupt(**document) for document in documents)


def read(text: str) -> Document:
    """A stored JSON object."""
    return cast("Document", json_text.loads(text))


def read_list(text: str) -> list[Any]:
    """A stored JSON array."""
    return cast("list[Any]", json_text.loads(text))
