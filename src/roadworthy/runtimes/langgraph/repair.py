"""Makes a thread fit for a new message: every tool call of its last answer must have a result, or providers refuse it.

A run that was cancelled or died during a tool leaves calls without results. ``run`` asks before it gives a graph new
input; the results go in front of it: the real ones where the tools had finished, else a note that the call was cut off.
"""

from collections.abc import Mapping, Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from roadworthy.domain.json import JsonValue

_CUT_OFF = "This call was cut off before it had a result."


def unanswered_calls(messages: Sequence[BaseMessage]) -> Sequence[tuple[str, str]]:
    """Ids and names of the last answer's tool calls without a result. None when something else was said after it."""
    answered: set[str] = set()
    for message in reversed(messages):
        if isinstance(message, ToolMessage):
            answered.add(message.tool_call_id)
        elif isinstance(message, AIMessage):
            return [
                (call["id"], call["name"]) for call in message.tool_calls if call["id"] and call["id"] not in answered
            ]
        else:
            break
    return ()


def repaired_input(
    payload: JsonValue, channel: str, missing: Sequence[tuple[str, str]], finished: Sequence[BaseMessage]
) -> "JsonValue | Mapping[str, object]":
    """The input with results for ``missing`` calls in front of its messages. ``finished``: messages to find them in."""
    if not isinstance(payload, Mapping):
        return payload
    real = {message.tool_call_id: message for message in finished if isinstance(message, ToolMessage)}
    results: list[object] = [
        real.get(id_) or ToolMessage(_CUT_OFF, tool_call_id=id_, name=name, status="error") for id_, name in missing
    ]
    given = payload.get(channel)
    own: list[object] = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    return {**payload, channel: [*results, *own]}
