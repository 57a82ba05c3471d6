"""What a server needs of a checkpointer beside what LangGraph needs, whatever database it is on.

``checkpoints`` is the one on SQLite, ``postgres_checkpoints`` the one on Postgres; the rest of this package knows only
this.
"""

from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver, CheckpointTuple
from langgraph.types import Interrupt

from roadworthy.domain.ids import RunId
from roadworthy.runtimes.langgraph.checkpoint_pruning import Place, Row, outdated, superfluous
from roadworthy.runtimes.langgraph.current import AttemptScope, current_attempt
from roadworthy.runtimes.langgraph.rows import RowDatabase

# Writes that tell what happened to a task, not what it produced (langgraph.pregel._task_status).
_CONTROL = frozenset({"__error__", "__error_source_node__", "__interrupt__", "__resume__"})
_INTERRUPT = "__interrupt__"
_NO_TASK = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenWrite:
    """What a task wrote on the latest checkpoint of its namespace. ``written``: of interrupts only, type and bytes."""

    namespace: str
    task: str
    channel: str
    written: tuple[str, bytes] | None


class FencedSaver(BaseCheckpointSaver[str]):
    """See the module. Sync methods work from threads, by way of the loop, as in LangGraph's own."""

    # The tables beside the checkpoints.
    rows: RowDatabase

    @abstractmethod
    async def check(self) -> None:
        """Write and read something.

        Raises:
            StorageUnavailable: it did not work.
        """

    @abstractmethod
    async def latest_run(self, thread_id: str) -> str | None:
        """The run that wrote the thread's latest root checkpoint."""

    @abstractmethod
    async def before_run(self, thread_id: str, run_id: RunId) -> str | None:
        """The latest root checkpoint that another run wrote."""

    @abstractmethod
    async def newest_id(self, thread_id: str) -> str | None:
        """The id of the thread's newest checkpoint, subgraphs' included."""

    @abstractmethod
    async def open_interrupts(self, thread_id: str) -> Mapping[str, frozenset[str]]:
        """The ids of the questions that wait for an answer, by namespace: the root's is ``""``."""

    @abstractmethod
    async def erase_run(self, thread_id: str, run_id: RunId) -> None:
        """Delete the checkpoints of one run, subgraphs' included, with what was written on them. Idempotent."""

    async def aget_tuple(self, config: RunnableConfig) -> CheckpointTuple | None:
        """The checkpoint that the config names, else the latest; the one read ahead, if it is that."""
        where = configurable(config)
        thread, namespace = str(where["thread_id"]), str(where.get("checkpoint_ns", ""))
        wanted: str | None = where.get("checkpoint_id") or None
        scope = current_attempt.get()
        if scope is not None:
            scope.watch.opened(thread, namespace)
        if scope is not None and wanted is None and not namespace and scope.ahead is not None:
            ahead, scope.ahead = scope.ahead, None
            if ahead.thread == thread:
                return ahead.latest
        return await self._read(thread, namespace, wanted)

    async def adelete_for_runs(self, run_ids: Sequence[str]) -> None:
        """Delete the checkpoints of runs, on whatever threads."""
        for run_id in map(RunId, run_ids):
            for thread in await self._threads_of_run(run_id):
                await self.erase_run(thread, run_id)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        """Delete the checkpoints of threads: all, or with ``keep_latest`` all but the latest of each namespace.

        Raises:
            ValueError: the strategy is unknown.
        """
        if strategy not in {"keep_latest", "delete"}:
            raise ValueError(f"no such strategy: {strategy}")
        for thread in thread_ids:
            if strategy == "delete":
                await self.adelete_thread(thread)
            else:
                await self._prune(thread, outdated)

    async def prune_thread(self, thread_id: str, *, keep: int) -> int:
        """Delete what nothing needs when the latest ``keep`` checkpoints of the root graph stay. Returns how many
        checkpoints went. See ``checkpoint_pruning``; for threads without a run under way.
        """
        return await self._prune(thread_id, lambda rows: superfluous(rows, keep))

    @abstractmethod
    async def _read(self, thread: str, namespace: str, checkpoint_id: str | None) -> CheckpointTuple | None:
        """The named checkpoint, else the latest of the namespace."""

    @abstractmethod
    async def _prune(self, thread: str, choose: Callable[[Sequence[Row]], Sequence[Place]]) -> int:
        """Delete those of a thread's checkpoints that are chosen. Returns how many."""

    @abstractmethod
    async def _threads_of_run(self, run_id: RunId) -> Sequence[str]:
        """The threads that a run has checkpoints on. Looks at every row."""


def questions(found: Iterable[OpenWrite]) -> Iterable[tuple[str, tuple[str, bytes]]]:
    """Of all that tasks wrote, the interrupts that still wait: namespace, and what was written."""
    writes = list(found)
    finished = {(one.namespace, one.task) for one in writes if one.channel not in _CONTROL and one.task != _NO_TASK}
    for one in writes:
        if one.channel == _INTERRUPT and one.written is not None and (one.namespace, one.task) not in finished:
            yield one.namespace, one.written


def ids_by_namespace(asked: Iterable[tuple[str, object]]) -> Mapping[str, frozenset[str]]:
    """The ids of interrupts, as LangGraph wrote them."""
    ids: dict[str, set[str]] = {}
    for namespace, value in asked:
        items: Sequence[object] = value if isinstance(value, list | tuple) else [value]
        ids.setdefault(namespace, set()).update(item.id for item in items if isinstance(item, Interrupt))
    return {namespace: frozenset(found) for namespace, found in ids.items()}


@contextmanager
def watched(scope: AttemptScope | None, *place: str) -> Generator[None]:
    """Tell the attempt what became of a checkpoint. ``place``: its thread, namespace and id."""
    error: BaseException | None = None
    try:
        yield
    except Exception as raised:  # whatever it is: who waits for this checkpoint waits in vain
        error = raised
        raise
    finally:
        if scope is not None:
            if error is None:
                scope.watch.is_at(*place)
            scope.watch.stored(error)


def configurable(config: RunnableConfig) -> dict[str, Any]:
    """Where a checkpoint is."""
    return config.get("configurable", {})
