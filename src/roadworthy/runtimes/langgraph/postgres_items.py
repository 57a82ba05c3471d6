"""What LangGraph's Postgres store holds of one owner, read and deleted by range.

``postgres_store`` uses it for a server, ``beside`` for the CLI. Nothing here needs LangGraph.
"""

from collections.abc import Sequence

from roadworthy.domain.principal import Owner
from roadworthy.runtimes.langgraph.keys import owned_range
from roadworthy.runtimes.langgraph.postgres import PostgresDatabase
from roadworthy.runtimes.langgraph.store_items import AT_ONCE, ItemRow

# Compared byte by byte, whatever the database's own order: so is the index over ``prefix``.
_RANGE = "prefix ~>=~ ? AND prefix ~<~ ?"
_SOME = (
    f"SELECT prefix, key, value::text, created_at, updated_at FROM store WHERE {_RANGE} "  # noqa: S608 -- constants
    'AND (prefix COLLATE "C", key COLLATE "C") > (?, ?) ORDER BY prefix COLLATE "C", key COLLATE "C" LIMIT ?'
)
# Embeddings go with their items.
_ERASE = f"DELETE FROM store WHERE ctid = ANY (ARRAY (SELECT ctid FROM store WHERE {_RANGE} LIMIT ?))"  # noqa: S608 -- constants


class PostgresItems:
    """``store.StoredItems``."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    async def some(self, owner: Owner, after: ItemRow | None) -> Sequence[ItemRow]:
        """See the protocol."""
        place = ("", "") if after is None else after[:2]
        found = await self._database.fetch(_SOME, *owned_range(owner), *place, AT_ONCE)
        return [(prefix, key, value, str(created), str(updated)) for prefix, key, value, created, updated in found]

    async def erase_some(self, owner: Owner) -> tuple[int, bool]:
        """See the protocol."""
        count = await self._database.run(_ERASE, *owned_range(owner), AT_ONCE)
        return count, count == AT_ONCE
