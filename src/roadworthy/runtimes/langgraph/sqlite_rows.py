"""Units of ``rows`` on SQLite: executed at once, by whoever has the connection.

``sqlite`` executes them for a server, ``beside`` for the CLI. Nothing here needs LangGraph.
"""

import sqlite3
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from roadworthy.runtimes.langgraph.rows import Found, Row

BYTES: Final = "BLOB"


class SqliteRows:
    """``rows.Rows`` on a connection. Its coroutines never wait."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def all(self, statement: str, *values: object) -> Sequence[Row]:
        """See the protocol."""
        return self._connection.execute(statement, values).fetchall()

    async def run(self, statement: str, *values: object) -> int:
        """See the protocol."""
        return self._connection.execute(statement, values).rowcount

    async def lock(self, name: str) -> None:
        """See the protocol."""


def finished(unit: Coroutine[Any, Any, Found]) -> Found:
    """The result of a unit over ``SqliteRows``."""
    try:
        unit.send(None)
    except StopIteration as ended:
        result: Found = ended.value
        return result
    unit.close()
    raise RuntimeError("a unit of work waited for something else than the rows")
