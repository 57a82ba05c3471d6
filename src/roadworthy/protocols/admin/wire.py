"""The admin API's bodies as pydantic models: requests are validated with them, responses are documented by them.

Read by the routes; ``documents.py`` writes what the response models describe.
"""

from datetime import datetime
from typing import Annotated, Any, Final

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, WithJsonSchema

from roadworthy.domain.budget import BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.money import parse_usd
from roadworthy.domain.principal import Scope
from roadworthy.domain.rate_limit import RateKind, RateScope
from roadworthy.http import patterns
from roadworthy.services.limits import MOST

_MOST_USD: Final = 1_000_000_000
_LONGEST_AMOUNT: Final = 40
# A JSON number is a double: up to here it says what was written.
_EXACT_DIGITS: Final = 15
_MOST_SECONDS: Final = 30 * 86_400
_MOST_DAYS: Final = 36_500


def _nanos(value: object) -> int:
    """Nano-USD of a decimal text or of a number that is exact."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError("must be an amount of USD, as 12.50 or '12.50'")  # noqa: TRY004 -- what pydantic reports
    text = value if isinstance(value, str) else repr(value)
    if len(text) > _LONGEST_AMOUNT:
        raise ValueError("is too long for an amount of USD")
    if isinstance(value, float) and len(text.partition("e")[0].replace(".", "").strip("-0")) > _EXACT_DIGITS:
        raise ValueError("has more digits than a JSON number holds: write it as a text")
    try:
        return parse_usd(text)
    except InvalidRequest as error:
        raise ValueError(error.message) from None


def _nanos_or_none(value: object) -> int | None:
    return None if value is None else _nanos(value)


def _amount_schema(what: str, *others: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "description": f"{what} USD, exact to a billionth: a number, or a text for more than 15 digits.",
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": _MOST_USD},
                {"type": "string", "pattern": r"^[0-9]{1,9}(\.[0-9]{1,9})?$"},
                *others,
            ],
            "examples": ["12.50", 5],
        }
    )


_NULL: Final[dict[str, Any]] = {"type": "null"}
Amount = Annotated[int, PlainValidator(_nanos), _amount_schema("What is added.")]
Limit = Annotated[
    int | None,
    PlainValidator(_nanos_or_none),
    _amount_schema("What may be spent; null: it only warns. Left out, it stays as it was.", _NULL),
]
SoftLimit = Annotated[
    int | None,
    PlainValidator(_nanos_or_none),
    _amount_schema("Where it warns; null: at 80 % of the limit. Left out, it stays as it was.", _NULL),
]
UserName = Annotated[str, Field(pattern=patterns.USER)]
AgentSlug = Annotated[str, Field(pattern=patterns.AGENT)]
Subject = Annotated[
    str | None,
    Field(
        min_length=1,
        max_length=128,
        description="A key's id, a user or an agent, by the scope; without it, each of them has this of its own.",
    ),
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BudgetBody(_Body):
    """A budget as it shall be. The one of the same scope, subject and window is changed, if there is one: what is not
    given stays as it was.
    """

    scope: BudgetScope
    subject: Subject = None
    window: BudgetWindow | None = Field(
        None, description="`run` goes with the scope `run`, and no other; every other scope needs one."
    )
    limit_usd: Limit = None
    soft_usd: SoftLimit = None
    time_zone: str | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="IANA zone in which its days, weeks and months begin; without it, the budget's present one, for a "
        "new budget the server's.",
    )


class TopUpBody(_Body):
    """Money to add to the present period."""

    amount_usd: Amount
    subject: Subject = None


class RateBody(_Body):
    """A rate limit as it shall be. The one of the same scope, subject and kind is changed, if there is one."""

    scope: RateScope
    kind: RateKind = Field(description="`requests` and `tokens` are per minute, `runs` are unfinished runs at once.")
    subject: Subject = None
    limit: int = Field(ge=1, le=MOST, strict=True)


class KeyBody(_Body):
    """A key to make. It can hold no scope and no agent that the caller's key lacks."""

    user: UserName = Field(description="Whose key it is.")
    name: str = Field("", max_length=200, description="A note to tell it from others.")
    scopes: list[Scope] | None = Field(None, min_length=1, description="`runs:read` and `runs:write` without it.")
    agents: list[AgentSlug] | None = Field(
        None, min_length=1, max_length=100, description="The agents it may use; all without it."
    )
    expires_in_days: int | None = Field(None, ge=1, le=_MOST_DAYS, strict=True, description="It never ends without it.")


class RotationBody(_Body):
    """How the old key ends. All of it may be left out."""

    grace_seconds: int = Field(
        86_400, ge=0, le=_MOST_SECONDS, strict=True, description="How long the old key still works."
    )


class _Response(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BudgetPeriod(_Response):
    """How one subject's present period stands. `left_usd` is null for a budget that only warns.

    `reserved_usd` is held for model calls in flight.
    """

    subject: str
    spent_usd: float
    reserved_usd: float
    topped_up_usd: float
    left_usd: float | None
    exhausted: bool
    starts_at: datetime | None
    resets_at: datetime | None


class Budget(_Response):
    """A budget. `current` is null where each of the scope has its own and no subject was asked for."""

    budget_id: str
    scope: BudgetScope
    subject: str | None
    window: BudgetWindow
    limit_usd: float | None
    soft_usd: float | None
    time_zone: str
    created_at: datetime
    updated_at: datetime
    current: BudgetPeriod | None


class BudgetList(_Response):
    """Ordered by scope, subject and window."""

    budgets: list[Budget]


class Rate(_Response):
    """A rate limit. `policy` is its name in the headers `RateLimit` and `RateLimit-Policy`."""

    scope: RateScope
    kind: RateKind
    subject: str | None
    limit: int
    policy: str


class RateList(_Response):
    """All of the tenant's."""

    rates: list[Rate]


class Key(_Response):
    """A key without its text."""

    key_id: str
    user: str
    name: str
    scopes: list[Scope]
    agents: list[str] | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class KeyList(_Response):
    """The oldest first."""

    keys: list[Key]


class NewKey(Key):
    """A key that was just made. `key` is its text, which is shown only this once."""

    key: str


class AuditEntry(_Response):
    """One change. `actor`: `key:<id>`, `user:<name>` or `cli:<operating system user>`.

    `before` and `after` are null for what is new or gone. Amounts in them are nano-USD, billionths of a dollar:
    `limit_nanos`, `soft_nanos`, `topped_up_nanos`.
    """

    seq: int
    at: datetime
    actor: str
    request_id: str
    action: str
    target: str
    before: dict[str, JsonValue] | None
    after: dict[str, JsonValue] | None


class AuditPage(_Response):
    """The latest first. `next_cursor` is null on the last page."""

    entries: list[AuditEntry]
    next_cursor: str | None


class ErasedUser(_Response):
    """How many of each are gone; `keys` were revoked. The ledger and the audit log stay: they hold no content."""

    threads: int
    runs: int
    items: int
    keys: int
