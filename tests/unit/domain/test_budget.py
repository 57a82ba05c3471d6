"""Which period a moment is in, and where a period warns."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from roadworthy.domain.budget import BudgetBalance, BudgetScope, BudgetWindow
from tests.support.money import a_budget

# The clock goes back from one to midnight: that day has two midnights.
TWICE = [
    ("Atlantic/Azores", date(2026, 10, 25), datetime(2026, 10, 25, tzinfo=UTC)),
    ("America/Havana", date(2026, 11, 1), datetime(2026, 11, 1, 4, tzinfo=UTC)),
]


@pytest.mark.parametrize(("zone", "day", "midnight"), TWICE)
@pytest.mark.parametrize("window", [BudgetWindow.DAY, BudgetWindow.WEEK, BudgetWindow.MONTH])
def test_a_day_with_two_midnights_is_one_day(zone: str, day: date, midnight: datetime, window: BudgetWindow) -> None:
    budget = replace(a_budget(100, scope=BudgetScope.USER, window=window), time_zone=zone)
    periods = [budget.period_of("alice", midnight + timedelta(minutes=30 * number)) for number in range(50)]
    assert len({(period.starts_at, period.ends_at) for period in periods}) == 1
    first = periods[0]
    assert first.ends_at is not None
    if window is BudgetWindow.DAY:
        assert (first.starts_at, first.ends_at - first.starts_at) == (midnight, timedelta(hours=25))
    assert first.starts_at.astimezone(ZoneInfo(zone)).date() <= day
    # Periods follow on one another without a gap.
    before = budget.period_of("alice", first.starts_at - timedelta(microseconds=1))
    after = budget.period_of("alice", first.ends_at)
    assert (before.ends_at, after.starts_at) == (first.starts_at, first.ends_at)


def test_a_top_up_moves_the_usual_warning_and_leaves_a_chosen_one() -> None:
    usual, chosen = a_budget(100), a_budget(100, soft_nanos=50)
    for budget, warns_at in ((usual, 240), (chosen, 50), (a_budget(None, soft_nanos=50), 50)):
        period = budget.period_of("acme", datetime(2026, 1, 1, tzinfo=UTC))
        assert BudgetBalance(period=period, topped_up_nanos=200).warns_at_nanos == warns_at
    assert usual.warns_at_nanos == 80
