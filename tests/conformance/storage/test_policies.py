"""Any PolicyStore: what is set is what is stored, and every change is on record beside itself."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.audit import Actor, AuditEntry
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetPeriod, BudgetScope, BudgetWindow
from roadworthy.domain.errors import StorageUnavailable
from roadworthy.domain.ids import BudgetId, TenantId, new_id
from roadworthy.domain.rate_limit import RateKind, RateLimit, RateScope
from roadworthy.ports.policies import Policies, PolicyStore
from roadworthy.storage.audit import SqlAuditLog
from roadworthy.storage.ledger import SqlLedger
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.transaction import Database
from tests.conformance.storage.factories import OPERATOR, START, TickingClock

ACME, OTHER = TenantId("acme"), TenantId("other")


class Hands(TickingClock):
    """A clock whose seconds the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def policies(database: Database, hands: Hands) -> SqlPolicyStore:
    return SqlPolicyStore(database, hands)


@pytest.fixture
def elsewhere(database: Database, hands: Hands) -> SqlPolicyStore:
    """Another process on the same database."""
    return SqlPolicyStore(database, hands)


@pytest.fixture
def audit(database: Database) -> SqlAuditLog:
    return SqlAuditLog(database)


def budget(
    tenant: TenantId = ACME,
    *,
    scope: BudgetScope = BudgetScope.USER,
    subject: str | None = None,
    window: BudgetWindow = BudgetWindow.DAY,
    limit_nanos: int | None = 5_000_000_000,
) -> Budget:
    return Budget(
        budget_id=BudgetId(new_id()),
        tenant=tenant,
        scope=scope,
        subject=subject,
        window=window,
        limit_nanos=limit_nanos,
        soft_nanos=None,
        time_zone="Europe/Berlin",
        created_at=START,
        updated_at=START,
    )


def rate(tenant: TenantId = ACME, *, subject: str | None = None, most: int = 60) -> RateLimit:
    return RateLimit(tenant=tenant, scope=RateScope.USER, kind=RateKind.REQUESTS, limit=most, subject=subject)


def period(of: Budget, subject: str = "ann") -> BudgetPeriod:
    return of.period_of(subject, START + timedelta(hours=12))


async def entries(audit: SqlAuditLog, tenant: TenantId | None = None) -> list[AuditEntry]:
    """All of them, the oldest first."""
    return list((await audit.entries(tenant, since=None, limit=100, cursor=None)).items)[::-1]


async def test_what_is_set_is_what_is_stored(policies: PolicyStore) -> None:
    asked = budget()
    assert await policies.set_budget(ACME, asked, OPERATOR) == asked
    await policies.set_rate(ACME, rate(), OPERATOR)
    assert await policies.of(ACME) == Policies(budgets=(asked,), rates=(rate(),))
    assert await policies.of(OTHER) == Policies()


async def test_a_budget_that_only_warns_and_one_of_a_run_are_stored_as_they_are(policies: PolicyStore) -> None:
    warning = replace(budget(limit_nanos=None), soft_nanos=7)
    run = budget(scope=BudgetScope.RUN, window=BudgetWindow.RUN, limit_nanos=0)
    for asked in (warning, run):
        assert await policies.set_budget(ACME, asked, OPERATOR) == asked


async def test_a_budget_of_the_same_place_is_changed_and_keeps_its_id_and_its_beginning(policies: PolicyStore) -> None:
    first = await policies.set_budget(ACME, budget(), OPERATOR)
    later = START + timedelta(days=1)
    asked = replace(budget(limit_nanos=None), soft_nanos=9, time_zone="UTC", created_at=later, updated_at=later)
    changed = await policies.set_budget(ACME, asked, OPERATOR)
    assert changed == replace(asked, budget_id=first.budget_id, created_at=first.created_at)
    assert list(await policies.budgets(ACME)) == [changed]


async def test_another_scope_subject_window_or_tenant_is_another_budget(policies: PolicyStore) -> None:
    asked = [
        budget(scope=BudgetScope.AGENT),
        budget(),
        budget(window=BudgetWindow.MONTH),
        budget(subject="ann"),
        budget(OTHER),
    ]
    for one in reversed(asked):
        await policies.set_budget(one.tenant, one, OPERATOR)
    assert list(await policies.budgets(None)) == asked
    assert list(await policies.budgets(ACME)) == asked[:4]


async def test_a_budget_goes_with_its_periods_and_from_its_own_tenant_only(
    policies: PolicyStore, database: Database
) -> None:
    stored = await policies.set_budget(ACME, budget(), OPERATOR)
    await policies.top_up(ACME, period(stored), 5, OPERATOR)
    assert not await policies.remove_budget(OTHER, stored.budget_id, OPERATOR)
    assert await policies.remove_budget(ACME, stored.budget_id, OPERATOR)
    assert not await policies.remove_budget(None, stored.budget_id, OPERATOR)
    await policies.set_budget(ACME, stored, OPERATOR)
    (balance,) = await SqlLedger(database).balances(ACME, [period(stored)])
    assert balance.topped_up_nanos == 0


async def test_top_ups_add_up_and_are_the_subjects_own(policies: PolicyStore, database: Database) -> None:
    stored = await policies.set_budget(ACME, budget(), OPERATOR)
    for nanos, sum_ in ((5, 5), (7, 12)):
        balance = await policies.top_up(ACME, period(stored), nanos, OPERATOR)
        assert balance == BudgetBalance(period=period(stored), topped_up_nanos=sum_)
    balances = await SqlLedger(database).balances(ACME, [period(stored, user) for user in ("ann", "ben")])
    assert [one.topped_up_nanos for one in balances] == [12, 0]


async def test_nothing_is_added_to_a_budget_that_is_not_there_or_another_tenants(
    policies: PolicyStore, audit: SqlAuditLog
) -> None:
    stored = await policies.set_budget(ACME, budget(), OPERATOR)
    assert await policies.top_up(OTHER, period(stored), 5, OPERATOR) is None
    assert await policies.top_up(ACME, period(budget()), 5, OPERATOR) is None
    assert [entry.action for entry in await entries(audit)] == ["budget.set"]


async def test_a_rate_limit_is_changed_in_its_place_and_removed_from_it(policies: PolicyStore) -> None:
    for one in (rate(subject="ann"), rate(), rate(OTHER), rate(most=5)):
        await policies.set_rate(one.tenant, one, OPERATOR)
    assert list(await policies.rates(None)) == [rate(most=5), rate(subject="ann"), rate(OTHER)]
    place = (RateScope.USER, None, RateKind.REQUESTS)
    assert await policies.remove_rate(ACME, *place, OPERATOR)
    assert not await policies.remove_rate(ACME, *place, OPERATOR)
    assert list(await policies.rates(ACME)) == [rate(subject="ann")]


async def test_own_changes_are_seen_at_once_and_others_after_two_seconds(
    policies: PolicyStore, elsewhere: PolicyStore, hands: Hands
) -> None:
    assert await policies.of(ACME) == Policies()
    await elsewhere.set_rate(ACME, rate(), OPERATOR)
    hands.seconds = 1.9
    assert await policies.of(ACME) == Policies()
    hands.seconds = 2
    assert (await policies.of(ACME)).rates == (rate(),)
    await policies.set_rate(ACME, rate(most=1), OPERATOR)
    assert (await policies.of(ACME)).rates == (rate(most=1),)


async def test_what_is_not_set_is_asked_for_no_more_often(policies: SqlPolicyStore, database: Database) -> None:
    await policies.of(ACME)
    await database.close()
    assert await policies.of(ACME) == Policies()


async def test_without_the_database_there_are_no_policies_to_go_on_with(
    policies: PolicyStore, database: Database, hands: Hands
) -> None:
    await policies.of(ACME)
    await database.close()
    hands.seconds = 2
    for tenant in (ACME, OTHER):
        with pytest.raises(StorageUnavailable):
            await policies.of(tenant)


async def test_what_was_read_beside_a_change_is_not_kept(database: Database, hands: Hands) -> None:
    reading, changed = asyncio.Event(), asyncio.Event()

    class Slow:
        """A database whose answer takes its time on the way."""

        def __getattr__(self, name: str) -> object:
            return getattr(database, name)

        async def read(self, unit: object, *, scan: bool = False) -> object:
            rows = await database.read(unit, scan=scan)  # type: ignore[arg-type]
            reading.set()
            await changed.wait()
            return rows

    policies = SqlPolicyStore(Slow(), hands)  # type: ignore[arg-type]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        early = group.create_task(policies.of(ACME))
        await reading.wait()
        await policies.set_rate(ACME, rate(), OPERATOR)
        changed.set()
    assert early.result() == Policies()
    assert (await policies.of(ACME)).rates == (rate(),)


async def test_every_change_is_on_record_with_who_what_before_and_after(
    policies: PolicyStore, audit: SqlAuditLog
) -> None:
    stored = await policies.set_budget(ACME, budget(), OPERATOR)
    await policies.set_budget(ACME, budget(limit_nanos=1), OPERATOR)
    await policies.top_up(ACME, period(stored), 5, OPERATOR)
    await policies.top_up(ACME, period(stored), 7, OPERATOR)
    await policies.remove_budget(None, stored.budget_id, OPERATOR)
    await policies.set_rate(ACME, rate(subject="ann"), OPERATOR)
    await policies.set_rate(ACME, rate(subject="ann", most=5), OPERATOR)
    await policies.remove_rate(ACME, RateScope.USER, "ann", RateKind.REQUESTS, OPERATOR)

    def document(limit_nanos: int) -> dict[str, object]:
        return {
            "scope": "user",
            "subject": None,
            "window": "day",
            "limit_nanos": limit_nanos,
            "soft_nanos": None,
            "time_zone": "Europe/Berlin",
        }

    def added(nanos: int) -> dict[str, object]:
        return {"subject": "ann", "starts_at": "2029-12-31T23:00:00+00:00", "topped_up_nanos": nanos}

    def limited(most: int) -> dict[str, object]:
        return {"scope": "user", "subject": "ann", "kind": "requests", "limit": most}

    found = await entries(audit, ACME)
    assert [(one.action, one.target, one.before, one.after) for one in found] == [
        ("budget.set", stored.budget_id, None, document(5_000_000_000)),
        ("budget.set", stored.budget_id, document(5_000_000_000), document(1)),
        ("budget.top_up", stored.budget_id, added(0), added(5)),
        ("budget.top_up", stored.budget_id, added(5), added(12)),
        ("budget.remove", stored.budget_id, document(1), None),
        ("rate.set", "requests-per-user", None, limited(60)),
        ("rate.set", "requests-per-user", limited(60), limited(5)),
        ("rate.remove", "requests-per-user", limited(5), None),
    ]
    assert {(one.tenant, one.actor) for one in found} == {(ACME, OPERATOR)}
    assert [one.at for one in found] == sorted({one.at for one in found})


async def test_a_change_that_was_not_made_is_not_on_record(policies: PolicyStore, audit: SqlAuditLog) -> None:
    await policies.remove_budget(ACME, BudgetId("none"), OPERATOR)
    await policies.remove_rate(ACME, RateScope.KEY, None, RateKind.RUNS, OPERATOR)
    assert await entries(audit) == []


async def test_the_record_comes_in_pages_the_latest_first_by_tenant_and_time(
    policies: PolicyStore, audit: SqlAuditLog
) -> None:
    for n in range(5):
        await policies.set_rate(ACME, rate(most=n + 1), Actor(name=f"key:{n}"))
    await policies.set_rate(OTHER, rate(OTHER), OPERATOR)
    seen: list[str] = []
    cursor, pages = None, 0
    while pages == 0 or cursor is not None:
        page = await audit.entries(ACME, since=None, limit=2, cursor=cursor)
        seen, cursor, pages = [*seen, *(one.actor.name for one in page.items)], page.cursor, pages + 1
    assert (seen, pages) == ([f"key:{n}" for n in (4, 3, 2, 1, 0)], 3)
    everything = await entries(audit)
    assert [one.tenant for one in everything] == [ACME] * 5 + [OTHER]
    later = await audit.entries(None, since=everything[3].at, limit=9, cursor=None)
    assert list(later.items) == everything[:2:-1]
