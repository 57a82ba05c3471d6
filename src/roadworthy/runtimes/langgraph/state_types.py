"""Which types checkpoints may bring back to life. Everything else stays plain data.

LangGraph computes this list when a graph is compiled and loses it on ``copy``; without it pydantic and dataclass states
silently become dicts. ``registry`` rebuilds it, ``doctor`` asks what would still be blocked.
"""

from collections.abc import Iterable, Iterator, Sequence
from importlib import import_module
from typing import Any, TypeAlias, get_args

from langgraph._internal import _serde
from langgraph.channels.base import BaseChannel
from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES
from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from roadworthy.domain.errors import ConfigError
from roadworthy.runtimes.langgraph.graphs import Graph

# (module, class)
TypeKey: TypeAlias = tuple[str, ...]

_MAX_DEPTH = 8
_INNER_CHANNELS = ("__", "branch:", "join:")
_PLAIN_MODULES = frozenset({"builtins", "typing", "typing_extensions", "collections", "collections.abc"})


def allowed_types(graph: Graph, extra: Iterable[str]) -> frozenset[TypeKey]:
    """The types of a graph's state, of its subgraphs' and of its nodes' inputs, with ``extra`` (``module:Class``).

    Raises:
        ConfigError: an extra type cannot be found.
    """
    found: set[TypeKey] = {_extra_type(name) for name in extra}
    for one in _with_subgraphs(graph):
        channels: dict[str, Any] = {k: c for k, c in one.channels.items() if isinstance(c, BaseChannel)}
        found |= _serde.build_serde_allowlist(schemas=list(_schemas(one)), channels=channels)
    return frozenset(found)


def blocked_types(graph: Graph, allowed: Iterable[TypeKey]) -> Sequence[str]:
    """Classes in the annotations of a graph's state that a checkpoint would lose, as ``module:Class``.

    Those are the classes that LangGraph's list leaves out: neither models, dataclasses nor enums, nor known by name.
    """
    known = set(allowed) | set(SAFE_MSGPACK_TYPES)
    found = {
        (kind.__module__, kind.__name__)
        for one in _with_subgraphs(graph)
        for name, channel in one.channels.items()
        if isinstance(channel, BaseChannel) and not name.startswith(_INNER_CHANNELS)
        for kind in _classes(getattr(channel, "ValueType", None), 0)
    }
    return sorted(f"{module}:{name}" for module, name in found - known)


def _with_subgraphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for _, subgraph in graph.get_subgraphs(recurse=True):
        if isinstance(subgraph, Pregel):
            yield subgraph


def _schemas(graph: Graph) -> Iterator[type[Any]]:
    if graph.context_schema is not None:
        yield graph.context_schema
    if not isinstance(graph, CompiledStateGraph):
        return
    builder = graph.builder
    yield from (builder.state_schema, builder.input_schema, builder.output_schema)
    for node in builder.nodes.values():
        yield node.input_schema
    for branches in builder.branches.values():
        for branch in branches.values():
            if branch.input_schema is not None:
                yield branch.input_schema


def _extra_type(name: str) -> TypeKey:
    module, _, attribute = name.partition(":")
    try:
        found: object = import_module(module)
    except ImportError as error:
        raise ConfigError(f"the state type {name} cannot be imported: {error}") from error
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        raise ConfigError(f"the state type {name} is not a class (write module:Class)")
    return found.__module__, found.__name__


def _classes(annotation: object, depth: int) -> Iterator[type]:
    """The classes in an annotation whose instances a checkpoint would have to bring back."""
    if isinstance(annotation, type) and not get_args(annotation):
        # Typed dicts, of whatever library, are dicts.
        if annotation.__module__ not in _PLAIN_MODULES and not hasattr(annotation, "__required_keys__"):
            yield annotation
    elif depth < _MAX_DEPTH:
        for argument in get_args(annotation):
            yield from _classes(argument, depth + 1)
