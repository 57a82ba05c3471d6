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
from roadworthy.domain.budget import Budget, BudgetBalance, BudgetScope, BudgetWindow
from roadworthy.domain.errors import InvalidRequest
from roadworthy.domain.ids import BudgetId, parse_tenant_id
from roadworthy.domain.money import parse_usd, usd_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from roadworthy.domain.ids import TenantId
    from roadworthy.domain.json import JsonValue
    from roadworthy.services.budgets import BudgetAsked, BudgetStatus

app = typer.Typer(help="Set, list, top up and remove budgets.", no_args_is_help=True)

_Subject = Annotated[
    str | None, typer.Option(help="A user, a key's id or an agent. Without it each of the scope has its own.")
]
_BudgetId = Annotated[str, typer.Argument(metavar="BUDGET_ID", help="As `budgets list` shows it.")]


@app.command(name="set")
def set_(
    scope: Annotated[BudgetScope, typer.Option(help="Whose money it is.")],
    window: Annotated[
        BudgetWindow | None, typer.Option(help="When it begins anew; for the scope run always run.")
    ] = None,
    limit: Annotated[str | None, typer.Option(metavar="USD", help="What may be spent, as in 12.50.")] = None,
    soft: Annotated[str | None, typer.Option(metavar="USD", help="Where it warns. Default: 80 % of the limit.")] = None,
    subject: _Subject = None,
    tenant: Annotated[str, typer.Option(help="In which tenant.")] = "default",
    time_zone: Annotated[
        str | None, typer.Option(help="IANA zone of its days, weeks and months. Default: ROADWORTHY_TIME_ZONE.")
    ] = None,
) -> None:
    """Make a budget and print its id, or change the one of the same scope, subject and window."""
    from roadworthy.services.budget_rules import BudgetAsked

    asked = BudgetAsked(
        scope=scope,
        subject=subject,
        window=_window(scope, window),
        limit_nanos=None if limit is None else parse_usd(limit),
        soft_nanos=None if soft is None else parse_usd(soft),
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
    """List budgets with what is spent and left of the present period."""
    found = asyncio.run(_list(None if tenant is None else parse_tenant_id(tenant), scope, subject))
    if as_json:
        say_json([_as_json(status) for status in found])
        return
    say_table(
        ("BUDGET ID", "TENANT", "FOR", "WINDOW", "LIMIT", "WARNS AT", "SPENT", "HELD", "LEFT", "RESETS", "TIME ZONE"),
        [_row(status) for status in found],
    )
    if any(status.balance is None for status in found):
        hint("each of a scope has its own share: ask for one with --scope and --subject")


@app.command(name="top-up")
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
        return await data.budgets.set(tenant, asked, actor())


async def _list(tenant: "TenantId | None", scope: BudgetScope | None, subject: str | None) -> "Sequence[BudgetStatus]":
    async with open_data(load_settings()) as data:
        return await data.budgets.list(tenant, scope=scope, subject=subject)


async def _top_up(budget_id: BudgetId, nanos: int, subject: str | None) -> "BudgetStatus":
    async with open_data(load_settings()) as data:
        return await data.budgets.top_up(None, budget_id, nanos, actor(), subject=subject)


async def _remove(budget_id: BudgetId) -> None:
    async with open_data(load_settings()) as data:
        await data.budgets.remove(None, budget_id, actor())


def _window(scope: BudgetScope, window: BudgetWindow | None) -> BudgetWindow:
    if window is not None:
        return window
    if scope is BudgetScope.RUN:
        return BudgetWindow.RUN
    raise InvalidRequest("say when the budget begins anew: --window day, week, month or total")


def _whose(budget: Budget) -> str:
    if budget.scope is BudgetScope.TENANT:
        return "the whole tenant"
    return f"each {budget.scope.value}" if budget.subject is None else f"{budget.scope.value} {budget.subject}"


def _amounts(budget: Budget) -> str:
    soft = None if budget.soft_nanos is None else f"a warning at {usd_text(budget.soft_nanos)}"
    return " and ".join(part for part in (_text(budget.limit_nanos), soft) if part)


def _row(status: "BudgetStatus") -> tuple[str, ...]:
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
    return (
        budget.budget_id,
        budget.tenant,
        _whose(budget),
        budget.window.value,
        _text(budget.limit_nanos),
        _text(budget.warns_at_nanos),
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
