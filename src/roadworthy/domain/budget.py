"""Budgets: how much money may be used, by whom, in which time.

Operators set them (``services/budgets.py``). ``services/admission.py`` looks whether anything is left before a run is
accepted, ``engine/spending.py`` reserves before each model call, the ledger settles after it.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from zoneinfo import ZoneInfo

from roadworthy.domain.errors import BudgetExceeded, SpentBudget
from roadworthy.domain.ids import AgentName, BudgetId, KeyId, RunId, TenantId
from roadworthy.domain.money import usd_text
from roadworthy.domain.principal import Owner

# A budget's limit warns at this part of it, unless its soft limit says otherwise.
SOFT_PERCENT = 80
# The price list of a call whose cost is what was reserved for it.
RESERVED_PRICE = "reservation"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class BudgetScope(StrEnum):
    """Whose money it is."""

    RUN = "run"
    KEY = "key"
    USER = "user"
    AGENT = "agent"
    TENANT = "tenant"


class BudgetWindow(StrEnum):
    """When it begins anew. RUN belongs to the scope RUN alone; TOTAL never ends, it counts from the budget's making."""

    RUN = "run"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    TOTAL = "total"


_ADJECTIVES = {
    BudgetWindow.RUN: "",
    BudgetWindow.DAY: "daily ",
    BudgetWindow.WEEK: "weekly ",
    BudgetWindow.MONTH: "monthly ",
    BudgetWindow.TOTAL: "total ",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """Who makes a model call. ``run_id`` None: before there is a run."""

    owner: Owner
    key_id: KeyId | None
    agent: AgentName
    run_id: RunId | None = None

    def subject(self, scope: BudgetScope) -> str | None:
        """The spender under a scope; None when there is none."""
        match scope:
            case BudgetScope.RUN:
                return self.run_id
            case BudgetScope.KEY:
                return self.key_id
            case BudgetScope.USER:
                return self.owner.user
            case BudgetScope.AGENT:
                return self.agent
            case BudgetScope.TENANT:
                return self.owner.tenant


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """One budget of a tenant, in nano-USD.

    ``subject``: a key's id, a user or an agent; None means that each of them has this budget of its own (and for the
    scopes RUN and TENANT). All budgets that fit a spender count. ``limit_nanos`` None: it only warns, at
    ``soft_nanos``. Days, weeks (from Monday) and months begin at midnight in ``time_zone`` (an IANA name).
    """

    budget_id: BudgetId
    tenant: TenantId
    scope: BudgetScope
    subject: str | None
    window: BudgetWindow
    limit_nanos: int | None
    soft_nanos: int | None
    time_zone: str
    created_at: datetime
    updated_at: datetime

    @property
    def warns_at_nanos(self) -> int | None:
        """From how much on it warns when nothing was topped up; None when it never does."""
        return self.warns_at(self.limit_nanos)

    def warns_at(self, allowed_nanos: int | None) -> int | None:
        """From how much on it warns: its soft limit, else a part of what is allowed; None when it has neither."""
        if self.soft_nanos is not None or allowed_nanos is None:
            return self.soft_nanos
        return allowed_nanos * SOFT_PERCENT // 100

    def period_for(self, spender: Spender, moment: datetime) -> "BudgetPeriod | None":
        """What a call of ``spender`` that begins at ``moment`` counts towards; None when the budget is not theirs."""
        subject = spender.subject(self.scope)
        if spender.owner.tenant != self.tenant or subject is None or self.subject not in (None, subject):
            return None
        return self.period_of(subject, moment)

    def period_of(self, subject: str, moment: datetime) -> "BudgetPeriod":
        """The period of one subject that ``moment`` is in."""
        starts_at, ends_at = self._bounds(moment)
        return BudgetPeriod(budget=self, subject=subject, starts_at=starts_at, ends_at=ends_at)

    def _bounds(self, moment: datetime) -> tuple[datetime, datetime | None]:
        if self.window is BudgetWindow.RUN:
            return _EPOCH, None
        if self.window is BudgetWindow.TOTAL:
            return self.created_at, None
        zone = ZoneInfo(self.time_zone)
        # Midnights are made in local time: a day of a clock change has 23 or 25 hours.
        # Where a change repeats midnight, the day begins with the first of the two: fold says which one is meant.
        today = moment.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None, fold=0)
        match self.window:
            case BudgetWindow.DAY:
                begin, end = today, today + timedelta(days=1)
            case BudgetWindow.WEEK:
                begin = today - timedelta(days=today.weekday())
                end = begin + timedelta(weeks=1)
            case BudgetWindow.MONTH:
                begin = today.replace(day=1)
                end = (begin + timedelta(days=31)).replace(day=1)
        return begin.replace(tzinfo=zone).astimezone(UTC), end.replace(tzinfo=zone).astimezone(UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetPeriod:
    """One subject's share of a budget in one window. ``ends_at`` None: it does not end."""

    budget: Budget
    subject: str
    starts_at: datetime
    ends_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetBalance:
    """How a period stands. ``reserved_nanos`` is held by calls in flight; ``topped_up_nanos`` adds to the limit."""

    period: BudgetPeriod
    spent_nanos: int = 0
    reserved_nanos: int = 0
    topped_up_nanos: int = 0

    @property
    def allowed_nanos(self) -> int | None:
        """The limit with what was added to it; None when the budget only warns."""
        limit = self.period.budget.limit_nanos
        return None if limit is None else limit + self.topped_up_nanos

    @property
    def warns_at_nanos(self) -> int | None:
        """From how much on it warns: a part of what is allowed grows with each top-up, a soft limit stays as it is."""
        return self.period.budget.warns_at(self.allowed_nanos)

    @property
    def exhausted(self) -> bool:
        """Whether all of it is spent."""
        allowed = self.allowed_nanos
        return allowed is not None and self.spent_nanos >= allowed


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Money held for one model call before it is made.

    ``input_tokens`` is an estimate, ``output_tokens`` what is held for the answer, ``nanos`` what both cost.
    """

    call_id: str
    node: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    nanos: int
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class InFlight:
    """A call that ``attempt`` was in the middle of when its worker died. Its money is still held."""

    attempt: int
    reservation: Reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The reservation was made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupied:
    """Nothing was reserved: something is left, but calls in flight hold it. Ask again when one has ended."""

    balance: BudgetBalance


@dataclass(frozen=True, slots=True, kw_only=True)
class Exhausted:
    """Nothing was reserved: a budget is spent."""

    balance: BudgetBalance


def exceeded(balance: BudgetBalance) -> BudgetExceeded:
    """The refusal that a spent period causes: which budget, how much, and when it begins anew. Names no one."""
    budget = balance.period.budget
    allowed, ends_at = balance.allowed_nanos or 0, balance.period.ends_at
    spent = SpentBudget(
        scope=budget.scope.value,
        window=budget.window.value,
        allowed_nanos=allowed,
        spent_nanos=balance.spent_nanos,
        resets_at=ends_at,
    )
    until = "" if ends_at is None else f"; it begins anew at {ends_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    return BudgetExceeded(
        f"the {_ADJECTIVES[budget.window]}budget of this {budget.scope.value} is used up: "
        f"{usd_text(balance.spent_nanos)} of {usd_text(allowed)}{until}",
        spent=spent,
    )
