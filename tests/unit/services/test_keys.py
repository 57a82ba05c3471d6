"""API keys: what opens, what does not, and that nothing secret is stored or shown."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import ConfigError, Conflict, NotFound, Unauthenticated
from roadworthy.domain.ids import AgentName, KeyId, TenantId, UserId
from roadworthy.domain.principal import USER_SCOPES, ApiKey, Owner, Scope
from roadworthy.services.key_text import is_short
from roadworthy.services.keys import Keys

ANN = Owner(tenant=TenantId("default"), user=UserId("ann"))
ROOT = Actor(name="cli:root")


class FakeClock:
    def __init__(self) -> None:
        self.moment = datetime(2026, 1, 1, tzinfo=UTC)

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()


class MemoryKeys:
    """``done``: who made or ended which key."""

    def __init__(self) -> None:
        self.keys: dict[KeyId, ApiKey] = {}
        self.touched: list[tuple[TenantId, KeyId, datetime]] = []
        self.done: list[tuple[str, str, KeyId]] = []

    async def find(self, key_id: KeyId) -> ApiKey | None:
        return self.keys.get(key_id)

    async def insert(self, key: ApiKey, actor: Actor) -> bool:
        self.done.append((actor.name, "insert", key.key_id))
        return self.keys.setdefault(key.key_id, key) is key

    async def list(self, tenant: TenantId | None) -> list[ApiKey]:
        return [key for key in self.keys.values() if tenant in (None, key.owner.tenant)]

    async def end(
        self,
        tenant: TenantId | None,
        key_id: KeyId,
        actor: Actor,
        *,
        revoked_at: datetime | None,
        expires_at: datetime | None,
    ) -> bool:
        key = self.keys.get(key_id)
        if key is None or tenant not in (None, key.owner.tenant):
            return False
        self.done.append((actor.name, "end", key_id))
        self.keys[key_id] = replace(
            key, expires_at=expires_at or key.expires_at, revoked_at=revoked_at or key.revoked_at
        )
        return True

    async def replace(self, tenant: TenantId, old: KeyId, new: ApiKey, actor: Actor, *, expires_at: datetime) -> bool:
        if not await self.insert(new, actor):
            return False
        await self.end(tenant, old, actor, revoked_at=None, expires_at=expires_at)
        self.keys[old] = replace(self.keys[old], replaced_at=expires_at)
        return True

    async def touch(self, tenant: TenantId, key_id: KeyId, moment: datetime) -> None:
        self.touched.append((tenant, key_id, moment))

    async def any(self) -> bool:
        return bool(self.keys)

    async def insert_first(self, key: ApiKey, actor: Actor) -> bool:
        return not self.keys and await self.insert(key, actor)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def keys(store: MemoryKeys, clock: FakeClock) -> Keys:
    return Keys(store, clock, b"pepper-of-the-test")


async def test_a_new_key_opens_its_owners_door_and_nothing_else(keys: Keys) -> None:
    new = await keys.create(ANN, ROOT, agents=frozenset({AgentName("demo")}))
    principal = await keys.authenticate(new.text)
    assert principal.owner == ANN
    assert principal.scopes == USER_SCOPES
    assert principal.agents == {"demo"}
    assert (principal.key_id, principal.expires_at) == (new.key.key_id, None)


async def test_a_caller_carries_the_end_of_its_key(keys: Keys, clock: FakeClock) -> None:
    new = await keys.create(ANN, ROOT, expires_in=timedelta(days=1))
    assert (await keys.authenticate(new.text)).expires_at == clock.now() + timedelta(days=1)


async def test_each_change_says_who_makes_it(keys: Keys, store: MemoryKeys) -> None:
    first = await keys.first_admin()
    assert first is not None
    await keys.register_admin("rw_live_given_by_the_operator")
    old = await keys.create(ANN, ROOT)
    new = await keys.rotate(None, old.key.key_id, Actor(name="key:x"), grace=timedelta(0))
    await keys.revoke(None, new.key.key_id, Actor(name="key:y"))
    given = next(key_id for key_id in store.keys if key_id.startswith("given-"))
    assert store.done == [
        ("server", "insert", first.key.key_id),
        ("server", "insert", given),
        ("cli:root", "insert", old.key.key_id),
        ("key:x", "insert", new.key.key_id),
        ("key:x", "end", old.key.key_id),
        ("key:y", "end", new.key.key_id),
    ]


async def test_the_text_is_neither_stored_nor_shown(keys: Keys, store: MemoryKeys) -> None:
    new = await keys.create(ANN, ROOT)
    secret = new.text[len("rw_live_") + 12 :]
    assert secret not in repr(store.keys)
    assert secret not in repr(new)


async def test_a_wrong_character_anywhere_closes_the_door(keys: Keys) -> None:
    text = (await keys.create(ANN, ROOT)).text
    for place in range(len(text)):
        other = "A" if text[place] != "A" else "B"
        with pytest.raises(Unauthenticated):
            await keys.authenticate(text[:place] + other + text[place + 1 :])


@pytest.mark.parametrize(
    "text", ["", "rw_live_", "rw_live_short", "x" * 5000, "rw_live_" + "é" * 20, "rw_live_" + "a" * 50]
)
async def test_what_is_no_key_is_refused(keys: Keys, text: str) -> None:
    with pytest.raises(Unauthenticated):
        await keys.authenticate(text)


async def test_another_pepper_makes_every_key_useless(keys: Keys, store: MemoryKeys, clock: FakeClock) -> None:
    text = (await keys.create(ANN, ROOT)).text
    with pytest.raises(Unauthenticated):
        await Keys(store, clock, b"another-pepper").authenticate(text)


async def test_revocation_bites_as_soon_as_the_cache_is_old(keys: Keys, store: MemoryKeys, clock: FakeClock) -> None:
    new = await keys.create(ANN, ROOT)
    await keys.authenticate(new.text)
    await Keys(store, clock, b"pepper-of-the-test").revoke(None, new.key.key_id, ROOT)
    await keys.authenticate(new.text)
    clock.moment += timedelta(seconds=2)
    with pytest.raises(Unauthenticated):
        await keys.authenticate(new.text)


async def test_a_rotated_key_lives_through_its_grace(keys: Keys, clock: FakeClock) -> None:
    old = await keys.create(ANN, ROOT, scopes=frozenset({Scope.RUNS_READ}))
    new = await keys.rotate(None, old.key.key_id, ROOT, grace=timedelta(hours=1))
    assert (await keys.authenticate(old.text)).scopes == (await keys.authenticate(new.text)).scopes
    clock.moment += timedelta(hours=1)
    assert (await keys.authenticate(new.text)).owner == ANN
    with pytest.raises(Unauthenticated):
        await keys.authenticate(old.text)


async def test_a_key_in_its_grace_is_not_rotated_again(keys: Keys, store: MemoryKeys, clock: FakeClock) -> None:
    old = await keys.create(ANN, ROOT, expires_in=timedelta(days=90))
    new = await keys.rotate(None, old.key.key_id, ROOT, grace=timedelta(hours=1))
    before = dict(store.keys)
    with pytest.raises(Conflict, match="was rotated before"):
        await keys.rotate(None, old.key.key_id, ROOT, grace=timedelta(hours=1))
    assert store.keys == before
    latest = await keys.rotate(None, new.key.key_id, ROOT, grace=timedelta(hours=1))
    assert latest.key.expires_at == clock.now() + timedelta(days=90)


async def test_a_rotated_key_lives_as_long_as_the_old_one_did(keys: Keys, clock: FakeClock) -> None:
    old = await keys.create(ANN, ROOT, expires_in=timedelta(days=30))
    clock.moment += timedelta(days=20)
    new = await keys.rotate(None, old.key.key_id, ROOT, grace=timedelta(hours=1))
    assert new.key.expires_at == clock.moment + timedelta(days=30)


async def test_another_tenants_key_cannot_be_ended(keys: Keys) -> None:
    new = await keys.create(ANN, ROOT)
    with pytest.raises(NotFound):
        await keys.revoke(TenantId("other"), new.key.key_id, ROOT)
    with pytest.raises(NotFound):
        await keys.rotate(TenantId("other"), new.key.key_id, ROOT, grace=timedelta(0))


async def test_a_given_admin_key_is_registered_once(keys: Keys, store: MemoryKeys) -> None:
    text = "rw_live_given_by_the_operator"
    await keys.register_admin(text)
    await keys.register_admin(text)
    assert len(store.keys) == 1
    assert Scope.ADMIN in (await keys.authenticate(text)).scopes


async def test_a_given_admin_key_that_is_none_is_refused(keys: Keys) -> None:
    with pytest.raises(ConfigError, match="rw_live_"):
        await keys.register_admin("hunter2")


@pytest.mark.parametrize(
    ("revoked", "expires", "complaint"), [(-1, None, "was revoked"), (None, -1, "has expired"), (1, 1, None)]
)
async def test_a_given_admin_key_that_opens_nothing_any_more_is_refused(
    keys: Keys, store: MemoryKeys, clock: FakeClock, revoked: int | None, expires: int | None, complaint: str | None
) -> None:
    text = "rw_live_given_by_the_operator"
    await keys.register_admin(text)
    (key_id,) = store.keys

    def at(seconds: int | None) -> datetime | None:
        return None if seconds is None else clock.now() + timedelta(seconds=seconds)

    await store.end(None, key_id, ROOT, revoked_at=at(revoked), expires_at=at(expires))
    if complaint is None:
        await keys.register_admin(text)
        return
    with pytest.raises(ConfigError, match=complaint) as caught:
        await keys.register_admin(text)
    assert text not in caught.value.message


async def test_a_users_key_is_no_admin_key(keys: Keys) -> None:
    text = (await keys.create(ANN, ROOT)).text
    with pytest.raises(ConfigError, match="lacks the scope admin"):
        await keys.register_admin(text)


async def test_a_given_admin_key_of_another_pepper_is_refused(store: MemoryKeys, clock: FakeClock) -> None:
    new = await Keys(store, clock, b"another-pepper").create(ANN, ROOT, scopes=frozenset({Scope.ADMIN}))
    with pytest.raises(ConfigError, match="pepper"):
        await Keys(store, clock, b"pepper-of-the-test").register_admin(new.text)


@pytest.mark.parametrize(("secret", "short"), [("a" * 23, True), ("a" * 24, False)])
def test_a_key_that_can_be_guessed_is_told_from_one_that_cannot(secret: str, short: bool) -> None:
    assert is_short(f"rw_live_{secret}") is short


async def test_only_an_empty_database_gets_a_first_admin(keys: Keys) -> None:
    first = await keys.first_admin()
    assert first is not None
    assert Scope.ADMIN in (await keys.authenticate(first.text)).scopes
    assert await keys.first_admin() is None


async def test_a_keys_use_is_noted_once_and_beside_the_request(keys: Keys, store: MemoryKeys, clock: FakeClock) -> None:
    new = await keys.create(ANN, ROOT)
    await keys.authenticate(new.text)
    await keys.authenticate(new.text)
    assert store.touched == []
    await keys.note_uses()
    await keys.note_uses()
    assert store.touched == [(ANN.tenant, new.key.key_id, clock.now())]


async def test_an_unknown_key_is_looked_up_each_time_so_that_a_new_one_works_at_once(
    keys: Keys, store: MemoryKeys, clock: FakeClock
) -> None:
    other_process = Keys(store, clock, b"pepper-of-the-test")
    text = (await other_process.create(ANN, ROOT)).text
    assert (await keys.authenticate(text)).owner == ANN
