"""The one thread that writes to SQLite, with group commit.

``sqlite.py`` hands it units; it takes all that wait, runs each inside a savepoint of one transaction, commits, and
tells the event loop once. A unit that fails is undone alone. When another process holds the lock, the batch keeps
waiting and growing, and each unit gives up after its own patience.
"""

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

from roadworthy.domain.errors import RoadworthyError, StorageUnavailable
from roadworthy.storage.sqlite_connection import SqliteText, SqliteTransaction, connect, is_busy, translated
from roadworthy.storage.transaction import Transaction

_MAX_BATCH = 200
_MAX_QUEUED = 5_000
# One look at a locked database. Short, so that new units join the batch and a stop is noticed.
_GLANCE = timedelta(milliseconds=250)


@dataclass(slots=True, eq=False)
class _Work:
    """A unit under way. ``give_up_at`` is in seconds of the monotonic clock."""

    unit: Callable[[Transaction], Any]
    future: "asyncio.Future[Any]"
    give_up_at: float


_Outcome: TypeAlias = tuple[_Work, Any, BaseException | None]


class _BatchLost(Exception):
    """The transaction is gone with everything in it. ``__cause__`` is the driver's error."""


class SqliteWriter:
    """Owns the writing connection. Everything public is called on the event loop's thread."""

    def __init__(self, path: Path, text: SqliteText, *, patience: timedelta) -> None:
        self.transactions = 0
        self._loop = asyncio.get_running_loop()
        self._patience = patience
        self._connection = connect(path, read_only=False, patience=_GLANCE)
        self._tx = SqliteTransaction(self._connection, text)
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._stopping = False
        self._stopped: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
        self._thread.start()

    @property
    def statements(self) -> int:
        """Statements that units have executed."""
        return self._tx.statements

    def submit(self, unit: Callable[[Transaction], Any]) -> "asyncio.Future[Any]":
        """Queue a unit.

        Raises:
            StorageUnavailable: too many wait, or the writer was stopped.
        """
        if self._stopping:
            raise StorageUnavailable("the database is closed")
        if self._queue.qsize() >= _MAX_QUEUED:
            raise StorageUnavailable("too many writes wait for the database")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Work(unit, future, time.monotonic() + self._patience.total_seconds()))
        return future

    async def stop(self) -> None:
        """Finish what is queued, at most the units' patience long, and close the connection."""
        if not self._stopping:
            self._stopping = True
            self._queue.put(None)
        await asyncio.shield(self._stopped)
        self._thread.join()

    # --- on the writer's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while True:
                work = self._queue.get()
                if work is None:
                    return
                self._execute([work])
        finally:
            self._connection.close()
            self._tell(lambda: self._stopped.done() or self._stopped.set_result(None))

    def _execute(self, batch: list[_Work]) -> None:
        outcomes: list[_Outcome] = []
        try:
            self._begin(batch)
            if not batch:
                return
            outcomes = [self._run_unit(work) for work in batch]
            self._connection.execute("COMMIT")
            self.transactions += 1
        except (sqlite3.Error, _BatchLost) as error:
            cause = error if isinstance(error, sqlite3.Error) else error.__cause__
            outcomes = self._lose(batch, cause)
        self._tell(lambda: _resolve(outcomes))

    def _begin(self, batch: list[_Work]) -> None:
        """Start the transaction. Adds to ``batch`` the units that came meanwhile; drops those that gave up."""
        while batch:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                self._join(batch)
                if not is_busy(error):
                    raise
                self._give_up(batch, error)
            else:
                self._join(batch)
                return

    def _join(self, batch: list[_Work]) -> None:
        while len(batch) < _MAX_BATCH:
            try:
                work = self._queue.get_nowait()
            except queue.Empty:
                return
            if work is None:
                self._queue.put(None)  # the stop comes after everything
                return
            batch.append(work)

    def _give_up(self, batch: list[_Work], error: sqlite3.Error) -> None:
        now = time.monotonic()
        late = [work for work in batch if work.give_up_at <= now]
        if late:
            outcomes = self._lose(late, error)
            self._tell(lambda: _resolve(outcomes))
            batch[:] = [work for work in batch if work.give_up_at > now]

    def _run_unit(self, work: _Work) -> _Outcome:
        execute = self._connection.execute
        execute("SAVEPOINT unit")
        try:
            value = work.unit(self._tx)
            execute("RELEASE unit")
        except Exception as error:
            # It belongs to who waits for the unit. But a full disk and the like may have ended the whole transaction,
            # the units before this one included.
            if not self._connection.in_transaction:
                raise _BatchLost from error
            try:
                execute("ROLLBACK TO unit")
                execute("RELEASE unit")
            except sqlite3.Error as worse:
                raise _BatchLost from worse
            return work, None, _raised(error)
        return work, value, None

    def _lose(self, batch: list[_Work], cause: BaseException | None) -> list[_Outcome]:
        if self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                cause = error
        return [(work, None, _raised(cause)) for work in batch]

    def _tell(self, callback: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return


def _raised(error: BaseException | None) -> BaseException:
    """The exception for one waiter, of its own: waiters add their tracebacks to it."""
    # A programming error is a defect of ours and must look like one.
    if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.ProgrammingError):
        translation: RoadworthyError = translated(error)
        translation.__cause__ = error
        return translation
    return error if error is not None else StorageUnavailable("the database gave up the transaction")


def _resolve(outcomes: list[_Outcome]) -> None:
    for work, value, error in outcomes:
        if work.future.done():
            continue  # its waiter was cancelled
        if error is None:
            work.future.set_result(value)
        else:
            work.future.set_exception(error)
