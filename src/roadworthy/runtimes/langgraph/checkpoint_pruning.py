"""Which checkpoints of a thread somebody may still need, when all but the latest may go.

``checkpoints`` prunes by it, in small transactions: what it finds at first is not needed later either, because new
checkpoints only ever follow the latest ones.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

# namespace, id
Place: TypeAlias = tuple[str, str]
Kept: TypeAlias = set[Place]

# LangGraph separates a task's name and id in the namespace of the graph that the task runs.
_TASK_ID = ":"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A checkpoint. ``root``: for one of a subgraph, the root's checkpoint that the subgraph's task started from.
    ``delta``: some of its channels are rebuilt from what was written on the checkpoints before it.
    """

    namespace: str
    id: str
    parent: str | None
    run: str | None
    root: str | None
    delta: bool


def superfluous(rows: Sequence[Row], keep: int) -> Sequence[Place]:
    """Namespace and id of the checkpoints that nothing needs when the latest ``keep`` of the root graph stay.

    ``rows``: all of the thread, newest first. The result begins with the oldest.
    """
    return _others(rows, needed(rows, keep))


def outdated(rows: Sequence[Row]) -> Sequence[Place]:
    """As ``superfluous``: all but the latest checkpoint of each namespace."""
    return _others(rows, {(row.namespace, row.id) for row in _newest(rows)})


def needed(rows: Sequence[Row], keep: int) -> Kept:
    """What must stay of a thread's checkpoints, given newest first.

    Of the root graph: the latest ``keep``; the latest of the run before the latest run, which tells what is new, and
    to which a rollback returns; the parent of the latest, which tells whether the graph stopped behind a node.
    Of a subgraph: its latest checkpoint, and the latest of another run, to which a rollback returns; of the graph of a
    task only while the root's that the task started from stays.
    """
    by_namespace = _grouped(rows)
    root = _needed_of_root(by_namespace.pop("", []), keep)
    kept = {(row.namespace, row.id) for row in root}
    ids = {row.id for row in root}
    for namespace, found in by_namespace.items():
        if _TASK_ID not in namespace or found[0].root is None or found[0].root in ids:
            kept.update((namespace, row.id) for row in _latest_of_two_runs(found))
    return kept


def _others(rows: Sequence[Row], kept: Kept) -> Sequence[Place]:
    # A channel that keeps only what changes needs the checkpoints before. They hold little by their nature.
    whole = {row.namespace for row in rows if row.delta} & {namespace for namespace, _ in kept}
    return [
        (row.namespace, row.id)
        for row in reversed(rows)
        if (row.namespace, row.id) not in kept and row.namespace not in whole
    ]


def _needed_of_root(found: Sequence[Row], keep: int) -> Sequence[Row]:
    if not found:
        return []
    latest = found[0]
    before = next((row for row in found if row.run != latest.run), None)
    return [row for at, row in enumerate(found) if at < max(1, keep) or row is before or row.id == latest.parent]


def _latest_of_two_runs(found: Sequence[Row]) -> Iterable[Row]:
    yield found[0]
    yield from [row for row in found if row.run != found[0].run][:1]


def _newest(rows: Sequence[Row]) -> Iterable[Row]:
    return [found[0] for found in _grouped(rows).values()]


def _grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[row.namespace].append(row)
    return dict(groups)
