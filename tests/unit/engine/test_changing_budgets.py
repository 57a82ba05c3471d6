"""An attempt under way sees budgets come, change and go, and charges its calls to those that are there."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.budget import (
    BudgetBalance,
    Occupied,
)
from roadworthy.domain.errors import BudgetExceeded, StorageUnavailable
from roadworthy.engine.spending import open_spending
from tests.support.money import FixedPolicies, a_budget
from tests.support.spending import BOUND, NOW, RUN, TellingLedger, a_purse, ended, planned


async def test_a_budget_that_is_made_meanwhile_counts_from_the_next_question() -> None:
    ledger, policies, budget = TellingLedger(), FixedPolicies(), a_budget(1000)
    ledger.spent = 1000
    spending = await open_spending(RUN, a_purse(ledger, policies=policies), lambda: None)
    policies.set(budget)
    assert not spending.applies
    assert await spending.budgets_fit()
    assert spending.applies
    with pytest.raises(BudgetExceeded):
        spending.admit(planned())
    assert await spending.charges([ended(1)]) == {"c": [budget.period_of("acme", NOW)]}


async def test_calls_are_charged_to_the_budgets_that_are_there_when_they_are_settled() -> None:
    policies, before, after = FixedPolicies(a_budget(1000)), a_budget(1000), a_budget(None, soft_nanos=1)
    spending = await open_spending(RUN, a_purse(TellingLedger(), policies=policies), lambda: None)
    policies.set(before, after)
    (charged,) = (await spending.charges([ended(1)])).values()
    assert {period.budget for period in charged} == {before, after}


async def test_what_was_reserved_under_a_budget_that_is_gone_is_settled_all_the_same() -> None:
    policies = FixedPolicies(a_budget(1000))
    spending = await open_spending(RUN, a_purse(TellingLedger(), policies=policies), lambda: None)
    await spending.reserve(planned())
    policies.set()
    charges = await spending.charges([ended(1), ended(1, name="another")])
    assert charges == {"c": []}
    spending.settled(charges)
    assert not spending.holding


async def test_a_waiting_call_sees_that_a_limit_was_raised_and_that_a_budget_is_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("roadworthy.engine.settlements._PATIENCE", timedelta(0))
    budget = a_budget(1000)
    occupied = Occupied(balance=BudgetBalance(period=budget.period_of("acme", NOW)))
    ledger, policies = TellingLedger(occupied, occupied), FixedPolicies(budget)
    changes = [lambda: policies.set(replace(budget, limit_nanos=5000)), policies.set]

    def change() -> None:
        changes.pop(0)()

    ledger.on_answer = change
    spending = await open_spending(RUN, a_purse(ledger, policies=policies), lambda: None)
    async with asyncio.timeout(BOUND):
        await spending.reserve(planned())
    assert [periods[0].budget.limit_nanos for _, periods in ledger.asked] == [1000, 5000]
    assert not spending.holding


async def test_while_policies_cannot_be_read_those_that_were_seen_last_hold() -> None:
    policies = FixedPolicies(a_budget(1000))
    policies.errors.append(StorageUnavailable("locked"))
    purse = a_purse(TellingLedger(), policies=policies)
    with pytest.raises(StorageUnavailable):
        await open_spending(RUN, purse, lambda: None)
    spending = await open_spending(RUN, purse, lambda: None)
    policies.set()
    policies.errors.extend([StorageUnavailable("locked")] * 2)
    assert await spending.budgets_fit()
    assert await spending.charges([ended(1)]) != {}
    assert not await spending.budgets_fit()


async def test_balances_that_could_not_be_read_are_read_by_the_next_question() -> None:
    ledger, policies = TellingLedger(), FixedPolicies()
    spending = await open_spending(RUN, a_purse(ledger, policies=policies), lambda: None)
    policies.set(a_budget(10))
    ledger.spent = 10
    ledger.unreadable = 1
    assert await spending.budgets_fit()
    assert spending.admit(planned())
    assert await spending.budgets_fit()
    with pytest.raises(BudgetExceeded):
        spending.admit(planned("d"))
