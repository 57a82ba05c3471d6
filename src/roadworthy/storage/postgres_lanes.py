"""Threads that execute units on Postgres, each with a connection of its own: the pool of ``postgres.py``.

All take their work off one bounded queue, so units begin in the order in which they came. A unit that waits in it for
longer than its patience is refused.
"""

import asyncio
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeAlias

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.postgres_session import Session
from roadworthy.storage.transaction import Transaction

_MAX_QUEUED = 5_000

_Unit: TypeAlias = Callable[[Transaction], Any]
Execute: TypeAlias = Callable[[Session, _Unit, float], Any]


@dataclass(slots=True, eq=False)
class _Work:
    """A unit under way. ``give_up_at`` is in seconds of the monotonic clock."""

    unit: _Unit
    future: "asyncio.Future[Any]"
    give_up_at: float


class Lanes:
    """One thread for each of ``sessions``. Everything public is called on the event loop's thread."""

    def __init__(self, name: str, sessions: Sequence[Session], execute: Execute, *, patience: timedelta) -> None:
        self._loop = asyncio.get_running_loop()
        self._sessions = sessions
        self._execute = execute
        self._patience = patience
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._stopping = False
        self._ended: list[asyncio.Future[None]] = [self._loop.create_future() for _ in sessions]
        self._threads = [
            threading.Thread(target=self._run, args=(session, ended), name=f"postgres-{name}-{number}", daemon=True)
            for number, (session, ended) in enumerate(zip(sessions, self._ended, strict=True), 1)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def statements(self) -> int:
        """Statements that units have executed."""
        return sum(session.statements for session in self._sessions)

    @property
    def transactions(self) -> int:
        """Transactions that were committed."""
        return sum(session.transactions for session in self._sessions)

    def submit(self, unit: _Unit) -> "asyncio.Future[Any]":
        """Queue a unit.

        Raises:
            StorageUnavailable: too many wait, or the lanes were stopped.
        """
        if self._stopping:
            raise StorageUnavailable("the database is closed")
        if self._queue.qsize() >= _MAX_QUEUED:
            raise StorageUnavailable("too many units wait for the database")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._queue.put(_Work(unit, future, time.monotonic() + self._patience.total_seconds()))
        return future

    async def stop(self) -> None:
        """Finish what is queued, at most the units' patience long, and close the connections."""
        if not self._stopping:
            self._stopping = True
            for _ in self._threads:
                self._queue.put(None)
        for ended in self._ended:
            await asyncio.shield(ended)
        for thread in self._threads:
            thread.join()

    # --- on the lanes' threads ----------------------------------------------------------------------------------------

    def _run(self, session: Session, ended: "asyncio.Future[None]") -> None:
        try:
            while (work := self._queue.get()) is not None:
                self._work(session, work)
        finally:
            session.close()
            self._tell(_resolve, ended, None, None)

    def _work(self, session: Session, work: _Work) -> None:
        value: Any = None
        error: BaseException | None = None
        try:
            _check_patience(work)
            value = self._execute(session, work.unit, work.give_up_at)
        except Exception as raised:  # noqa: BLE001 -- it belongs to who waits for the unit
            error = raised
        self._tell(_resolve, work.future, value, error)

    def _tell(self, callback: Callable[..., object], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *args)
        except RuntimeError:
            # The loop is closed: nobody waits any more.
            return


def _check_patience(work: _Work) -> None:
    if time.monotonic() >= work.give_up_at:
        raise StorageUnavailable("no connection to the database became free in time")


def _resolve(future: "asyncio.Future[Any]", value: object, error: BaseException | None) -> None:
    if future.done():
        return  # its waiter was cancelled
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
