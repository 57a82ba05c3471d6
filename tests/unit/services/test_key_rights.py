"""Keys that a caller makes, replaces and ends: never one that reaches further than its own."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from roadworthy.domain.audit import Actor
from roadworthy.domain.errors import NotFound, PermissionDenied, Unauthenticated
from roadworthy.domain.ids import AgentName, KeyId, TenantId, UserId
from roadworthy.domain.principal import USER_SCOPES, ApiKey, Owner, Principal, Scope
from roadworthy.services.keys import Keys, NewKey
from tests.unit.services.test_keys import ANN, ROOT, FakeClock, MemoryKeys

BEN = replace(ANN, user=UserId("ben"))
ELSEWHERE = Owner(tenant=TenantId("other"), user=ANN.user)
ACTOR = Actor(name="key:caller")
DAY = timedelta(days=1)
DEMO, OTHER = AgentName("demo"), AgentName("other")

KEEPER = USER_SCOPES | {Scope.KEYS_WRITE}
BACKEND = KEEPER | {Scope.RUNS_ON_BEHALF}
ADMIN = frozenset({Scope.ADMIN})
CALLERS: Mapping[str, Mapping[str, Any]] = {
    "keeper": {"scopes": KEEPER},
    "backend": {"scopes": BACKEND},
    "admin": {"scopes": ADMIN},
    "keeper of demo": {"scopes": KEEPER, "agents": frozenset({DEMO})},
    "admin of demo": {"scopes": ADMIN, "agents": frozenset({DEMO})},
    "keeper for a day": {"scopes": KEEPER, "expires_in": DAY},
    "admin for a day": {"scopes": ADMIN, "expires_in": DAY},
}
# Who asks, for what kind of key, and the part that is refused; None: it is made.
GRANTS: list[tuple[str, Owner, Mapping[str, Any], str | None]] = [
    ("keeper", ANN, {}, None),
    ("keeper", ANN, {"scopes": KEEPER}, None),
    ("keeper", ANN, {"scopes": frozenset[Scope]()}, None),
    ("keeper", ANN, {"agents": frozenset({DEMO})}, None),
    ("keeper", ANN, {"expires_in": DAY}, None),
    ("keeper", ANN, {"scopes": USER_SCOPES | {Scope.USAGE_READ}}, "scopes"),
    ("keeper", ANN, {"scopes": ADMIN}, "scopes"),
    ("keeper", ANN, {"scopes": BACKEND}, "scopes"),
    ("keeper", BEN, {}, "user"),
    ("keeper", ELSEWHERE, {}, "tenant"),
    ("backend", BEN, {}, None),
    ("backend", BEN, {"scopes": BACKEND}, None),
    ("backend", BEN, {"scopes": ADMIN}, "scopes"),
    ("backend", ELSEWHERE, {}, "tenant"),
    ("admin", BEN, {"scopes": frozenset(Scope)}, None),
    ("admin", ELSEWHERE, {}, "tenant"),
    ("keeper of demo", ANN, {"agents": frozenset({DEMO})}, None),
    ("keeper of demo", ANN, {"agents": frozenset[AgentName]()}, None),
    ("keeper of demo", ANN, {"agents": frozenset({DEMO, OTHER})}, "agents"),
    ("keeper of demo", ANN, {}, "agents"),
    ("admin of demo", ANN, {"scopes": ADMIN}, "agents"),
    ("admin of demo", ANN, {"scopes": ADMIN, "agents": frozenset({DEMO})}, None),
    ("keeper for a day", ANN, {"expires_in": DAY}, None),
    ("keeper for a day", ANN, {"expires_in": DAY + timedelta(seconds=1)}, "expiry"),
    ("keeper for a day", ANN, {}, "expiry"),
    ("admin for a day", ANN, {"scopes": ADMIN}, "expiry"),
]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store() -> MemoryKeys:
    return MemoryKeys()


@pytest.fixture
def keys(store: MemoryKeys, clock: FakeClock) -> Keys:
    return Keys(store, clock, b"pepper-of-the-test")


async def caller(keys: Keys, name: str) -> Principal:
    new = await keys.create(ANN, ROOT, **CALLERS[name])
    return await keys.authenticate(new.text)


def rights(key: ApiKey) -> tuple[object, ...]:
    return key.owner, key.scopes, key.agents


@pytest.mark.parametrize(("name", "owner", "asked", "refused"), GRANTS)
async def test_a_caller_grants_no_more_than_it_has(
    keys: Keys, store: MemoryKeys, name: str, owner: Owner, asked: Mapping[str, Any], refused: str | None
) -> None:
    principal = await caller(keys, name)
    before = dict(store.keys)
    if refused is not None:
        with pytest.raises(PermissionDenied, match=f"^{refused}: "):
            await keys.grant(principal, owner, ACTOR, **asked)
        assert store.keys == before
        return
    new = await keys.grant(principal, owner, ACTOR, name="a note", **asked)
    assert rights(new.key) == (owner, asked.get("scopes", USER_SCOPES), asked.get("agents"))
    assert new.key.name == "a note"
    assert store.done[-1] == (ACTOR.name, "insert", new.key.key_id)
    assert (await keys.authenticate(new.text)).owner == owner


@pytest.mark.parametrize("scopes", [USER_SCOPES, frozenset(Scope) - {Scope.KEYS_WRITE, Scope.ADMIN}])
async def test_without_the_scope_no_key_is_seen_made_or_ended(keys: Keys, scopes: frozenset[Scope]) -> None:
    principal = await keys.authenticate((await keys.create(ANN, ROOT, scopes=scopes)).text)
    own = principal.key_id
    assert own is not None
    for attempt in (
        keys.list_of(principal),
        keys.grant(principal, ANN, ACTOR),
        keys.rotate_as(principal, own, ACTOR, grace=DAY),
        keys.revoke_as(principal, own, ACTOR),
    ):
        with pytest.raises(PermissionDenied, match="keys:write"):
            await attempt


@pytest.mark.parametrize(("name", "owner", "rights", "refused"), [row for row in GRANTS if row[3] != "tenant"])
async def test_a_caller_rotates_and_revokes_the_keys_it_could_have_made(
    keys: Keys, store: MemoryKeys, name: str, owner: Owner, rights: Mapping[str, Any], refused: str | None
) -> None:
    principal = await caller(keys, name)
    old = await keys.create(owner, ROOT, **rights)
    admin = Scope.ADMIN in principal.scopes
    if refused is None:
        new = await keys.rotate_as(principal, old.key.key_id, ACTOR, grace=timedelta(0))
        assert (new.key.owner, new.key.scopes, new.key.agents) == (old.key.owner, old.key.scopes, old.key.agents)
        await keys.revoke_as(principal, new.key.key_id, ACTOR)
        await _closed(keys, new)
        return
    before = dict(store.keys)
    with pytest.raises(PermissionDenied, match=f"^{refused}: "):
        await keys.rotate_as(principal, old.key.key_id, ACTOR, grace=timedelta(0))
    if not admin:
        with pytest.raises(PermissionDenied, match=f"^{refused}: "):
            await keys.revoke_as(principal, old.key.key_id, ACTOR)
        assert store.keys == before
        return
    await keys.revoke_as(principal, old.key.key_id, ACTOR)
    await _closed(keys, old)


@pytest.mark.parametrize(
    "leaked",
    [
        {},
        {"scopes": frozenset({Scope.USAGE_READ, Scope.LIMITS_WRITE})},
        {"scopes": frozenset(Scope) - {Scope.ADMIN}, "expires_in": DAY},
        {"agents": frozenset({OTHER})},
    ],
)
async def test_a_backend_ends_any_leaked_key_but_an_admins(keys: Keys, leaked: Mapping[str, Any]) -> None:
    backend = await caller(keys, "backend")
    bens, admins = await keys.create(BEN, ROOT, **leaked), await keys.create(BEN, ROOT, scopes=ADMIN)
    with pytest.raises(PermissionDenied, match="your credential lacks admin"):
        await keys.revoke_as(backend, admins.key.key_id, ACTOR)
    keeper = await caller(keys, "keeper")
    with pytest.raises(PermissionDenied, match="another user's key takes the scope runs:on_behalf"):
        await keys.revoke_as(keeper, bens.key.key_id, ACTOR)
    await keys.revoke_as(backend, bens.key.key_id, ACTOR)
    await _closed(keys, bens)


@pytest.mark.parametrize("name", ["keeper", "backend", "admin"])
async def test_another_tenants_key_does_not_exist(keys: Keys, store: MemoryKeys, name: str) -> None:
    principal = await caller(keys, name)
    foreign = await keys.create(ELSEWHERE, ROOT)
    before = dict(store.keys)
    for key_id in (foreign.key.key_id, KeyId("nobody")):
        with pytest.raises(NotFound):
            await keys.rotate_as(principal, key_id, ACTOR, grace=DAY)
        with pytest.raises(NotFound):
            await keys.revoke_as(principal, key_id, ACTOR)
    assert store.keys == before


async def test_a_caller_sees_the_keys_of_its_tenant(keys: Keys) -> None:
    principal = await caller(keys, "keeper")
    await keys.create(ELSEWHERE, ROOT)
    bens = await keys.create(BEN, ROOT)
    assert [key.key_id for key in await keys.list_of(principal)] == [principal.key_id, bens.key.key_id]


async def test_a_key_that_renews_itself_lives_no_longer(keys: Keys, clock: FakeClock) -> None:
    old = await keys.create(ANN, ROOT, scopes=KEEPER, expires_in=DAY)
    principal = await keys.authenticate(old.text)
    clock.moment += timedelta(hours=20)
    new = await keys.rotate_as(principal, old.key.key_id, ACTOR, grace=timedelta(0))
    assert new.key.expires_at == old.key.expires_at
    await _closed(keys, old)
    assert (await keys.authenticate(new.text)).expires_at == principal.expires_at


async def test_what_has_ended_is_not_rotated(keys: Keys) -> None:
    principal = await caller(keys, "keeper")
    old = await keys.create(ANN, ROOT)
    await keys.revoke_as(principal, old.key.key_id, ACTOR)
    with pytest.raises(NotFound):
        await keys.rotate_as(principal, old.key.key_id, ACTOR, grace=DAY)


async def _closed(keys: Keys, new: NewKey) -> None:
    with pytest.raises(Unauthenticated):
        await keys.authenticate(new.text)
