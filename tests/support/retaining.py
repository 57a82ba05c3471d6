"""The pruner on a stage, and a database that counts what each transaction changes."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.thread import ThreadRef
from roadworthy.runtimes.scripted import ScriptedRuntime
from roadworthy.services.retention import Kept, Retention
from roadworthy.services.threads import Threads
from roadworthy.storage.retention import SqlRetention
from roadworthy.storage.sqlite_connection import SqliteTransaction
from roadworthy.storage.threads import SqlThreadStore
from roadworthy.storage.transaction import Database, T, Transaction, Unit
from tests.integration.engine.stage import Stage

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


@dataclass
class CountingDatabase:
    """Passes units on. ``changes``: rows that each one inserted, changed or deleted."""

    inner: Database
    changes: list[int] = field(default_factory=list[int])

    @property
    def in_line(self) -> bool:
        """See the protocol."""
        return self.inner.in_line

    async def write(self, unit: Unit[T]) -> T:
        """See the protocol."""

        def counted(tx: Transaction) -> T:
            assert isinstance(tx, SqliteTransaction)
            before = tx.connection.total_changes
            try:
                return unit(tx)
            finally:
                self.changes.append(tx.connection.total_changes - before)

        return await self.inner.write(counted)

    async def read(self, unit: Unit[T], *, scan: bool = False) -> T:
        """See the protocol."""
        return await self.inner.read(unit, scan=scan)

    async def close(self) -> None:
        """See the protocol."""
        await self.inner.close()


class PrunedRuntime(ScriptedRuntime):
    """Remembers whose checkpoints were to be pruned. ``unreadable``: threads at which that fails."""

    def __init__(self) -> None:
        super().__init__()
        self.pruned: list[ThreadRef] = []
        self.unreadable: Sequence[ThreadRef] = ()

    async def prune_thread(self, ref: ThreadRef, *, keep: int) -> int:
        """See the port."""
        self.pruned.append(ref)
        if ref in self.unreadable:
            raise StorageUnavailable("the database of checkpoints does not work") from sqlite3.OperationalError("what?")
        return await super().prune_thread(ref, keep=keep)


def retention_of(
    stage: Stage,
    *,
    threads: timedelta | None = None,
    events: timedelta | None = None,
    checkpoints: int = 10,
    outputs: int = 10,
    database: Database | None = None,
) -> Retention:
    """The pruner over a stage's parts. It makes no pauses."""
    used = stage.database if database is None else database
    return Retention(
        store=SqlRetention(used),
        queue=stage.queue,
        threads=Threads(threads=SqlThreadStore(used), runs=stage.store, runtime=stage.runtime),
        runtime=stage.runtime,
        clock=stage.clock,
        telemetry=stage.witness,
        kept=Kept(
            threads=threads, events=events, idempotency=timedelta(hours=24), checkpoints=checkpoints, outputs=outputs
        ),
        pause=timedelta(0),
    )


def values(tx: Transaction, expressions: Sequence[str]) -> tuple[int, ...]:
    """What expressions of SQL amount to."""
    assert isinstance(tx, SqliteTransaction)
    row: tuple[int, ...] = tx.connection.execute(f"SELECT {', '.join(expressions)}").fetchone()
    return row
