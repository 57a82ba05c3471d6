"""The journal's table, in the checkpointer's own file: one row for each model response that a crash must not lose.

``journal`` stores and loads rows; ``checkpoints`` lets them go in the transaction that makes them useless. A row
commits only behind the checkpoints that its call was made on: without them nobody would ever find it again.
"""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.runtimes.langgraph.journal_place import Place

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS journal (thread_id TEXT NOT NULL, namespace TEXT NOT NULL, hash TEXT NOT NULL, "
    "occurrence INTEGER NOT NULL, root_id TEXT NOT NULL, graph_ns TEXT NOT NULL, graph_id TEXT NOT NULL, "
    "run_id TEXT NOT NULL, call TEXT NOT NULL, type TEXT NOT NULL, value BLOB NOT NULL, "
    "PRIMARY KEY (thread_id, namespace, hash, occurrence))"
)
_IS_DURABLE = "SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?"
_KEEP = "INSERT OR REPLACE INTO journal VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LOAD = (
    "SELECT namespace, hash, occurrence, run_id, call, type, value FROM journal WHERE thread_id = ? ORDER BY occurrence"
)
_CALLS = "SELECT call FROM journal WHERE thread_id = ? AND run_id = ? ORDER BY occurrence"
_FORGET_ROOT = "DELETE FROM journal WHERE thread_id = ? AND root_id < ?"
_FORGET_GRAPH = "DELETE FROM journal WHERE thread_id = ? AND graph_ns = ? AND graph_id < ?"
_CALL = tuple(field.name for field in fields(ModelCall))
_TOKENS = tuple(field.name for field in fields(Tokens))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A response. ``hash`` is of prompt and model; ``occurrence`` tells equal calls of one task apart; ``value`` is
    what the checkpointer's serializer made of the answer.
    """

    namespace: str
    hash: str
    occurrence: int
    run_id: str
    call: ModelCall
    value: tuple[str, bytes]


def create_journal(connection: sqlite3.Connection) -> None:
    """Make the table if it is missing."""
    connection.execute(_SCHEMA)


def keep_row(connection: sqlite3.Connection, thread: str, place: Place, row: Row) -> bool:
    """Store a row; False, and nothing is stored, while a checkpoint is missing that its call stands on."""
    for namespace, checkpoint_id in place.stands_on:
        if connection.execute(_IS_DURABLE, (thread, namespace, checkpoint_id)).fetchone() is None:
            return False
    key = (thread, row.namespace, row.hash, row.occurrence)
    connection.execute(_KEEP, (*key, place.root_id, *place.graph, row.run_id, _call_text(row.call), *row.value))
    return True


def load_rows(connection: sqlite3.Connection, thread: str) -> Sequence[Row]:
    """All rows of a thread, equal calls in their order."""
    found: list[tuple[str, str, int, str, str, str, bytes]] = connection.execute(_LOAD, (thread,)).fetchall()
    return [
        Row(namespace=namespace, hash=hash_, occurrence=n, run_id=run_id, call=_call_from(call), value=(kind, blob))
        for namespace, hash_, n, run_id, call, kind, blob in found
    ]


def calls_of(connection: sqlite3.Connection, thread: str, run_id: str) -> Sequence[ModelCall]:
    """The calls of one run of a thread that have their answers here."""
    return [_call_from(text) for (text,) in connection.execute(_CALLS, (thread, run_id))]


def forget_passed(connection: sqlite3.Connection, thread: str, namespace: str, checkpoint_id: str) -> None:
    """A graph of the thread has a new checkpoint: let go of what was stored on its earlier ones.

    The root's takes everything with it, subgraphs' rows too.
    """
    if namespace:
        connection.execute(_FORGET_GRAPH, (thread, namespace, checkpoint_id))
    else:
        connection.execute(_FORGET_ROOT, (thread, checkpoint_id))


def forget_thread(connection: sqlite3.Connection, thread: str) -> None:
    """Let go of everything of a thread."""
    connection.execute("DELETE FROM journal WHERE thread_id = ?", (thread,))


def forget_run(connection: sqlite3.Connection, thread: str, run_id: str) -> None:
    """Let go of what one run was answered."""
    connection.execute("DELETE FROM journal WHERE thread_id = ? AND run_id = ?", (thread, run_id))


def _call_text(call: ModelCall) -> str:
    # Not ``asdict``, which copies every value: this is written for each call.
    document = {name: getattr(call, name) for name in _CALL}
    document["tokens"] = {name: getattr(call.tokens, name) for name in _TOKENS}
    return json.dumps(document, default=datetime.isoformat)


def _call_from(text: str) -> ModelCall:
    document: dict[str, Any] = json.loads(text)
    document["tokens"] = Tokens(**document["tokens"])
    for moment in ("started_at", "finished_at"):
        document[moment] = datetime.fromisoformat(document[moment])
    return ModelCall(**document)
