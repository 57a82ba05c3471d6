"""The connection under LangGraph's SQLite checkpointer and store: whole functions on one thread, as transactions.

``checkpoints`` and ``store`` open it. One trip to the thread for all that is asked for at the same moment, one commit
for all that waits, and none at all for a read that nothing earlier can change.
"""

import asyncio
import sqlite3
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias, TypeVar, cast

import aiosqlite

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.runtimes.langgraph.failures import storage_error, storage_errors
from roadworthy.runtimes.langgraph.rows import Fence, Found, Unit
from roadworthy.runtimes.langgraph.sqlite_rows import SqliteRows, finished

Result = TypeVar("Result")
Work: TypeAlias = Callable[[sqlite3.Connection], Result]

BUSY_SECONDS = 10.0
# Pages of write-ahead log (8 MB) between checkpoints of the file, each of which syncs the disk twice.
_CHECKPOINT_PAGES = 2_000


@dataclass(slots=True, kw_only=True, eq=False)
class _Waiting:
    work: Work[object]
    about: str
    done: "asyncio.Future[object]"
    result: object = None
    error: BaseException | None = None

    def tell(self) -> None:
        if self.done.cancelled():
            return
        if self.error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(storage_error(self.error) if isinstance(self.error, sqlite3.Error) else self.error)
            self.done.exception()  # a caller that was cancelled will not ask


class Connection(aiosqlite.Connection):
    """See the module. Opened and used on one event loop."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._line: deque[_Waiting] = deque()
        self._woken = False
        self._unfinished: Counter[str] = Counter()
        self._reader: sqlite3.Connection | None = None

    def read_beside(self, path: Path) -> None:
        """Let ``read`` use a connection of its own to the same file, on the event loop's thread."""
        uri = f"{path.absolute().as_uri()}?mode=ro"
        self._reader = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, cached_statements=64)

    async def read(self, work: Work[Result], *, about: str) -> Result:
        """Run ``work``, which writes nothing, after everything ``about`` the same thing that was asked for before.

        When nothing such is under way it runs at once: in WAL mode a reader waits for nobody, and the way to the
        other thread and back costs more than a look-up.

        Raises:
            StorageUnavailable: SQLite failed.
        """
        if self._reader is not None and about not in self._unfinished:
            # Another process recovers the log, or it is serious: then it fails over there as well.
            with storage_errors(), suppress(sqlite3.OperationalError):
                return work(self._reader)
        return await self.transact(work, about=about)

    async def transact(self, work: Work[Result], *, about: str = "") -> Result:
        """Run ``work`` on the connection's thread; commit, or undo it when it raises.

        ``about`` names what is written, for ``read``. A cancelled caller does not undo its work, which is done whole
        or not at all. ``work`` may be run a second time, when the first was undone for another's sake.

        Raises:
            StorageUnavailable: SQLite failed; StorageFull when the disk is full.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(work=work, about=about, done=loop.create_future())
        self._line.append(waiting)
        self._unfinished[about] += 1
        if not self._woken:
            # Not yet: what else is asked for at this moment shares the trip.
            self._woken = True
            loop.call_soon(self._wake, loop)
        return cast("Result", await waiting.done)

    async def close(self) -> None:
        """Finish what waits, and close."""
        if self._woken:
            self._wake(asyncio.get_running_loop())
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        await super().close()

    def _wake(self, loop: asyncio.AbstractEventLoop) -> None:
        self._woken = False
        if self._running and self._connection is not None:
            self._tx.put_nowait((None, partial(self._serve, loop)))
            return
        closed = list(self._line)
        self._line.clear()
        for waiting in closed:
            waiting.error = StorageUnavailable("the database of checkpoints is closed")
        self._tell(closed)

    def _tell(self, batch: list[_Waiting]) -> None:
        for waiting in batch:
            self._unfinished[waiting.about] -= 1
            if not self._unfinished[waiting.about]:
                del self._unfinished[waiting.about]
            waiting.tell()

    # --- on the connection's thread -----------------------------------------------------------------------------------

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Do all work that waits."""
        while self._line:
            batch = [self._line.popleft() for _ in range(len(self._line))]
            if len(batch) == 1:
                self._do_one(batch[0])
            else:
                self._do_all(batch)
            loop.call_soon_threadsafe(self._tell, batch)

    def _do_one(self, waiting: _Waiting) -> None:
        try:
            with self._conn:
                waiting.result = waiting.work(self._conn)
        except Exception as error:  # noqa: BLE001 -- handed to the caller, on its own thread
            waiting.error = error

    def _do_all(self, batch: list[_Waiting]) -> None:
        """One transaction. Hardly ever does a piece of work fail: then all is undone, and done again with more care."""
        try:
            with self._conn:
                self._conn.execute("BEGIN")
                for waiting in batch:
                    waiting.result = waiting.work(self._conn)
        except Exception:  # noqa: BLE001 -- it comes again, and whose it is will be known then
            self._do_each(batch)

    def _do_each(self, batch: list[_Waiting]) -> None:
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


class SqliteRowDatabase:
    """``rows.RowDatabase`` over a checkpointer's connection."""

    def __init__(self, connection: Connection) -> None:
        self._file = connection

    async def transact(self, unit: Unit[Found], *, fence: Fence | None = None, harmless: bool = False) -> Found:  # noqa: ARG002 -- commits are heard of here
        """See the protocol. One process has the file, so what it knows of its attempts is all there is to know."""

        def work(connection: sqlite3.Connection) -> Found:
            if fence is not None:
                fence.check_fence()
            return finished(unit(SqliteRows(connection)))

        work.__name__ = getattr(unit, "__name__", work.__name__)
        return await self._file.transact(work)


def open_file(path: Path, *, isolation_level: str | None) -> sqlite3.Connection:
    """A SQLite file as a server wants it: private, readers beside the writer, waiting for locks, one sync per
    checkpoint.
    """
    with suppress(OSError):  # SQLite says what is wrong
        path.touch(mode=0o600)  # SQLite would leave it to the umask; its other files follow this one
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=isolation_level)  # pyright: ignore[reportArgumentType] -- the stub lists levels
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    return connection
