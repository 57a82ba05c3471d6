"""Reads the ``store`` section of a ``langgraph.json``: how items are indexed for search, and how long they live.

``cli`` calls it when the project's environment is exported: the embedding may be the author's own code.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

from langgraph.store.base import TTLConfig
from langgraph.store.sqlite.base import SqliteIndexConfig

from roadworthy.domain.errors import ConfigError
from roadworthy.domain.ids import AgentName
from roadworthy.runtimes.langgraph.importing import load_attribute
from roadworthy.runtimes.langgraph.project import PROJECT_FILE, AgentTarget, Project
from roadworthy.runtimes.langgraph.store import StoreConfig

_TTL_NUMBERS = ("default_ttl", "sweep_interval_minutes")


def store_config(project: Project) -> StoreConfig | None:
    """How the project wants its store, None when it says nothing.

    Raises:
        ConfigError: the section is not understood, or the embedding cannot be imported.
    """
    if project.store is None:
        return None
    return StoreConfig(index=_index(project), ttl=_ttl(project))


def _index(project: Project) -> SqliteIndexConfig | None:
    index = _section(project, "index")
    if index is None:
        return None
    dims, embed, fields = index.get("dims"), index.get("embed"), index.get("fields")
    if not isinstance(dims, int) or dims < 1:
        raise ConfigError(f"{PROJECT_FILE}: `store.index.dims` must be the number of dimensions of the embedding")
    if not isinstance(embed, str):
        raise ConfigError(f"{PROJECT_FILE}: `store.index.embed` must be provider:model or file.py:name")
    config = SqliteIndexConfig(dims=dims, embed=cast("Any", _embedding(project, embed)))
    if isinstance(fields, list) and all(isinstance(one, str) for one in fields):
        config["fields"] = fields
    elif fields is not None:
        raise ConfigError(f"{PROJECT_FILE}: `store.index.fields` must be a list of texts")
    return config


def _embedding(project: Project, embed: str) -> str | Callable[..., object] | object:
    source, _, attribute = embed.rpartition(":")
    if not source.endswith(".py"):
        return embed
    return load_attribute(
        AgentTarget(name=AgentName("embed"), source=source, attribute=attribute, folder=project.folder)
    )


def _ttl(project: Project) -> TTLConfig | None:
    ttl = _section(project, "ttl")
    if ttl is None:
        return None
    config = TTLConfig()
    for key in _TTL_NUMBERS:
        value = ttl.get(key)
        if value is not None and (not isinstance(value, int | float) or value <= 0):
            raise ConfigError(f"{PROJECT_FILE}: `store.ttl.{key}` must be a number of minutes")
    if isinstance(default := ttl.get("default_ttl"), int | float):
        config["default_ttl"] = float(default)
    if isinstance(sweep := ttl.get("sweep_interval_minutes"), int | float):
        config["sweep_interval_minutes"] = max(1, round(sweep))
    if isinstance(refresh := ttl.get("refresh_on_read"), bool):
        config["refresh_on_read"] = refresh
    return config


def _section(project: Project, name: str) -> Mapping[str, object] | None:
    section = None if project.store is None else project.store.get(name)
    if section is not None and not isinstance(section, Mapping):
        raise ConfigError(f"{PROJECT_FILE}: `store.{name}` must be an object")
    return section
