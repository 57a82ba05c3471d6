"""Whether the database answers, for ``/readyz``. Asked through ``services/readiness.py``."""

import asyncio
from datetime import timedelta

from roadworthy.domain.errors import StorageUnavailable
from roadworthy.storage.transaction import Database, Transaction

_PATIENCE = timedelta(seconds=2)


async def database_problem(database: Database) -> str | None:
    """None when a transaction can begin and end within 2 s; else what is wrong."""
    try:
        async with asyncio.timeout(_PATIENCE.total_seconds()):
            await database.write(_nothing)
    except StorageUnavailable as error:
        return error.message
    except TimeoutError:
        return f"the database did not answer within {_PATIENCE.total_seconds():g} s"
    return None


def _nothing(_tx: Transaction) -> None:
    """An empty transaction still takes the lock and commits."""
