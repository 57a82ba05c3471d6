"""Policies are asked for before every run: a tenant's own change forgets its own, and many hold up nobody."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from roadworthy.domain.budget import Budget, BudgetScope, BudgetWindow, Spender
from roadworthy.domain.ids import AgentName, BudgetId, KeyId, RunId, TenantId, UserId
from roadworthy.domain.principal import Owner
from roadworthy.domain.rate_limit import RateCaller, RateKind, RateLimit, RateScope
from roadworthy.ports.policies import Policies
from roadworthy.storage.policies import SqlPolicyStore
from roadworthy.storage.transaction import Database, T, Transaction
from tests.conformance.storage.factories import ALICE, OPERATOR, STRANGER
from tests.conformance.storage.spending import budget, stored
from tests.conformance.storage.test_policies import Hands

MANY = 60


@dataclass
class Watched:
    """A database that says which reads went where, and answers those on the reader's thread when it is told to."""

    database: Database
    reads: list[str] = field(default_factory=list[str])
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def in_line(self) -> bool:
        return self.database.in_line

    async def read(self, unit: Callable[[Transaction], T], *, scan: bool = False) -> T:
        self.reads.append("apart" if scan else "here")
        if scan:
            self.asked.set()
            await self.may_answer.wait()
        return await self.database.read(unit, scan=scan)

    async def write(self, unit: Callable[[Transaction], T]) -> T:
        return await self.database.write(unit)

    async def close(self) -> None:
        await self.database.close()


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def watched(database: Database) -> Watched:
    return Watched(database)


@pytest.fixture
def policies(watched: Watched, hands: Hands) -> SqlPolicyStore:
    return SqlPolicyStore(watched, hands)


def of_user(number: int) -> Budget:
    return replace(budget(f"budget-{number}", subject=f"user-{number}"), window=BudgetWindow.MONTH)


async def test_a_change_forgets_its_own_tenant_alone(policies: SqlPolicyStore, watched: Watched) -> None:
    await policies.of(STRANGER.tenant)
    await policies.set_budget(ALICE.tenant, budget(), OPERATOR)
    await policies.of(STRANGER.tenant)
    assert watched.reads == ["here"]
    assert len((await policies.of(ALICE.tenant)).budgets) == 1
    await policies.remove_budget(None, BudgetId("budget"), OPERATOR)
    assert (await policies.of(ALICE.tenant)).budgets == ()


async def test_many_are_read_apart_from_the_event_loop_by_one_caller_for_all(
    database: Database, policies: SqlPolicyStore, watched: Watched
) -> None:
    await stored(database, *map(of_user, range(MANY)))
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        callers = [group.create_task(policies.of(ALICE.tenant)) for _ in range(5)]
        await watched.asked.wait()
        assert not any(caller.done() for caller in callers)
        watched.may_answer.set()
    assert watched.reads == ["here", "apart"]
    assert [len(caller.result().budgets) for caller in callers] == [MANY] * 5


async def test_while_many_are_read_again_others_go_on_with_those_that_are_known(
    database: Database, policies: SqlPolicyStore, watched: Watched, hands: Hands
) -> None:
    await stored(database, *map(of_user, range(MANY)))
    watched.may_answer.set()
    known = await policies.of(ALICE.tenant)
    watched.may_answer.clear()
    watched.asked.clear()
    await stored(database, of_user(MANY))
    hands.seconds = 0.9
    assert await policies.of(ALICE.tenant) is known
    hands.seconds = 1
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        again = group.create_task(policies.of(ALICE.tenant))
        await watched.asked.wait()
        hands.seconds = 1.9
        assert await policies.of(ALICE.tenant) is known
        hands.seconds = 2
        waits = group.create_task(policies.of(ALICE.tenant))
        await asyncio.sleep(0)
        assert not waits.done()
        watched.may_answer.set()
    assert len(again.result().budgets) == len(waits.result().budgets) == MANY + 1


def test_whom_policies_are_for_is_found_among_many() -> None:
    spender = Spender(owner=ALICE, key_id=KeyId("k"), agent=AgentName("demo"), run_id=RunId("r"))
    mine = [
        budget("each"),
        budget("mine", subject="alice"),
        budget("key", scope=BudgetScope.KEY, subject="k"),
        budget("agents", scope=BudgetScope.AGENT),
        budget("tenant", scope=BudgetScope.TENANT),
        budget("run", scope=BudgetScope.RUN, window=BudgetWindow.RUN),
    ]
    others = [*map(of_user, range(MANY)), budget("other key", scope=BudgetScope.KEY, subject="alice")]
    policies = Policies(budgets=(*others, *mine))
    assert {one.budget_id for one in policies.budgets_for(spender)} == {one.budget_id for one in mine}
    before = policies.budgets_for(replace(spender, run_id=None, key_id=None))
    assert {one.budget_id for one in before} == {"each", "mine", "agents", "tenant"}
    assert policies.budgets_for(replace(spender, owner=Owner(tenant=TenantId("x"), user=UserId("alice")))) == []


def test_of_two_limits_that_fit_the_one_that_names_the_caller_holds() -> None:
    def rate(scope: RateScope, most: int, subject: str | None = None) -> RateLimit:
        return RateLimit(tenant=ALICE.tenant, scope=scope, kind=RateKind.REQUESTS, limit=most, subject=subject)

    policies = Policies(
        rates=(
            rate(RateScope.USER, 1),
            rate(RateScope.USER, 2, "alice"),
            rate(RateScope.KEY, 3),
            rate(RateScope.TENANT, 4),
        )
    )
    caller = RateCaller(tenant=ALICE.tenant, user=ALICE.user, key_id=None)
    assert [one.limit.limit for one in policies.rates_for(caller)] == [2, 4]
    assert [one.limit.limit for one in policies.rates_for(replace(caller, key_id=KeyId("k")))] == [3, 2, 4]
