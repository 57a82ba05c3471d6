"""Where in a graph a model is called, as a later attempt would find it again: the innermost task whose graph keeps
checkpoints.

LangGraph derives a task's id, a part of its namespace, from the checkpoint that it starts from. A graph without
checkpoints is run from its beginning again, with other ids; its calls belong to the task that runs it.
``journal`` keys its rows by places. ``checkpoints`` reports to the watch what it reads and stores.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables.config import var_child_runnable_config

# LangGraph's own names (langgraph._internal._constants): the checkpoints that the graphs around a task stand on, the
# outermost first, by namespace; and when they are saved.
_MAP = "checkpoint_map"
_DURABILITY = "__pregel_durability"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """``stands_on``: namespace and id of each checkpoint that must be there to find the place; the root's is first."""

    namespace: str
    stands_on: tuple[tuple[str, str], ...]

    @property
    def root_id(self) -> str:
        """The root graph's checkpoint."""
        return self.stands_on[0][1]

    @property
    def graph(self) -> tuple[str, str]:
        """Namespace and checkpoint of the graph that the task belongs to."""
        return self.stands_on[-1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a model is asked (``journal_question``), and where."""

    place: Place
    hash: str


class CheckpointWatch:
    """What an attempt's graphs do with their checkpoints. Belongs to the loop, but for ``saves`` and ``close``.

    ``root_id``: the root's latest checkpoint, as far as the attempt has read or stored it.
    """

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self.root_id = ""
        self.over = False
        self._namespaces = {""}
        self._stored = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def opened(self, thread: str, namespace: str) -> None:
        """A graph has asked for its latest checkpoint: it keeps them."""
        if thread == self.thread:
            self._namespaces.add(namespace)

    def saves(self, thread: str, namespace: str) -> bool:
        """Whether the graph with this namespace keeps its checkpoints where we find them. From any thread."""
        return thread == self.thread and namespace in self._namespaces

    def is_at(self, thread: str, namespace: str, checkpoint_id: str) -> None:
        """A graph goes on from this checkpoint."""
        if thread == self.thread and not namespace:
            self.root_id = max(self.root_id, checkpoint_id)

    def stored(self, error: BaseException | None = None) -> None:
        """A checkpoint was stored; or will never be, nor any other of the attempt."""
        self.over = self.over or error is not None
        self._stored.set()
        self._stored = asyncio.Event()

    def close(self) -> None:
        """The attempt has ended: nobody need wait any longer. From any thread."""
        self.over = True
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.stored)

    def coming(self) -> asyncio.Event:
        """Set at the next ``stored``. To be taken before one looks what is there."""
        return self._stored


def find_place(watch: CheckpointWatch) -> Place | None:
    """The place of the code that asks; None outside of a task."""
    config = var_child_runnable_config.get() or {}
    where: Mapping[str, Any] = config.get("configurable", {})
    checkpoints: Mapping[str, str] = where.get(_MAP) or {}
    if "" not in checkpoints:
        return None
    stands_on, inner = _split(where, checkpoints, watch)
    namespace = str(where.get("checkpoint_ns", "")) if inner is None else _task_of(inner)
    return Place(namespace=namespace, stands_on=tuple(stands_on))


def _split(
    where: Mapping[str, Any], checkpoints: Mapping[str, str], watch: CheckpointWatch
) -> tuple[list[tuple[str, str]], str | None]:
    """The checkpoints down to the first graph that keeps none, and that graph's namespace."""
    found: list[tuple[str, str]] = []
    for namespace, checkpoint_id in checkpoints.items():
        if found and found[-1][1] == checkpoint_id:
            continue  # not a graph, but a task that calls tasks
        if namespace and not _is_kept(where, namespace, watch):
            return found, namespace
        found.append((namespace, checkpoint_id))
    return found, None


def _is_kept(where: Mapping[str, Any], namespace: str, watch: CheckpointWatch) -> bool:
    # A graph that saves at its exit only has nothing to show for a crash before.
    return where.get(_DURABILITY) != "exit" and watch.saves(str(where.get("thread_id")), namespace)


def _task_of(namespace: str) -> str:
    """The namespace of the task that runs a graph: LangGraph numbers all graphs that a task runs after its first."""
    parts = namespace.split("|")
    while len(parts) > 1 and parts[-1].isdigit():
        parts.pop()
    return "|".join(parts)
