"""What a tool call gives to its graph, written down and read back.

``tool_journal`` keeps results with it, as the checkpointer keeps state, by the same rules about types.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias, cast

from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.types import Command

from roadworthy.domain.run import ToolCall
from roadworthy.runtimes.langgraph.tool_events import outcome_of
from roadworthy.runtimes.langgraph.tool_rows import GIVEN, ToolRow

ToolResult: TypeAlias = "ToolMessage | Command[Any] | list[ToolMessage | Command[Any]]"


def written(serde: SerializerProtocol, result: ToolResult) -> tuple[str, bytes] | None:
    """How the result is stored; None when it cannot be, because of what its author put into it."""
    try:
        return serde.dumps_typed(result)
    except Exception:  # noqa: BLE001 -- foreign objects may fail in any way
        return None


def result_of(serde: SerializerProtocol, row: ToolRow) -> "ToolResult | None":
    """The result that a row holds; None when there is none that can be read."""
    if row.result_type is None or row.result is None:
        return None
    if row.result_type == GIVEN:
        said: object = json.loads(row.result)
        text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
        return ToolMessage(text, tool_call_id=row.tool_call_id, name=row.name)
    try:
        found: object = serde.loads_typed((row.result_type, row.result))
    except Exception:  # noqa: BLE001 -- as above
        return None
    return cast("ToolResult", found) if isinstance(found, ToolMessage | Command | list) else None


def call_of(serde: SerializerProtocol, row: ToolRow, *, max_chars: int) -> ToolCall:
    """A finished call as a run tells of it."""
    result, error = outcome_of(result_of(serde, row), max_chars)
    return ToolCall(
        id=row.tool_call_id,
        name=row.name,
        args=json.loads(row.args),
        result=result,
        error=error,
        duration_ms=row.duration_ms,
    )


def messages_in_result(result: ToolResult) -> Iterator[ToolMessage]:
    """The messages that a result carries."""
    if isinstance(result, ToolMessage):
        yield result
    elif isinstance(result, list):
        for one in result:
            yield from messages_in_result(one)
    else:
        update: object = result.update
        for value in update.values() if isinstance(update, Mapping) else ():
            for item in value if isinstance(value, list) else (value,):
                if isinstance(item, ToolMessage):
                    yield item
