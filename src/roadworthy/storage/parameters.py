"""How statements name what is filled in: parameters by name, a table's columns as parameters, rows in bulk.

Used by ``statements.py`` and ``ledger_statements.py``.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

# PostgreSQL's INSERT … ON CONFLICT; SQLAlchemy renders it for SQLite too.
from sqlalchemy.dialects.postgresql import insert

from roadworthy.storage.transaction import Statement

INT = sa.BigInteger
ZERO = sa.literal_column("0", sa.Integer)
ONE = sa.literal_column("1", sa.Integer)


def param(name: str, type_: type[sa.types.TypeEngine[Any]] = sa.Text) -> sa.BindParameter[Any]:
    """A parameter by its name."""
    return sa.bindparam(name, type_=type_)


def values_of(table: sa.Table) -> dict[str, sa.BindParameter[Any]]:
    """Every column of a table, each as a parameter of its name."""
    return {column.name: sa.bindparam(column.name, type_=column.type) for column in table.c}


class BulkInsertOf:
    """Insert rows that may be there already, which then stay as they are."""

    def __init__(self, table: sa.Table) -> None:
        self.name = table.name
        self._table = table

    def statement(self, rows: int) -> Statement:
        """See ``transaction.BulkInsert``."""
        values: Sequence[Mapping[str, sa.BindParameter[Any]]] = [
            {column.name: sa.bindparam(f"{column.name}_{row}", type_=column.type) for column in self._table.c}
            for row in range(rows)
        ]
        return insert(self._table).values(values).on_conflict_do_nothing()
