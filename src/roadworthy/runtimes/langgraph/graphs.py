"""A graph as this package serves it, and questions about its shape that several modules ask."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from langgraph.graph.state import CompiledStateGraph
from langgraph.pregel import Pregel

from roadworthy.domain.agent import Agent

# The author's type parameters are unknown here by nature.
Graph: TypeAlias = Pregel[Any, Any, Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedGraph:
    """A guarded copy of an author's graph with our checkpointer and store, and what was found out about it.

    ``messages`` names its message channels, ``steps`` is the author's own recursion limit.
    """

    agent: Agent
    graph: Graph
    messages: tuple[str, ...]
    input_message: str | None
    steps: int | None


def input_keys(graph: Graph) -> frozenset[str]:
    """The keys that the input state may have; empty when the input is a single value."""
    if isinstance(graph, CompiledStateGraph):
        schema: object = graph.builder.input_schema
        return frozenset(graph.builder.schemas.get(schema, {}))
    channels = graph.input_channels
    return frozenset() if isinstance(channels, str) else frozenset(channels)


def output_keys(graph: Graph) -> Sequence[str] | None:
    """The keys of the output state, None when the output is a single value."""
    channels = graph.output_channels
    return None if isinstance(channels, str) else tuple(channels)
