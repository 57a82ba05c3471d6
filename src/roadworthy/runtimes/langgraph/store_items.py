"""What LangGraph's SQLite store holds of one owner, read and deleted by range.

``store`` asks on its own connection; ``cli/users.py`` reads the file beside a server, without importing LangGraph.
LangGraph deletes an item without its embedding; here both go.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeAlias

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.keys import owned_range

STORE_FILE = "store.sqlite"
# Rows that one trip to the connection handles: agents' own operations wait for it.
AT_ONCE = 200

# prefix, key, value, created_at, updated_at
ItemRow: TypeAlias = tuple[str, str, str, str, str]

_RANGE = "prefix >= ? AND prefix < ?"
_ITEMS = (
    f"SELECT prefix, key, value, created_at, updated_at FROM store WHERE {_RANGE} AND (prefix, key) > (?, ?) "  # noqa: S608 -- constants
    "ORDER BY prefix, key LIMIT ?"
)
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table' AND name IN ('store', 'store_vectors')"
_LIMITED = f"(SELECT rowid FROM {{0}} WHERE {_RANGE} LIMIT ?)"  # noqa: S608 -- constants


def some_items(connection: sqlite3.Connection, owner: Owner, after: ItemRow | None) -> Sequence[ItemRow]:
    """Rows behind another one, in their order; empty when there are no more."""
    if "store" not in _tables(connection):
        return []
    place = ("", "") if after is None else after[:2]
    return connection.execute(_ITEMS, (*owned_range(owner), *place, AT_ONCE)).fetchall()


def item_json(row: ItemRow) -> JsonObject:
    """An item under the namespace that the agent gave it."""
    prefix, key, value, created_at, updated_at = row
    # The first two labels are the owner's.
    return {
        "namespace": prefix.split(".")[2:],
        "key": key,
        "value": json.loads(value),
        "created_at": created_at,
        "updated_at": updated_at,
    }


def erase_some_items(connection: sqlite3.Connection, owner: Owner) -> tuple[int, bool]:
    """How many items went, and whether there may be more. A transaction is the caller's to make."""
    items, more = 0, False
    for table in sorted(_tables(connection)):
        limited = _LIMITED.format(table)
        cursor = connection.execute(f"DELETE FROM {table} WHERE rowid IN {limited}", (*owned_range(owner), AT_ONCE))  # noqa: S608 -- constants
        more = more or cursor.rowcount == AT_ONCE
        items += cursor.rowcount if table == "store" else 0
    return items, more


def items_in_file(path: Path, owner: Owner) -> Iterator[JsonObject]:
    """All items of an owner, from a store that somebody else may be using.

    Raises:
        StorageUnavailable: the file cannot be read.
    """
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            last: ItemRow | None = None
            while rows := some_items(connection, owner, last):
                yield from map(item_json, rows)
                last = rows[-1]
    except sqlite3.Error as error:
        raise StorageUnavailable("the agents' store cannot be read") from error


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute(_TABLES)}
