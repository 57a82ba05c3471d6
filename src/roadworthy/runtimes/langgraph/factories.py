"""Builds the agents of a project, once, at start: graphs as they are, ``StateGraph``s compiled, factories called.

``bootstrap`` enters ``build_agents`` for the life of the process: async context managers among the factories stay open
until it ends.
"""

import inspect
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from roadworthy.domain.errors import ConfigError
from roadworthy.runtimes.langgraph.graphs import Graph
from roadworthy.runtimes.langgraph.importing import load_attribute
from roadworthy.runtimes.langgraph.project import AgentTarget, Project
from roadworthy.runtimes.langgraph.registry import LoadedAgent

_WANTED = "a compiled graph, a StateGraph, or a function that makes one"


@asynccontextmanager
async def build_agents(project: Project) -> AsyncGenerator[Sequence[LoadedAgent]]:
    """The project's agents, ready to be served.

    Raises:
        ConfigError: one does not load; names file, attribute and cause.
    """
    async with AsyncExitStack() as stack:
        yield [await _build(target, stack) for target in project.targets]


async def _build(target: AgentTarget, stack: AsyncExitStack) -> LoadedAgent:
    found = load_attribute(target)
    graph = _as_graph(target, found)
    if graph is None:
        if not callable(found) or isinstance(found, type):
            raise ConfigError(f"{target}: is {_kind(found)}, and should be {_WANTED}")
        made = await _call(target, found, stack)
        graph = _as_graph(target, made)
        if graph is None:
            raise ConfigError(f"{target}: returned {_kind(made)}, and should return a graph")
    return LoadedAgent(name=target.name, graph=graph, description=target.description or _description(found))


def _as_graph(target: AgentTarget, found: object) -> Graph | None:
    if isinstance(found, Pregel):
        return found
    if not isinstance(found, StateGraph):
        return None
    try:
        return found.compile()
    except Exception as error:  # the author's code may raise anything; the operator reads what and where
        raise ConfigError(f"{target}: the graph does not compile: {type(error).__name__}: {error}") from error


async def _call(target: AgentTarget, factory: Callable[..., object], stack: AsyncExitStack) -> object:
    try:
        made = factory(*_arguments(target, factory))
        if inspect.isawaitable(made):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            return await stack.enter_async_context(cast("AbstractAsyncContextManager[object]", made))
        if isinstance(made, AbstractContextManager) and not isinstance(made, Pregel | StateGraph):
            return stack.enter_context(cast("AbstractContextManager[object]", made))
    except ConfigError:
        raise
    except Exception as error:  # as above
        raise ConfigError(f"{target}: the factory failed with {type(error).__name__}: {error}") from error
    return made


def _arguments(target: AgentTarget, factory: Callable[..., object]) -> Sequence[RunnableConfig]:
    """One config for a factory that wants one, an empty one: agents are built once, not per request."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [p for p in parameters if p.default is p.empty and p.kind in (*positional, p.KEYWORD_ONLY)]
    takes_config = [p for p in parameters if p.kind in positional]
    if len(wanted) > 1 or any(p.kind is p.KEYWORD_ONLY for p in wanted):
        raise ConfigError(f"{target}: a factory takes nothing, or one config; this one wants {len(wanted)} arguments")
    if wanted or (takes_config and takes_config[0].name == "config"):
        return (RunnableConfig(configurable={}),)
    return ()


def _kind(found: object) -> str:
    return f"the class {found.__name__}" if isinstance(found, type) else f"of type {type(found).__name__}"


def _description(found: Any) -> str:  # noqa: ANN401 -- whatever the author wrote
    text = inspect.getdoc(found) if inspect.isfunction(found) else None
    return (text or "").strip().partition("\n")[0]
