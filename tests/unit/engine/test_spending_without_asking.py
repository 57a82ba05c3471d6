"""What an attempt knows of its budgets without asking the ledger, for calls that cannot wait for an answer."""

from dataclasses import replace
from datetime import timedelta

import pytest

from roadworthy.domain.budget import (
    BudgetWindow,
)
from roadworthy.domain.errors import BudgetExceeded, PriceUnknown
from roadworthy.engine.settlements import Settlements
from roadworthy.engine.spending import open_spending
from tests.support.money import UNKNOWN_MODEL, FixedPolicies, a_budget
from tests.support.spending import NOW, RUN, Clock, TellingLedger, a_purse, ended, opened, planned


async def test_calls_that_ended_are_known_before_they_are_on_the_ledger() -> None:
    spending = await opened(TellingLedger(), a_budget(10))
    spending.ended(ended(9))
    assert spending.admit(planned())
    spending.ended(ended(1))
    with pytest.raises(BudgetExceeded) as refused:
        spending.admit(planned("d"))
    assert refused.value.spent is not None
    assert (refused.value.spent.spent_nanos, refused.value.spent.allowed_nanos) == (10, 10)


async def test_calls_that_cannot_wait_hold_their_estimates_against_each_other() -> None:
    spending = await opened(TellingLedger(), a_budget(300), a_budget(1000))
    assert [spending.admit(planned(name, most=93)) for name in "abcd"] == [True, True, True, False]
    spending.ended(ended(40, name="a"))
    assert not spending.admit(planned("d", most=54))
    assert spending.admit(planned("d", most=53))


async def test_a_call_that_is_alone_may_have_less_than_its_estimate() -> None:
    spending = await opened(TellingLedger(), a_budget(50))
    assert spending.admit(planned("a"))
    assert not spending.admit(planned("b"))


async def test_what_a_call_lifted_in_one_budget_is_dropped_when_another_refuses() -> None:
    wide, narrow = sorted([a_budget(1000), a_budget(1000)], key=lambda one: one.budget_id)
    narrow = replace(narrow, limit_nanos=150)
    policies = FixedPolicies(wide, narrow)
    spending = await open_spending(RUN, a_purse(TellingLedger(), policies=policies), lambda: None)
    assert spending.admit(planned("a"))
    assert [spending.admit(planned("b")) for _ in range(20)] == [False] * 20
    policies.set(wide)
    assert await spending.budgets_fit()
    assert [spending.admit(planned(name)) for name in "bcdefghi"] == [True] * 8


async def test_calls_that_cannot_wait_know_what_the_ledger_holds_for_this_process() -> None:
    budget, settlements = a_budget(210), Settlements()
    one = await opened(TellingLedger(), budget, settlements=settlements)
    two = await opened(TellingLedger(), budget, settlements=settlements)
    await one.reserve(planned("a"))
    assert two.admit(planned("b", most=96))
    assert not two.admit(planned("c"))
    one.ended(ended(0, name="a"))
    assert two.admit(planned("c", most=96))


async def test_calls_that_never_began_are_forgotten_with_their_attempt() -> None:
    budget, settlements = a_budget(150), Settlements()
    one = await opened(TellingLedger(), budget, settlements=settlements)
    two = await opened(TellingLedger(), budget, settlements=settlements)
    assert one.admit(planned("a"))
    assert not two.admit(planned("b"))
    one.close()
    assert two.admit(planned("b"))


async def test_attempts_of_a_process_know_of_each_others_calls() -> None:
    budget, settlements = a_budget(10), Settlements()
    one = await opened(TellingLedger(), budget, settlements=settlements)
    two = await opened(TellingLedger(), budget, settlements=settlements)
    one.ended(ended(10))
    with pytest.raises(BudgetExceeded):
        two.admit(planned())


async def test_the_ledger_is_believed_about_top_ups_and_about_what_others_spent() -> None:
    budget, settlements, ledger = a_budget(10), Settlements(), TellingLedger()
    spending = await opened(ledger, budget, settlements=settlements)
    ledger.spent = 10
    await spending.learn()
    with pytest.raises(BudgetExceeded):
        spending.admit(planned())
    ledger.topped_up = 5
    await spending.learn()
    assert spending.admit(planned())
    ledger.spent = 0
    spending.ended(ended(5))
    await spending.learn()
    with pytest.raises(BudgetExceeded):
        spending.admit(planned())


async def test_a_new_day_begins_with_nothing_spent() -> None:
    clock = Clock()
    purse = a_purse(TellingLedger(), a_budget(10, window=BudgetWindow.DAY), clock=clock)
    spending = await open_spending(RUN, purse, lambda: None)
    spending.ended(ended(10))
    with pytest.raises(BudgetExceeded):
        spending.admit(planned())
    clock.moment = NOW + timedelta(minutes=2)
    assert spending.admit(planned())


async def test_a_model_without_a_price_is_refused_without_asking_where_a_limit_applies() -> None:
    spending = await opened(TellingLedger(), a_budget(10))
    with pytest.raises(PriceUnknown, match=UNKNOWN_MODEL):
        spending.admit(planned(model=UNKNOWN_MODEL))
