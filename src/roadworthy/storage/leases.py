"""``ports/leases.py`` on Postgres: one statement for all leases of a worker, on a connection of its own.

So a renewal never waits in line behind units of work, nor for a connection of theirs.
"""

import time
from collections.abc import Sequence
from datetime import timedelta

from roadworthy.domain.ids import RunId, TenantId, UserId
from roadworthy.domain.lease import Lease, LeaseTerms
from roadworthy.domain.principal import Owner
from roadworthy.storage import postgres_statements as sql
from roadworthy.storage.postgres import PostgresDatabase
from roadworthy.storage.postgres_connection import Timeouts
from roadworthy.storage.transaction import Row, Transaction

_MICROSECOND = timedelta(microseconds=1)
# A renewal that takes longer comes too late anyway.
_TIMEOUTS = Timeouts(
    connect=timedelta(seconds=2),
    statement=timedelta(seconds=2),
    lock=timedelta(seconds=1),
    idle_in_transaction=timedelta(seconds=3),
    silence=timedelta(seconds=2),
)


class PostgresLeases:
    """``ports.leases.LeaseStore``. Used by one thread."""

    def __init__(self, database: PostgresDatabase, terms: LeaseTerms) -> None:
        self._session = database.session(_TIMEOUTS)
        self._length = terms.length // _MICROSECOND
        self._patience = terms.renew_every.total_seconds()

    def renew(self, worker: str) -> Sequence[Lease]:
        """See the port."""

        def unit(tx: Transaction) -> Sequence[Row]:
            tx.all(sql.LOCK_LEASES, worker=worker)
            return tx.all(sql.RENEW_LEASES, worker=worker, lease=self._length)

        rows = self._session.write(unit, time.monotonic() + self._patience)
        return [
            Lease(
                run_id=RunId(run_id),
                owner=Owner(tenant=TenantId(tenant), user=UserId(user)),
                attempt=attempt,
                worker=worker,
            )
            for tenant, user, run_id, attempt in rows
        ]

    def close(self) -> None:
        """See the port."""
        self._session.close()
