"""``roadworthy migrate``: bring the database to the schema of this version, before the servers that need it start.

Safe beside servers, of the version before too, and beside itself: who comes second waits and finds it done. On Postgres
it makes the tables of agents' state too, with those of the index that the folder's ``langgraph.json`` gives their
store: the servers' own role need not be allowed to make tables.
"""

import asyncio
from typing import TYPE_CHECKING

from roadworthy.cli.data import agents_state
from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import say

if TYPE_CHECKING:
    from roadworthy.settings import Settings


def migrate() -> None:
    """Bring the database to this version's schema, beside running servers. A start on SQLite does it by itself."""
    from roadworthy.database import migrate_database
    from roadworthy.storage.folder import DataFolder

    settings = load_settings()
    done = migrate_database(settings, DataFolder(settings.data_dir.absolute()))
    if done.before == done.after:
        say(f"{done.name} has the schema {done.after}: nothing to do")
    else:
        say(f"{done.name} went from {done.before or 'nothing'} to the schema {done.after}")
    if settings.database_url is not None:
        asyncio.run(_prepare_state(settings))
        say("the tables of agents' state are there")


async def _prepare_state(settings: "Settings") -> None:
    from roadworthy.cli.project import indexed_as
    from roadworthy.runtimes.langgraph.postgres_store import prepare_state
    from roadworthy.runtimes.langgraph.state_places import PostgresTables

    place = agents_state(settings)
    if isinstance(place, PostgresTables):
        await prepare_state(place, indexed_as())
