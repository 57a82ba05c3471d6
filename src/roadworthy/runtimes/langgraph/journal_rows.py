"""The journal's table, in the checkpointer's own database: one row for each model response that a crash must not lose.

``journal`` stores and loads rows. One commits only behind the checkpoints that its call was made on: without them
nobody would ever find it again. The next checkpoint of its graph makes it useless as an answer; until the run has ended
it is kept as the bill of its call.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

from roadworthy.domain.usage import ModelCall, Tokens
from roadworthy.runtimes.langgraph.journal_place import Place
from roadworthy.runtimes.langgraph.rows import Rows

# ``{bytes}`` is the database's type for bytes.
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS journal (thread_id TEXT NOT NULL, namespace TEXT NOT NULL, hash TEXT NOT NULL, "
    "occurrence INTEGER NOT NULL, root_id TEXT NOT NULL, graph_ns TEXT NOT NULL, graph_id TEXT NOT NULL, "
    "run_id TEXT NOT NULL, call TEXT NOT NULL, type TEXT NOT NULL, value {bytes} NOT NULL, "
    "PRIMARY KEY (thread_id, namespace, hash, occurrence))"
)
_KEEP = (
    "INSERT INTO journal (thread_id, namespace, hash, occurrence, root_id, graph_ns, graph_id, run_id, call, "
    "type, value) SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ? WHERE ({stands}) = ? "
    "ON CONFLICT (thread_id, namespace, hash, occurrence) DO UPDATE SET "
    "root_id = excluded.root_id, graph_ns = excluded.graph_ns, graph_id = excluded.graph_id, "
    "run_id = excluded.run_id, call = excluded.call, type = excluded.type, value = excluded.value"
)
# What a row was stored on is not the latest of its graph any more, or of the root.
_PASSED = " OR ".join(
    "EXISTS (SELECT 1 FROM checkpoints c WHERE c.thread_id = journal.thread_id "  # noqa: S608 -- constants
    f"AND c.checkpoint_ns = {namespace} AND c.checkpoint_id > {checkpoint})"
    for namespace, checkpoint in (("''", "journal.root_id"), ("journal.graph_ns", "journal.graph_id"))
)
# Without a type it is no answer any more. See ``spend_thread``.
_LOAD = (
    "SELECT namespace, hash, occurrence, run_id, call, type, value FROM journal "  # noqa: S608 -- constants
    f"WHERE thread_id = ? AND type <> '' AND NOT ({_PASSED}) ORDER BY occurrence"
)
_SPEND = "UPDATE journal SET type = '', value = ? WHERE thread_id = ?"
_FORGET_BILLED = "DELETE FROM journal WHERE thread_id = ? AND (root_id < ? OR (run_id = ? AND type = ''))"
_CALLS = "SELECT call FROM journal WHERE thread_id = ? AND run_id = ? ORDER BY occurrence"
_COUNT = "SELECT count(*) FROM checkpoints WHERE thread_id = ?"
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


async def create_journal(rows: Rows, *, bytes_type: str) -> None:
    """Make the table if it is missing."""
    await rows.run(_SCHEMA.format(bytes=bytes_type))


async def keep_row(rows: Rows, thread: str, place: Place, row: Row) -> bool:
    """Store a row; False, and nothing is stored, while a checkpoint is missing that its call stands on."""
    count, values, wanted = _stands(thread, place)
    key = (thread, row.namespace, row.hash, row.occurrence)
    about = (place.root_id, *place.graph, row.run_id, _call_text(row.call), *row.value)
    return await rows.run(_KEEP.format(stands=count), *key, *about, *values, wanted) > 0


async def load_rows(rows: Rows, thread: str) -> Sequence[Row]:
    """A thread's answers that the step in flight may ask for again, equal calls in their order."""
    return [
        Row(namespace=namespace, hash=hash_, occurrence=n, run_id=run_id, call=_call_from(call), value=(kind, blob))
        for namespace, hash_, n, run_id, call, kind, blob in await rows.all(_LOAD, thread)
    ]


async def calls_of(rows: Rows, thread: str, run_id: str) -> Sequence[ModelCall]:
    """The calls of one run of a thread that have their answers here."""
    return [_call_from(text) for (text,) in await rows.all(_CALLS, thread, run_id)]


async def spend_thread(rows: Rows, thread: str) -> None:
    """Nothing of a thread is an answer any more; the calls are still to be billed."""
    await rows.run(_SPEND, b"", thread)


async def forget_billed(rows: Rows, thread: str, run_id: str, root_id: str) -> None:
    """A run has ended, and its calls are on record, as those of all runs before it: let go of what serves nobody.

    ``root_id``: the latest root checkpoint that the run knows; a later run may stand on that one.
    """
    await rows.run(_FORGET_BILLED, thread, root_id, run_id)


async def forget_thread(rows: Rows, thread: str) -> None:
    """Let go of everything of a thread."""
    await rows.run("DELETE FROM journal WHERE thread_id = ?", thread)


async def forget_run(rows: Rows, thread: str, run_id: str) -> None:
    """Let go of what one run was answered."""
    await rows.run("DELETE FROM journal WHERE thread_id = ? AND run_id = ?", thread, run_id)


async def stands(rows: Rows, thread: str, place: Place) -> bool:
    """Whether every checkpoint is there that a place stands on."""
    count, values, wanted = _stands(thread, place)
    ((found,),) = await rows.all(count, *values)
    return bool(found == wanted)


def _stands(thread: str, place: Place) -> tuple[str, Sequence[str], int]:
    """A query that counts the checkpoints that a place stands on, its values, and the number that must come out."""
    wanted = set(place.stands_on)
    marks = ", ".join(["(?, ?)"] * len(wanted))
    count = f"{_COUNT} AND (checkpoint_ns, checkpoint_id) IN (VALUES {marks})"
    return count, (thread, *(part for one in wanted for part in one)), len(wanted)


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
