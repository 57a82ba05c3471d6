"""The fake provider's ledger: what each call would have been billed, also when its client died.

Written by the server's thread, read by tests from another thread or, through the JSONL file, from another process.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Condition
from time import monotonic
from typing import TypedDict, Unpack

from pydantic import TypeAdapter

# `open`, then one of: `complete`, `cut`, `reset`, `garbage`, `client_gone`, `bad_request`, `error:<status>`.
# An in-stream error carries the status that the same error has as an HTTP answer.
Outcome = str
OPEN = "open"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEntry:
    """One call. `*_mono` are seconds of the machine-wide monotonic clock; `held` says that it waits at a hold."""

    call_id: str
    model: str
    streamed: bool
    messages: int
    last_user_text: str
    received_at: datetime
    received_mono: float
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_creation_tokens: int = 0
    stop_reason: str | None = None
    outcome: Outcome = OPEN
    detail: str | None = None
    held: bool = False
    client_gone_mono: float | None = None
    ended_mono: float | None = None


class Changes(TypedDict, total=False):
    """What may change in an entry while its call runs."""

    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_creation_tokens: int
    stop_reason: str | None
    held: bool


class Ledger:
    """Entries in the order of arrival. A file, if given, gets a line at each call's start and end, each fsynced."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._entries: dict[str, LedgerEntry] = {}
        self._changed = Condition()

    def open(self, *, call_id: str, model: str, streamed: bool, messages: int, last_user_text: str) -> None:
        """Begin the entry of a call."""
        entry = LedgerEntry(
            call_id=call_id,
            model=model,
            streamed=streamed,
            messages=messages,
            last_user_text=last_user_text,
            received_at=datetime.now(UTC),
            received_mono=monotonic(),
        )
        self._store(entry, durable=True)

    def update(self, call_id: str, **changes: Unpack[Changes]) -> None:
        """Note progress; in memory only, as it comes once a token."""
        self._store(replace(self._entries[call_id], **changes), durable=False)

    def close(self, call_id: str, outcome: Outcome, detail: str | None = None) -> None:
        """End the entry of a call; an entry that has ended stays as it is."""
        if self._entries[call_id].outcome != OPEN:
            return
        now = monotonic()
        gone = now if outcome == "client_gone" else None
        entry = replace(
            self._entries[call_id], outcome=outcome, detail=detail, ended_mono=now, client_gone_mono=gone, held=False
        )
        self._store(entry, durable=True)

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All entries as they are now."""
        with self._changed:
            return tuple(self._entries.values())

    def wait_for(self, predicate: Callable[[tuple[LedgerEntry, ...]], bool], timeout_seconds: float) -> bool:
        """Block until the entries satisfy `predicate`; False after the timeout. Not for the server's own thread."""
        with self._changed:
            return self._changed.wait_for(lambda: predicate(tuple(self._entries.values())), timeout_seconds)

    def clear(self) -> None:
        """Forget everything, the file's lines included."""
        with self._changed:
            self._entries.clear()
            if self._path is not None:
                self._path.write_bytes(b"")

    def _store(self, entry: LedgerEntry, *, durable: bool) -> None:
        with self._changed:
            self._entries[entry.call_id] = entry
            if durable and self._path is not None:
                with self._path.open("ab") as file:
                    file.write(dump_entries((entry,)))
                    file.flush()
                    os.fsync(file.fileno())
            self._changed.notify_all()


_ENTRY = TypeAdapter(LedgerEntry)


def with_outcome(entries: tuple[LedgerEntry, ...], outcome: Outcome) -> tuple[LedgerEntry, ...]:
    """Those entries that ended (or, with `open`, still run) this way."""
    return tuple(entry for entry in entries if entry.outcome == outcome)


def dump_entries(entries: tuple[LedgerEntry, ...]) -> bytes:
    """Entries as JSON lines."""
    lines = (json.dumps(asdict(entry) | {"received_at": entry.received_at.isoformat()}) for entry in entries)
    return "".join(line + "\n" for line in lines).encode()


def parse_entries(raw: bytes) -> tuple[LedgerEntry, ...]:
    """The entries in JSON lines; of two lines for one call the later counts, and a torn last line is ignored."""
    complete = raw[: raw.rfind(b"\n") + 1]
    entries = (_ENTRY.validate_json(line) for line in complete.splitlines())
    return tuple({entry.call_id: entry for entry in entries}.values())


def read_ledger(path: Path) -> tuple[LedgerEntry, ...]:
    """The entries in a provider's ledger file."""
    return parse_entries(path.read_bytes())
