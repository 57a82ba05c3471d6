"""What a unit of work sees of the database, and how repositories hand one over.

Repositories (above) write a unit as a plain function of a Transaction; an executor (``sqlite.py``, below) runs it in
its own thread, inside one transaction that it may share with other units. A unit must therefore be quick, do nothing
but SQL, be prepared to run on any thread, and for a change to be undone and run again. On Postgres
(``postgres.py``) other units change the same tables meanwhile: what a unit reads and then relies upon, it locks.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, TypeVar

from sqlalchemy import SelectBase, UpdateBase

Statement: TypeAlias = SelectBase | UpdateBase
Param: TypeAlias = str | int | bytes | None
# A driver's row: the selected columns in their order. ``rows.py`` gives them their types.
Row: TypeAlias = tuple[Any, ...]

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class UniqueViolation(Exception):
    """A unique index refused a row: somebody else was faster. Caught by the repository that wrote the row."""


class Transaction(Protocol):
    """Statements of ``statements.py`` by value; parameters by name."""

    def one(self, statement: Statement, **params: Param) -> Row | None:
        """The first row of a query, or of what a change returns.

        Raises:
            UniqueViolation: see the class.
        """
        ...

    def all(self, statement: Statement, **params: Param) -> Sequence[Row]:
        """Every row."""
        ...

    def run(self, statement: Statement, **params: Param) -> int:
        """Execute a change; the number of rows it touched.

        Raises:
            UniqueViolation: see the class.
        """
        ...

    def insert(self, into: "BulkInsert", rows: Sequence[Sequence[Param]]) -> None:
        """Insert many rows, each with its values in the order of the table's columns."""
        ...

    def lock(self, *names: str) -> None:
        """Wait for every other transaction that has locked one of these names, and keep them until the end of this one.

        Where one row's lock is not enough: for rows that are counted, or not there yet. What is read afterwards is what
        those others have committed. Nothing on SQLite, which has one writer.
        """
        ...


class BulkInsert(Protocol):
    """An insert that can be written for any number of rows at once."""

    name: str

    def statement(self, rows: int) -> Statement:
        """The insert of ``rows`` rows; parameters in the order of rows, then columns."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Work done so far: committed transactions, statements written and statements read."""

    transactions: int
    written: int
    read: int


Unit: TypeAlias = Callable[[Transaction], T]


class Database(Protocol):
    """One database as repositories see it."""

    @property
    def in_line(self) -> bool:
        """Whether units are committed in the order in which they were handed over."""
        ...

    async def write(self, unit: Unit[T]) -> T:
        """Run a unit in a transaction and return its value once that is committed.

        An exception of the unit undoes what it did and is raised here. When the caller is cancelled while it waits,
        the unit may still commit.

        Raises:
            StorageUnavailable: the database stays locked, is broken or closed. Nothing was stored.
            StorageFull: the disk is full. Nothing was stored.
        """
        ...

    async def read(self, unit: Unit[T], *, scan: bool = False) -> T:
        """Run a unit that only reads. Each statement sees what was committed before it.

        ``scan``: it may look at many rows, so it must not hold up the event loop.

        Raises:
            StorageUnavailable: the database is broken or closed.
        """
        ...

    async def close(self) -> None:
        """Finish what was handed over, then let go. Bounded."""
        ...
