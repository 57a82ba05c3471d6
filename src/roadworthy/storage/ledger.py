"""``ports.store.Ledger`` over SQL: one row per model call, never changed. Called by ``engine/metering.py``."""

from collections.abc import Sequence

from roadworthy.domain.ids import RunId
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run
from roadworthy.domain.usage import ModelCall
from roadworthy.storage import statements as sql
from roadworthy.storage.rows import call_from, call_row
from roadworthy.storage.transaction import Database


class SqlLedger:
    """Model calls as rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def append(self, run: Run, calls: Sequence[ModelCall]) -> None:
        """See the port."""
        if calls:
            rows = [call_row(run, call) for call in calls]
            await self._database.write(lambda tx: tx.insert(sql.INSERT_CALLS, rows))

    async def of_run(self, owner: Owner, run_id: RunId) -> Sequence[ModelCall]:
        """See the port."""
        rows = await self._database.read(
            lambda tx: tx.all(sql.CALLS_OF_RUN, tenant=owner.tenant, owner=owner.user, run_id=run_id)
        )
        return [call_from(row) for row in rows]
