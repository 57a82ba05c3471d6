"""``ports.store.KeyStore`` over SQL. Called by ``http/auth.py`` through services, and by the CLI beside a server."""

from collections.abc import Callable, Sequence
from datetime import datetime

from roadworthy.domain.audit import Actor
from roadworthy.domain.ids import KeyId, TenantId
from roadworthy.domain.json import JsonObject
from roadworthy.domain.principal import ApiKey
from roadworthy.ports.clock import Clock
from roadworthy.storage import statements as sql
from roadworthy.storage.audit import Note
from roadworthy.storage.key_policies import hand_on
from roadworthy.storage.locks import FIRST_KEY, POLICIES
from roadworthy.storage.rows import key_from, key_params, micros, micros_or_none
from roadworthy.storage.transaction import Database, Row, Transaction


class SqlKeyStore:
    """Keys as rows; only digests are stored. ``clock`` dates what the audit log says about them.

    ``limits_changed``: told when a replaced key has handed on its limits, for who keeps a tenant's in memory.
    """

    def __init__(
        self, database: Database, clock: Clock, limits_changed: Callable[[TenantId], None] = lambda _tenant: None
    ) -> None:
        self._database = database
        self._clock = clock
        self._limits_changed = limits_changed

    async def find(self, key_id: KeyId) -> ApiKey | None:
        """See the port."""
        row = await self._database.read(lambda tx: tx.one(sql.FIND_KEY, key_id=key_id))
        return None if row is None else key_from(row)

    async def insert(self, key: ApiKey, actor: Actor) -> bool:
        """See the port. In the audit log it is ``key.create``."""
        note = Note(actor, self._clock.now())

        return await self._database.write(lambda tx: _insert(tx, note, key))

    async def insert_first(self, key: ApiKey, actor: Actor) -> bool:
        """See the port. In the audit log it is ``key.create``."""
        note = Note(actor, self._clock.now())

        def unit(tx: Transaction) -> bool:
            tx.lock(FIRST_KEY)
            return tx.one(sql.ANY_KEY) is None and _insert(tx, note, key)

        return await self._database.write(unit)

    async def list(self, tenant: TenantId | None) -> Sequence[ApiKey]:
        """See the port."""

        def unit(tx: Transaction) -> Sequence[Row]:
            return tx.all(sql.ALL_KEYS) if tenant is None else tx.all(sql.KEYS_OF_TENANT, tenant=tenant)

        return [key_from(row) for row in await self._database.read(unit, scan=True)]

    async def end(
        self,
        tenant: TenantId | None,
        key_id: KeyId,
        actor: Actor,
        *,
        revoked_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool:
        """See the port. An end that is set already is never put off.

        In the audit log it is ``key.revoke``, or ``key.rotate`` for the end of a grace period; nothing when the key
        ends when it would have ended anyway.
        """
        note = Note(actor, self._clock.now())
        return await self._database.write(lambda tx: _end(tx, note, tenant, key_id, revoked_at, expires_at))

    async def replace(self, tenant: TenantId, old: KeyId, new: ApiKey, actor: Actor, *, expires_at: datetime) -> bool:
        """See the port. In the audit log the new key, the old one's end and each limit of the new key are changes."""
        note = Note(actor, self._clock.now())

        def unit(tx: Transaction) -> bool:
            if not _insert(tx, note, new):
                return False
            _end(tx, note, tenant, old, None, expires_at)
            tx.lock(POLICIES)
            tx.run(sql.REPLACED_KEY, tenant=tenant, key_id=old, replaced_at=micros(note.at))
            hand_on(tx, note, tenant, old, new.key_id)
            return True

        try:
            return await self._database.write(unit)
        finally:
            # Even when the caller was cancelled: the change may be stored all the same.
            self._limits_changed(tenant)

    async def touch(self, tenant: TenantId, key_id: KeyId, moment: datetime) -> None:
        """See the port."""
        await self._database.write(
            lambda tx: tx.run(sql.TOUCH_KEY, tenant=tenant, key_id=key_id, used_at=micros(moment))
        )

    async def any(self) -> bool:
        """See the port."""
        return await self._database.read(lambda tx: tx.one(sql.ANY_KEY)) is not None


def _insert(tx: Transaction, note: Note, key: ApiKey) -> bool:
    if not tx.run(sql.INSERT_KEY, **key_params(key)):
        return False
    note(tx, key.owner.tenant, "key.create", key.key_id, before=None, after=_document(key))
    return True


def _end(
    tx: Transaction,
    note: Note,
    tenant: TenantId | None,
    key_id: KeyId,
    revoked_at: datetime | None,
    expires_at: datetime | None,
) -> bool:
    before = tx.one(sql.LOCK_KEY, key_id=key_id)
    changed = tx.run(
        sql.END_KEY,
        tenant=tenant,
        key_id=key_id,
        revoke_at=micros_or_none(revoked_at),
        expire_at=micros_or_none(expires_at),
    )
    after = tx.one(sql.FIND_KEY, key_id=key_id)
    if not changed or before is None or after is None:
        return False
    if after != before:
        was, ended = key_from(before), key_from(after)
        action = "key.rotate" if revoked_at is None else "key.revoke"
        note(tx, ended.owner.tenant, action, key_id, before=_document(was), after=_document(ended))
    return True


def _document(key: ApiKey) -> JsonObject:
    """A key in the audit log: all but its digest and its uses."""
    return {
        "user": key.owner.user,
        "name": key.name,
        "scopes": sorted(scope.value for scope in key.scopes),
        "agents": None if key.agents is None else sorted(key.agents),
        "expires_at": None if key.expires_at is None else key.expires_at.isoformat(),
        "revoked_at": None if key.revoked_at is None else key.revoked_at.isoformat(),
    }
