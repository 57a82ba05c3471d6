"""The tables of checkpoints: LangGraph's own, and one for the parts that a thread's checkpoints share.

Whole pieces of work on one connection. ``checkpoints`` runs them, the writing ones in a transaction each.
"""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeAlias, TypeVar

from langgraph.checkpoint.sqlite.utils import pending_writes_sql

from roadworthy.domain.ids import RunId
from roadworthy.runtimes.langgraph.checkpoint_chunks import Key, Written
from roadworthy.runtimes.langgraph.checkpoint_pruning import Row as PrunedRow
from roadworthy.runtimes.langgraph.checkpoint_sharing import SHARED, Encoded, keys_of
from roadworthy.runtimes.langgraph.savers import OpenWrite

Answer = TypeVar("Answer")
# id, parent's id, type, checkpoint, metadata · task, channel, type, value, path, index
CheckpointRow: TypeAlias = tuple[str, str | None, str, bytes, bytes | None]
WriteRow: TypeAlias = tuple[str, str, str, bytes, str, int]
# thread, namespace, id
Place: TypeAlias = tuple[str, str, str]

_BLOBS = (
    "CREATE TABLE IF NOT EXISTS blobs (thread_id TEXT NOT NULL, key BLOB NOT NULL, type TEXT NOT NULL, "
    "value BLOB NOT NULL, PRIMARY KEY (thread_id, key))"
)
_PUT = (
    "INSERT OR REPLACE INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, "
    "checkpoint, metadata) VALUES (?, ?, ?, ?, ?, ?, ?)"
)
_PUT_WRITES = (
    "INTO writes (thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_REPLACE_WRITES, _ADD_WRITES = f"INSERT OR REPLACE {_PUT_WRITES}", f"INSERT OR IGNORE {_PUT_WRITES}"
_PUT_BLOBS = "INSERT OR IGNORE INTO blobs VALUES (?, ?, ?, ?)"
_COLUMNS = "SELECT checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata FROM checkpoints "
_LATEST_OF = _COLUMNS + "WHERE thread_id = ? AND checkpoint_ns = ? ORDER BY checkpoint_id DESC LIMIT 1"
_NAMED = _COLUMNS + "WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_WRITES = pending_writes_sql(has_task_path=True)
_LATEST_RUN = (
    "SELECT json_extract(CAST(metadata AS TEXT), '$.run_id') FROM checkpoints "
    "WHERE thread_id = ? AND checkpoint_ns = '' ORDER BY checkpoint_id DESC LIMIT 1"
)
_BEFORE_RUN = (
    "SELECT checkpoint_id FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = '' "
    "AND json_extract(CAST(metadata AS TEXT), '$.run_id') IS NOT ? ORDER BY checkpoint_id DESC LIMIT 1"
)
_NEWEST = "SELECT MAX(checkpoint_id) FROM checkpoints WHERE thread_id = ?"
_OPEN_WRITES = (
    "SELECT w.checkpoint_ns, w.task_id, w.channel, w.type, CASE WHEN w.channel = '__interrupt__' THEN w.value END "
    "FROM writes w JOIN (SELECT checkpoint_ns AS ns, MAX(checkpoint_id) AS id FROM checkpoints WHERE thread_id = ? "
    "GROUP BY checkpoint_ns) l ON w.checkpoint_ns = l.ns AND w.checkpoint_id = l.id WHERE w.thread_id = ?"
)
_OF_RUN = (
    "SELECT checkpoint_ns, checkpoint_id FROM checkpoints WHERE thread_id = ? "
    "AND json_extract(CAST(metadata AS TEXT), '$.run_id') = ?"
)
_THREADS_OF_RUN = (
    "SELECT DISTINCT thread_id FROM checkpoints WHERE json_extract(CAST(metadata AS TEXT), '$.run_id') = ?"
)
_PRUNED = (
    "SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, json_extract(m, '$.run_id'), "
    "json_extract(m, '$.parents.\"\"'), json_extract(m, '$.counters_since_delta_snapshot') IS NOT NULL "
    "FROM (SELECT *, CAST(metadata AS TEXT) AS m FROM checkpoints WHERE thread_id = ?) ORDER BY checkpoint_id DESC"
)
_DELETE = "DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_DELETE_WRITES = "DELETE FROM writes WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_ALL = " UNION ".join(
    f"SELECT checkpoint_ns, checkpoint_id FROM {table} WHERE thread_id = ?"  # noqa: S608 -- constants
    for table in ("checkpoints", "writes")
)
_SHARING = (
    f"SELECT checkpoint FROM checkpoints WHERE thread_id = ?1 AND type = '{SHARED}' "  # noqa: S608 -- a constant
    f"UNION ALL SELECT value FROM writes WHERE thread_id = ?1 AND type = '{SHARED}'"
)
_COPIES = tuple(
    f"INSERT OR REPLACE INTO {table} (thread_id, {columns}) SELECT ?2, {columns} FROM {table} WHERE thread_id = ?1"  # noqa: S608 -- constants
    for table, columns in (
        ("checkpoints", "checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata"),
        ("writes", "checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, value"),
        ("blobs", "key, type, value"),
    )
)
# Few different texts, so that SQLite's statements are prepared once.
_BATCHES = (4, 32, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A checkpoint as it was read. ``blobs``: all that its row and its writes stand on."""

    row: CheckpointRow
    writes: Sequence[WriteRow]
    blobs: Mapping[Key, Written]


def create_blobs(connection: sqlite3.Connection) -> None:
    """Make the table that LangGraph's saver does not have, if it is missing."""
    connection.execute(_BLOBS)


def version(connection: sqlite3.Connection) -> int:
    """Changes whenever another connection has changed the file, and only then."""
    number: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return number


def places(connection: sqlite3.Connection, where: str, values: Sequence[Any], limit: int | None) -> Sequence[Place]:
    """Checkpoints, the newest first. ``where``: a WHERE clause or nothing, for ``values``."""
    statement = f"SELECT thread_id, checkpoint_ns, checkpoint_id FROM checkpoints {where} ORDER BY checkpoint_id DESC"  # noqa: S608 -- LangGraph's own clause
    return connection.execute(f"{statement} LIMIT ?", (*values, -1 if limit is None else limit)).fetchall()


def read(connection: sqlite3.Connection, thread: str, namespace: str, checkpoint_id: str | None) -> Found | None:
    """The named checkpoint, else the latest of the namespace."""
    place = (thread, namespace)
    found = (
        connection.execute(_LATEST_OF, place)
        if checkpoint_id is None
        else connection.execute(_NAMED, (*place, checkpoint_id))
    )
    row: CheckpointRow | None = found.fetchone()
    if row is None:
        return None
    writes: Sequence[WriteRow] = connection.execute(_WRITES, (*place, row[0])).fetchall()
    keys = {*keys_of(row[2], row[3]), *(key for write in writes for key in keys_of(write[2], write[3]))}
    return Found(row=row, writes=writes, blobs=read_blobs(connection, thread, keys) if keys else {})


def read_blobs(connection: sqlite3.Connection, thread: str, keys: Iterable[Key]) -> Mapping[Key, Written]:
    """Parts of a thread's checkpoints.

    Raises:
        sqlite3.DatabaseError: one is missing.
    """
    wanted = list(keys)
    found: dict[Key, Written] = {}
    for start in range(0, len(wanted), _BATCHES[-1]):
        batch = wanted[start : start + _BATCHES[-1]]
        size = next(size for size in _BATCHES if size >= len(batch))
        batch += batch[:1] * (size - len(batch))
        marks = ", ".join("?" * size)
        statement = f"SELECT key, type, value FROM blobs WHERE thread_id = ? AND key IN ({marks})"  # noqa: S608 -- marks
        found.update((key, (kind, data)) for key, kind, data in connection.execute(statement, (thread, *batch)))
    if len(found) < len(wanted):
        raise sqlite3.DatabaseError("a part of a checkpoint is missing")
    return found


def blobs_of(connection: sqlite3.Connection, thread: str, row: tuple[str, bytes]) -> Mapping[Key, Written]:
    """The parts that a row, given by its type and bytes, stands on. Raises as ``read_blobs``."""
    return read_blobs(connection, thread, set(keys_of(*row)))


def put(connection: sqlite3.Connection, place: Place, parent: str | None, encoded: Encoded, metadata: bytes) -> None:
    """Store a checkpoint's row."""
    connection.execute(_PUT, (*place, parent, encoded.kind, encoded.data, metadata))


def put_writes(connection: sqlite3.Connection, rows: Sequence[tuple[object, ...]], *, over: bool) -> None:
    """Store what a task wrote; ``over`` what is there, else beside it."""
    connection.executemany(_REPLACE_WRITES if over else _ADD_WRITES, rows)


def put_blobs(connection: sqlite3.Connection, thread: str, blobs: Iterable[tuple[Key, Written]]) -> None:
    """Store parts, where they are missing."""
    connection.executemany(_PUT_BLOBS, [(thread, key, *written) for key, written in blobs])


def latest_run(connection: sqlite3.Connection, thread: str) -> str | None:
    """The run that wrote the latest root checkpoint."""
    return _text(connection.execute(_LATEST_RUN, (thread,)).fetchone())


def before_run(connection: sqlite3.Connection, thread: str, run_id: RunId) -> str | None:
    """The latest root checkpoint of another run."""
    return _text(connection.execute(_BEFORE_RUN, (thread, run_id)).fetchone())


def newest_id(connection: sqlite3.Connection, thread: str) -> str | None:
    """The newest checkpoint of all namespaces."""
    return _text(connection.execute(_NEWEST, (thread,)).fetchone())


def open_writes(connection: sqlite3.Connection, thread: str) -> Sequence[OpenWrite]:
    """What tasks have written on the latest checkpoint of each namespace."""
    return [
        OpenWrite(namespace=namespace, task=task, channel=channel, written=None if data is None else (kind, data))
        for namespace, task, channel, kind, data in connection.execute(_OPEN_WRITES, (thread, thread))
    ]


def for_pruning(connection: sqlite3.Connection, thread: str) -> Sequence[PrunedRow]:
    """A thread's checkpoints, newest first."""
    return [
        PrunedRow(namespace=namespace, id=id_, parent=parent, run=run, root=root, delta=bool(delta))
        for namespace, id_, parent, run, root, delta in connection.execute(_PRUNED, (thread,))
    ]


def all_of(connection: sqlite3.Connection, thread: str) -> Sequence[tuple[str, str]]:
    """Namespace and id of all that a thread has rows of, also of checkpoints that only something was written on."""
    return connection.execute(_ALL, (thread, thread)).fetchall()


def erase_run(connection: sqlite3.Connection, thread: str, run_id: str) -> None:
    """Delete the checkpoints of a run, with all that was written on them."""
    delete(connection, thread, connection.execute(_OF_RUN, (thread, run_id)).fetchall())
    sweep(connection, thread)


def threads_of_run(connection: sqlite3.Connection, run_id: str) -> Sequence[str]:
    """The threads that a run has checkpoints on. Looks at every row."""
    return [thread for (thread,) in connection.execute(_THREADS_OF_RUN, (run_id,))]


def delete(connection: sqlite3.Connection, thread: str, checkpoints: Iterable[tuple[str, str]]) -> None:
    """Delete checkpoints, by namespace and id, with what was written on them. Their parts stay until ``sweep``."""
    places = [(thread, *checkpoint) for checkpoint in checkpoints]
    connection.executemany(_DELETE_WRITES, places)
    connection.executemany(_DELETE, places)


def sweep(connection: sqlite3.Connection, thread: str, limit: int | None = None) -> bool:
    """Delete the parts that no checkpoint of the thread stands on any more, up to ``limit``. Whether there are more."""
    stored: set[Key] = {key for (key,) in connection.execute("SELECT key FROM blobs WHERE thread_id = ?", (thread,))}
    if not stored:
        return False
    for (data,) in connection.execute(_SHARING, (thread,)):
        stored.difference_update(keys_of(SHARED, data))
    going = [(thread, key) for key in islice(stored, limit)]
    connection.executemany("DELETE FROM blobs WHERE thread_id = ? AND key = ?", going)
    return len(going) < len(stored)


def copy_thread(connection: sqlite3.Connection, source: str, target: str) -> None:
    """Copy all rows of a thread to another."""
    for statement in _COPIES:
        connection.execute(statement, (source, target))


def _text(row: tuple[object, ...] | None) -> str | None:
    return None if row is None or row[0] is None else str(row[0])
