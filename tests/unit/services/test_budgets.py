"""What an operator may ask of budgets, and what is answered."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest, NotFound, PermissionDenied
from roadworthy.domain.ids import BudgetId
from roadworthy.domain.principal import Scope
from roadworthy.services.budget_rules import KEPT, AmountAsked, BudgetAsked, window_of
from roadworthy.services.budgets import BudgetStatus
from tests.support.office import ACME, ACTOR, NOON, OTHER, USD, Office, caller, open_office

EACH_USER = BudgetAsked(scope=BudgetScope.USER, window=BudgetWindow.DAY, limit_nanos=5 * USD)
WHOLE_TENANT = BudgetAsked(scope=BudgetScope.TENANT, window=BudgetWindow.MONTH, limit_nanos=100 * USD)
EACH_RUN = BudgetAsked(scope=BudgetScope.RUN, window=BudgetWindow.RUN, limit_nanos=USD)


@pytest.fixture
async def office(tmp_path: Path) -> AsyncGenerator[Office]:
    async with open_office(tmp_path) as office:
        yield office


def spent(status: BudgetStatus) -> int:
    assert status.balance is not None
    return status.balance.spent_nanos


async def test_a_tenants_budget_is_listed_with_its_present_period(office: Office) -> None:
    made = await office.budgets.set(ACME, WHOLE_TENANT, ACTOR)
    await office.spend(3 * USD)
    await office.spend(9 * USD, tenant=OTHER)
    (found,) = await office.budgets.list(ACME)
    assert found.budget == made.budget
    assert found.balance is not None
    assert (found.balance.spent_nanos, found.balance.allowed_nanos) == (3 * USD, 100 * USD)
    # A month of Berlin: an hour before that of Greenwich, and two at its end.
    assert found.balance.period.starts_at == datetime(2026, 2, 28, 23, tzinfo=UTC)
    assert found.balance.period.ends_at == datetime(2026, 3, 31, 22, tzinfo=UTC)


async def test_of_a_budget_that_each_user_has_the_share_of_one_is_shown(office: Office) -> None:
    await office.budgets.set(ACME, EACH_USER, ACTOR)
    await office.spend(2 * USD, user="alice")
    (unasked,) = await office.budgets.list(ACME)
    assert unasked.balance is None
    shares = [
        spent(one)
        for user in ("alice", "bob")
        for one in await office.budgets.list(ACME, scope=BudgetScope.USER, subject=user)
    ]
    assert shares == [2 * USD, 0]


async def test_a_subject_shows_only_the_budgets_that_apply_to_it(office: Office) -> None:
    asked = [EACH_USER, WHOLE_TENANT, EACH_RUN]
    asked += [
        BudgetAsked(scope=BudgetScope.USER, subject=user, window=BudgetWindow.TOTAL, limit_nanos=USD)
        for user in ("alice", "bob")
    ]
    for one in asked:
        await office.budgets.set(ACME, one, ACTOR)
    found = await office.budgets.list(ACME, scope=BudgetScope.USER, subject="alice")
    assert [one.budget.subject for one in found] == [None, "alice"]
    assert len(await office.budgets.list(ACME, scope=BudgetScope.USER)) == 3
    assert len(await office.budgets.list(ACME, scope=BudgetScope.TENANT, subject="acme")) == 1
    assert await office.budgets.list(ACME, scope=BudgetScope.TENANT, subject="other") == []
    with pytest.raises(InvalidRequest, match="which scope"):
        await office.budgets.list(ACME, subject="alice")


async def test_setting_again_changes_the_limit_and_keeps_what_was_spent(office: Office) -> None:
    first = await office.budgets.set(ACME, WHOLE_TENANT, ACTOR)
    await office.spend(3 * USD)
    office.clock.moment += timedelta(hours=1)
    less = BudgetAsked(scope=BudgetScope.TENANT, window=BudgetWindow.MONTH, limit_nanos=2 * USD)
    second = await office.budgets.set(ACME, less, ACTOR)
    assert (second.budget.budget_id, second.budget.created_at) == (first.budget.budget_id, NOON)
    assert (second.budget.limit_nanos, spent(second)) == (2 * USD, 3 * USD)
    assert second.balance is not None
    assert second.balance.exhausted


async def test_a_change_of_the_limit_leaves_the_time_zone_as_it_was(office: Office) -> None:
    zoned = BudgetAsked(scope=BudgetScope.USER, window=BudgetWindow.DAY, limit_nanos=USD, time_zone="America/New_York")
    await office.budgets.set(ACME, zoned, ACTOR)
    again = await office.budgets.set(ACME, EACH_USER, ACTOR)
    new = await office.budgets.set(OTHER, EACH_USER, ACTOR)
    assert (again.budget.time_zone, new.budget.time_zone) == ("America/New_York", "Europe/Berlin")


def a_day_of_each_user(limit: AmountAsked = KEPT, soft: AmountAsked = KEPT) -> BudgetAsked:
    return BudgetAsked(scope=BudgetScope.USER, window=BudgetWindow.DAY, limit_nanos=limit, soft_nanos=soft)


@pytest.mark.parametrize(
    ("asked", "limit", "soft"),
    [
        (a_day_of_each_user(soft=2 * USD), 3 * USD, 2 * USD),
        (a_day_of_each_user(limit=2 * USD), 2 * USD, USD),
        (a_day_of_each_user(limit=None), None, USD),
        (a_day_of_each_user(soft=None), 3 * USD, None),
        (a_day_of_each_user(limit=USD // 2, soft=None), USD // 2, None),
        (a_day_of_each_user(), 3 * USD, USD),
    ],
)
async def test_what_is_not_given_stays_as_it_was(
    office: Office, asked: BudgetAsked, limit: int | None, soft: int | None
) -> None:
    await office.budgets.set(ACME, a_day_of_each_user(3 * USD, USD), ACTOR)
    changed = (await office.budgets.set(ACME, asked, ACTOR)).budget
    assert (changed.limit_nanos, changed.soft_nanos) == (limit, soft)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        (a_day_of_each_user(limit=USD // 2), r"has a soft limit, \$1\.00, which must be at most the limit"),
        (a_day_of_each_user(soft=4 * USD), r"at most the limit, \$3\.00"),
        (a_day_of_each_user(limit=None, soft=None), "needs a limit"),
    ],
)
async def test_a_change_must_fit_what_stays(office: Office, asked: BudgetAsked, complaint: str) -> None:
    before = await office.budgets.set(ACME, a_day_of_each_user(3 * USD, USD), ACTOR)
    with pytest.raises(InvalidRequest, match=complaint):
        await office.budgets.set(ACME, asked, ACTOR)
    assert await office.budgets.list(ACME) == [before]


async def test_a_soft_limit_that_was_never_set_follows_the_limit(office: Office) -> None:
    await office.budgets.set(ACME, a_day_of_each_user(10 * USD), ACTOR)
    lower = (await office.budgets.set(ACME, a_day_of_each_user(USD), ACTOR)).budget
    assert lower.warns_at_nanos == USD * 8 // 10


def test_only_a_budget_of_each_run_needs_no_window() -> None:
    assert window_of(BudgetScope.RUN, None) is BudgetWindow.RUN
    with pytest.raises(InvalidRequest, match="day, week, month or total"):
        window_of(BudgetScope.USER, None)


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"scope": "run", "window": "day"}, "goes with the window run"),
        ({"scope": "user", "window": "run"}, "goes with the window run"),
        ({"scope": "run", "window": "run", "subject": "0" * 32}, "has no subject"),
        ({"scope": "tenant", "window": "day", "subject": "acme"}, "has no subject"),
        ({"scope": "user", "window": "day", "subject": "a b"}, "a user must be"),
        ({"scope": "user", "window": "day", "subject": ""}, "a user must be"),
        ({"scope": "agent", "window": "day", "subject": "-x"}, "an agent's name must be"),
        ({"scope": "key", "window": "day", "subject": "rw_live_secret"}, "a key's id is"),
        ({"scope": "user", "window": "day", "limit_nanos": None}, "needs a limit"),
        ({"scope": "user", "window": "day", "soft_nanos": 0}, "more than 0"),
        ({"scope": "user", "window": "day", "soft_nanos": USD + 1}, "at most the limit"),
        ({"scope": "user", "window": "day", "limit_nanos": -1}, "from 0 to a billion"),
        ({"scope": "user", "window": "day", "limit_nanos": 2**62}, "from 0 to a billion"),
        ({"scope": "user", "window": "day", "time_zone": "Mars/Olympus"}, "no IANA time zone"),
        ({"scope": "user", "window": "day", "time_zone": "America"}, "no IANA time zone"),
        ({"scope": "user", "window": "day", "time_zone": "../UTC"}, "no IANA time zone"),
    ],
)
async def test_what_does_not_fit_together_is_refused(office: Office, asked: dict[str, object], complaint: str) -> None:
    given = {
        "limit_nanos": USD,
        **asked,
        "scope": BudgetScope(str(asked["scope"])),
        "window": BudgetWindow(str(asked["window"])),
    }
    with pytest.raises(InvalidRequest, match=complaint):
        await office.budgets.set(ACME, BudgetAsked(**given), ACTOR)  # pyright: ignore[reportArgumentType]
    assert await office.budgets.list(None) == []


@pytest.mark.parametrize(
    ("scope", "subject"),
    [("user", "a@b.c|d"), ("agent", "demo"), ("key", "ABCdef012345"), ("key", "given-0123456789ab")],
)
async def test_a_budget_may_be_that_of_one(office: Office, scope: str, subject: str) -> None:
    asked = BudgetAsked(scope=BudgetScope(scope), subject=subject, window=BudgetWindow.WEEK, soft_nanos=USD)
    made = await office.budgets.set(ACME, asked, ACTOR)
    assert (made.budget.subject, made.budget.limit_nanos, made.budget.soft_nanos) == (subject, None, USD)
    assert made.balance is not None


async def test_a_top_up_counts_in_the_present_period_alone(office: Office) -> None:
    made = await office.budgets.set(ACME, EACH_USER, ACTOR)
    await office.spend(5 * USD)
    topped = await office.budgets.top_up(ACME, made.budget.budget_id, 2 * USD, ACTOR, subject="alice")
    assert topped.balance is not None
    assert (topped.balance.allowed_nanos, topped.balance.spent_nanos, topped.balance.exhausted) == (
        7 * USD,
        5 * USD,
        False,
    )
    office.clock.moment += timedelta(days=1)
    (tomorrow,) = await office.budgets.list(ACME, scope=BudgetScope.USER, subject="alice")
    assert tomorrow.balance is not None
    assert (tomorrow.balance.allowed_nanos, tomorrow.balance.spent_nanos) == (5 * USD, 0)


async def test_a_top_up_of_a_budget_made_today_knows_what_was_spent_before(office: Office) -> None:
    await office.spend(4 * USD)
    made = await office.budgets.set(ACME, EACH_USER, ACTOR)
    topped = await office.budgets.top_up(None, made.budget.budget_id, USD, ACTOR, subject="alice")
    assert spent(topped) == 4 * USD


@pytest.mark.parametrize("amount", [0, -1, 10**9 * USD, 2**63])
async def test_a_top_up_must_be_an_amount_that_a_period_can_hold(office: Office, amount: int) -> None:
    made = await office.budgets.set(ACME, WHOLE_TENANT, ACTOR)
    with pytest.raises(InvalidRequest, match="at most a billion"):
        await office.budgets.top_up(ACME, made.budget.budget_id, amount, ACTOR)


async def test_a_top_up_says_whose_it_is(office: Office) -> None:
    each, whole, run = [
        (await office.budgets.set(ACME, one, ACTOR)).budget for one in (EACH_USER, WHOLE_TENANT, EACH_RUN)
    ]
    warning = BudgetAsked(scope=BudgetScope.TENANT, window=BudgetWindow.TOTAL, soft_nanos=USD)
    soft = (await office.budgets.set(ACME, warning, ACTOR)).budget
    for budget, subject, complaint in (
        (each, None, "say whose"),
        (each, "a b", "a user must be"),
        (whole, "alice", "the budget of acme"),
        (run, None, "a resumed run is a new run"),
        (run, "0" * 32, "a resumed run is a new run"),
        (soft, None, "no limit"),
    ):
        with pytest.raises(InvalidRequest, match=complaint):
            await office.budgets.top_up(ACME, budget.budget_id, USD, ACTOR, subject=subject)


async def test_what_is_not_there_or_anothers_is_not_found(office: Office) -> None:
    made = await office.budgets.set(ACME, WHOLE_TENANT, ACTOR)
    for tenant, budget_id in ((ACME, BudgetId("nope")), (OTHER, made.budget.budget_id)):
        with pytest.raises(NotFound):
            await office.budgets.top_up(tenant, budget_id, USD, ACTOR)
        with pytest.raises(NotFound):
            await office.budgets.remove(tenant, budget_id, ACTOR)
    await office.budgets.remove(None, made.budget.budget_id, ACTOR)
    assert await office.budgets.list(None) == []


async def test_callers_act_within_their_tenant_and_with_their_scopes(office: Office) -> None:
    writer, reader = caller(Scope.LIMITS_WRITE), caller(Scope.USAGE_READ)
    nobody = caller(Scope.RUNS_READ, Scope.RUNS_WRITE, Scope.RUNS_ON_BEHALF, Scope.KEYS_WRITE, Scope.AUDIT_READ)
    made = await office.budgets.set_as(writer, WHOLE_TENANT, ACTOR)
    budget_id = made.budget.budget_id
    for allowed in (writer, reader, caller(Scope.ADMIN)):
        assert len(await office.budgets.list_as(allowed)) == 1
    assert await office.budgets.list_as(caller(Scope.ADMIN, tenant=OTHER)) == []
    with pytest.raises(PermissionDenied):
        await office.budgets.list_as(nobody)
    for denied in (nobody, reader):
        with pytest.raises(PermissionDenied):
            await office.budgets.set_as(denied, WHOLE_TENANT, ACTOR)
        with pytest.raises(PermissionDenied):
            await office.budgets.top_up_as(denied, budget_id, USD, ACTOR)
        with pytest.raises(PermissionDenied):
            await office.budgets.remove_as(denied, budget_id, ACTOR)
    with pytest.raises(NotFound):
        await office.budgets.remove_as(caller(Scope.ADMIN, tenant=OTHER), budget_id, ACTOR)
    assert spent(await office.budgets.top_up_as(writer, budget_id, USD, ACTOR)) == 0
    await office.budgets.remove_as(writer, budget_id, ACTOR)
