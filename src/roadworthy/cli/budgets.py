"""``roadworthy budgets``: what may be spent, by whom and in which time, beside a running server.

A running server obeys a change within two seconds. ``set`` writes the budget's id to standard output.
"""

import asyncio
import json
from typing import TYPE_CHECKING, Annotated

import typer

from roadworthy.cli.data import actor, open_data
from roadworthy.cli.environment import load_settings
from roadworthy.cli.output import hint, moment, say, say_json, say_table
from roadworthy.cli.subjects import hint_at_unknown
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import BudgetId, parse_tenant_id
from roadworthy.domain.money import parse_usd, usd_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roadworthy.domain.ids import TenantId
    from roadworthy.domain.json import JsonValue
    from roadworthy.services.budget_rules import AmountAsked, BudgetAsked
    from roadworthy.services.budgets import BudgetStatus

app = typer.Typer(help="Set, list, top up and remove budgets.", no_args_is_help=True)

_Subject = Annotated[
    str | None, typer.Option(help="A user, a key's id or an agent. Without it each of the scope has its own.")
]
_BudgetId = Annotated[str, typer.Argument(metavar="BUDGET_ID", help="As `budgets list` shows it.")]


_COLUMNS = ("WARNS AT", "SPENT", "HELD", "LEFT", "RESETS", "TIME ZONE")


@app.command(name="set")
def set_(
    *,
    scope: Annotated[BudgetScope, typer.Option(help="Whose money it is.")],
    window: Annotated[
        BudgetWindow | None, typer.Option(help="When it begins anew; for the scope run always run.")
    ] = None,
    limit: Annotated[str | None, typer.Option(metavar="USD", help="What may be spent, as in 12.50.")] = None,
    soft: Annotated[str | None, typer.Option(metavar="USD", help="Where it warns. Default: 80 % of the limit.")] = None,
    no_limit: Annotated[bool, typer.Option("--no-limit", help="Remove the limit: it only warns.")] = False,
    no_soft: Annotated[bool, typer.Option("--no-soft", help="Remove the soft limit: it warns at 80 %.")] = False,
    subject: _Subject = None,
    tenant: Annotated[str, typer.Option(help="In which tenant.")] = "default",
    time_zone: Annotated[
        str | None, typer.Option(help="IANA zone of its days, weeks and months. Default: ROADWORTHY_TIME_ZONE.")
    ] = None,
) -> None:
    """Make a budget and print its id, or change the one of the same scope, subject and window.

    What is not given stays as it was: the limit, the soft limit, the time zone.
    """
    from roadworthy.services.budget_rules import BudgetAsked, window_of

    asked = BudgetAsked(
        scope=scope,
        subject=subject,
        window=window_of(scope, window),
        limit_nanos=_asked(limit, "limit", removed=no_limit),
        soft_nanos=_asked(soft, "soft", removed=no_soft),
        time_zone=time_zone,
    )
    budget = asyncio.run(_set(parse_tenant_id(tenant), asked)).budget
    say(budget.budget_id)
    hint(f"{_whose(budget)}, tenant {budget.tenant}, window {budget.window.value}: {_amounts(budget)}")


@app.command(name="list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    scope: Annotated[BudgetScope | None, typer.Option(help="Only budgets of this scope.")] = None,
    subject: Annotated[str | None, typer.Option(help="Of the scope: show how this one stands.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List budgets with what is spent and left of the present period.

    HELD is reserved for model calls in flight; it is still part of LEFT, which is what is allowed, top-ups included,
    less what is spent.
    """
    found = asyncio.run(_list(None if tenant is None else parse_tenant_id(tenant), scope, subject))
    if as_json:
        say_json([_as_json(status) for status in found])
        return
    topped_up = any(status.balance is not None and status.balance.topped_up_nanos for status in found)
    more = ("TOPPED UP",) if topped_up else ()
    say_table(
        ("BUDGET ID", "TENANT", "FOR", "WINDOW", "LIMIT", *more, *_COLUMNS),
        [_row(status, topped_up=topped_up) for status in found],
    )
    if any(status.balance is None for status in found):
        hint("each of a scope has its own share: ask for one with --scope and --subject")


# A negative amount is told as one, not as an option that there is not.
@app.command(name="top-up", context_settings={"ignore_unknown_options": True})
def top_up(
    budget_id: _BudgetId,
    amount: Annotated[str, typer.Argument(metavar="USD", help="What is added, as in 5.")],
    subject: Annotated[str | None, typer.Option(help="Whose, where each of the scope has its own.")] = None,
) -> None:
    """Add to a budget's present period; runs that it stopped can then be resumed."""
    nanos = parse_usd(amount)
    balance = asyncio.run(_top_up(BudgetId(budget_id), nanos, subject)).balance
    if balance is not None:
        until = "" if balance.period.ends_at is None else f" until {moment(balance.period.ends_at)}"
        hint(f"{balance.period.subject} has {_left(balance)} left{until}")


@app.command()
def remove(budget_id: _BudgetId) -> None:
    """Remove a budget with what it counted; the ledger stays as it is."""
    asyncio.run(_remove(BudgetId(budget_id)))
    hint(f"{budget_id} is removed")


async def _set(tenant: "TenantId", asked: "BudgetAsked") -> "BudgetStatus":
    async with open_data(load_settings()) as data:
        status = await data.budgets.set(tenant, asked, actor())
        await hint_at_unknown(data, tenant, asked.scope, asked.subject)
        return status


async def _list(tenant: "TenantId | None", scope: BudgetScope | None, subject: str | None) -> "Sequence[BudgetStatus]":
    async with open_data(load_settings()) as data:
        return await data.budgets.list(tenant, scope=scope, subject=subject)


async def _top_up(budget_id: BudgetId, nanos: int, subject: str | None) -> "BudgetStatus":
    async with open_data(load_settings()) as data:
        return await data.budgets.top_up(None, budget_id, nanos, actor(), subject=subject)


async def _remove(budget_id: BudgetId) -> None:
    async with open_data(load_settings()) as data:
        await data.budgets.remove(None, budget_id, actor())


def _asked(text: str | None, option: str, *, removed: bool) -> "AmountAsked":
    from roadworthy.services.budget_rules import KEPT

    if text is None:
        return None if removed else KEPT
    if removed:
        raise InvalidRequest(f"choose one of --{option} and --no-{option}")
    return parse_usd(text)


def _whose(budget: Budget) -> str:
    if budget.scope is BudgetScope.TENANT:
        return "the whole tenant"
    return f"each {budget.scope.value}" if budget.subject is None else f"{budget.scope.value} {budget.subject}"


def _amounts(budget: Budget) -> str:
    return f"{_text(budget.limit_nanos) or 'no limit'}, a warning at {_text(budget.warns_at_nanos)}"


def _row(status: "BudgetStatus", *, topped_up: bool) -> tuple[str, ...]:
    budget, balance = status.budget, status.balance
    facts = (
        ("", "", "", "")
        if balance is None
        else (
            usd_text(balance.spent_nanos),
            usd_text(balance.reserved_nanos),
            _left(balance),
            moment(balance.period.ends_at),
        )
    )
    added = balance.topped_up_nanos if balance is not None else 0
    return (
        budget.budget_id,
        budget.tenant,
        _whose(budget),
        budget.window.value,
        _text(budget.limit_nanos),
        *((usd_text(added) if added else "",) if topped_up else ()),
        _text(budget.warns_at_nanos if balance is None else balance.warns_at_nanos),
        *facts,
        budget.time_zone,
    )


def _left(balance: BudgetBalance) -> str:
    allowed = balance.allowed_nanos
    return "" if allowed is None else usd_text(max(0, allowed - balance.spent_nanos))


def _text(nanos: int | None) -> str:
    return "" if nanos is None else usd_text(nanos)


def _as_json(status: "BudgetStatus") -> "JsonValue":
    """As the admin API writes it, with the tenant."""
    from roadworthy.http.encoding import to_json
    from roadworthy.protocols.admin.documents import budget_json

    return json.loads(to_json({"tenant": status.budget.tenant, **budget_json(status)}))
