"""What an operator may ask of a budget: which scope, subject, window and amounts go together.

Checked by ``services/budgets.py`` before anything is stored.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias

from roadworthy.domain.budget import Budget, BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.money import NANOS, usd_text
from roadworthy.domain.time_zone import parse_time_zone
from roadworthy.services.limit_rules import check_subject

# What a period may have in all, top-ups included: far from what a 64-bit number of nano-USD holds.
MOST_NANOS = 1_000_000_000 * NANOS


class Kept(Enum):
    """What was not said: it stays as it was; a new budget has none."""

    KEPT = "kept"


KEPT: Final = Kept.KEPT
AmountAsked: TypeAlias = int | Literal[Kept.KEPT] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAsked:
    """What a budget shall be. ``subject`` None: each of the scope has its own. ``time_zone`` None: as it was, or the
    server's for a new one. Amounts in nano-USD; None removes one.
    """

    scope: BudgetScope
    window: BudgetWindow
    subject: str | None = None
    limit_nanos: AmountAsked = KEPT
    soft_nanos: AmountAsked = KEPT
    time_zone: str | None = None


def window_of(scope: BudgetScope, window: BudgetWindow | None) -> BudgetWindow:
    """The window that was asked for; a run's budget needs none to be named.

    Raises:
        InvalidRequest: it must be named.
    """
    if window is not None:
        return window
    if scope is BudgetScope.RUN:
        return BudgetWindow.RUN
    raise InvalidRequest("say when the budget begins anew: the window day, week, month or total", field="window")


def check(asked: BudgetAsked) -> None:
    """Whether it can be a budget, apart from its amounts.

    Raises:
        InvalidRequest: its parts do not fit together; the message says what does.
    """
    if (asked.scope is BudgetScope.RUN) != (asked.window is BudgetWindow.RUN):
        raise InvalidRequest("the scope run goes with the window run, and no other scope does", field="window")
    if asked.subject is not None:
        if asked.scope in (BudgetScope.RUN, BudgetScope.TENANT):
            raise InvalidRequest(f"a budget of the scope {asked.scope.value} has no subject", field="subject")
        check_subject(asked.scope, asked.subject)
    if asked.time_zone is not None:
        parse_time_zone(asked.time_zone)


def amounts(asked: BudgetAsked, present: Budget | None) -> tuple[int | None, int | None]:
    """Limit and soft limit as they shall be. ``present``: the budget that is changed, if there is one.

    Raises:
        InvalidRequest: there is neither, one is no amount, or they do not go together; the message says what does.
    """
    was = (None, None) if present is None else (present.limit_nanos, present.soft_nanos)
    limit = was[0] if asked.limit_nanos is KEPT else asked.limit_nanos
    soft = was[1] if asked.soft_nanos is KEPT else asked.soft_nanos
    _check_amounts(limit, soft)
    if limit is not None and soft is not None and soft > limit:
        if asked.soft_nanos is KEPT:
            raise InvalidRequest(
                f"the budget has a soft limit, {usd_text(soft)}, which must be at most the limit: give another too, "
                "or remove it"
            )
        raise InvalidRequest(f"the soft limit must be at most the limit, {usd_text(limit)}")
    return limit, soft


def own_subject(budget: Budget) -> str | None:
    """Whose the budget is; None when each of its scope has its own."""
    return budget.tenant if budget.scope is BudgetScope.TENANT else budget.subject


def topped_up_subject(budget: Budget, subject: str | None) -> str:
    """Whose period a top-up is for.

    Raises:
        InvalidRequest: the budget is for each run; it is another's; or nobody was named and each has its own.
    """
    if budget.window is BudgetWindow.RUN:
        raise InvalidRequest("a run's budget cannot be topped up: a resumed run is a new run with a budget of its own")
    own = own_subject(budget)
    if own is not None and subject not in (None, own):
        raise InvalidRequest(f"this is the budget of {own}", field="subject")
    whose = own or subject
    if whose is None:
        raise InvalidRequest(f"each {budget.scope.value} has this budget of its own: say whose", field="subject")
    check_subject(budget.scope, whose)
    return whose


def _check_amounts(limit: int | None, soft: int | None) -> None:
    if limit is None and soft is None:
        raise InvalidRequest("a budget needs a limit, a soft limit, or both")
    for amount, name in ((limit, "limit"), (soft, "soft limit")):
        if amount is not None and not 0 <= amount <= MOST_NANOS:
            raise InvalidRequest(f"the {name} must be from 0 to a billion USD")
    if soft == 0:
        raise InvalidRequest("the soft limit must be more than 0: it warns when it is passed")
