"""API keys: making them, checking them, ending them.

A key is shown once; what is stored is a digest of its text with a pepper (``key_text.py``). ``http/auth.py``
authenticates with it, ``cli/keys.py`` and ``protocols/admin`` administer it, within ``key_rights.py``.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import ConfigError, Conflict, NotFound, Unauthenticated
from roadworthy.domain.ids import AgentName, KeyId, TenantId, UserId
from roadworthy.domain.principal import USER_SCOPES, ApiKey, Owner, Principal, Scope
from roadworthy.ports.clock import Clock
from roadworthy.ports.store import KeyStore
from roadworthy.services.key_rights import require_ending, require_rights
from roadworthy.services.key_text import PREFIX, digest_of, key_id_of, new_text

DEFAULT_TENANT = TenantId("default")
ADMIN_USER = UserId("admin")
ALL_SCOPES = frozenset(Scope)
# Who makes keys at a start.
SERVER = Actor(name="server")

_REFUSED = "the API key is missing, unknown, revoked or expired"
_CACHE_SIZE = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """A key that was just made. ``text`` exists nowhere else."""

    key: ApiKey
    text: str

    def __repr__(self) -> str:
        return f"NewKey({self.key.key_id})"


class Keys:
    """``cache_for``: how long a found key may be believed without asking the database: revocation takes that long."""

    def __init__(
        self, store: KeyStore, clock: Clock, pepper: bytes, *, cache_for: timedelta = timedelta(seconds=2)
    ) -> None:
        self._store = store
        self._clock = clock
        self._pepper = pepper
        self._cache_for = cache_for.total_seconds()
        self._cache: dict[KeyId, tuple[ApiKey, float]] = {}
        self._used: dict[KeyId, TenantId] = {}

    async def authenticate(self, text: str) -> Principal:
        """The caller behind a key.

        Raises:
            Unauthenticated: it is malformed, unknown, revoked or expired; the message does not say which.
            StorageUnavailable: the database does not answer; a key is never believed unseen.
        """
        key_id = key_id_of(text, self._pepper)
        key = None if key_id is None else await self._lookup(key_id)
        if key is None or not hmac.compare_digest(key.digest, digest_of(text, self._pepper)):
            raise Unauthenticated(_REFUSED)
        if not key.usable_at(self._clock.now()):
            raise Unauthenticated(_REFUSED)
        self._used[key.key_id] = key.owner.tenant
        return Principal(
            owner=key.owner, scopes=key.scopes, key_id=key.key_id, agents=key.agents, expires_at=key.expires_at
        )

    async def note_uses(self) -> None:
        """Store which keys were used since the last call: beside the requests, never in their way.

        Raises:
            StorageUnavailable: some were not stored; they are noted again at their next use.
        """
        used, self._used = self._used, {}
        for key_id, tenant in used.items():
            await self._store.touch(tenant, key_id, self._clock.now())

    async def create(
        self,
        owner: Owner,
        actor: Actor,
        *,
        name: str = "",
        scopes: frozenset[Scope] = USER_SCOPES,
        agents: frozenset[AgentName] | None = None,
        expires_in: timedelta | None = None,
    ) -> NewKey:
        """Make a key and store its digest, for an operator who may do everything.

        Raises:
            StorageUnavailable: it was not stored.
        """
        return await self._make(owner, actor, name, scopes, agents, self._end_of(expires_in))

    async def grant(
        self,
        principal: Principal,
        owner: Owner,
        actor: Actor,
        *,
        name: str = "",
        scopes: frozenset[Scope] = USER_SCOPES,
        agents: frozenset[AgentName] | None = None,
        expires_in: timedelta | None = None,
    ) -> NewKey:
        """Make a key for a caller: never one that reaches further than the caller's own.

        Raises:
            PermissionDenied: the caller may make no keys, or not this one; the message says which part of it.
            StorageUnavailable: it was not stored.
        """
        principal.require(Scope.KEYS_WRITE)
        expires_at = self._end_of(expires_in)
        require_rights(principal, owner=owner, scopes=scopes, agents=agents, expires_at=expires_at)
        return await self._make(owner, actor, name, scopes, agents, expires_at)

    async def rotate(self, tenant: TenantId | None, key_id: KeyId, actor: Actor, *, grace: timedelta) -> NewKey:
        """A new key with the rights, the lifetime and the limits of an old one, which stays usable for ``grace``.

        Budgets of the old key go on where they stand.

        Raises:
            NotFound: there is no such usable key.
            Conflict: it was rotated before and is in its grace.
        """
        return await self._replace(await self._usable(tenant, key_id), actor, grace, None)

    async def rotate_as(self, principal: Principal, key_id: KeyId, actor: Actor, *, grace: timedelta) -> NewKey:
        """The same for a caller, who must have all that the old key has: the new one is handed to the caller.

        It ends with the caller's own key at the latest.

        Raises:
            PermissionDenied: the caller may make no keys, or the key reaches further than the caller's.
            NotFound: there is no such usable key in the caller's tenant.
            Conflict: it was rotated before and is in its grace.
        """
        principal.require(Scope.KEYS_WRITE)
        old = await self._usable(principal.owner.tenant, key_id)
        require_rights(principal, owner=old.owner, scopes=old.scopes, agents=old.agents, expires_at=old.expires_at)
        return await self._replace(old, actor, grace, principal.expires_at)

    async def revoke(self, tenant: TenantId | None, key_id: KeyId, actor: Actor) -> None:
        """End a key now; running servers notice within seconds.

        Raises:
            NotFound: there is no such key.
        """
        if not await self._store.end(tenant, key_id, actor, revoked_at=self._clock.now(), expires_at=None):
            raise NotFound(f"there is no key {key_id}")
        self._cache.pop(key_id, None)

    async def revoke_as(self, principal: Principal, key_id: KeyId, actor: Actor) -> None:
        """The same for a caller, within ``require_ending``.

        Raises:
            PermissionDenied: the caller may end no keys, or not this one.
            NotFound: there is no such key in the caller's tenant.
        """
        principal.require(Scope.KEYS_WRITE)
        key = await self._found(principal.owner.tenant, key_id)
        require_ending(principal, key)
        await self.revoke(principal.owner.tenant, key_id, actor)

    async def list_of(self, principal: Principal) -> Sequence[ApiKey]:
        """The keys of a caller's tenant, oldest first.

        Raises:
            PermissionDenied: the caller may not see keys.
        """
        principal.require(Scope.KEYS_WRITE)
        return await self._store.list(principal.owner.tenant)

    async def list(self, tenant: TenantId | None) -> Sequence[ApiKey]:
        """Keys without their text, oldest first."""
        return await self._store.list(tenant)

    async def register_admin(self, text: str) -> None:
        """Make a given text an admin key, unless it is one already.

        Raises:
            ConfigError: it does not look like a key, or is a stored one that opens nothing or is no admin's.
        """
        key_id = key_id_of(text, self._pepper)
        if key_id is None:
            raise ConfigError(f"the admin key must be {PREFIX} and at least 8 characters of A-Z a-z 0-9 _ -")
        owner = Owner(tenant=DEFAULT_TENANT, user=ADMIN_USER)
        given = self._key(text, key_id, owner, "given at start", ALL_SCOPES)
        if await self._store.insert(given, SERVER):
            return
        stored = await self._store.find(key_id)
        problem = None if stored is None else self._admin_problem(stored, given.digest)
        if problem is not None:
            raise ConfigError(f"the admin key given {problem}: give another one, or none")

    async def first_admin(self) -> NewKey | None:
        """An admin key when there is no key at all yet, else None. Of servers that start at once, one gets it."""
        if await self._store.any():
            return None
        admin = Owner(tenant=DEFAULT_TENANT, user=ADMIN_USER)
        new = self._new(admin, "made at the first start", ALL_SCOPES, None, None)
        return new if await self._store.insert_first(new.key, SERVER) else None

    async def _make(
        self,
        owner: Owner,
        actor: Actor,
        name: str,
        scopes: frozenset[Scope],
        agents: frozenset[AgentName] | None,
        expires_at: datetime | None,
    ) -> NewKey:
        while True:
            new = self._new(owner, name, scopes, agents, expires_at)
            if await self._store.insert(new.key, actor):
                return new

    async def _replace(self, old: ApiKey, actor: Actor, grace: timedelta, latest: datetime | None) -> NewKey:
        """``latest``: when the new key ends at the latest."""
        if old.replaced_at is not None:
            # What is left of its life is the grace, and its limits have been handed on.
            raise Conflict(f"the key {old.key_id} was rotated before: rotate the one that took its place")
        ends = self._clock.now() + grace
        lifetime = None if old.expires_at is None else old.expires_at - old.created_at
        expires_at = _earlier(self._end_of(lifetime), latest)
        tenant, old_ends = old.owner.tenant, min(ends, old.expires_at or ends)
        while True:
            new = self._new(old.owner, old.name, old.scopes, old.agents, expires_at)
            if await self._store.replace(tenant, old.key_id, new.key, actor, expires_at=old_ends):
                self._cache.pop(old.key_id, None)
                return new

    async def _usable(self, tenant: TenantId | None, key_id: KeyId) -> ApiKey:
        key = await self._store.find(key_id)
        if key is None or tenant not in (None, key.owner.tenant) or not key.usable_at(self._clock.now()):
            raise NotFound(f"there is no usable key {key_id}")
        return key

    async def _found(self, tenant: TenantId, key_id: KeyId) -> ApiKey:
        key = await self._store.find(key_id)
        if key is None or key.owner.tenant != tenant:
            raise NotFound(f"there is no key {key_id}")
        return key

    def _end_of(self, expires_in: timedelta | None) -> datetime | None:
        return None if expires_in is None else self._clock.now() + expires_in

    async def _lookup(self, key_id: KeyId) -> ApiKey | None:
        now = self._clock.monotonic()
        cached = self._cache.get(key_id)
        if cached is not None and now - cached[1] < self._cache_for:
            return cached[0]
        key = await self._store.find(key_id)
        if key is None:
            self._cache.pop(key_id, None)
            return None
        if len(self._cache) >= _CACHE_SIZE:
            self._cache.clear()
        self._cache[key_id] = (key, now)
        return key

    def _admin_problem(self, stored: ApiKey, digest: bytes) -> str | None:
        now = self._clock.now()
        if not hmac.compare_digest(stored.digest, digest):
            return "does not fit the stored key of its id (another secret, or another pepper)"
        if stored.revoked_at is not None and stored.revoked_at <= now:
            return "was revoked"
        if not stored.usable_at(now):
            return "has expired"
        return None if Scope.ADMIN in stored.scopes else f"lacks the scope {Scope.ADMIN.value}"

    def _new(
        self,
        owner: Owner,
        name: str,
        scopes: frozenset[Scope],
        agents: frozenset[AgentName] | None,
        expires_at: datetime | None,
    ) -> NewKey:
        """A key that is not stored yet."""
        text = new_text()
        key_id = key_id_of(text, self._pepper)
        if key_id is None:
            raise AssertionError("a new text is a key's")
        return NewKey(key=self._key(text, key_id, owner, name, scopes, agents, expires_at), text=text)

    def _key(
        self,
        text: str,
        key_id: KeyId,
        owner: Owner,
        name: str,
        scopes: frozenset[Scope],
        agents: frozenset[AgentName] | None = None,
        expires_at: datetime | None = None,
    ) -> ApiKey:
        return ApiKey(
            key_id=key_id,
            owner=owner,
            name=name,
            digest=digest_of(text, self._pepper),
            scopes=scopes,
            agents=agents,
            created_at=self._clock.now(),
            expires_at=expires_at,
        )


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    """Of two ends the earlier one; None is no end."""
    return min((end for end in (one, other) if end is not None), default=None)
