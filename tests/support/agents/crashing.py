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
from uuid import UUID

from roadworthy.runtimes.langgraph import (
    checkpoint_rows,
    checkpoints,
    journal,
    metering,
    postgres_checkpoints,
    tool_journal,
)
from roadworthy.storage import ledger, queue
from tests.support.agents.claude import graph
from tests.support.agents.questions import graph as questions

__all__ = ["graph", "questions", "reached"]

Call = Callable[..., Awaitable[Any]]
SyncCall = Callable[..., Any]


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


def within(call: SyncCall) -> SyncCall:
    """Die when a part of a transaction has done its work, before the commit."""

    @functools.wraps(call)
    def dying(*args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)
        crash()

    return dying


def mid_stream(call: SyncCall) -> SyncCall:
    """Die in the middle of an answer."""

    @functools.wraps(call)
    def dying(meter: Any, *args: Any, run_id: UUID, **kwargs: Any) -> None:
        call(meter, *args, run_id=run_id, **kwargs)
        asked = meter._open.get(run_id)
        if asked is not None and asked.chunks == PIECES:
            crash()

    return dying


def reached(point: str) -> None:
    """A tool is at this point of its own code."""
    if os.environ.get("CRASH_AT") == point:
        crash()


ON_POSTGRES = "ROADWORTHY_DATABASE_URL" in os.environ
SAVER = postgres_checkpoints.FencedPostgresSaver if ON_POSTGRES else checkpoints.FencedSqliteSaver
# The first piece of an answer says nothing.
PIECES = 3
IN_TOOLS = {"before-effect", "after-effect"}
POINTS: dict[str, tuple[Any, str, Callable[[SyncCall], SyncCall]]] = {
    "before-accept": (queue.SqlRunQueue, "accept", before),
    "after-accept": (queue.SqlRunQueue, "accept", after),
    "before-finish": (queue.SqlRunQueue, "finish", before_but_written),
    "after-finish": (queue.SqlRunQueue, "finish", after),
    "before-reserve": (ledger.SqlLedger, "reserve", before),
    "after-reserve": (ledger.SqlLedger, "reserve", after),
    "before-append": (ledger.SqlLedger, "append", before),
    "after-append": (ledger.SqlLedger, "append", after),
    "before-checkpoint": (SAVER, "aput", before),
    "after-checkpoint": (SAVER, "aput", after),
    # SQLite's alone: on Postgres a checkpoint is one statement.
    "inside-checkpoint": (checkpoint_rows, "put", within),
    "before-writes": (SAVER, "aput_writes", before),
    "after-writes": (SAVER, "aput_writes", after),
    "mid-stream": (metering.ModelMeter, "on_llm_new_token", mid_stream),
    "before-response": (journal.AttemptJournal, "keep", before),
    "after-response": (journal.AttemptJournal, "keep", after),
    "before-tool": (tool_journal.JournalledCall, "recall", before),
    "after-tool-noted": (tool_journal.JournalledCall, "recall", after),
    "before-tool-result": (tool_journal.JournalledCall, "keep", before),
    "after-tool-result": (tool_journal.JournalledCall, "keep", after),
}

if (point := os.environ.get("CRASH_AT")) and point not in IN_TOOLS:
    owner, name, how = POINTS[point]
    setattr(owner, name, how(getattr(owner, name)))
