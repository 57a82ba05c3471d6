"""What budgets and rate limits have in common: who may read them, and whom they can be for.

Used by ``budgets.py``, ``budget_rules.py`` and ``limits.py``.
"""

from typing import Final

from roadworthy.domain.budget import BudgetScope
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import parse_agent_name, parse_key_id, parse_run_id, parse_user_id
from roadworthy.domain.principal import Scope
from roadworthy.domain.rate_limit import RateScope

# One of these is enough: who sets limits must see them.
READING: Final = (Scope.USAGE_READ, Scope.LIMITS_WRITE)


def check_subject(scope: BudgetScope | RateScope, subject: str) -> None:
    """Whether something of that scope can be called so.

    Raises:
        InvalidRequest: it cannot.
    """
    try:
        match scope:
            case BudgetScope.USER | BudgetScope.TENANT | RateScope.USER | RateScope.TENANT:
                parse_user_id(subject)
            case BudgetScope.AGENT:
                parse_agent_name(subject)
            case BudgetScope.KEY | RateScope.KEY:
                parse_key_id(subject)
            case BudgetScope.RUN:
                if parse_run_id(subject) is None:
                    raise InvalidRequest("a run's id is 32 hex digits")  # noqa: TRY301 -- one place names the field
    except InvalidRequest as error:
        raise InvalidRequest(error.message, field="subject") from None
