"""Everything about chat messages: where a graph keeps them, what their text is, how a client's message becomes one.

``runtime`` uses it for inputs and thread states, ``run`` for responses, ``metering`` for the text of a chunk.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.channels.binop import BinaryOperatorAggregate
from langgraph.channels.delta import DeltaChannel
from langgraph.graph import message as graph_message

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import new_id
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.domain.thread import MAX_CONTENT_BLOCKS, Message
from roadworthy.runtimes.langgraph.content_blocks import check_block
from roadworthy.runtimes.langgraph.graphs import Graph, input_keys
from roadworthy.runtimes.langgraph.jsonable import clean_text, to_json, to_json_object
from roadworthy.runtimes.langgraph.stop_fields import stop_reason

# What LangChain's messages hold: text, or blocks of text, thinking, images and so on.
Content: TypeAlias = str | Sequence[str | Mapping[str, object]]

_MODULES = frozenset({"langgraph.graph.message", "langgraph.pregel._messages"})
_REDUCERS = frozenset({"add_messages", "_add_messages", "_messages_delta_reducer"})
_ROLES: Mapping[str, str] = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool"}


def message_channels(graph: Graph) -> tuple[str, ...]:
    """The state keys whose reducer is ``add_messages``, under whatever name; ``messages`` first."""
    found = [name for name, channel in graph.channels.items() if _adds_messages(channel)]
    return tuple(sorted(found, key=lambda name: name != "messages"))


def input_message_channel(graph: Graph) -> str | None:
    """The message channel that the graph's input may write, or None."""
    accepted = input_keys(graph)
    return next((name for name in message_channels(graph) if name in accepted), None)


def text_of(content: object) -> str:
    """The text of a message's content. Thinking, tool use and media blocks say nothing."""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        return ""
    parts: list[str] = []
    for block in content:
        if isinstance(block, str):
            parts.append(block)
        elif isinstance(block, Mapping) and block.get("type") == "text" and isinstance(text := block.get("text"), str):
            parts.append(text)
    return "".join(parts)


def messages_in(values: object, channels: Sequence[str]) -> Sequence[BaseMessage]:
    """The messages of a state: of the first message channel that holds any."""
    for name in channels:
        held: object = values.get(name) if isinstance(values, Mapping) else getattr(values, name, None)
        if isinstance(held, Sequence) and not isinstance(held, str) and held:
            return [message for message in held if isinstance(message, BaseMessage)]
    return ()


def to_message(message: BaseMessage) -> Message:
    """A LangChain message as clients see it."""
    return Message(
        id=message.id or "",
        role=_role(message),
        content=_content(message),
        tool_calls=tuple(
            to_json_object({"id": call["id"], "name": call["name"], "args": call["args"]})
            for call in (message.tool_calls if isinstance(message, AIMessage) else ())
        ),
        tool_call_id=message.tool_call_id if isinstance(message, ToolMessage) else None,
        name=message.name,
        stop_reason=stop_reason(message),
    )


def human_message(content: JsonValue) -> JsonObject:
    """One user message as an input state may hold it, with a fresh id.

    Raises:
        InvalidRequest: it is neither text nor a list of content blocks that a user may send.
    """
    if isinstance(content, str):
        return {"type": "human", "id": new_id(), "content": clean_text(content)}
    if not isinstance(content, Sequence) or not content:
        raise InvalidRequest("message must be text or a list of content blocks", field="message")
    if len(content) > MAX_CONTENT_BLOCKS:
        raise InvalidRequest(f"message has more than {MAX_CONTENT_BLOCKS} content blocks", field="message")
    for position, block in enumerate(content):
        check_block(block, f"message[{position}]")
    return {"type": "human", "id": new_id(), "content": [to_json(block) for block in content]}


def _adds_messages(channel: object) -> bool:
    reducer: object = None
    if isinstance(channel, BinaryOperatorAggregate):
        reducer = channel.operator
    elif isinstance(channel, DeltaChannel):
        reducer = channel.reducer
    # `add_messages(format=…)` is a partial of it; the wrapped function keeps its module and a telling name.
    reducer = getattr(reducer, "func", reducer)
    if reducer is graph_message.add_messages:
        return True
    return getattr(reducer, "__module__", "") in _MODULES and getattr(reducer, "__name__", "") in _REDUCERS


def _role(message: BaseMessage) -> str:
    if isinstance(message, HumanMessage):
        return "user"
    if isinstance(message, SystemMessage):
        return "system"
    kind = message.type.removesuffix("MessageChunk").lower()
    role: object = getattr(message, "role", None)
    return _ROLES.get(kind) or (role if isinstance(role, str) else "assistant")


def _content(message: BaseMessage) -> JsonValue:
    content: object = message.content
    return clean_text(content) if isinstance(content, str) else to_json(content)
