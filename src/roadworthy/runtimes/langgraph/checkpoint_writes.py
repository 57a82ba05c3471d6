"""What the checkpointer writes at a time: turned into bytes on the event loop, put into rows on the database's thread.

``checkpoints`` makes one for every call that stores something. It lives until it is committed, so it is one object.
"""

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP, Checkpoint
from langgraph.checkpoint.serde.base import SerializerProtocol

from roadworthy.runtimes.langgraph import checkpoint_rows as rows
from roadworthy.runtimes.langgraph.checkpoint_chunks import KnownChunks
from roadworthy.runtimes.langgraph.checkpoint_sharing import Encoded, encode_checkpoint, encode_write
from roadworthy.runtimes.langgraph.current import current_attempt
from roadworthy.runtimes.langgraph.journal_rows import forget_passed
from roadworthy.runtimes.langgraph.sqlite_rows import SqliteRows, finished


class ChangedElsewhere(Exception):
    """Another process has written to the file: parts that were there may have gone."""

    def __init__(self, version: int) -> None:
        self.version = version


class Write(ABC):
    """``write`` is work for a transaction, which may be done a second time."""

    __slots__ = ("_version", "encoded", "scope", "thread")

    def __init__(self, thread: str) -> None:
        self.thread = thread
        self.scope = current_attempt.get()
        self.encoded: Sequence[Encoded] = ()
        self._version = 0

    def prepare(self, serde: SerializerProtocol, known: KnownChunks, version: int) -> None:
        """Turn what is to be stored into bytes, by what is known as of ``version`` of the file."""
        self.encoded = self._encode(serde, known)
        self._version = version

    def write(self, connection: sqlite3.Connection) -> None:
        """Put the bytes into rows.

        Raises:
            LeaseLost: the attempt's fence is up.
            ChangedElsewhere: it stands on parts that may be gone.
        """
        if self.scope is not None:
            self.scope.check_fence()
        self._put(connection)
        for one in self.encoded:
            if one.blobs:
                rows.put_blobs(connection, self.thread, one.blobs)
        # Behind the first write, which has taken the lock: nobody can change anything any more.
        if any(one.reuses for one in self.encoded) and (now := rows.version(connection)) != self._version:
            raise ChangedElsewhere(now)

    @abstractmethod
    def _encode(self, serde: SerializerProtocol, known: KnownChunks) -> Sequence[Encoded]: ...

    @abstractmethod
    def _put(self, connection: sqlite3.Connection) -> None: ...


class CheckpointWrite(Write):
    """One checkpoint. It makes what the journal keeps for earlier ones useless."""

    __slots__ = ("_checkpoint", "_metadata", "_parent", "_place")

    def __init__(self, place: rows.Place, parent: str | None, checkpoint: Checkpoint, metadata: bytes) -> None:
        super().__init__(place[0])
        self._place = place
        self._parent = parent
        self._checkpoint = checkpoint
        self._metadata = metadata

    def _encode(self, serde: SerializerProtocol, known: KnownChunks) -> Sequence[Encoded]:
        return (encode_checkpoint(serde, self._checkpoint, known),)

    def _put(self, connection: sqlite3.Connection) -> None:
        rows.put(connection, self._place, self._parent, self.encoded[0], self._metadata)
        finished(forget_passed(SqliteRows(connection), *self._place))


class TaskWrites(Write):
    """What a task wrote within its step. ``place``: thread, namespace, checkpoint, task and the task's path."""

    __slots__ = ("_place", "_writes")

    def __init__(self, place: tuple[str, str, str, str, str], writes: Sequence[tuple[str, Any]]) -> None:
        super().__init__(place[0])
        self._place = place
        self._writes = writes

    def _encode(self, serde: SerializerProtocol, known: KnownChunks) -> Sequence[Encoded]:
        return [encode_write(serde, value, known) for _, value in self._writes]

    def _put(self, connection: sqlite3.Connection) -> None:
        values = [
            (*self._place, WRITES_IDX_MAP.get(channel, index), channel, one.kind, one.data)
            for index, ((channel, _), one) in enumerate(zip(self._writes, self.encoded, strict=True))
        ]
        rows.put_writes(connection, values, over=all(channel in WRITES_IDX_MAP for channel, _ in self._writes))
