"""Makes servable copies of the authors' graphs: with our checkpointer and store, guards around tools, known types.

``runtime`` calls it once per agent at start. The author's own object is never changed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from langgraph.store.base import BaseStore
from pydantic import ValidationError
from pydantic.errors import PydanticUserError

from roadworthy.domain.agent import Agent
from roadworthy.domain.ids import AgentName
from roadworthy.domain.json import JsonObject
from roadworthy.runtimes.langgraph.graphs import Graph, ServedGraph
from roadworthy.runtimes.langgraph.guards import ToolGuard, guarded
from roadworthy.runtimes.langgraph.jsonable import to_json_object
from roadworthy.runtimes.langgraph.messages import input_message_channel, message_channels
from roadworthy.runtimes.langgraph.savers import FencedSaver
from roadworthy.runtimes.langgraph.state_types import allowed_types


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedAgent:
    """An author's graph under the name that clients use."""

    name: AgentName
    graph: Graph
    description: str = ""


def serve_graph(
    loaded: LoadedAgent, *, saver: FencedSaver, store: BaseStore, guard: ToolGuard, extra_types: Sequence[str]
) -> ServedGraph:
    """The copy of an agent's graph that runs here.

    Raises:
        ConfigError: an extra state type cannot be found.
    """
    own = saver.with_allowlist(allowed_types(loaded.graph, extra_types))
    graph = guarded(loaded.graph, guard, {"checkpointer": own, "store": store, "cache": None})
    input_message = input_message_channel(graph)
    steps = (loaded.graph.config or {}).get("recursion_limit")
    agent = Agent(
        name=loaded.name,
        description=loaded.description,
        accepts_message=input_message is not None,
        input_schema=_input_schema(loaded.graph),
        context_schema=_context_schema(loaded.graph),
    )
    return ServedGraph(
        agent=agent, graph=graph, messages=message_channels(graph), input_message=input_message, steps=steps
    )


def replaced_parts(loaded: LoadedAgent) -> Sequence[str]:
    """What the author compiled in and the server replaces, as warnings."""
    parts = {"checkpointer": loaded.graph.checkpointer, "store": loaded.graph.store, "cache": loaded.graph.cache}
    return [
        f"agent {loaded.name}: its compiled-in {part} is replaced by the server's own"
        if part != "cache"
        else f"agent {loaded.name}: its compiled-in cache is not used"
        for part, held in parts.items()
        if held is not None and not isinstance(held, bool)
    ]


def _input_schema(graph: Graph) -> JsonObject:
    # Schemas of exotic types cannot be written down; the agent works all the same.
    try:
        return to_json_object(graph.get_input_jsonschema())
    except (PydanticUserError, ValidationError, TypeError, ValueError, NameError, AttributeError):
        return {}


def _context_schema(graph: Graph) -> JsonObject | None:
    try:
        schema: Mapping[str, object] | None = graph.get_context_jsonschema()
    except (PydanticUserError, ValidationError, TypeError, ValueError, NameError, AttributeError):
        return {}
    return None if schema is None else to_json_object(schema)
