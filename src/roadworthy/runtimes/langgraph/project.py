"""Reads what the operator points at: a target, or a ``langgraph.json``. Imports nothing of the author's.

``cli`` reads the project first, exports its environment, and only then has ``factories`` build the agents: modules read
their keys at import.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dotenv import dotenv_values

from roadworthy.domain.errors import ConfigError, InvalidRequest
from roadworthy.domain.ids import AgentName, parse_agent_name

PROJECT_FILE = "langgraph.json"
DEFAULT_NAME = "agent"
# `dependencies` belongs to the image that the server runs in.
_SILENT_KEYS = frozenset({"graphs", "env", "store", "dependencies", "$schema"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentTarget:
    """Where one agent's graph is: ``source`` is a file (``path.py``) or a module, ``attribute`` a name in it."""

    name: AgentName
    source: str
    attribute: str
    folder: Path
    description: str = ""

    @property
    def is_file(self) -> bool:
        """Whether ``source`` is a path."""
        return self.source.endswith(".py") or "/" in self.source or "\\" in self.source

    def __str__(self) -> str:
        return f"{self.source}:{self.attribute}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Project:
    """What to serve. ``env`` is to be exported before any agent is built; ``store`` is the raw store section."""

    targets: Sequence[AgentTarget]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    store: Mapping[str, object] | None = None
    warnings: Sequence[str] = ()


def read_target(target: str, *, folder: Path) -> Project:
    """The project of a target ``path.py:attr`` or ``module:attr``; paths are relative to ``folder``.

    Raises:
        ConfigError: it is not written so.
    """
    one = _target(_slug(target), target, folder, "")
    home = (folder / one.source).resolve().parent if one.is_file else folder.resolve()
    return Project(targets=(one,), folder=home)


def read_project(path: Path) -> Project:
    """The project of a ``langgraph.json``.

    Raises:
        ConfigError: the file, or a file that it names, cannot be read or says something that is not understood.
    """
    config = _read_json(path)
    folder = path.resolve().parent
    if config.get("auth"):
        raise ConfigError(
            f"{path}: `auth` is not supported, and ignoring it would leave the agents open: "
            "remove it and give your users API keys of this server"
        )
    graphs = config.get("graphs")
    if not isinstance(graphs, Mapping) or not graphs:
        raise ConfigError(f'{path}: `graphs` must name at least one graph, as in {{"agent": "./agent.py:graph"}}')
    store = config.get("store")
    if store is not None and not isinstance(store, Mapping):
        raise ConfigError(f"{path}: `store` must be an object")
    return Project(
        targets=tuple(_graph(path, str(name), spec, folder) for name, spec in graphs.items()),
        folder=folder,
        env=_environment(path, config.get("env"), folder),
        store=store,
        warnings=tuple(f"{path}: `{key}` is not used" for key in config if key not in _SILENT_KEYS and config[key]),
    )


def _read_json(path: Path) -> Mapping[str, object]:
    try:
        config: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error.msg} in line {error.lineno}") from error
    if not isinstance(config, Mapping):
        raise ConfigError(f"{path} must hold an object")
    return config


def _graph(path: Path, name: str, spec: object, folder: Path) -> AgentTarget:
    where, description = spec, ""
    if isinstance(spec, Mapping):
        where, told = spec.get("path"), spec.get("description")
        description = told if isinstance(told, str) else ""
    if not isinstance(where, str):
        raise ConfigError(f'{path}: graph {name} must be "file.py:name", or an object with such a `path`')
    try:
        slug = parse_agent_name(name)
    except InvalidRequest as error:
        raise ConfigError(f"{path}: graph {name!r}: {error.message}") from error
    return _target(slug, where, folder, description)


def _target(name: AgentName, text: str, folder: Path, description: str) -> AgentTarget:
    source, colon, attribute = text.rpartition(":")
    if not colon or not source or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", attribute):
        raise ConfigError(f"{text!r} is no target: write path.py:name or module:name")
    return AgentTarget(name=name, source=source, attribute=attribute, folder=folder.resolve(), description=description)


def _slug(target: str) -> AgentName:
    """The name of a lone target's agent: its file's or module's, made fit."""
    source = target.rpartition(":")[0]
    stem = Path(source).stem if source.endswith(".py") else source.rpartition(".")[2]
    slug = re.sub(r"[^A-Za-z0-9._-]", "-", stem).strip("._-")[:64]
    return AgentName(slug or DEFAULT_NAME)


def _environment(path: Path, env: object, folder: Path) -> Mapping[str, str]:
    if env is None:
        return {}
    if isinstance(env, str):
        file = folder / env
        if not file.is_file():
            raise ConfigError(f"{path}: the environment file {env} does not exist")
        return {key: value for key, value in dotenv_values(file).items() if value is not None}
    if not isinstance(env, Mapping) or not all(isinstance(value, str | int | float) for value in env.values()):
        raise ConfigError(f"{path}: `env` must be a file's name or an object of texts")
    return {str(key): str(value) for key, value in env.items()}
