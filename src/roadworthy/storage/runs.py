"""``ports.store.RunStore`` over SQL. Called by services and by the event log."""

from roadworthy.domain.errors import NotFound
from roadworthy.domain.ids import RunId, TenantId, ThreadId
from roadworthy.domain.page import Page
from roadworthy.domain.principal import Owner
from roadworthy.domain.run import Run, RunStatus
from roadworthy.storage import statements as sql
from roadworthy.storage.cursors import number, page_of
from roadworthy.storage.rows import run_from
from roadworthy.storage.transaction import Database, Row, Transaction


class SqlRunStore:
    """Runs as rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, owner: Owner, run_id: RunId) -> Run:
        """See the port."""
        row = await self._database.read(
            lambda tx: tx.one(sql.GET_RUN, tenant=owner.tenant, owner=owner.user, run_id=run_id)
        )
        if row is None:
            raise NotFound("no such run")
        return run_from(row)

    async def list_of_thread(self, owner: Owner, thread_id: ThreadId, *, limit: int, cursor: str | None) -> Page[Run]:
        """See the port."""
        before = number(cursor)
        rows = await self._database.read(
            lambda tx: tx.all(
                sql.RUNS_OF_THREAD,
                tenant=owner.tenant,
                owner=owner.user,
                thread_id=thread_id,
                before=before,
                limit=limit + 1,
            )
        )
        return page_of([run_from(row) for row in rows], limit, lambda run: str(run.ord))

    async def list_of_tenant(
        self, tenant: TenantId | None, *, status: RunStatus | None, limit: int, cursor: str | None
    ) -> Page[Run]:
        """See the port."""
        before = number(cursor)
        wanted = None if status is None else status.value

        def unit(tx: Transaction) -> list[Row]:
            if tenant is None:
                return list(tx.all(sql.RUNS_OF_ALL, status=wanted, before=before, limit=limit + 1))
            return list(tx.all(sql.RUNS_OF_TENANT, tenant=tenant, status=wanted, before=before, limit=limit + 1))

        page = page_of(await self._database.read(unit, scan=True), limit, lambda row: str(row[0]))
        return Page(items=[run_from(row) for row in page.items], cursor=page.cursor)

    async def find_any(self, tenant: TenantId | None, run_id: RunId) -> Run | None:
        """See the port."""
        row = await self._database.read(lambda tx: tx.one(sql.FIND_RUN, run_id=run_id))
        run = None if row is None else run_from(row)
        return None if run is None or tenant not in (None, run.owner.tenant) else run
