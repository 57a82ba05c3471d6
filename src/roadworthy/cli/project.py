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

if TYPE_CHECKING:
    from roadworthy.settings import Settings

_ASSISTANT = "assistant"


@asynccontextmanager
async def open_project(settings: "Settings", target: str | None) -> AsyncGenerator[Project]:
    """The agents, built once, for as long as the context is open. Warnings about the project are logged.

    Raises:
        ConfigError: the project or an agent of it does not load.
    """
    folder = Path()
    file = folder / PROJECT_FILE
    if target is not None:
        source = read_target(target, folder=folder)
    elif file.is_file():
        source = read_project(file)
    else:
        yield Project(agents=builtin_agents(settings))
        return
    log = structlog.get_logger("roadworthy.project")
    for sentence in source.warnings:
        log.warning("project", detail=sentence)
    async with build_agents(source) as agents:
        yield Project(agents=agents)


def assistant_models(settings: "Settings", project: Project) -> Sequence[str]:
    """The models that the built-in assistant calls; none when it is not served."""
    from roadworthy.agents.models import DEFAULT_MODEL

    if all(agent.name != _ASSISTANT for agent in project.agents):
        return []
    return [settings.model or DEFAULT_MODEL, *([settings.fallback_model] if settings.fallback_model else [])]
