"""Checks what a client wants to give a graph, before anything is stored: unknown keys, wrong types, broken messages.

``runtime`` calls it. Keys with reducers of their own are not judged: they take what the author made them take.
"""

from collections.abc import Mapping
from typing import Any, cast, get_type_hints

from langchain_core.messages import convert_to_messages
from langgraph.channels.last_value import LastValue
from langgraph.graph.state import CompiledStateGraph
from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.json import JsonObject, JsonValue
from roadworthy.runtimes.langgraph.graphs import Graph, ServedGraph, input_keys

_SHOWN_FAULTS = 3


def check_state(served: ServedGraph, payload: JsonValue) -> None:
    """Check an input state.

    Raises:
        InvalidRequest: what does not fit, and where.
    """
    graph = served.graph
    if payload is None:
        raise InvalidRequest("input must not be null", field="input")
    if not isinstance(graph, CompiledStateGraph):
        _check_single(graph, payload)
    elif "__root__" not in input_keys(graph):
        _check_keys(served, graph, payload)


def check_context(served: ServedGraph, context: JsonObject | None) -> None:
    """Check a context. None is always right: what is missing then, the agent must cope with.

    Raises:
        InvalidRequest: the agent takes none, or it does not fit.
    """
    schema = served.graph.context_schema
    if context is None:
        return
    if schema is None:
        raise InvalidRequest("the agent takes no context", field="context")
    _check(schema, context, "context")


def _check_keys(served: ServedGraph, graph: "CompiledStateGraph[Any, Any, Any, Any]", payload: JsonValue) -> None:
    if not isinstance(payload, Mapping):
        raise InvalidRequest("input must be an object with the keys of the agent's state", field="input")
    if unknown := sorted(set(payload) - input_keys(graph)):
        raise InvalidRequest(f"the agent's input has no key {unknown[0]!r}", field=f"input.{unknown[0]}")
    if not payload:
        raise InvalidRequest("input has none of the keys of the agent's state", field="input")
    for key, value in payload.items():
        if key in served.messages:
            _check_messages(key, value)
        elif isinstance(graph.channels.get(key), LastValue):
            _check(_annotation(graph, key), value, f"input.{key}")


def _check_single(graph: Graph, payload: JsonValue) -> None:
    channel = graph.channels.get(graph.input_channels) if isinstance(graph.input_channels, str) else None
    if channel is not None:
        _check(getattr(channel, "UpdateType", Any), payload, "input")


def _check_messages(key: str, value: JsonValue) -> None:
    given: Any = value if isinstance(value, list | tuple) else [value]
    try:
        convert_to_messages(given)
    except (ValueError, TypeError, KeyError, NotImplementedError, AttributeError) as error:
        raise InvalidRequest(
            "messages must be texts or objects with a role (or type) and content", field=f"input.{key}"
        ) from error


def _annotation(graph: "CompiledStateGraph[Any, Any, Any, Any]", key: str) -> object:
    try:
        hints = get_type_hints(graph.builder.input_schema)
    except (NameError, TypeError, AttributeError):
        return Any
    return hints.get(key, Any)


def _check(annotation: object, value: JsonValue, where: str) -> None:
    if annotation is Any or annotation is object:
        return
    try:
        adapter: TypeAdapter[object] = TypeAdapter(cast("type[object]", annotation))
    except (PydanticUserError, TypeError, NameError, AttributeError):
        return
    try:
        adapter.validate_python(value)
    except ValidationError as error:
        raise InvalidRequest(_faults(error), field=where) from error
    except PydanticUserError:
        return


def _faults(error: ValidationError) -> str:
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(
        f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" if fault["loc"] else fault["msg"]
        for fault in faults[:_SHOWN_FAULTS]
    )
