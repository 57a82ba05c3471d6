"""Any KeyStore writes down who made and ended which key, and nothing that opens a door."""

from datetime import timedelta

import pytest

from roadworthy.domain.audit import AuditEntry
from roadworthy.domain.ids import KeyId
from roadworthy.ports.store import KeyStore
from roadworthy.services.keys import Keys
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import ALICE, BOB, OPERATOR, START, STRANGER, TickingClock
from tests.conformance.storage.test_stores import key


@pytest.fixture
def audit(database: Database) -> SqlAuditLog:
    return SqlAuditLog(database)


async def entries(audit: SqlAuditLog) -> list[AuditEntry]:
    """All of them, the oldest first."""
    return list((await audit.entries(None, since=None, limit=100, cursor=None)).items)[::-1]


async def test_a_new_key_is_on_record(keys: KeyStore, audit: SqlAuditLog) -> None:
    await keys.insert(key("one"), OPERATOR)
    (entry,) = await entries(audit)
    assert (entry.tenant, entry.actor, entry.action, entry.target) == (ALICE.tenant, OPERATOR, "key.create", "one")
    assert entry.before is None
    assert entry.after == {
        "user": "alice",
        "name": "key of alice",
        "scopes": ["admin", "runs:read"],
        "agents": ["assistant", "demo"],
        "expires_at": "2030-01-02T00:00:00+00:00",
        "revoked_at": None,
    }


async def test_a_key_s_end_is_on_record_under_its_tenant_with_what_was_before(
    keys: KeyStore, audit: SqlAuditLog
) -> None:
    await keys.insert(key("one"), OPERATOR)
    await keys.end(None, KeyId("one"), OPERATOR, revoked_at=None, expires_at=START + timedelta(hours=1))
    await keys.end(ALICE.tenant, KeyId("one"), OPERATOR, revoked_at=START, expires_at=None)
    _, rotated, revoked = await entries(audit)
    assert (rotated.action, revoked.action) == ("key.rotate", "key.revoke")
    assert (rotated.tenant, revoked.tenant) == (ALICE.tenant, ALICE.tenant)
    assert rotated.before is not None
    shortened = {**rotated.before, "expires_at": "2030-01-01T01:00:00+00:00"}
    assert rotated.after == revoked.before == shortened
    assert revoked.after == {**shortened, "revoked_at": "2030-01-01T00:00:00+00:00"}


async def test_what_changes_nothing_is_not_on_record(keys: KeyStore, audit: SqlAuditLog) -> None:
    await keys.insert(key("one"), OPERATOR)
    await keys.end(None, KeyId("one"), OPERATOR, revoked_at=START, expires_at=None)
    before = await entries(audit)
    await keys.insert(key("one", BOB), OPERATOR)
    await keys.end(None, KeyId("one"), OPERATOR, revoked_at=START + timedelta(days=1), expires_at=None)
    await keys.end(None, KeyId("one"), OPERATOR, revoked_at=None, expires_at=START + timedelta(days=9))
    await keys.end(STRANGER.tenant, KeyId("one"), OPERATOR, revoked_at=None, expires_at=START)
    await keys.end(None, KeyId("two"), OPERATOR, revoked_at=START, expires_at=None)
    await keys.touch(ALICE.tenant, KeyId("one"), START)
    assert await entries(audit) == before


async def test_neither_a_key_nor_its_digest_is_on_record(keys: KeyStore, audit: SqlAuditLog) -> None:
    service = Keys(keys, TickingClock(), b"pepper")
    first = await service.create(ALICE, OPERATOR)
    second = await service.rotate(None, first.key.key_id, OPERATOR, grace=timedelta(hours=1))
    await service.revoke(None, second.key.key_id, OPERATOR)
    found = await entries(audit)
    assert [(entry.action, entry.target) for entry in found] == [
        ("key.create", first.key.key_id),
        ("key.create", second.key.key_id),
        ("key.rotate", first.key.key_id),
        ("key.revoke", second.key.key_id),
    ]
    for new in (first, second):
        digest = new.key.digest.hex()
        secret = new.text.removeprefix(f"rw_live_{new.key.key_id}")
        assert not any(part in repr(found) for part in (digest, secret, secret[:32], repr(new.key.digest)))
