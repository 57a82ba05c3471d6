"""``ports.store.KeyStore`` over SQL. Called by ``http/auth.py`` through services, and by the CLI beside a server."""

from collections.abc import Sequence
from datetime import datetime

from roadworthy.domain.ids import KeyId, TenantId
from roadworthy.domain.principal import ApiKey
from roadworthy.storage import statements as sql
from roadworthy.storage.rows import key_from, key_params, micros, micros_or_none
from roadworthy.storage.transaction import Database, Row, Transaction


class SqlKeyStore:
    """Keys as rows; only digests are stored."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, key_id: KeyId) -> ApiKey | None:
        """See the port."""
        row = await self._database.read(lambda tx: tx.one(sql.FIND_KEY, key_id=key_id))
        return None if row is None else key_from(row)

    async def insert(self, key: ApiKey) -> bool:
        """See the port."""
        return await self._database.write(lambda tx: tx.run(sql.INSERT_KEY, **key_params(key))) == 1

    async def list(self, tenant: TenantId | None) -> Sequence[ApiKey]:
        """See the port."""

        def unit(tx: Transaction) -> Sequence[Row]:
            return tx.all(sql.ALL_KEYS) if tenant is None else tx.all(sql.KEYS_OF_TENANT, tenant=tenant)

        return [key_from(row) for row in await self._database.read(unit, scan=True)]

    async def end(
        self, tenant: TenantId | None, key_id: KeyId, *, revoked_at: datetime | None, expires_at: datetime | None
    ) -> bool:
        """See the port. An end that is set already is never put off."""
        changed = await self._database.write(
            lambda tx: tx.run(
                sql.END_KEY,
                tenant=tenant,
                key_id=key_id,
                revoke_at=micros_or_none(revoked_at),
                expire_at=micros_or_none(expires_at),
            )
        )
        return changed == 1

    async def touch(self, tenant: TenantId, key_id: KeyId, moment: datetime) -> None:
        """See the port."""
        await self._database.write(
            lambda tx: tx.run(sql.TOUCH_KEY, tenant=tenant, key_id=key_id, used_at=micros(moment))
        )

    async def any(self) -> bool:
        """See the port."""
        return await self._database.read(lambda tx: tx.one(sql.ANY_KEY)) is not None
