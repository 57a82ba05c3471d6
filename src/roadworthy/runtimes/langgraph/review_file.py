"""Reviews in the file of checkpoints, for an operator beside a running server: one short transaction each.

The CLI's ``runs`` uses it; the server itself goes by ``runtime``. As ``tool_rows`` it does without LangGraph.
"""

import sqlite3
from collections.abc import Generator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.review import Resolution, ToolReview
from roadworthy.domain.run import Run
from roadworthy.domain.thread import ThreadRef
from roadworthy.runtimes.langgraph.keys import CHECKPOINTS_FILE, thread_key
from roadworthy.runtimes.langgraph.sqlite_rows import BYTES, SqliteRows, finished
from roadworthy.runtimes.langgraph.tool_rows import create_tool_rows, resolve_row, reviews_of

_BUSY_SECONDS = 10.0


def reviews_in(folder: Path, run: Run) -> Sequence[ToolReview]:
    """The open reviews of a run.

    Raises:
        StorageUnavailable: the file cannot be read.
    """
    with _opened(folder) as connection:
        return _of_run(connection, run)


def resolve_in(folder: Path, run: Run, tool_call_id: str, resolution: Resolution, now: datetime) -> bool:
    """Say what became of a tool call of a run. False when the run asks for no review of it.

    Raises:
        StorageUnavailable: the file cannot be written.
    """
    with _opened(folder) as connection:
        asked = {one.tool_call_id for one in _of_run(connection, run)}
        return tool_call_id in asked and finished(
            resolve_row(SqliteRows(connection), _key(run), tool_call_id, resolution, now)
        )


@contextmanager
def _opened(folder: Path) -> Generator[sqlite3.Connection]:
    file = folder / CHECKPOINTS_FILE
    if not file.exists():
        raise StorageUnavailable(f"there is no file {file}")
    try:
        with closing(sqlite3.connect(file, timeout=_BUSY_SECONDS)) as connection, connection:
            finished(create_tool_rows(SqliteRows(connection), bytes_type=BYTES))
            yield connection
    except sqlite3.Error as error:
        raise StorageUnavailable(f"the file {file} cannot be used: {error}") from error


def _of_run(connection: sqlite3.Connection, run: Run) -> Sequence[ToolReview]:
    return [one for one in finished(reviews_of(SqliteRows(connection), _key(run))) if one.run_id == run.run_id]


def _key(run: Run) -> str:
    return thread_key(ThreadRef(owner=run.owner, thread_id=run.thread_id))
