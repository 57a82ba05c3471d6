"""What to serve: a target, the ``langgraph.json`` of the folder, or the built-in agents.

``serve`` and ``doctor`` open it; ``environment`` has exported its variables before.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from roadworthy.bootstrap import Project
from roadworthy.domain.errors import ConfigError
from roadworthy.domain.ids import AgentName
from roadworthy.runtimes.langgraph.factories import build_agents
from roadworthy.runtimes.langgraph.project import PROJECT_FILE, read_project, read_target
from roadworthy.runtimes.langgraph.project import Project as Source
from roadworthy.runtimes.langgraph.registry import LoadedAgent
from roadworthy.runtimes.langgraph.store import StoreConfig
from roadworthy.runtimes.langgraph.store_config import store_config
from roadworthy.settings import Settings


@asynccontextmanager
async def open_project(settings: Settings, target: str | None) -> AsyncGenerator[Project]:
    """The agents, built once, for as long as the context is open. Warnings about the project are logged.

    Raises:
        ConfigError: the project or an agent of it does not load.
    """
    source = _source(target)
    if source is None:
        yield Project(agents=_builtin_agents(settings))
        return
    log = structlog.get_logger("roadworthy.project")
    for sentence in source.warnings:
        log.warning("project", detail=sentence)
    async with build_agents(source) as agents:
        yield Project(agents=agents, store=store_config(source))


def indexed_as() -> StoreConfig:
    """How the store of the agents of this folder is indexed. They are not built.

    Raises:
        ConfigError: the project does not load, or the index is wrong.
    """
    source = _source(None)
    return (None if source is None else store_config(source)) or StoreConfig()


def assistant_models(settings: Settings, target: str | None) -> Sequence[str]:
    """The models that the built-in assistant calls; none when it is not served."""
    if _source(target) is not None or not (settings.model or settings.anthropic_api_key):
        return []
    from roadworthy.agents.models import DEFAULT_MODEL

    others = (settings.fallback_model, settings.summary_model, settings.cheap_model)
    return list(dict.fromkeys([settings.model or DEFAULT_MODEL, *(model for model in others if model)]))


def _source(target: str | None) -> Source | None:
    """What the operator points at; None: nothing, so the built-in agents."""
    folder = Path()
    if target is not None:
        return read_target(target, folder=folder)
    file = folder / PROJECT_FILE
    return read_project(file) if file.is_file() else None


def _builtin_agents(settings: Settings) -> Sequence[LoadedAgent]:
    """``demo``, and ``assistant`` in front of it when a model is configured.

    Raises:
        ConfigError: the assistant cannot be built from the settings.
    """
    # Only what is served is imported: the assistant alone costs seconds.
    from roadworthy.agents import demo

    agents = [LoadedAgent(name=AgentName("demo"), graph=demo.build(), description="Answers questions about Roadworthy")]
    if settings.model or settings.anthropic_api_key:
        agents.insert(0, _assistant(settings))
    return agents


def _assistant(settings: Settings) -> LoadedAgent:
    from roadworthy.agents import assistant
    from roadworthy.agents.models import DEFAULT_MODEL

    config = assistant.AssistantConfig(
        model=settings.model or DEFAULT_MODEL,
        base_url=settings.model_base_url,
        fallback_model=settings.fallback_model,
        summary_model=settings.summary_model,
        summarize_after_tokens=settings.summarize_after_tokens,
        cheap_model=settings.cheap_model,
        cheap_below_chars=settings.cheap_below_chars,
        max_model_calls=settings.assistant_max_model_calls,
        tavily=settings.tavily_api_key is not None,
    )
    try:
        graph = assistant.build(config)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"the built-in assistant cannot be built for {config.model}: {error}") from error
    return LoadedAgent(name=AgentName("assistant"), graph=graph, description="A helpful assistant")
