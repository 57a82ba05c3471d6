"""What to serve: a target, the ``langgraph.json`` of the folder, or the built-in agents.

``serve`` and ``doctor`` open it; ``environment`` has exported its variables before.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from roadworthy.bootstrap import Project, builtin_agents
from roadworthy.runtimes.langgraph.factories import build_agents
from roadworthy.runtimes.langgraph.project import PROJECT_FILE, read_project, read_target
from roadworthy.runtimes.langgraph.project import Project as Source
from roadworthy.runtimes.langgraph.store_config import store_config

if TYPE_CHECKING:
    from roadworthy.settings import Settings


@asynccontextmanager
async def open_project(settings: "Settings", target: str | None) -> AsyncGenerator[Project]:
    """The agents, built once, for as long as the context is open. Warnings about the project are logged.

    Raises:
        ConfigError: the project or an agent of it does not load.
    """
    source = _source(target)
    if source is None:
        yield Project(agents=builtin_agents(settings))
        return
    log = structlog.get_logger("roadworthy.project")
    for sentence in source.warnings:
        log.warning("project", detail=sentence)
    async with build_agents(source) as agents:
        yield Project(agents=agents, store=store_config(source))


def assistant_models(settings: "Settings", target: str | None) -> Sequence[str]:
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
