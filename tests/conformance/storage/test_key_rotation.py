"""Any KeyStore: a key that takes another one's place takes its limits too, and what was spent of them."""

from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.budget import Budget, BudgetScope, BudgetWindow
from roadworthy.domain.ids import KeyId
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.ports.ledger import Ledger
from roadworthy.ports.policies import PolicyStore
from roadworthy.ports.queue import RunQueue
from roadworthy.ports.store import KeyStore
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.keys import SqlKeyStore
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import ALICE, OPERATOR, START, STRANGER, TickingClock
from tests.conformance.storage.spending import NOON, budget, call, claimed, period, reservation, stored
from tests.conformance.storage.test_stores import key

OLD, NEW, OTHER = KeyId("old"), KeyId("new"), KeyId("other")
ENDS = START + timedelta(hours=1)


@pytest.fixture
def policies(database: Database, clock: TickingClock) -> SqlPolicyStore:
    return SqlPolicyStore(database, clock)


@pytest.fixture
def keys(database: Database, clock: TickingClock, policies: SqlPolicyStore) -> SqlKeyStore:
    return SqlKeyStore(database, clock, policies.forget)


def of_key(name: str, subject: KeyId | None = OLD, *, window: BudgetWindow = BudgetWindow.DAY) -> Budget:
    made_at = START - timedelta(days=60)
    return budget(name, limit=100, scope=BudgetScope.KEY, subject=subject, window=window, made_at=made_at)


def rate(scope: RateScope, subject: str | None, most: int) -> RateLimit:
    return RateLimit(tenant=ALICE.tenant, scope=scope, kind=RateKind.REQUESTS, limit=most, subject=subject)


async def rotated(keys: KeyStore) -> None:
    await keys.insert(key("old"), OPERATOR)
    assert await keys.replace(ALICE.tenant, OLD, replace(key("new"), expires_at=None), OPERATOR, expires_at=ENDS)


async def test_the_old_key_ends_and_the_new_one_is_there(keys: KeyStore) -> None:
    await rotated(keys)
    old, new = await keys.find(OLD), await keys.find(NEW)
    assert old is not None
    assert new is not None
    assert (old.expires_at, new.expires_at) == (ENDS, None)
    assert old.replaced_at is not None
    assert new.replaced_at is None
    assert not await keys.replace(ALICE.tenant, OLD, key("new"), OPERATOR, expires_at=START)
    assert await keys.find(OLD) == old


async def test_budgets_of_the_key_go_on_where_they_stand(
    database: Database, queue: RunQueue, ledger: Ledger, keys: KeyStore, policies: PolicyStore
) -> None:
    daily, total, each = of_key("daily"), of_key("total", window=BudgetWindow.TOTAL), of_key("each", None)
    await stored(database, daily, total, each, of_key("other", OTHER))
    run = await claimed(queue, key=OLD)
    periods = [period(one, run, START) for one in (daily, total, each)]
    await ledger.append(run, [call(cost=30, at=START)], {"call": periods})
    await ledger.reserve(run, reservation("in flight", 5, at=START), periods)
    await policies.top_up(ALICE.tenant, periods[0], 7, OPERATOR)
    before = await policies.of(ALICE.tenant)

    await rotated(keys)

    # Its own process asks again at once.
    found = [one for one in (await policies.of(ALICE.tenant)).budgets if one not in before.budgets]
    assert [
        replace(one, budget_id=daily.budget_id, subject=OLD) for one in found if one.window is BudgetWindow.DAY
    ] == [daily]
    assert [(one.subject, one.window) for one in found] == [(NEW, BudgetWindow.DAY), (NEW, BudgetWindow.TOTAL)]
    new = [one.period_of(NEW, NOON) for one in (*found, each)]
    balances = await ledger.balances(ALICE.tenant, new)
    assert [(one.spent_nanos, one.reserved_nanos, one.topped_up_nanos) for one in balances] == [
        (30, 0, 7),
        (30, 0, 0),
        (30, 0, 0),
    ]
    kept = await ledger.balances(ALICE.tenant, periods)
    assert [(one.spent_nanos, one.reserved_nanos) for one in kept] == [(30, 5)] * 3
    # The next day each begins anew.
    tomorrow = await ledger.balances(ALICE.tenant, [each.period_of(NEW, NOON + timedelta(days=1))])
    assert [one.spent_nanos for one in tomorrow] == [0]


async def test_what_was_spent_before_the_budget_was_made_is_counted_for_the_new_key_too(
    database: Database, queue: RunQueue, ledger: Ledger, keys: KeyStore
) -> None:
    run = await claimed(queue, key=OLD)
    await ledger.append(run, [call(cost=40, at=START)], {})
    made = replace(of_key("each", None), created_at=START + timedelta(hours=1), updated_at=START + timedelta(hours=1))
    await stored(database, made)
    await rotated(keys)
    (balance,) = await ledger.balances(ALICE.tenant, [made.period_of(NEW, NOON)])
    assert balance.spent_nanos == 40


async def test_rate_limits_of_the_key_hold_for_the_new_one(keys: KeyStore, policies: PolicyStore) -> None:
    limits = [rate(RateScope.KEY, OLD, 1), rate(RateScope.KEY, None, 9), rate(RateScope.USER, OLD, 5)]
    for one in limits:
        await policies.set_rate(ALICE.tenant, one, OPERATOR)
    await policies.set_rate(STRANGER.tenant, replace(limits[0], tenant=STRANGER.tenant), OPERATOR)
    await rotated(keys)
    assert set(await policies.rates(ALICE.tenant)) == {*limits, rate(RateScope.KEY, NEW, 1)}
    assert len(await policies.rates(STRANGER.tenant)) == 1


async def test_each_limit_that_is_handed_on_is_on_record(
    database: Database, keys: KeyStore, policies: PolicyStore
) -> None:
    await stored(database, of_key("daily"), of_key("each", None))
    await policies.set_rate(ALICE.tenant, rate(RateScope.KEY, OLD, 1), OPERATOR)
    await rotated(keys)
    page = await SqlAuditLog(database).entries(ALICE.tenant, since=None, limit=4, cursor=None)
    found = [(entry.action, entry.before is None, (entry.after or {}).get("subject")) for entry in page.items][::-1]
    assert found == [
        ("key.create", True, None),
        ("key.rotate", False, None),
        ("budget.set", True, NEW),
        ("rate.set", True, NEW),
    ]
