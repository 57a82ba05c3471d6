"""Units of work on the tables beside the checkpoints, written once for every database that holds checkpoints.

``journal_rows`` and ``tool_rows`` are made of such units; ``sqlite_rows`` and ``postgres`` execute them. Statements
mark their parameters with ``?`` and use only words that SQLite and Postgres share. Nothing here needs LangGraph.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner

Found = TypeVar("Found")

Row: TypeAlias = tuple[Any, ...]


class Rows(Protocol):
    """The tables, within one transaction."""

    async def all(self, statement: str, *values: object) -> Sequence[Row]:
        """The rows that a query finds."""
        ...

    async def run(self, statement: str, *values: object) -> int:
        """Change something. Returns how many rows."""
        ...

    async def lock(self, name: str) -> None:
        """Let no two transactions past here at once that give the same name. Before the first look at what one may
        change of the other's; nothing where transactions come one after the other anyway.
        """
        ...


# May be executed again when its transaction was undone. Waits for nothing but the rows.
Unit: TypeAlias = Callable[[Rows], Coroutine[Any, Any, Found]]


class Fence(Protocol):
    """An attempt, as far as it matters for what may still be written in its name."""

    @property
    def owner(self) -> Owner:
        """Whose run it is of."""
        ...

    @property
    def run_id(self) -> RunId:
        """The run."""
        ...

    @property
    def attempt(self) -> int:
        """Its number."""
        ...

    def check_fence(self) -> None:
        """Whether this process knows already that it lost the run.

        Raises:
            LeaseLost: it does.
        """
        ...


class RowDatabase(Protocol):
    """Where the rows are."""

    async def transact(self, unit: Unit[Found], *, fence: Fence | None = None, harmless: bool = False) -> Found:
        """Execute a unit in a transaction, in which the attempt behind ``fence`` still holds its run. ``harmless``: it
        may be executed again although it may be stored, because nobody heard of its commit.

        Raises:
            LeaseLost: it does not; nothing is written.
            StorageUnavailable: the database failed; StorageFull when its disk is full.
        """
        ...
