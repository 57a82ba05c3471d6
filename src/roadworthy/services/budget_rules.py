"""What an operator may ask of a budget: which scope, subject, window and amounts go together.

Checked by ``services/budgets.py`` before anything is stored.
"""

from dataclasses import dataclass

from roadworthy.domain.budget import Budget, BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import parse_agent_name, parse_key_id, parse_run_id, parse_user_id
from roadworthy.domain.money import NANOS, usd_text
from roadworthy.domain.time_zone import parse_time_zone

# What a period may have in all, top-ups included: far from what a 64-bit number of nano-USD holds.
MOST_NANOS = 1_000_000_000 * NANOS


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetAsked:
    """What a budget shall be. ``subject`` None: each of the scope has its own. ``time_zone`` None: as it was, or the
    server's for a new one. Amounts in nano-USD.
    """

    scope: BudgetScope
    window: BudgetWindow
    subject: str | None = None
    limit_nanos: int | None = None
    soft_nanos: int | None = None
    time_zone: str | None = None


def check(asked: BudgetAsked) -> None:
    """Whether it can be a budget.

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
    _check_amounts(asked.limit_nanos, asked.soft_nanos)


def check_subject(scope: BudgetScope, subject: str) -> None:
    """Whether something of that scope can be called so.

    Raises:
        InvalidRequest: it cannot.
    """
    try:
        match scope:
            case BudgetScope.USER | BudgetScope.TENANT:
                parse_user_id(subject)
            case BudgetScope.AGENT:
                parse_agent_name(subject)
            case BudgetScope.KEY:
                parse_key_id(subject)
            case BudgetScope.RUN:
                if parse_run_id(subject) is None:
                    raise InvalidRequest("a run's id is 32 hex digits")  # noqa: TRY301 -- one place names the field
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field="subject") from None


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
    if limit is not None and soft is not None and soft > limit:
        raise InvalidRequest(f"the soft limit must be at most the limit, {usd_text(limit)}")
