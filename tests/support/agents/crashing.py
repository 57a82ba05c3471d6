"""The same agents in a server that kills itself at a named point of its own code, once.

CRASH_AT names the point; CRASH_SKIP is how often it is passed unharmed before; CRASH_MARK is a file that is made just
before, so that the next process lives on. The points are patched from here because a served agent runs inside the
server: the product itself has no failpoints.
"""

import functools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from roadworthy.runtimes.langgraph import checkpoints, journal, tool_journal
from roadworthy.storage import ledger, queue
from tests.support.agents.claude import graph
from tests.support.agents.questions import graph as questions

__all__ = ["graph", "questions"]

Call = Callable[..., Awaitable[Any]]


_passes = iter(range(int(os.environ.get("CRASH_SKIP", "0"))))


def crash() -> None:
    """Die as by kill -9, unless that happened before."""
    mark = Path(os.environ["CRASH_MARK"])
    if not mark.exists() and next(_passes, None) is None:
        mark.touch()
        os.kill(os.getpid(), 9)


def before(call: Call) -> Call:
    """Die instead of the call."""

    @functools.wraps(call)
    async def dying(*args: Any, **kwargs: Any) -> Any:
        crash()
        return await call(*args, **kwargs)

    return dying


def _nothing(tx: object) -> None:
    del tx


def before_but_written(call: Call) -> Call:
    """Die instead of the call of a store, when everything that its database was asked for earlier is on disk."""
    dying = before(call)

    @functools.wraps(call)
    async def waiting(store: Any, *args: Any, **kwargs: Any) -> Any:
        await store._database.write(_nothing)
        return await dying(store, *args, **kwargs)

    return waiting


def after(call: Call) -> Call:
    """Die when the call has done its work."""

    @functools.wraps(call)
    async def dying(*args: Any, **kwargs: Any) -> Any:
        result = await call(*args, **kwargs)
        crash()
        return result

    return dying


POINTS: dict[str, tuple[type, str, Callable[[Call], Call]]] = {
    "before-accept": (queue.SqlRunQueue, "accept", before),
    "after-accept": (queue.SqlRunQueue, "accept", after),
    "before-finish": (queue.SqlRunQueue, "finish", before_but_written),
    "after-finish": (queue.SqlRunQueue, "finish", after),
    "before-reserve": (ledger.SqlLedger, "reserve", before),
    "after-reserve": (ledger.SqlLedger, "reserve", after),
    "before-append": (ledger.SqlLedger, "append", before),
    "after-append": (ledger.SqlLedger, "append", after),
    "after-settle-lost": (ledger.SqlLedger, "settle_lost", after),
    "before-checkpoint": (checkpoints.FencedSqliteSaver, "aput", before),
    "after-checkpoint": (checkpoints.FencedSqliteSaver, "aput", after),
    "before-response": (journal.AttemptJournal, "keep", before),
    "after-response": (journal.AttemptJournal, "keep", after),
    "after-tool-result": (tool_journal.JournalledCall, "keep", after),
}

if point := os.environ.get("CRASH_AT"):
    owner, name, how = POINTS[point]
    setattr(owner, name, how(getattr(owner, name)))
