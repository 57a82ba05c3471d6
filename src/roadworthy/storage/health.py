"""Whether the database can be used, for ``/readyz``. Asked through ``services/readiness.py``."""

import asyncio
from datetime import timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage import statements as sql
from roadworthy.storage.schema import revision_problem
from roadworthy.storage.transaction import Database, Transaction

_PATIENCE = timedelta(seconds=2)


async def database_problem(database: Database) -> str | None:
    """None when a transaction can begin and end within 2 s, on a schema that this code knows; else what is wrong.

    A newer replica may have migrated the database under this one: see ``schema.revision_problem``.
    """
    try:
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            revision = await database.write(_revision)
    except StorageUnavailable as error:
        return error.message
    except TimeoutError:
        return f"the database did not answer within {_PATIENCE.total_seconds():g} s"
    return "the database is empty" if revision is None else revision_problem(revision, "the database")


def _revision(tx: Transaction) -> str | None:
    # In a transaction that writes: it takes the lock and commits.
    row = tx.one(sql.SCHEMA_REVISION)
    return None if row is None else str(row[0])
