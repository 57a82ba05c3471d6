"""Imports an author's code and finds the graph in it, with one readable error for everything that can go wrong.

``factories`` calls it at start. The agent's folder goes on ``sys.path``, so that its code finds its neighbours.
"""

import sys
import traceback
from collections.abc import Sequence
from hashlib import sha256
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from langgraph.graph import StateGraph
from langgraph.pregel import Pregel

from roadworthy.domain.errors import ConfigError
from roadworthy.runtimes.langgraph.project import AgentTarget

_MAX_NAMES = 8
_MAX_TEXT = 500


def load_attribute(target: AgentTarget) -> object:
    """What the target names.

    Raises:
        ConfigError: file, attribute and cause.
    """
    add_to_path(target.folder)
    module = _import_file(target) if target.is_file else _import_module(target)
    found: object = module
    for part in target.attribute.split("."):
        if not hasattr(found, part):
            raise ConfigError(_missing(target, module))
        found = getattr(found, part)
    return found


def add_to_path(folder: Path) -> None:
    """Make the folder's modules importable, before all others."""
    entry = str(folder)
    if entry not in sys.path:
        sys.path.insert(0, entry)


def _import_module(target: AgentTarget) -> ModuleType:
    try:
        return import_module(target.source)
    except ModuleNotFoundError as error:
        if error.name is not None and (target.source == error.name or target.source.startswith(f"{error.name}.")):
            raise ConfigError(f"{target}: there is no module {error.name} in {target.folder} or installed") from error
        raise ConfigError(_cause(target, error)) from error
    except (Exception, SystemExit) as error:
        raise ConfigError(_cause(target, error)) from error


def _import_file(target: AgentTarget) -> ModuleType:
    path = (target.folder / target.source).resolve()
    if not path.is_file():
        raise ConfigError(f"{target}: the file {path} does not exist")
    add_to_path(path.parent)
    name = _module_name(path)
    if name in sys.modules:
        return sys.modules[name]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{target}: {path} is not a Python file")
    module = module_from_spec(spec)
    # Registered before it runs, so that dataclasses and checkpointed types resolve by this name.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        raise ConfigError(_cause(target, error)) from error
    return module


def _module_name(path: Path) -> str:
    """The plain stem, by which neighbours import the file too; something stable of its own when that name is taken.

    Types in checkpoints are found by it again after a restart.
    """
    stem = path.stem
    taken = sys.modules.get(stem)
    if taken is not None and getattr(taken, "__file__", None) == str(path):
        return stem
    if stem.isidentifier() and taken is None and stem not in sys.stdlib_module_names and not _installed(stem, path):
        return stem
    return f"roadworthy_agent_{sha256(str(path).encode()).hexdigest()[:12]}"


def _installed(stem: str, path: Path) -> bool:
    """Whether plain ``import stem`` means something else than this file."""
    from importlib.util import find_spec

    try:
        spec = find_spec(stem)
    except (ImportError, ValueError):
        return True
    return spec is not None and spec.origin != str(path)


def _missing(target: AgentTarget, module: ModuleType) -> str:
    names = _graph_like(module)
    hint = f"; it has {', '.join(names)}" if names else ""
    return f"{target}: {target.source} has no {target.attribute}{hint}"


def _graph_like(module: ModuleType) -> Sequence[str]:
    return [name for name, value in vars(module).items() if isinstance(value, StateGraph | Pregel)][:_MAX_NAMES]


def _cause(target: AgentTarget, error: BaseException) -> str:
    if isinstance(error, SyntaxError):
        return f"{target}: syntax error in {error.filename}, line {error.lineno}: {error.msg}"
    place = _place(error)
    text = " ".join(str(error).split())[:_MAX_TEXT]
    return f"{target}: {type(error).__name__}: {text}{f' ({place})' if place else ''}"


def _place(error: BaseException) -> str:
    """File and line of the author's code that raised, not of the machinery around it."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename and frame.filename != __file__]
    return f"{own[-1].filename}, line {own[-1].lineno}" if own else ""
