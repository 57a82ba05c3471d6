"""One SQLite connection and the statements on it. Used by the writer thread and by the readers of ``sqlite.py``."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain
from pathlib import Path

from sqlalchemy.dialects.sqlite import dialect

from roadworthy.domain.errors import StorageFull, StorageUnavailable
from roadworthy.storage.statements import every_statement
from roadworthy.storage.transaction import BulkInsert, Param, Row, Statement, UniqueViolation

# Rows that one INSERT carries: few calls into SQLite, each of which lets go of the interpreter lock and must win it
# back from a busy event loop.
_BULK = 50
# Pages of write-ahead log (8 MB) between checkpoints, each of which syncs the disk twice.
_CHECKPOINT_PAGES = 2_000
_DISK = frozenset(
    {
        sqlite3.SQLITE_IOERR_WRITE,
        sqlite3.SQLITE_IOERR_FSYNC,
        sqlite3.SQLITE_IOERR_DIR_FSYNC,
        sqlite3.SQLITE_IOERR_TRUNCATE,
        sqlite3.SQLITE_IOERR_SHMSIZE,
    }
)


class SqliteText:
    """Statements compiled for SQLite, once for every connection of a process."""

    def __init__(self) -> None:
        self._named = dialect(paramstyle="named")
        self._positional = dialect(paramstyle="qmark")
        self._bulk: dict[tuple[str, int], str] = {}
        self._single: dict[Statement, tuple[str, Mapping[str, Param]]] = {}
        for statement in every_statement():
            compiled = statement.compile(dialect=self._named)
            defaults = {name: value for name, value in (compiled.params or {}).items() if value is not None}
            self._single[statement] = (compiled.string, defaults)

    def single(self, statement: Statement) -> tuple[str, Mapping[str, Param]]:
        """SQL with named parameters, and the values of those that the statement itself sets."""
        return self._single[statement]

    def bulk(self, insert: BulkInsert, rows: int) -> str:
        """SQL with positional parameters."""
        text = self._bulk.get((insert.name, rows))
        if text is None:
            text = insert.statement(rows).compile(dialect=self._positional).string
            self._bulk[insert.name, rows] = text
        return text


@dataclass(slots=True)
class SqliteTransaction:
    """``transaction.Transaction`` on a connection. ``statements`` counts for the benchmark."""

    connection: sqlite3.Connection
    text: SqliteText
    statements: int = field(default=0)

    def one(self, statement: Statement, **params: Param) -> Row | None:
        """See the protocol."""
        rows = self.all(statement, **params)
        return rows[0] if rows else None

    def all(self, statement: Statement, **params: Param) -> Sequence[Row]:
        """See the protocol. Fetched to the end: a statement that is still open would hold up the commit."""
        return self._execute(statement, params).fetchall()

    def run(self, statement: Statement, **params: Param) -> int:
        """See the protocol."""
        return self._execute(statement, params).rowcount

    def insert(self, into: BulkInsert, rows: Sequence[Sequence[Param]]) -> None:
        """See the protocol."""
        whole = len(rows) - len(rows) % _BULK
        for start in range(0, whole, _BULK):
            chunk = rows[start : start + _BULK]
            self.connection.execute(self.text.bulk(into, _BULK), tuple(chain.from_iterable(chunk)))
            self.statements += 1
        if whole < len(rows):
            self.connection.executemany(self.text.bulk(into, 1), rows[whole:])
            self.statements += 1

    def lock(self, *names: str) -> None:
        """See the protocol."""

    def _execute(self, statement: Statement, params: dict[str, Param]) -> sqlite3.Cursor:
        text, defaults = self.text.single(statement)
        self.statements += 1
        try:
            return self.connection.execute(text, {**defaults, **params} if defaults else params)
        except sqlite3.IntegrityError as error:
            raise UniqueViolation(str(error)) from error


def connect(path: Path, *, read_only: bool, patience: timedelta) -> sqlite3.Connection:
    """A connection without implicit transactions. ``patience``: how long a statement waits for another's lock.

    Raises:
        sqlite3.Error: the file cannot be opened.
    """
    mode = "ro" if read_only else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
        timeout=patience.total_seconds(),
    )
    try:
        if not read_only:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another connection holds the lock, so that trying again may help."""
    return _code(error) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def translated(error: sqlite3.Error) -> StorageUnavailable:
    """The driver's error in the words of the core. The original belongs into its ``__cause__``."""
    code = _code(error)
    if code & 0xFF == sqlite3.SQLITE_FULL or code in _DISK:
        return StorageFull("the disk that holds the database is full")
    if is_busy(error):
        return StorageUnavailable("the database is locked by another process")
    return StorageUnavailable("the database cannot be used at the moment")


def _code(error: sqlite3.Error) -> int:
    # Missing on errors that the driver itself raises, such as the use of a closed connection.
    return getattr(error, "sqlite_errorcode", 0)
