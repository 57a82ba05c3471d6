"""One database for all processes, and each process's way to it.

The statements are those for Postgres, leases by the database's clock included, executed by SQLite in memory, one unit
after the other, at the world's time. A unit travels to the database and its answer back; either can be lost. What locks
and isolation levels do is tried elsewhere, on a real Postgres.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import RunId, TenantId, UserId
from roadworthy.domain.lease import Lease, LeaseTerms
from roadworthy.domain.principal import Owner
from roadworthy.storage import postgres_statements as leased
from roadworthy.storage.postgres import PATIENCE
from roadworthy.storage.rows import micros
from roadworthy.storage.sqlite_connection import SqliteText, SqliteTransaction
from roadworthy.storage.transaction import T, Transaction, Unit
from tests.fault.simulation.world import Loop, World

START = datetime(2030, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
# Every movement of a run, by whom it was made does not matter.
_HISTORY = """
CREATE TABLE moves (
    id INTEGER PRIMARY KEY, at INTEGER, run_id TEXT, ord INTEGER, thread TEXT, old TEXT, new TEXT,
    old_attempt INTEGER, attempt INTEGER, old_worker TEXT, worker TEXT
);
CREATE TRIGGER came AFTER INSERT ON runs BEGIN
    INSERT INTO moves VALUES (NULL, database_now(), NEW.run_id, NEW.ord,
        NEW.tenant || '/' || NEW.owner || '/' || NEW.thread_id, '', NEW.status, 0, NEW.attempt, NULL, NEW.worker);
END;
CREATE TRIGGER moved AFTER UPDATE ON runs WHEN OLD.status != NEW.status OR OLD.attempt != NEW.attempt
        OR OLD.result IS NOT NEW.result BEGIN
    INSERT INTO moves VALUES (NULL, database_now(), NEW.run_id, NEW.ord,
        NEW.tenant || '/' || NEW.owner || '/' || NEW.thread_id, OLD.status, NEW.status, OLD.attempt, NEW.attempt,
        OLD.worker, NEW.worker);
END;
"""


class LeasedText(SqliteText):
    """The statements of Postgres in words that SQLite understands."""

    def __init__(self) -> None:
        super().__init__()
        for statement, words in [*leased.IN_PLACE_OF.items(), *((one, one) for one in leased.ADDED)]:
            compiled = words.compile(dialect=self._named)
            defaults = {name: value for name, value in (compiled.params or {}).items() if value is not None}
            self._single[statement] = (compiled.string.replace(str(leased.NOW), "database_now()"), defaults)

    def reword(self, statement: Any, old: str, new: str) -> None:
        """Break a rule."""
        text, defaults = self._single[statement]
        assert old in text, text
        self._single[statement] = (text.replace(old, new), defaults)


class Server:
    """The database itself. ``image``: a migrated database's bytes."""

    def __init__(self, world: World, image: bytes, text: LeasedText) -> None:
        self._world = world
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        self.connection.deserialize(image)
        self.connection.create_function("database_now", 0, self._now)
        self.connection.executescript(_HISTORY)
        self._tx = SqliteTransaction(self.connection, text)

    def write(self, unit: Unit[T]) -> T:
        """A unit as a transaction."""
        self.connection.execute("BEGIN")
        try:
            value = unit(self._tx)
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        self.connection.execute("COMMIT")
        return value

    def read(self, unit: Unit[T]) -> T:
        """A unit that only reads."""
        return unit(self._tx)

    def rows(self, sql: str, *params: object) -> list[Any]:
        """Rows for the checks, with names."""
        cursor = self.connection.execute(sql, params)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor]

    def close(self) -> None:
        self.connection.close()

    def _now(self) -> int:
        return micros(START) + int(self._world.now * 1_000_000)


@dataclass(slots=True, eq=False)
class _Request:
    work: Callable[[], Any]
    future: "asyncio.Future[Any]"
    changes: bool
    give_up_at: float
    answered: bool = False


@dataclass(slots=True, eq=False)
class Link:
    """``transaction.Database`` of one process. ``cut``: nothing gets through in either direction."""

    world: World
    server: Server
    loop: Loop
    cut: bool = False
    # The process does not move: what it has not sent yet stays where it is.
    frozen: bool = False
    # The process is gone.
    closed: bool = False
    # Of several servers' writes nobody knows the order.
    in_order: bool = False
    # What happens as soon as a unit of this name is on its way.
    ambush: tuple[str, Callable[[], None]] | None = None
    _held: list[_Request] = field(default_factory=list[_Request])

    async def write(self, unit: Unit[T]) -> T:
        """See ``transaction.Database``."""
        name = getattr(unit, "__qualname__", type(unit).__name__)
        if self.ambush is not None and self.ambush[0] in name:
            self.world.after(self.world.chance.uniform(0, 0.006), self.ambush[1])
            self.ambush = None
        value: T = await self._ask(lambda: self.server.write(unit), changes=True)
        return value

    async def read(self, unit: Unit[T], *, scan: bool = False) -> T:
        """See ``transaction.Database``."""
        value: T = await self._ask(lambda: self.server.read(unit), changes=False)
        return value

    async def renew(self, worker: str, terms: LeaseTerms) -> Sequence[Lease]:
        """As ``PostgresLeases.renew``, without its thread."""

        def unit(tx: Transaction) -> Sequence[Any]:
            tx.all(leased.LOCK_LEASES, worker=worker)
            return tx.all(leased.RENEW_LEASES, worker=worker, lease=terms.length // _MICROSECOND)

        rows = await self._ask(
            lambda: self.server.write(unit), changes=True, patience=terms.renew_every.total_seconds()
        )
        return [
            Lease(
                run_id=RunId(run_id),
                owner=Owner(tenant=TenantId(tenant), user=UserId(user)),
                attempt=attempt,
                worker=worker,
            )
            for tenant, user, run_id, attempt in rows
        ]

    async def close(self) -> None:
        """See ``transaction.Database``."""

    def thaw(self) -> None:
        """The process moves again: what it was about to send goes out now."""
        self.frozen = False
        held, self._held = self._held, []
        for request in held:
            self._travel(self._arrive, request)

    async def _ask(self, work: Callable[[], Any], *, changes: bool, patience: float = PATIENCE.total_seconds()) -> Any:
        if self.closed:
            raise StorageUnavailable("the database is closed")
        request = _Request(work, self.loop.create_future(), changes, self.world.now + patience)
        self._travel(self._arrive, request)
        return await request.future

    def _travel(self, then: "Callable[[_Request], None]", request: _Request) -> None:
        chance = self.world.chance
        delay = chance.uniform(0.001, 0.01) if chance.random() < 0.95 else chance.uniform(0.01, 0.5)
        self.world.after(delay, lambda: then(request))

    def _arrive(self, request: _Request) -> None:
        chance = self.world.chance
        if self.closed or self.frozen or self.cut:
            # The commit may have been on its way already.
            if request.changes and chance.random() < 0.3:
                self._execute(request, told=not self.cut)
            elif self.frozen:
                self._held.append(request)
            elif not self.closed:
                self._retry(request)
            return
        self._execute(request, told=True)

    def _retry(self, request: _Request) -> None:
        if self.world.now >= request.give_up_at:
            self._fail(request, "the database does not answer")
        else:
            self.world.after(self.world.chance.uniform(0.05, 0.5), lambda: self._arrive(request))

    def _execute(self, request: _Request, *, told: bool) -> None:
        try:
            value = request.work()
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 -- worker loop: it belongs to who waits for the unit
            outcome: tuple[Any, Exception | None] = None, error
        else:
            outcome = value, None
        if told:
            self._travel(lambda one: self._answer(one, *outcome), request)
        else:
            self._doubt(request)

    def _answer(self, request: _Request, value: Any, error: Exception | None) -> None:
        if self.closed:
            return
        if self.cut:
            # Whoever only reads asks again.
            self._doubt(request) if request.changes else self._retry(request)
        elif not request.future.done():
            request.future.set_exception(error) if error is not None else request.future.set_result(value)

    def _doubt(self, request: _Request) -> None:
        wait = self.world.chance.uniform(0.01, 3)
        self.world.after(wait, lambda: self._fail(request, "the connection broke: it may be stored or not"))

    def _fail(self, request: _Request, message: str) -> None:
        if not request.future.done() and not self.closed:
            request.future.set_exception(StorageUnavailable(message))


def image_of(path: Path) -> bytes:
    """A database file as bytes that a history begins with."""
    source, target = sqlite3.connect(path), sqlite3.connect(":memory:")
    try:
        # A database in memory has no write-ahead log.
        source.execute("PRAGMA journal_mode = DELETE")
        source.backup(target)
        return target.serialize()
    finally:
        source.close()
        target.close()
