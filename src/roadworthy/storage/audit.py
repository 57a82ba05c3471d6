"""The audit log over SQL: ``Note`` writes an entry into the transaction of a change, ``SqlAuditLog`` reads them.

Called by the repositories that change keys, limits and budgets (``keys.py``, ``policies.py``), and by services. The
database itself refuses to alter or delete an entry.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from roadworthy.domain.audit import Actor, AuditEntry
from roadworthy.domain.ids import TenantId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.page import Page
from roadworthy.storage import json_text
from roadworthy.storage import policy_statements as sql
from roadworthy.storage.cursors import number, page_of
from roadworthy.storage.rows import micros, micros_or_none, moment
from roadworthy.storage.transaction import Database, Row, Transaction


@dataclass(frozen=True, slots=True)
class Note:
    """Writes down what somebody changes, in the transaction of the change."""

    actor: Actor
    at: datetime

    def __call__(
        self,
        tx: Transaction,
        tenant: TenantId,
        action: str,
        target: str,
        *,
        before: JsonObject | None,
        after: JsonObject | None,
    ) -> None:
        """``before``, ``after``: what was changed, without anything secret; None when it was or is not there."""
        tx.run(
            sql.INSERT_AUDIT,
            at=micros(self.at),
            tenant=tenant,
            actor=self.actor.name,
            request_id=self.actor.request_id,
            action=action,
            target=target,
            before=None if before is None else json_text.dumps(before),
            after=None if after is None else json_text.dumps(after),
        )


class SqlAuditLog:
    """``ports.policies.AuditLog``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(
        self, tenant: TenantId | None, *, since: datetime | None, limit: int, cursor: str | None
    ) -> Page[AuditEntry]:
        """See the port.

        Raises:
            InvalidRequest: the cursor is not one that this list gave out.
        """
        before, since_at = number(cursor), micros_or_none(since)

        def unit(tx: Transaction) -> Sequence[Row]:
            if tenant is None:
                return tx.all(sql.ALL_AUDIT, before_seq=before, since=since_at, limit=limit + 1)
            return tx.all(sql.AUDIT_OF_TENANT, tenant=tenant, before_seq=before, since=since_at, limit=limit + 1)

        rows = await self._database.read(unit, scan=True)
        return page_of([_entry_from(row) for row in rows], limit, lambda entry: str(entry.seq))


def _entry_from(row: Row) -> AuditEntry:
    seq, at, tenant, actor, request_id, action, target, before, after = row
    return AuditEntry(
        seq=seq,
        at=moment(at),
        tenant=TenantId(tenant),
        actor=Actor(name=actor, request_id=request_id),
        action=action,
        target=target,
        before=_document(before),
        after=_document(after),
    )


def _document(text: str | None) -> JsonObject | None:
    return None if text is None else cast("JsonObject", json_text.loads(text))
