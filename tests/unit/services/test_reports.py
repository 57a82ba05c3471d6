"""Who sees what of the ledger and of the audit log."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest, PermissionDenied
from roadworthy.domain.ids import UserId
from roadworthy.domain.principal import Scope
from roadworthy.ports.ledger import UsageGroup, UsageQuery, UsageRow
from roadworthy.services.budget_rules import BudgetAsked
from tests.support.office import ACME, ACTOR, NOON, OTHER, USD, Office, caller, open_office


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with open_office(tmp_path) as office:
        await office.spend(USD, user="alice")
        await office.spend(2 * USD, user="bob")
        await office.spend(4 * USD, user="alice", tenant=OTHER)
        yield office


def asked(*by: UsageGroup, days: int = 1, user: str | None = None, time_zone: str = "Europe/Berlin") -> UsageQuery:
    until = NOON + timedelta(hours=1)
    return UsageQuery(
        by=by,
        since=until - timedelta(days=days),
        until=until,
        user=None if user is None else UserId(user),
        time_zone=time_zone,
    )


def costs(rows: Sequence[UsageRow]) -> dict[object, int]:
    return {row.group[0]: row.usage.cost_nanos for row in rows}


async def test_a_user_sees_only_what_is_its_own(office: Office) -> None:
    alice = caller(Scope.RUNS_READ, user="alice")
    for named in (None, "bob"):
        rows = await office.usage.own(alice, asked(UsageGroup.USER, user=named))
        assert costs(rows) == {"alice": USD}
    with pytest.raises(PermissionDenied):
        await office.usage.own(caller(Scope.USAGE_READ), asked(UsageGroup.USER))


async def test_a_tenants_usage_takes_its_scope_and_ends_at_the_tenant(office: Office) -> None:
    reader = caller(Scope.USAGE_READ)
    assert costs(await office.usage.of_tenant(reader, asked(UsageGroup.USER))) == {"alice": USD, "bob": 2 * USD}
    assert costs(await office.usage.of_tenant(reader, asked(UsageGroup.USER, user="bob"))) == {"bob": 2 * USD}
    assert costs(await office.usage.of_tenant(reader, asked(UsageGroup.TENANT))) == {"acme": 3 * USD}
    with pytest.raises(PermissionDenied):
        await office.usage.of_tenant(caller(Scope.RUNS_READ, Scope.AUDIT_READ), asked(UsageGroup.USER))


async def test_the_operator_sees_every_tenant(office: Office) -> None:
    assert costs(await office.usage.of(None, asked(UsageGroup.TENANT))) == {"acme": 3 * USD, "other": 4 * USD}


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        (asked(UsageGroup.DAY, days=368), "year by year"),
        (asked(UsageGroup.DAY, days=0), "ends before it begins"),
        (asked(UsageGroup.DAY, days=-1), "ends before it begins"),
        (asked(UsageGroup.DAY, UsageGroup.DAY), "named once"),
        (asked(UsageGroup.DAY, time_zone="Mars"), "no IANA time zone"),
    ],
)
async def test_what_cannot_be_reported_is_refused(office: Office, query: UsageQuery, complaint: str) -> None:
    with pytest.raises(InvalidRequest, match=complaint):
        await office.usage.of(None, query)


async def test_a_leap_year_is_a_year(office: Office) -> None:
    assert await office.usage.of(None, asked(UsageGroup.DAY, days=366))


async def test_too_many_groups_are_refused_with_advice(office: Office) -> None:
    query = replace(asked(UsageGroup.USER), most_groups=1)
    with pytest.raises(InvalidRequest, match="more than 1 groups: ask for less time"):
        await office.usage.of(ACME, query)
    assert len(await office.usage.of(ACME, replace(query, most_groups=2))) == 2


async def test_every_change_is_in_the_audit_log_of_its_tenant(office: Office) -> None:
    budget = BudgetAsked(scope=BudgetScope.TENANT, window=BudgetWindow.DAY, limit_nanos=USD)
    made = await office.budgets.set(ACME, budget, ACTOR)
    await office.budgets.set(OTHER, budget, ACTOR)
    await office.budgets.top_up(ACME, made.budget.budget_id, USD, ACTOR)
    await office.budgets.remove(ACME, made.budget.budget_id, ACTOR)
    page = await office.audit.entries(caller(Scope.AUDIT_READ), since=None, limit=2, cursor=None)
    rest = await office.audit.entries(caller(Scope.AUDIT_READ), since=None, limit=2, cursor=page.cursor)
    found = [*page.items, *rest.items]
    assert [entry.action for entry in found] == ["budget.remove", "budget.top_up", "budget.set"]
    assert {(entry.tenant, entry.actor, entry.target) for entry in found} == {(ACME, ACTOR, made.budget.budget_id)}
    assert rest.cursor is None
    everywhere = await office.audit.entries_of(None, since=None, limit=10, cursor=None)
    assert len(everywhere.items) == 4
    later = await office.audit.entries_of(None, since=NOON + timedelta(seconds=1), limit=10, cursor=None)
    assert later.items == []


async def test_the_audit_log_takes_its_scope(office: Office) -> None:
    others = [scope for scope in Scope if scope not in (Scope.ADMIN, Scope.AUDIT_READ)]
    with pytest.raises(PermissionDenied):
        await office.audit.entries(caller(*others), since=None, limit=1, cursor=None)
    with pytest.raises(InvalidRequest):
        await office.audit.entries(caller(Scope.ADMIN), since=None, limit=1, cursor="x")
