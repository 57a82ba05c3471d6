"""The table of tool calls beside the checkpoints: which have begun, which have a result, which a human must look at.

Pieces of ``rows`` units, each within the caller's transaction. ``tool_journal`` uses them for an
attempt, ``runtime`` and the CLI's ``runs resolve`` for reviews. Nothing here needs LangGraph, so that the CLI is fast.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from roadworthy.domain.ids import RunId
from roadworthy.domain.review import RecordResult, Resolution, RunAgain, ToolReview
from roadworthy.runtimes.langgraph.rows import Rows

# How ``result`` is written when a human gave it; else it is the name of one of the serializer's own ways.
GIVEN = "given"

# ``{bytes}`` is the database's type for bytes.
_TABLE = """
CREATE TABLE IF NOT EXISTS tool_calls (
  thread_key TEXT NOT NULL,
  tool_call_id TEXT NOT NULL,
  run_id TEXT NOT NULL,
  attempt INTEGER NOT NULL,
  name TEXT NOT NULL,
  args TEXT NOT NULL,
  effect TEXT NOT NULL,
  state TEXT NOT NULL,
  result_type TEXT,
  result {bytes},
  started_at TEXT NOT NULL,
  finished_at TEXT,
  PRIMARY KEY (thread_key, tool_call_id)
)
"""
_COLUMNS = (
    "thread_key, tool_call_id, run_id, attempt, name, args, effect, state, result_type, result, started_at, finished_at"
)
_PUT = (
    f"INSERT INTO tool_calls ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608 -- constants
    "ON CONFLICT (thread_key, tool_call_id) DO UPDATE SET "
    + ", ".join(f"{column} = excluded.{column}" for column in _COLUMNS.split(", ")[2:])
)
_FIND = f"SELECT {_COLUMNS} FROM tool_calls WHERE thread_key = ? AND tool_call_id = ?"  # noqa: S608 -- constants
# Oldest first, as they were called. A run that goes on has its reviews, and what a human said to them, from others.
_LOST = (
    f"SELECT {_COLUMNS} FROM tool_calls WHERE thread_key = ? AND name = ? "  # noqa: S608 -- constants
    "AND NOT (run_id = ? AND attempt = ?) AND (state = 'started' "
    "OR (state IN ('review', 'resolved') AND (? OR run_id = ?))) ORDER BY started_at, tool_call_id"
)
_DELETE = "DELETE FROM tool_calls WHERE thread_key = ? AND tool_call_id = ?"
_RENAME = "UPDATE tool_calls SET tool_call_id = ?, run_id = ?, attempt = ? WHERE thread_key = ? AND tool_call_id = ?"
_WITHDRAW = "DELETE FROM tool_calls WHERE thread_key = ? AND tool_call_id = ? AND state = 'started'"
_LEAVE = "DELETE FROM tool_calls WHERE thread_key = ? AND run_id != ? AND state != 'review'"
_REVIEW = (
    "UPDATE tool_calls SET state = 'review', run_id = ?, result_type = NULL, result = NULL "
    "WHERE thread_key = ? AND tool_call_id = ?"
)
# What runs in this attempt may still tell how it ends.
_REVIEW_OTHERS = (
    "UPDATE tool_calls SET state = 'review', run_id = ? WHERE thread_key = ? AND state = 'started' "
    "AND NOT (run_id = ? AND attempt = ?)"
)
_REVIEWS = (
    f"SELECT {_COLUMNS} FROM tool_calls WHERE thread_key = ? AND state = 'review' "  # noqa: S608 -- constants
    "ORDER BY started_at, tool_call_id"
)
_FINISHED = (
    f"SELECT {_COLUMNS} FROM tool_calls WHERE thread_key = ? AND run_id = ? AND state = 'finished' "  # noqa: S608 -- constants
    "ORDER BY started_at, tool_call_id"
)
_GIVE = (
    f"UPDATE tool_calls SET state = 'resolved', result_type = '{GIVEN}', result = ?, finished_at = ? "  # noqa: S608 -- constants
    "WHERE thread_key = ? AND tool_call_id = ? AND state = 'review'"
)
_RUN_AGAIN = "DELETE FROM tool_calls WHERE thread_key = ? AND tool_call_id = ? AND state = 'review'"
_ERASE = "DELETE FROM tool_calls WHERE thread_key = ?"


class CallState(StrEnum):
    """``started``: under way, or cut off. ``review``: a run stopped at it, because nobody knows what became of it."""

    STARTED = "started"
    REVIEW = "review"
    FINISHED = "finished"
    RESOLVED = "resolved"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRow:
    """One call. ``args`` is JSON; ``effect`` is empty when the tool declares none; ``run_id``: who ran it last."""

    thread_key: str
    tool_call_id: str
    run_id: str
    attempt: int
    name: str
    args: str
    effect: str
    state: CallState
    started_at: datetime
    result_type: str | None = None
    result: bytes | None = None
    finished_at: datetime | None = None

    @property
    def duration_ms(self) -> int:
        """How long it took, if it has ended."""
        return 0 if self.finished_at is None else round((self.finished_at - self.started_at).total_seconds() * 1000)


async def create_tool_rows(rows: Rows, *, bytes_type: str) -> None:
    """Make the table if it is missing."""
    await rows.run(_TABLE.format(bytes=bytes_type))


async def put_row(rows: Rows, row: ToolRow) -> None:
    """Write a call, over what was known of it."""
    finished = None if row.finished_at is None else row.finished_at.isoformat()
    who = (row.thread_key, row.tool_call_id, row.run_id, row.attempt, row.name, row.args, row.effect)
    how = (row.state.value, row.result_type, row.result, row.started_at.isoformat(), finished)
    await rows.run(_PUT, *who, *how)


async def find_row(rows: Rows, thread_key: str, tool_call_id: str) -> ToolRow | None:
    """What is known of a call."""
    found = await rows.all(_FIND, thread_key, tool_call_id)
    return _row(found[0]) if found else None


async def lost_rows(rows: Rows, now: ToolRow, *, goes_on: bool) -> Sequence[ToolRow]:
    """Calls of the tool of ``now`` that other attempts have begun, and that a human was or will be asked about.

    ``goes_on``: the run has no input of its own, so that what stopped another run may be about the same step.
    """
    who = (now.thread_key, now.name, now.run_id, now.attempt, goes_on, now.run_id)
    return [_row(values) for values in await rows.all(_LOST, *who)]


async def take_over(rows: Rows, before: ToolRow, now: ToolRow) -> ToolRow:
    """What is known of the call ``before`` is known of ``now`` instead, which is the same call under another id."""
    new = (now.tool_call_id, now.run_id, now.attempt)
    if before.tool_call_id != now.tool_call_id:
        await rows.run(_DELETE, now.thread_key, now.tool_call_id)
    await rows.run(_RENAME, *new, before.thread_key, before.tool_call_id)
    return replace(before, tool_call_id=now.tool_call_id, run_id=now.run_id, attempt=now.attempt)


async def withdraw_row(rows: Rows, thread_key: str, tool_call_id: str) -> None:
    """A call has not begun after all."""
    await rows.run(_WITHDRAW, thread_key, tool_call_id)


async def leave_behind(rows: Rows, thread_key: str, run_id: RunId) -> None:
    """The thread goes on with the new input of ``run_id``: what earlier runs left here is of no use any more.

    Open reviews stay, for whoever still wants to know.
    """
    await rows.run(_LEAVE, thread_key, run_id)


async def put_in_review(rows: Rows, thread_key: str, tool_call_id: str, *, run_id: RunId, attempt: int) -> None:
    """A run stops before a call of unknown outcome: it asks about this one, and about all others that were cut off."""
    await rows.run(_REVIEW, run_id, thread_key, tool_call_id)
    await rows.run(_REVIEW_OTHERS, run_id, thread_key, run_id, attempt)


async def reviews_of(rows: Rows, thread_key: str) -> Sequence[ToolReview]:
    """Calls of unknown outcome that runs of a thread stopped at, oldest first."""
    found = [_row(values) for values in await rows.all(_REVIEWS, thread_key)]
    return [
        ToolReview(
            run_id=RunId(row.run_id),
            tool_call_id=row.tool_call_id,
            name=row.name,
            args=json.loads(row.args),
            started_at=row.started_at,
        )
        for row in found
    ]


async def resolve_row(rows: Rows, thread_key: str, tool_call_id: str, resolution: Resolution, now: datetime) -> bool:
    """Say what became of a call that is in review. False when there is no such call."""
    place = (thread_key, tool_call_id)
    match resolution:
        case RecordResult():
            given = json.dumps(resolution.result).encode()
            changed = await rows.run(_GIVE, given, now.isoformat(), *place)
        case RunAgain():
            changed = await rows.run(_RUN_AGAIN, *place)
    return changed > 0


async def finished_of(rows: Rows, thread_key: str, run_id: RunId) -> Sequence[ToolRow]:
    """The calls that a run has finished, as they were called."""
    return [_row(values) for values in await rows.all(_FINISHED, thread_key, run_id)]


async def erase_tool_rows(rows: Rows, thread_key: str) -> None:
    """Delete what is known of a thread's calls. Idempotent."""
    await rows.run(_ERASE, thread_key)


def _row(values: tuple[object, ...]) -> ToolRow:
    thread, id_, run_id, attempt, name, args, effect, state, kind, result, started, finished = values
    return ToolRow(
        thread_key=str(thread),
        tool_call_id=str(id_),
        run_id=str(run_id),
        attempt=int(str(attempt)),
        name=str(name),
        args=str(args),
        effect=str(effect),
        state=CallState(str(state)),
        result_type=None if kind is None else str(kind),
        result=result if isinstance(result, bytes) else None,
        started_at=datetime.fromisoformat(str(started)),
        finished_at=None if finished is None else datetime.fromisoformat(str(finished)),
    )
