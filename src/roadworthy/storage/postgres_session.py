"""How one unit of work is executed on Postgres, and tried again where that can help. Run in a thread of
``postgres_lanes.py``; a session belongs to one thread.

A unit is executed from the start again when its connection broke before the commit, for as long as its patience lasts,
and a few times when two transactions stood in each other's way. A commit whose answer was lost is not repeated: nobody
knows what became of it.
"""

import time
from collections.abc import Callable
from itertools import count
from typing import TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.postgres_connection import (
    Connection,
    PostgresText,
    PostgresTransaction,
    is_defect,
    is_lost,
    is_overtaken,
    translated,
)
from roadworthy.storage.transaction import Unit

T = TypeVar("T")

# Seconds between two tries; the longer the more there were.
_PAUSE = 0.02
_LONGEST_PAUSE = 0.5
# Tries of a unit that other transactions stand in the way of.
_TRIES = 5


class _InDoubt(Exception):
    """The connection broke in the commit. ``__cause__`` is the driver's error."""


class Session:
    """A connection, opened when it is needed. ``connect``: makes one, or raises a psycopg error."""

    def __init__(self, connect: Callable[[], Connection], text: PostgresText) -> None:
        self.transactions = 0
        self._connect = connect
        self._text = text
        self._tx: PostgresTransaction | None = None
        self._executed = 0

    @property
    def statements(self) -> int:
        """Statements that units have executed."""
        return self._executed + (0 if self._tx is None else self._tx.statements)

    def write(self, unit: Unit[T], give_up_at: float) -> T:
        """Execute a unit in a transaction of its own. ``give_up_at``: in seconds of the monotonic clock.

        Raises:
            StorageUnavailable, StorageFull: and whatever the unit raises.
        """
        try:
            return self._until(lambda tx: self._transact(tx, unit), give_up_at)
        except _InDoubt as doubt:
            self.close()
            raise StorageUnavailable(
                "the connection to the database broke: it may be stored or not"
            ) from doubt.__cause__

    def read(self, unit: Unit[T], give_up_at: float) -> T:
        """Execute a unit that only reads, each statement for itself.

        Raises:
            StorageUnavailable: and whatever the unit raises.
        """
        before = 0

        def work(tx: PostgresTransaction) -> T:
            nonlocal before
            before = self.statements
            return unit(tx)

        # A unit may collect what it reads: it is not started again once it has an answer.
        return self._until(work, give_up_at, may_repeat=lambda: self.statements == before)

    def close(self) -> None:
        """Let go of the connection."""
        tx, self._tx = self._tx, None
        if tx is not None:
            self._executed += tx.statements
            tx.connection.close()

    def _until(
        self,
        work: Callable[[PostgresTransaction], T],
        give_up_at: float,
        *,
        may_repeat: Callable[[], bool] = lambda: True,
    ) -> T:
        for tries in count(1):
            try:
                return work(self._opened())
            except psycopg.Error as error:
                if is_defect(error):
                    raise
                if lost := is_lost(error):
                    self.close()
                again = lost or (is_overtaken(error) and tries < _TRIES)
                if not again or not may_repeat() or time.monotonic() >= give_up_at:
                    raise translated(error) from error
            time.sleep(min(_LONGEST_PAUSE, _PAUSE * tries))
        raise AssertionError("counting does not end")

    def _opened(self) -> PostgresTransaction:
        if self._tx is None:
            self._tx = PostgresTransaction(self._connect(), self._text)
        return self._tx

    def _transact(self, tx: PostgresTransaction, unit: Unit[T]) -> T:
        tx.begin()
        try:
            value = unit(tx)
            _check_whole(tx)
        except BaseException:  # whatever ended the unit: nothing of it may be in the next one's transaction
            self._undo(tx)
            raise
        try:
            tx.commit()
        except psycopg.Error as error:
            if is_lost(error):
                raise _InDoubt from error
            self._undo(tx)
            raise
        self.transactions += 1
        return value

    def _undo(self, tx: PostgresTransaction) -> None:
        try:
            tx.roll_back()
        except psycopg.Error:
            # Then the server does it, as soon as it sees that nobody is there.
            self.close()


def _check_whole(tx: PostgresTransaction) -> None:
    # Such a commit would undo everything without a word.
    if tx.connection.info.transaction_status is not TransactionStatus.INTRANS:
        raise psycopg.ProgrammingError("the unit went on after an error of its transaction")
