"""The connection under LangGraph's SQLite checkpointer and store: whole functions on one thread, as transactions.

``checkpoints`` and ``store`` open it. One trip to the thread for a piece of work, and one commit for all that waits.
"""

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import aiosqlite

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.runtimes.langgraph.failures import storage_errors

Result = TypeVar("Result")
Work: TypeAlias = Callable[[sqlite3.Connection], Result]

BUSY_SECONDS = 10.0


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    work: Work[object]
    done: "asyncio.Future[object]"
    result: object = None
    error: BaseException | None = None

    def tell(self) -> None:
        if self.done.cancelled():
            return
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(self.error)
            self.done.exception()  # a caller that was cancelled will not ask


class Connection(aiosqlite.Connection):
    """See the module. Opened and used on one event loop."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._line: deque[_Waiting] = deque()

    async def transact(self, work: Work[Result]) -> Result:
        """Run ``work`` on the connection's thread; commit, or undo it when it raises.

        A cancelled caller does not undo its work, which is done whole or not at all.

        Raises:
            StorageUnavailable: SQLite failed; StorageFull when the disk is full.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(work=work, done=loop.create_future())
        self._line.append(waiting)
        if len(self._line) == 1:
            await self._start(waiting, loop)
        with storage_errors():
            return cast("Result", await waiting.done)

    async def _start(self, waiting: _Waiting, loop: asyncio.AbstractEventLoop) -> None:
        try:
            await self._execute(self._serve, loop)
        except ValueError as error:
            self._line.remove(waiting)
            raise StorageUnavailable("the database of checkpoints is closed") from error

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the connection's thread: do all work that waits."""
        while self._line:
            batch = [self._line.popleft() for _ in range(len(self._line))]
            if len(batch) == 1:
                self._do_one(batch[0])
            else:
                self._do_all(batch)
            for waiting in batch:
                loop.call_soon_threadsafe(waiting.tell)

    def _do_one(self, waiting: _Waiting) -> None:
        try:
            with self._conn:
                waiting.result = waiting.work(self._conn)
        except Exception as error:  # noqa: BLE001 -- handed to the caller, on its own thread
            waiting.error = error

    def _do_all(self, batch: list[_Waiting]) -> None:
        """One transaction, in which each piece of work stands or falls alone until the commit."""
        try:
            with self._conn:
                self._conn.execute("BEGIN")
                for waiting in batch:
                    self._do_within(waiting)
        except Exception as error:  # noqa: BLE001 -- as above
            for waiting in batch:
                waiting.error = waiting.error or error

    def _do_within(self, waiting: _Waiting) -> None:
        self._conn.execute("SAVEPOINT piece")
        try:
            waiting.result = waiting.work(self._conn)
        except Exception as error:  # whatever it is belongs to who waits for the work, not to this thread
            waiting.error = error
            if not self._conn.in_transaction:
                raise  # SQLite has rolled back everything, as it does when the disk is full
            self._conn.execute("ROLLBACK TO piece")
        self._conn.execute("RELEASE piece")


def open_file(path: Path, *, isolation_level: str | None) -> sqlite3.Connection:
    """A SQLite file as a server wants it: private, readers beside the writer, waiting for locks, one sync per
    checkpoint.
    """
    with suppress(OSError):  # SQLite says what is wrong
        path.touch(mode=0o600)  # SQLite would leave it to the umask; its other files follow this one
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=isolation_level)  # pyright: ignore[reportArgumentType] -- the stub lists levels
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection
