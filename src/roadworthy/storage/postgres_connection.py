"""One Postgres connection and the statements on it. Used by ``postgres_session.py`` and ``postgres_schema.py``.

Nothing here waits without an end: connecting, a statement, a lock, an idle transaction and a silent network each have
their time (``Timeouts``).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from typing import TypeAlias

import psycopg
from psycopg import conninfo, errors
from psycopg.abc import RV, PQGen
from psycopg.adapt import Dumper
from sqlalchemy.dialects.postgresql.psycopg import dialect

from roadworthy.domain.errors import InvalidRequest, StorageFull, StorageUnavailable
from roadworthy.storage.postgres_statements import ADDED, IN_PLACE_OF
from roadworthy.storage.statements import every_statement
from roadworthy.storage.transaction import BulkInsert, Param, Row, Statement, UniqueViolation

Connection: TypeAlias = psycopg.Connection[Row]

# Seconds between looks for a signal, as in the driver.
_LOOK_EVERY = 0.1
# Rows that one INSERT carries.
_BULK = 50
# More than there are statements: none is prepared twice.
_PREPARED = 400
_MILLISECOND = timedelta(milliseconds=1)
_CONNECTION_ERRORS = "08"
# The server ends, or ends this connection, or is one that must not be written to (any more).
_GONE = frozenset({"57P01", "57P02", "57P03", "57P05", "25P03", "25P04", "25006"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """``silence``: for how long the network may not answer before the connection counts as broken."""

    connect: timedelta = timedelta(seconds=5)
    statement: timedelta = timedelta(seconds=10)
    lock: timedelta = timedelta(seconds=5)
    idle_in_transaction: timedelta = timedelta(seconds=15)
    silence: timedelta = timedelta(seconds=15)

    @property
    def answer(self) -> timedelta:
        """After that a statement's connection counts as broken: the server, which should have ended the statement,
        stands still behind a network that works, and nobody else would notice.
        """
        return max(self.silence, self.statement * 1.5)


@dataclass(frozen=True, slots=True)
class _Text:
    """SQL with numbered parameters, their names in order, and the values of those that the statement itself sets."""

    sql: bytes
    names: Sequence[str]
    defaults: Mapping[str, Param]


class PostgresText:
    """Statements compiled for Postgres, once for every connection of a process."""

    def __init__(self) -> None:
        self._dialect = dialect(paramstyle="numeric_dollar")
        self._bulk: dict[tuple[str, int], bytes] = {}
        self._single = {
            statement: self._compiled(IN_PLACE_OF.get(statement, statement))
            for statement in (*every_statement(), *ADDED)
        }

    def single(self, statement: Statement) -> _Text:
        """One of ``statements.every_statement`` or ``postgres_statements.ADDED``."""
        return self._single[statement]

    def bulk(self, insert: BulkInsert, rows: int) -> bytes:
        """SQL with its parameters in the order of rows, then columns."""
        text = self._bulk.get((insert.name, rows))
        if text is None:
            text = self._bulk[insert.name, rows] = self._compiled(insert.statement(rows)).sql
        return text

    def _compiled(self, statement: Statement) -> _Text:
        compiled = statement.compile(dialect=self._dialect)
        defaults = {name: value for name, value in (compiled.params or {}).items() if value is not None}
        return _Text(compiled.string.encode(), tuple(compiled.positiontup or ()), defaults)


@dataclass(slots=True)
class PostgresTransaction:
    """``transaction.Transaction`` on a connection. ``statements`` counts those that succeeded."""

    connection: Connection
    text: PostgresText
    statements: int = field(default=0)

    def one(self, statement: Statement, **params: Param) -> Row | None:
        """See the protocol."""
        rows = self.all(statement, **params)
        return rows[0] if rows else None

    def all(self, statement: Statement, **params: Param) -> Sequence[Row]:
        """See the protocol."""
        cursor = self._execute(statement, params)
        return () if cursor is None else cursor.fetchall()

    def run(self, statement: Statement, **params: Param) -> int:
        """See the protocol."""
        cursor = self._execute(statement, params)
        return 0 if cursor is None else cursor.rowcount

    def insert(self, into: BulkInsert, rows: Sequence[Sequence[Param]]) -> None:
        """See the protocol. What does not fill a whole INSERT goes row by row, without waiting between them."""
        whole = len(rows) - len(rows) % _BULK
        for start in range(0, whole, _BULK):
            chunk = rows[start : start + _BULK]
            self.connection.execute(self.text.bulk(into, _BULK), tuple(chain.from_iterable(chunk)), prepare=True)
            self.statements += 1
        if whole < len(rows):
            self.connection.cursor().executemany(self.text.bulk(into, 1), rows[whole:])
            self.statements += 1

    def lock(self, *names: str) -> None:
        """See the protocol. One by one in the order of their numbers, which is the same in every process."""
        for number in sorted(map(lock_number, names)):
            self.connection.execute(b"SELECT pg_advisory_xact_lock($1)", (number,), prepare=True)
            self.statements += 1

    def begin(self) -> None:
        """Start a transaction, whatever the database or the role say is usual."""
        self.connection.execute(b"BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE", prepare=False)

    def commit(self) -> None:
        """End it."""
        self.connection.execute(b"COMMIT", prepare=False)

    def roll_back(self) -> None:
        """Undo it."""
        self.connection.execute(b"ROLLBACK", prepare=False)

    def _execute(self, statement: Statement, params: Mapping[str, Param]) -> "psycopg.Cursor[Row] | None":
        """None: nothing that is stored can be meant."""
        text = self.text.single(statement)
        try:
            values = [params[name] if name in params else text.defaults[name] for name in text.names]
        except KeyError as error:
            raise psycopg.ProgrammingError(f"the statement needs the parameter {error}") from error
        try:
            cursor = self.connection.execute(text.sql, values, prepare=True)
        except errors.UniqueViolation as error:
            raise UniqueViolation(str(error)) from error
        except psycopg.DataError:
            if not _has_nul(values):
                raise
            if not statement.is_select:
                raise InvalidRequest("a text must not contain the character NUL") from None
            cursor = None
        self.statements += 1
        return cursor


class _Connection(psycopg.Connection[Row]):
    """One that does not wait for ever: an answer that is not there after ``patience`` seconds is an error."""

    patience: float | None = None

    def wait(self, gen: PQGen[RV], interval: float = _LOOK_EVERY, timeout: float | None = None) -> RV:
        """See the driver."""
        return super().wait(gen, interval, self.patience if timeout is None else timeout)


class _Number(Dumper):
    """An int as text of no declared type: the statement says which (a null has none either), so that it is prepared
    once and not for each size of number.
    """

    def dump(self, obj: int) -> bytes:
        return b"%d" % obj


def connection_info(url: str, timeouts: Timeouts, *, name: str = "roadworthy") -> str:
    """What libpq needs to know of a database, with everything that keeps a connection from waiting for ever. ``url``:
    whatever libpq understands; its own settings win.

    Raises:
        psycopg.ProgrammingError: the URL is none.
    """
    given = conninfo.conninfo_to_dict(url)
    seconds = max(1, round(timeouts.silence.total_seconds() / 3))
    usual: dict[str, str | int] = {
        "application_name": name,
        "connect_timeout": max(2, round(timeouts.connect.total_seconds())),
        "tcp_user_timeout": timeouts.silence // _MILLISECOND,
        "keepalives": 1,
        "keepalives_idle": seconds,
        "keepalives_interval": seconds,
        "keepalives_count": 2,
    }
    server = {
        "statement_timeout": timeouts.statement,
        "lock_timeout": timeouts.lock,
        "idle_in_transaction_session_timeout": timeouts.idle_in_transaction,
        "client_connection_check_interval": timeouts.silence,
    }
    options = [f"-c {setting}={length // _MILLISECOND}" for setting, length in server.items()]
    given["options"] = " ".join([*options, str(given.get("options") or "")]).strip()
    return conninfo.make_conninfo("", **{**usual, **given})


def connect(url: str, timeouts: Timeouts, *, name: str = "roadworthy") -> Connection:
    """A connection without implicit transactions. ``url``: whatever libpq understands; its own settings win.

    Raises:
        psycopg.OperationalError: nobody answers, or the server refuses.
    """
    connection = _Connection.connect(
        connection_info(url, timeouts, name=name),
        autocommit=True,
        cursor_factory=psycopg.RawCursor,
        prepare_threshold=0,
    )
    connection.patience = timeouts.answer.total_seconds()
    connection.prepared_max = _PREPARED
    connection.adapters.register_dumper(int, _Number)
    return connection


def lock_number(name: str) -> int:
    """The number of an advisory lock. Two names with one number would only wait for each other in vain."""
    return int.from_bytes(hashlib.blake2b(f"roadworthy:{name}".encode(), digest_size=8).digest(), signed=True)


def is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is of no use any more."""
    code = error.sqlstate
    if code is None:
        return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
    return code.startswith(_CONNECTION_ERRORS) or code in _GONE


def is_overtaken(error: psycopg.Error) -> bool:
    """Whether two transactions stood in each other's way, so that trying again helps."""
    return isinstance(error, errors.DeadlockDetected | errors.SerializationFailure)


def is_defect(error: psycopg.Error) -> bool:
    """Whether it is a mistake of ours, which must look like one."""
    return not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError) and not is_lost(error)


def translated(error: psycopg.Error) -> StorageUnavailable:
    """The driver's error in the words of the core. The original belongs into its ``__cause__``."""
    if isinstance(error, errors.DiskFull):
        return StorageFull("the disk that holds the database is full")
    if isinstance(error, errors.LockNotAvailable) or is_overtaken(error):
        return StorageUnavailable("the database is locked by another transaction")
    if isinstance(error, errors.QueryCanceled):
        return StorageUnavailable("the database took too long")
    return StorageUnavailable("the database cannot be used at the moment")


def _has_nul(values: Sequence[Param]) -> bool:
    return any(isinstance(value, str) and "\0" in value for value in values)
